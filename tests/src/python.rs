//! Small Python programs: servers that know nothing of steer.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The interpreter: Debian's if it is there, else the first on `PATH` (which may be a shim that starts slowly).
pub fn interpreter() -> PathBuf {
    let debian = PathBuf::from("/usr/bin/python3");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).map(|directory| directory.join("python3"));
    std::iter::once(debian)
        .chain(all)
        .find(|program| program.exists())
        .expect("python3 is installed; `cargo xtask test` installs it")
}

/// Writes a program to `directory` and returns its path: executable, run by [`interpreter`].
#[track_caller]
pub fn script(directory: &Path, name: &str, source: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join(name);
    let text = format!("#!{}\n{source}", interpreter().display());
    fs::write(&path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .unwrap_or_else(|error| panic!("making {} executable: {error}", path.display()));
    path
}
