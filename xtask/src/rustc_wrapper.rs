//! xtask as cargo's `RUSTC_WRAPPER`: the same crate gives the same bytes, wherever its sources are.
//!
//! Two things carry paths of the machine into the eBPF object. Remapping takes care of file names. What it does not
//! reach is `-C metadata`: cargo hashes a package's place into it, which for the standard library is the toolchain's
//! directory and for `server-common` (outside of the eBPF crate's own workspace) that of the checkout. rustc makes
//! the crate's disambiguator of it, a part of every mangled name in BTF and in the symbol table, and lays functions
//! out by it. Package, version and crate name say enough here: no dependency is built twice for the eBPF target.

use std::{
    env,
    ffi::OsString,
    fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, ExitCode},
};

/// Set where cargo runs xtask in place of rustc.
pub(crate) const WANTED: &str = "STEER_XTASK_IS_RUSTC_WRAPPER";

/// Whether cargo runs this process in place of rustc.
pub(crate) fn is_wanted() -> bool {
    env::var_os(WANTED).is_some()
}

/// Becomes rustc. Returns only where that fails.
pub(crate) fn main() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let Some(rustc) = arguments.next() else {
        eprintln!("error: {WANTED} is set, but no rustc was named; unset it");
        return ExitCode::FAILURE;
    };
    let arguments: Vec<OsString> = arguments.map(without_links).collect();
    // Without a package cargo only asks for the version.
    let arguments = match Unit::from_environment() {
        Some(unit) => unit.rewrite(arguments),
        None => arguments,
    };
    let error = Command::new(&rustc).args(arguments).env_remove(WANTED).exec();
    eprintln!("error: running {}: {error}", rustc.display());
    ExitCode::FAILURE
}

/// The path of a source file without symbolic links, as the working directory is without them: rustc names files relative
/// to that where it can, and a linked cargo home must not make a difference.
fn without_links(argument: OsString) -> OsString {
    let path = Path::new(&argument);
    let is_source = path.is_absolute() && path.extension().is_some_and(|extension| extension == "rs");
    if is_source { fs::canonicalize(path).map_or(argument, Into::into) } else { argument }
}

/// What cargo says in the environment of the crate that it compiles.
struct Unit {
    package: String,
    version: String,
    /// The package's sources, with and without symbolic links.
    sources: Vec<OsString>,
    /// Where its build script put files, if it has one.
    generated: Vec<OsString>,
    /// What rustc takes file names relative to; debug information names it.
    directory: Option<OsString>,
}

impl Unit {
    fn from_environment() -> Option<Self> {
        Some(Self {
            package: env::var("CARGO_PKG_NAME").ok()?,
            version: env::var("CARGO_PKG_VERSION").ok()?,
            sources: both_names(env::var_os("CARGO_MANIFEST_DIR")?),
            generated: env::var_os("OUT_DIR").map(both_names).unwrap_or_default(),
            directory: env::current_dir().ok().map(Into::into),
        })
    }

    /// The arguments with metadata and file names that only the package decides.
    fn rewrite(&self, arguments: Vec<OsString>) -> Vec<OsString> {
        let name = arguments
            .windows(2)
            .find(|pair| pair[0] == "--crate-name")
            .map_or_else(String::new, |pair| pair[1].to_string_lossy().into_owned());
        let metadata = format!("metadata={}-{}-{name}", self.package, self.version);
        let mut rewritten: Vec<OsString> = arguments
            .into_iter()
            .map(|argument| match argument.to_str() {
                Some(text) if text.starts_with("metadata=") => metadata.clone().into(),
                Some(text) if text.starts_with("-Cmetadata=") => format!("-C{metadata}").into(),
                _ => argument,
            })
            .collect();
        // What the compiler says to people keeps the paths that they know.
        rewritten.push("--remap-path-scope=object".into());
        // rustc takes the last prefix that matches: the working directory may contain the others.
        rewritten.extend(self.directory.as_ref().map(|from| remap(from, "/build")));
        let package = format!("/{}-{}", self.package, self.version);
        rewritten.extend(self.sources.iter().map(|from| remap(from, &package)));
        rewritten.extend(self.generated.iter().map(|from| remap(from, &format!("{package}-generated"))));
        rewritten
    }
}

fn both_names(path: OsString) -> Vec<OsString> {
    let without_links = fs::canonicalize(&path).map(Into::into);
    let different = without_links.ok().filter(|other| *other != path);
    std::iter::once(path).chain(different).collect()
}

fn remap(from: &OsString, to: &str) -> OsString {
    let mut argument = OsString::from("--remap-path-prefix=");
    argument.push(from);
    argument.push("=");
    argument.push(to);
    argument
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_places_give_the_same_metadata_and_the_same_names() {
        let rewrite = |place: &str, hash: &str| {
            let unit = Unit {
                package: "server-common".into(),
                version: "0.1.0".into(),
                sources: vec![format!("{place}/server-common").into()],
                generated: vec![],
                directory: Some(format!("{place}/server-ebpf").into()),
            };
            let arguments =
                ["--crate-name", "server_common", "-C", &format!("metadata={hash}"), "src/lib.rs"];
            unit.rewrite(arguments.map(OsString::from).to_vec())
        };
        let (here, there) = (rewrite("/a", "1111"), rewrite("/elsewhere/b", "2222"));
        assert_eq!(here[..5], there[..5]);
        assert_eq!(here[3], "metadata=server-common-0.1.0-server_common");
        assert_eq!(here[6], "--remap-path-prefix=/a/server-ebpf=/build");
        assert_eq!(here[7], "--remap-path-prefix=/a/server-common=/server-common-0.1.0");
    }
}
