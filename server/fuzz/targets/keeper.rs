//! Any bytes as a message between daemon and keeper. What is checked is in `steer::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steer::fuzzing::keeper(bytes));
