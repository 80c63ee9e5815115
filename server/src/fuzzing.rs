//! What the fuzz targets of `server/fuzz/` run: one function for each part that reads what others have written.
//!
//! Compiled for tests and by cargo-fuzz only. Each function takes any bytes and panics where what is said of them does not hold:
//! beside "nothing panics", that what is understood is written and understood again as the same, and that what is refused is
//! explained. The seeds in `server/fuzz/seeds/` go through the same functions in every `cargo test`.

pub use crate::{
    config::fuzzing::check as config, control::fuzzing::check as control, group::record::check as state,
    keeper::fuzzing::check as keeper, policy::fuzzing::check as quic, sockets::diag::fuzzing::check as diag,
    sockets::procfs::fuzzing::check as procfs,
};

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    type Check = fn(&[u8]);

    /// Runs each seed of a target and tells how many there are.
    fn run(target: &str, check: Check) -> usize {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
        let seeds: Vec<_> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        for seed in &seeds {
            println!("{target}: {}", seed.file_name().unwrap().to_string_lossy());
            check(&fs::read(seed).unwrap());
        }
        seeds.len()
    }

    #[test]
    fn every_seed_passes() {
        let targets: [(&str, Check); 7] = [
            ("config", config),
            ("control", control),
            ("diag", diag),
            ("keeper", keeper),
            ("procfs", procfs),
            ("quic", quic),
            ("state", state),
        ];
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let names = |of: &str| -> Vec<String> {
            let entries = fs::read_dir(directory.join(of)).unwrap().map(|entry| entry.unwrap().path());
            let mut names: Vec<_> =
                entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
            names.sort();
            names
        };
        assert_eq!(names("targets"), targets.map(|(name, _)| name));
        assert_eq!(names("seeds"), targets.map(|(name, _)| name));
        for (name, check) in targets {
            assert!(run(name, check) > 1, "{name} has no seeds");
        }
    }

    #[test]
    fn bytes_that_are_nothing_pass() {
        let junk: [&[u8]; 4] = [b"", b"\0", &[0xff; 300], &[b'{'; 1000]];
        for check in [config, control, diag, keeper, procfs, quic, state] {
            junk.into_iter().for_each(check);
        }
    }
}
