//! Any bytes as a state file.

use std::path::Path;

use super::file::understand;

/// What is a state is written and read as the same; what is none is explained.
pub fn check(bytes: &[u8]) {
    let path = Path::new("/run/steer/steer.sock.state/web.json");
    match understand(bytes, path) {
        Ok(saved) => {
            let written = serde_json::to_vec(&saved).expect("a state can be written");
            let read = understand(&written, path).expect("what was written can be read");
            // What is worked out anew is not in the file.
            assert_eq!(serde_json::to_vec(&read).expect("a state can be written"), written);
            assert_eq!((read.settings, read.processes), (saved.settings, saved.processes));
        }
        Err(error) => assert!(!error.to_string().is_empty() && !error.hint().is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is refused at its first key leads the fuzzer nowhere.
    #[test]
    fn the_seeds_are_states_of_this_format() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/state");
        let seeds: Vec<_> = std::fs::read_dir(seeds).unwrap().map(|seed| seed.unwrap().path()).collect();
        for seed in &seeds {
            let understood = understand(&std::fs::read(seed).unwrap(), seed);
            assert!(understood.is_ok(), "{understood:?}");
        }
        assert!(seeds.len() > 1);
    }
}
