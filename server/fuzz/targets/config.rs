//! Any text as a configuration. What is checked is in `steer::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steer::fuzzing::config(bytes));
