//! Containers, as the directories of their cgroups show them: every engine names one by the container's id. No engine is asked, but for a
//! container's name, by its command line.

mod engine;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use super::{cgroups, procfs};

/// What stands before an id in the name of a cgroup. Conmon's own are none of the container's: `libpod-conmon-ID.scope`.
const BEFORE: [&str; 5] = ["libpod-", "docker-", "cri-containerd-", "crio-", "nerdctl-"];

/// How long an id is: the digits of a SHA-256.
const ID_LENGTH: usize = 64;

/// How many digits of an id are taken for one, as engines show it; a name may have as many.
const SHORT_ID: usize = 12;

/// How deep containers are looked for: a pod's is at the fourth level.
const DEPTH: usize = 8;

/// The id of the container whose cgroup this is, or is below: that of the outermost.
///
/// `/machine.slice/libpod-ID.scope/container`, `/system.slice/docker-ID.scope`, `/docker/ID`, and of Kubernetes
/// `/kubepods.slice/../cri-containerd-ID.scope` or `../kubepods-podUID.slice:cri-containerd:ID`.
pub fn id_of(control_group: &str) -> Option<&str> {
    control_group.split('/').find_map(id_in)
}

fn id_in(part: &str) -> Option<&str> {
    let part = part.strip_suffix(".scope").unwrap_or(part);
    let part = part.rsplit(':').next().unwrap_or(part);
    let id = BEFORE.iter().find_map(|before| part.strip_prefix(before)).unwrap_or(part);
    (id.len() == ID_LENGTH && is_hexadecimal(id)).then_some(id)
}

fn is_hexadecimal(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Whether a text may be a container's id, or its beginning.
fn is_id(text: &str) -> bool {
    (SHORT_ID..=ID_LENGTH).contains(&text.len()) && is_hexadecimal(text)
}

/// A container that is meant, by its name or its id. By its name it may be made anew, with another id.
#[derive(Debug, Clone)]
pub struct Container {
    meant: String,
    /// Ids that were asked for: whether it is the one.
    known: Arc<Mutex<BTreeMap<String, bool>>>,
}

impl Container {
    /// The one of this name, or whose id begins so.
    pub fn new(meant: &str) -> Self {
        Self { meant: meant.to_owned(), known: Arc::default() }
    }

    /// Whether a process is in it. It may run the engine's command line, once for each other container.
    pub fn has(&self, pid: u32) -> bool {
        let path = procfs::cgroup_of(pid);
        path.as_deref().and_then(id_of).is_some_and(|id| self.is(id))
    }

    /// Whether the container of this id is the one that is meant.
    fn is(&self, id: &str) -> bool {
        if is_id(&self.meant) && id.starts_with(&self.meant) {
            return true;
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(id).copied();
        known.unwrap_or_else(|| {
            // Where no engine knows it yet, it is asked for again.
            let Some(name) = engine::name_of(id) else { return false };
            let is_it = name == self.meant;
            self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), is_it);
            is_it
        })
    }

    /// The cgroups of the containers that it may be, as they are now: one, where it runs and is named well.
    pub fn directories(&self) -> Vec<PathBuf> {
        let Some(root) = cgroups::mount() else { return Vec::new() };
        let mut all = Vec::new();
        find(&root, DEPTH, &mut all);
        if is_id(&self.meant) {
            let begins = |id: &str| id.starts_with(&self.meant);
            let found: Vec<PathBuf> =
                all.iter().filter(|(id, _)| begins(id)).map(|(_, path)| path.clone()).collect();
            if !found.is_empty() {
                return found;
            }
        }
        let Some(id) = engine::id_of(&self.meant) else { return Vec::new() };
        all.into_iter().filter(|(found, _)| *found == id).map(|(_, path)| path).collect()
    }
}

/// The outermost cgroups of containers below a directory.
fn find(directory: &Path, depth: usize, found: &mut Vec<(String, PathBuf)>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        match entry.file_name().to_str().and_then(id_in) {
            Some(id) => found.push((id.to_owned(), entry.path())),
            None => find(&entry.path(), depth, found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0fd0b3d01a11032cd758d609667ed5e75397438c6bf9792eb73b80788b3d7bf7";

    #[test]
    fn each_engine_s_cgroups_name_the_container() {
        for path in [
            format!("/machine.slice/libpod-{ID}.scope"),
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/libpod_parent/libpod-{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}"),
            format!(
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod1_2.slice/cri-containerd-{ID}.scope"
            ),
            format!("/system.slice/containerd.service/kubepods-besteffort-pod1_2.slice:cri-containerd:{ID}"),
            format!("/kubepods/burstable/pod1-2/{ID}"),
            format!("/kubepods.slice/kubepods-pod1_2.slice/crio-{ID}.scope/system.slice/nginx.service"),
        ] {
            assert_eq!(id_of(&path), Some(ID), "{path}");
        }
        for path in [
            "/".to_owned(),
            "/system.slice/nginx.service".to_owned(),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            format!("/docker/{}", &ID[1..]),
            format!("/docker/{}", ID.to_uppercase()),
        ] {
            assert_eq!(id_of(&path), None, "{path}");
        }
    }

    #[test]
    fn a_beginning_of_an_id_is_enough_and_a_name_is_none() {
        assert!(Container::new(&ID[..12]).is(ID) && Container::new(ID).is(ID));
        assert!(!Container::new(&ID[1..13]).is(ID));
        assert!(is_id(&ID[..12]) && !is_id(&ID[..11]) && !is_id("web") && !is_id("deadbeef-web"));
    }
}
