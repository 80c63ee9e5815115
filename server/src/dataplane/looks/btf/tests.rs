//! BTF that is made by hand, cut off and spoilt, and the running kernel's.

use std::time::Instant;

use super::*;
use crate::dataplane::looks::{attach, offsets::offsets};

const INT: u32 = 1;
const STRUCT: u32 = Kind::Struct as u32;
const FUNC: u32 = Kind::Func as u32;
const FUNC_PROTO: u32 = 13;
const TYPEDEF: u32 = 8;
const CONST: u32 = 10;
const ENUM64: u32 = 19;

/// Types in the order of their numbers, with their names.
struct Builder {
    types: Vec<u32>,
    names: Vec<u8>,
}

impl Builder {
    fn new() -> Self {
        Self { types: Vec::new(), names: vec![0] }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let start = self.names.len() as u32;
        self.names.extend(name.as_bytes());
        self.names.push(0);
        start
    }

    fn add(&mut self, name: &str, info: u32, refers: u32, more: &[u32]) -> &mut Self {
        let name = self.name(name);
        self.types.extend([name, info, refers]);
        self.types.extend(more);
        self
    }

    /// A structure or union of members: name, type, offset in bits.
    fn members(&mut self, name: &str, info: u32, members: &[(&str, u32, u32)]) -> &mut Self {
        let more: Vec<u32> =
            members.iter().flat_map(|(name, number, offset)| [self.name(name), *number, *offset]).collect();
        self.add(name, info | members.len() as u32, 64, &more)
    }

    fn build(&self) -> Vec<u8> {
        let types_size = size_of_val(self.types.as_slice()) as u32;
        let header = [MAGIC_WORD, HEADER as u32, 0, types_size, types_size, self.names.len() as u32];
        let words = header.iter().chain(&self.types).flat_map(|word| word.to_ne_bytes());
        words.chain(self.names.iter().copied()).collect()
    }
}

fn example() -> Builder {
    let mut builder = Builder::new();
    builder
        .add("int", INT << 24, 4, &[0])
        .members("counter", STRUCT << 24, &[("value", 1, 0)])
        .add("counter_t", TYPEDEF << 24, 2, &[])
        .add("", CONST << 24, 3, &[])
        .members("", UNION << 24, &[("either", 4, 0), ("or", 1, 32)])
        .add("kinds", ENUM64 << 24 | 1, 8, &[1, 2, 3])
        // Type 7: the union has no name, and begins at the eighth byte.
        .members("outer", STRUCT << 24, &[("first", 1, 0), ("", 5, 64), ("last", 4, 128)])
        // Type 8: with bit fields, the upper byte of an offset is a size.
        .members(
            "packed",
            1 << 31 | STRUCT << 24,
            &[("flag", 1, 1 << 24 | 32), ("word", 1, 64), ("odd", 1, 9)],
        )
        .add("", FUNC_PROTO << 24 | 1, 0, &[0, 1])
        // A structure and a function can have one name.
        .add("outer", FUNC << 24, 9, &[])
        // A circle, as no compiler makes.
        .members("circle", STRUCT << 24, &[("", 11, 0)])
        .add("itself", TYPEDEF << 24, 12, &[])
        .members("circles", STRUCT << 24, &[("", 13, 0), ("", 13, 0), ("", 13, 0)])
        .members("lost", STRUCT << 24, &[("member", 99, 0), ("alias", 12, 0)]);
    builder
}

#[test]
fn members_are_found_through_unnamed_unions_typedefs_and_nested_structures() {
    let btf = Btf::parse(example().build()).unwrap();
    let outer = btf.structure("outer").unwrap();
    let offset = |path| outer.offset(path).unwrap();
    assert_eq!((offset("first"), offset("either"), offset("or"), offset("last")), (0, 8, 12, 16));
    assert_eq!((offset("either.value"), offset("last.value")), (8, 16));
    assert_eq!(btf.structure("packed").unwrap().offset("word").unwrap(), 8);
    assert_eq!((btf.find(Kind::Struct, "outer").unwrap(), btf.find(Kind::Func, "outer").unwrap()), (7, 10));
}

#[test]
fn what_is_not_there_is_named() {
    let btf = Btf::parse(example().build()).unwrap();
    let absent = |structure: &str, path: &str| {
        let found = btf.structure(structure).and_then(|found| found.offset(path));
        found.unwrap_err().to_string()
    };
    assert_eq!(absent("out", "first"), "the kernel has no `out`");
    assert_eq!(absent("outer", "fir"), "the kernel has no `outer.fir`");
    for (structure, path) in [
        ("outer", "first.value"),
        ("outer", ""),
        ("outer", "either.value.more"),
        ("packed", "flag"),
        ("packed", "odd"),
        ("circle", "member"),
        ("circles", "member"),
        ("lost", "member.more"),
        ("lost", "alias.more"),
    ] {
        assert_eq!(absent(structure, path), format!("the kernel has no `{structure}.{path}`"));
    }
}

#[test]
fn what_is_cut_off_is_refused() {
    let whole = example().build();
    for length in 0..whole.len() {
        assert!(Btf::parse(whole[..length].to_vec()).is_err(), "{length} of {} bytes", whole.len());
    }
    let mut unknown = Builder::new();
    unknown.add("later", 31 << 24, 0, &[]);
    assert!(matches!(Btf::parse(unknown.build()), Err(BtfError::Kind { kind: 31 })));
}

/// No byte of it can make the reader panic or go on for ever, whatever else it says.
#[test]
fn what_is_spoilt_is_refused_or_read() {
    let whole = example().build();
    for at in 0..whole.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let Ok(btf) = Btf::parse(bytes) else { continue };
            for structure in ["outer", "packed", "circle", "lost"] {
                let Ok(found) = btf.structure(structure) else { continue };
                for path in ["either.value", "last", "word", "member.more", "alias.more"] {
                    let _ = found.offset(path);
                }
            }
        }
    }
}

#[test]
fn the_running_kernel_s_fields_are_found() {
    let began = Instant::now();
    let btf = match Btf::read(KERNEL) {
        Ok(btf) => btf,
        Err(BtfError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            println!("skipped: this kernel has no {KERNEL}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let (read, types) = (began.elapsed(), btf.types.len());
    let known = offsets(&btf).unwrap();
    let looked_up = began.elapsed();
    attach::iterators(&btf).unwrap();
    println!(
        "{types} types in {read:?}, offsets after {looked_up:?}, iterators after {:?}: {known:?}",
        began.elapsed()
    );
    // Those that have not moved since there is a struct sock_common, on 64 bits.
    assert_eq!((known.address_v4, known.port, known.family, known.state), (4, 14, 16, 18));
    assert!(known.requests > known.ack_backlog, "an inet_connection_sock begins with a sock");
}
