//! Which cgroups a server's processes are in.

use std::path::{Path, PathBuf};

use crate::{
    daemon::{describe::describe, settings::Server},
    sockets::cgroups,
    units::{Manager, Unit, UnitError, is_template},
};

/// The cgroups of a server, by their directories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ServerCgroups {
    /// Its processes are in one, and in those below it.
    One(PathBuf),
    /// It is a template of systemd's: each of its instances has one, in this slice.
    Instances {
        /// The directory of the slice.
        slice: PathBuf,
        /// The template's full name, `app@.service`.
        template: String,
    },
}

impl ServerCgroups {
    /// Those of a server, asked in the calling thread, which may block; nothing where no cgroup tells its processes from others, or it
    /// has none now.
    pub(super) fn of(server: &Server) -> Option<Self> {
        match server {
            Server::Cgroup(path) => cgroups::of_path(path).map(Self::One),
            Server::Unit(unit) => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
                let found = runtime.block_on(of_unit(unit));
                found.inspect_err(|error| tracing::warn!("{unit}: {}", describe(error))).ok()?
            }
            Server::Container(_) | Server::User(_) => None,
        }
    }

    /// The processes in them.
    pub(super) fn processes(&self) -> Vec<u32> {
        match self {
            Self::One(directory) => cgroups::processes(directory),
            Self::Instances { slice, template } => {
                let instances = cgroups::children(slice, |name| is_instance(name, template));
                instances.iter().flat_map(|directory| cgroups::processes(directory)).collect()
            }
        }
    }
}

async fn of_unit(unit: &str) -> Result<Option<ServerCgroups>, UnitError> {
    let manager = Manager::connect().await?;
    if !is_template(unit) {
        let found = manager.find(unit).await?.control_group;
        return Ok(found.and_then(|path| cgroups::of_path(&path)).map(ServerCgroups::One));
    }
    let slice = slice_of(unit, &manager.instances(unit).await?);
    let instances = |slice| ServerCgroups::Instances { slice, template: unit.to_owned() };
    Ok(cgroups::of_path(&slice).map(instances))
}

/// The slice of a template's instances: that of one that runs, or else where systemd puts them if no `Slice=` says otherwise.
fn slice_of(template: &str, instances: &[Unit]) -> String {
    let running = instances.iter().find_map(|unit| Path::new(unit.control_group.as_deref()?).parent());
    running.map_or_else(|| default_slice(template), |slice| slice.to_string_lossy().into_owned())
}

/// A dash in the template's name would be another level of slices: systemd escapes it.
fn default_slice(template: &str) -> String {
    let prefix = template.trim_end_matches("@.service").replace('-', "\\x2d");
    format!("/system.slice/system-{prefix}.slice")
}

fn is_instance(name: &str, template: &str) -> bool {
    let prefix = template.trim_end_matches(".service");
    name.strip_suffix(".service").and_then(|name| name.strip_prefix(prefix)).is_some_and(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_told_from_others_of_their_slice() {
        let is = |name| is_instance(name, "app@.service");
        assert!(is("app@1.service") && is("app@a-b.service"));
        assert!(!is("app@.service") && !is("app.service") && !is("app@1.socket") && !is("other@1.service"));
    }

    #[test]
    fn without_an_instance_the_slice_is_systemds_own_choice() {
        assert_eq!(slice_of("app@.service", &[]), "/system.slice/system-app.slice");
        assert_eq!(default_slice("my-app@.service"), "/system.slice/system-my\\x2dapp.slice");
    }

    #[test]
    fn the_processes_of_all_instances_are_the_servers() {
        let place = tempfile::tempdir().unwrap();
        for (unit, pid) in [("app@1.service", "7\n"), ("app@2.service", "9\n"), ("app.service", "8\n")] {
            std::fs::create_dir(place.path().join(unit)).unwrap();
            std::fs::write(place.path().join(unit).join("cgroup.procs"), pid).unwrap();
        }
        let template = "app@.service".to_owned();
        let mut found = ServerCgroups::Instances { slice: place.path().to_owned(), template }.processes();
        found.sort_unstable();
        assert_eq!(found, [7, 9]);
    }
}
