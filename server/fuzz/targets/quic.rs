//! Any datagram under any configuration of QUIC connection IDs. What is checked is in `steer::fuzzing`.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| steer::fuzzing::quic(bytes));
