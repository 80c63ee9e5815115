//! The attach targets of the iterators, as BTF for aya.
//!
//! An iterator program is loaded with the BTF number of the kernel function that stands for the iterator. aya looks
//! the number up by name in parsed BTF; to parse the kernel's takes 40 to 60 ms and 18 MB. This module gives aya BTF
//! that holds only these functions, at their kernel numbers: 15 ms and 6 MB.

use std::collections::BTreeMap;

use aya::{Btf as AyaBtf, Endianness};

use super::{
    btf::{Btf, Kind},
    error::LooksError,
};

/// The iterator over the sockets that have a value in a socket storage map.
pub(super) const SK_STORAGE_MAP: &str = "bpf_sk_storage_map";
/// The iterator over open descriptors.
pub(super) const TASK_FILE: &str = "task_file";

/// BTF with the iterators that this kernel has. Loading a program for a missing one fails.
pub(super) fn iterators(btf: &Btf) -> Result<AyaBtf, LooksError> {
    let number = |iterator| {
        let function = format!("bpf_iter_{iterator}");
        Some((btf.find(Kind::Func, &function).ok()?, function))
    };
    let functions = [SK_STORAGE_MAP, TASK_FILE].into_iter().filter_map(number).collect();
    AyaBtf::parse(&only(&functions), Endianness::default()).map_err(LooksError::Iterators)
}

/// BTF with these functions at these numbers, and empty forward declarations at the numbers between.
fn only(functions: &BTreeMap<u32, String>) -> Vec<u8> {
    const HEADER: u32 = 24;
    const DECLARATION: u32 = 7;
    let (mut types, mut names) = (Vec::<u32>::new(), vec![0]);
    for number in 1..=functions.keys().next_back().copied().unwrap_or_default() {
        let (name, kind) = match functions.get(&number) {
            Some(function) => {
                let start = names.len() as u32;
                names.extend(function.as_bytes());
                names.push(0);
                (start, Kind::Func as u32)
            }
            None => (0, DECLARATION),
        };
        types.extend([name, kind << 24, 0]);
    }
    let types_size = size_of_val(types.as_slice()) as u32;
    let magic = u32::from_ne_bytes({
        let [first, second] = super::btf::MAGIC.to_ne_bytes();
        [first, second, 1, 0]
    });
    let header = [magic, HEADER, 0, types_size, types_size, names.len() as u32];
    header.into_iter().chain(types).flat_map(u32::to_ne_bytes).chain(names).collect()
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
