//! Reads the files of a configuration: the main one, and those of `conf.d` beside it in order of name.

use std::{
    ffi::OsStr,
    fs, io,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use super::{error::ConfigError, source::Source};

/// The largest file that is read, in bytes: what is larger is no configuration that somebody wrote.
pub(super) const FILE_MAX: u64 = 1 << 20;

/// The files' texts, the main one's first, and what could not be read.
pub(super) fn read(main: &Path) -> (Vec<Source>, Vec<ConfigError>) {
    let (mut sources, mut errors) = (Vec::new(), Vec::new());
    let beside = further(&main.with_file_name("conf.d")).unwrap_or_else(|error| {
        errors.push(error);
        Vec::new()
    });
    for (order, path) in [main.to_owned()].into_iter().chain(beside).enumerate() {
        match text(&path) {
            Ok(text) => sources.push(Source::new(path, text, order)),
            Err(error) => errors.push(error),
        }
    }
    (sources, errors)
}

/// The files `*.toml` of a directory, in order of name; none where there is no such directory. As in a shell, names that begin
/// with a dot, as editors give to what is half written, do not count.
fn further(directory: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let listed = |entries: fs::ReadDir| -> io::Result<Vec<PathBuf>> {
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<PathBuf>>>()?;
        paths.retain(|path| {
            let is_hidden = path.file_name().is_some_and(|name| name.as_bytes().starts_with(b"."));
            path.extension() == Some(OsStr::new("toml")) && !is_hidden
        });
        paths.sort();
        Ok(paths)
    };
    match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries.and_then(listed).map_err(|error| unreadable(directory, &error)),
    }
}

fn text(path: &Path) -> Result<String, ConfigError> {
    let shown = path.display();
    // A pipe that nobody writes to must not hold up who opens it.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let opened = fs::File::options().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| unreadable(path, &error))?;
    if !file.metadata().map_err(|error| unreadable(path, &error))?.is_file() {
        let hint = "the configuration is a file and the files of conf.d beside it; name the file";
        return Err(ConfigError::of_file(format!("cannot read {shown}: it is not a regular file"), hint));
    }
    let mut bytes = Vec::new();
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > FILE_MAX {
        let message = format!("cannot read {shown}: it has more than the {FILE_MAX} bytes that are read");
        return Err(ConfigError::of_file(
            message,
            "see whether it is the right file, or part it over conf.d",
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = format!("cannot read {shown}: line {line} is not UTF-8");
        ConfigError::of_file(message, "TOML is UTF-8: save the file as that")
    })
}

pub(super) fn unreadable(path: &Path, error: &io::Error) -> ConfigError {
    let hint = match error.kind() {
        io::ErrorKind::NotFound => "write it, or name another with --config; README.md has an example",
        io::ErrorKind::PermissionDenied => {
            "run it as root, or let this user read the file and enter its directories"
        }
        _ => "see whether `cat` can read it",
    };
    ConfigError::of_file(format!("cannot read {}: {error}", path.display()), hint)
}
