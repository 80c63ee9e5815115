//! The attach targets of the iterators, as BTF for aya.
//!
//! An iterator program is loaded with the BTF number of the kernel function that stands for the iterator. aya looks
//! the number up by name in parsed BTF; to parse the kernel's takes 40 to 60 ms and 18 MB. This module gives aya BTF
//! that holds only these functions, at their kernel numbers: 15 ms and 6 MB.

use std::collections::BTreeMap;

use aya::{Btf as AyaBtf, Endianness};

use super::{
    btf::{self, Btf, Kind},
    error::LooksError,
};

/// The iterator over the sockets that have a value in a socket storage map.
pub(super) const SK_STORAGE_MAP: &str = "bpf_sk_storage_map";
/// The iterator over threads.
pub(super) const TASK: &str = "task";
/// The iterator over open descriptors.
pub(super) const TASK_FILE: &str = "task_file";

/// BTF with the iterators that this kernel has. Loading a program for a missing one fails.
pub(super) fn iterators(btf: &Btf) -> Result<AyaBtf, LooksError> {
    let number = |iterator| {
        let function = format!("bpf_iter_{iterator}");
        Some((btf.find(Kind::Func, &function).ok()?, function))
    };
    let functions = [SK_STORAGE_MAP, TASK, TASK_FILE].into_iter().filter_map(number).collect();
    AyaBtf::parse(&only(&functions), Endianness::default()).map_err(LooksError::Iterators)
}

/// BTF with these functions at these numbers, and empty forward declarations at the numbers between.
fn only(functions: &BTreeMap<u32, String>) -> Vec<u8> {
    const TYPE: usize = 12;
    const FORWARD: u32 = 7;
    let type_bytes = |name, kind: u32| bytes_of(&[name, kind << 24, 0]);
    let count = functions.keys().next_back().copied().unwrap_or_default() as usize;
    let mut types = type_bytes(0, FORWARD).repeat(count);
    let mut names = vec![0];
    for (&number, function) in functions {
        let made = type_bytes(names.len() as u32, Kind::Func as u32);
        let (places, _) = types.as_chunks_mut::<TYPE>();
        if let (Some(place), Some(made)) =
            ((number as usize).checked_sub(1).and_then(|at| places.get_mut(at)), made.first_chunk())
        {
            *place = *made;
        }
        names.extend(function.as_bytes());
        names.push(0);
    }
    let types_size = types.len() as u32;
    let header =
        bytes_of(&[btf::MAGIC_WORD, btf::HEADER as u32, 0, types_size, types_size, names.len() as u32]);
    [header, types, names].concat()
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use aya_obj::btf::BtfKind;

    use super::*;

    #[test]
    fn functions_are_found_at_their_numbers() {
        let functions =
            BTreeMap::from([(7, "bpf_iter_task_file".to_owned()), (3, "bpf_iter_tcp".to_owned())]);
        let parsed = AyaBtf::parse(&only(&functions), Endianness::default()).unwrap();
        for (number, name) in functions {
            assert_eq!(parsed.id_by_type_name_kind(&name, BtfKind::Func).unwrap(), number);
        }
        assert!(parsed.id_by_type_name_kind("bpf_iter_udp", BtfKind::Func).is_err());
    }

    #[test]
    fn no_function_is_no_type() {
        let parsed = AyaBtf::parse(&only(&BTreeMap::new()), Endianness::default()).unwrap();
        assert!(parsed.id_by_type_name_kind("", BtfKind::Fwd).is_err());
    }
}
