//! Any bytes as an answer of sock_diag. What is checked is in `steer::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steer::fuzzing::diag(bytes));
