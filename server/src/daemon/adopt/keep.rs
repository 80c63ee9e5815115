//! Writes an adopted group into the configuration, so that the next daemon adopts it again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::{
    control::api::{Fault, FaultKind},
    daemon::settings::{GroupSettings, Server},
};

/// Writes a file of the group into `conf.d` beside the configuration; its path. One that is there is not overwritten.
pub(super) fn keep(config: Option<&Path>, settings: &GroupSettings) -> Result<String, Fault> {
    let Some(config) = config else {
        let fault = Fault::new(FaultKind::Refused, "cannot keep it: this daemon has no configuration");
        return Err(fault.with_hint("run it as `steer daemon --config FILE`"));
    };
    let directory = config.parent().unwrap_or(Path::new("/")).join("conf.d");
    let path = directory.join(format!("50-{}.toml", settings.name));
    match write(&directory, &path, &text(settings)) {
        Ok(()) => Ok(path.display().to_string()),
        Err(error) => {
            let message =
                format!("{} is adopted, and cannot be kept in {}: {error}", settings.name, path.display());
            let hint =
                "write the file by hand, from `steer adopt --dry-run`, or remove the one that is there";
            Err(Fault::new(FaultKind::Failed, message).with_hint(hint))
        }
    }
}

fn write(directory: &PathBuf, path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    fs::create_dir_all(directory)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// The group as it is written in a configuration.
pub(super) fn text(settings: &GroupSettings) -> String {
    let listen: Vec<String> =
        settings.listen.iter().map(|address| format!("{:?}", address.to_string())).collect();
    let adopt = settings.adopt.as_ref().map(|adopt| match &adopt.server {
        Server::Unit(name) => format!("unit = {name:?}"),
        Server::Cgroup(path) => format!("cgroup = {path:?}"),
        Server::Container(name) => format!("container = {name:?}"),
        Server::User(uid) => format!("user = {:?}", uid.to_string()),
    });
    format!(
        "# Written by `steer adopt --keep`.\n[[group]]\nname = {:?}\nlisten = [{}]\n\n[group.adopt]\n{}\n",
        settings.name.as_str(),
        listen.join(", "),
        adopt.unwrap_or_default()
    )
}
