//! Any bytes as a state file. What is checked is in `steer::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steer::fuzzing::state(bytes));
