//! Any text as a file of /proc. What is checked is in `steer::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steer::fuzzing::procfs(bytes));
