//! The cgroups that daemons make for their workers, and the hook that is attached to them.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use steer::sockets::procfs;

/// Where cgroup2 is mounted.
#[track_caller]
pub fn mount() -> PathBuf {
    find_mount().expect("cgroup2 is mounted")
}

fn find_mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"))?;
    line.split(' ').nth(1).map(PathBuf::from)
}

/// The path of a process's cgroup, as the kernel names it.
#[track_caller]
pub fn of(pid: u32) -> String {
    procfs::cgroup_of(pid).expect("the process is there, in a cgroup2")
}

/// Where this process's cgroup is.
fn own() -> Option<PathBuf> {
    let path = procfs::cgroup_of(std::process::id())?;
    Some(find_mount()?.join(path.trim_start_matches('/')))
}

/// Whether a cgroup of this path is there.
pub fn exists(path: &str) -> bool {
    mount().join(path.trim_start_matches('/')).exists()
}

/// Removes the cgroups of daemons that were killed: those that nobody is in and no daemon has open, as the next daemon would.
pub fn sweep() {
    let Some(own) = own() else { return };
    for entry in fs::read_dir(own).into_iter().flatten().flatten() {
        let is_for_workers = entry.file_name().to_string_lossy().starts_with("steer.");
        let Some(directory) = is_for_workers.then(|| fs::File::open(entry.path()).ok()).flatten() else {
            continue;
        };
        if rustix::fs::flock(&directory, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok() {
            // One that is in use cannot be removed.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// The file by which a process enters the cgroup of this one.
#[track_caller]
pub fn own_procs() -> PathBuf {
    own().expect("this process is in a cgroup2").join("cgroup.procs")
}

/// The pins of the bind hook of a group's workers.
pub fn hook_pins(pins: &Path, group: &str) -> Vec<PathBuf> {
    let entries = |path: &Path| fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path());
    entries(&pins.join(group).join("bind")).flat_map(|cgroup| entries(&cgroup).collect::<Vec<_>>()).collect()
}

/// Detaches a pinned link from its cgroup, as `bpftool link detach` does.
#[track_caller]
pub fn detach(link: &Path) {
    const BPF_OBJ_GET: libc::c_int = 7;
    const BPF_LINK_DETACH: libc::c_int = 34;
    let path = CString::new(link.as_os_str().as_bytes()).expect("a path");
    // `union bpf_attr`: of OBJ_GET `pathname, bpf_fd, file_flags`; of LINK_DETACH `link_fd`.
    let mut attributes = [0_u64; 16];
    attributes[0] = path.as_ptr() as u64;
    let got = bpf(BPF_OBJ_GET, &attributes);
    // SAFETY: a new descriptor, owned by nothing else.
    let link = unsafe { OwnedFd::from_raw_fd(got) };
    attributes[0] = link.as_raw_fd() as u64;
    bpf(BPF_LINK_DETACH, &attributes);
}

#[track_caller]
fn bpf(command: libc::c_int, attributes: &[u64; 16]) -> i32 {
    // SAFETY: the attributes are zeros but for what the command takes, and what they point to outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    assert!(result >= 0, "bpf: {}", io::Error::last_os_error());
    result as i32
}
