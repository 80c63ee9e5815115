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

/// Where cgroup2 is mounted.
#[track_caller]
pub fn mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is there");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    line.and_then(|line| line.split(' ').nth(1)).expect("cgroup2 is mounted").into()
}

/// The path of a process's cgroup, as the kernel names it.
#[track_caller]
pub fn of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process is there");
    text.lines().find_map(|line| line.strip_prefix("0::")).expect("it is in a cgroup2").to_owned()
}

/// Whether a cgroup of this path is there.
pub fn exists(path: &str) -> bool {
    mount().join(path.trim_start_matches('/')).exists()
}

/// The file by which a process enters the cgroup of this one.
#[track_caller]
pub fn own_procs() -> PathBuf {
    mount().join(of(std::process::id()).trim_start_matches('/')).join("cgroup.procs")
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
