//! The systemd unit, as far as it can be judged without a systemd that runs: that it is understood, and how exposed it is.

use std::{fs, path::PathBuf, process::Command};

use steer_tests::{output::Output, steer::binary};

/// What `systemd-analyze security` may say of the unit, in tenths; the least is 0, a unit without any restriction has 96. Nearly all
/// that would bring it down is inherited by workers: see the unit.
const EXPOSURE_MAX: u32 = 83;
/// The same with the example of a drop-in that hardens the daemon and its workers.
const HARDENED_EXPOSURE_MAX: u32 = 43;

/// A copy of the unit that names the binary under test, in a directory of its own.
struct Unit {
    directory: tempfile::TempDir,
}

impl Unit {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let text = packaging("steer.service");
        let started = text.matches("/usr/bin/steer ").count();
        assert!(started > 0, "the unit starts the packaged binary: {text}");
        let text = text.replace("/usr/bin/steer ", &format!("{} ", binary().display()));
        fs::write(directory.path().join("steer.service"), text).expect("a file can be made there");
        Self { directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("steer.service")
    }

    /// Runs `systemd-analyze ARGUMENTS UNIT`.
    #[track_caller]
    fn analyze(&self, arguments: &[&str]) -> Output {
        let output = Command::new("systemd-analyze").args(arguments).arg(self.path()).output();
        let output = output.expect("`cargo xtask test` installs systemd-analyze");
        Output {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// In tenths.
    #[track_caller]
    fn exposure(&self) -> u32 {
        let output = self.analyze(&["security", "--offline=true", "--no-pager"]).succeeded();
        let line =
            output.stdout.lines().find(|line| line.contains("Overall exposure level")).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("no level in {}", output.stdout));
        let level = line
            .split(": ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .map(|level| level.replace('.', ""));
        level.and_then(|level| level.parse().ok()).unwrap_or_else(|| panic!("no number in {line:?}"))
    }
}

fn packaging(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../server/packaging").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn systemd_understands_every_line() {
    let unit = Unit::new();
    let verify = |unit: &Unit| unit.analyze(&["verify", "--man=no", "--recursive-errors=no"]);
    let output = verify(&unit).succeeded();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));

    // What it says to a mistake, lest it says nothing to any.
    let text = fs::read_to_string(unit.path()).expect("it was made");
    fs::write(unit.path(), text.replace("KillMode=", "KilMode=")).expect("it can be written");
    let output = verify(&unit);
    assert!(output.stderr.contains("KilMode"), "{output:?}");
}

#[test]
fn the_unit_is_no_more_exposed_than_its_workers_need() {
    let unit = Unit::new();
    let exposure = unit.exposure();
    println!("exposure: {exposure} tenths, at most {EXPOSURE_MAX}");
    assert!(exposure <= EXPOSURE_MAX, "{exposure}");

    // A drop-in's settings count as if they stood at the end of the section.
    let text = fs::read_to_string(unit.path()).expect("it was made");
    let drop_in = packaging("examples/hardened.conf").replace("[Service]\n", "");
    fs::write(unit.path(), text.replace("[Install]", &format!("{drop_in}\n[Install]")))
        .expect("it can be written");
    unit.analyze(&["verify", "--man=no", "--recursive-errors=no"]).succeeded();
    let hardened = unit.exposure();
    println!("exposure of the hardened unit: {hardened} tenths, at most {HARDENED_EXPOSURE_MAX}");
    assert!(hardened <= HARDENED_EXPOSURE_MAX, "{hardened}");
}
