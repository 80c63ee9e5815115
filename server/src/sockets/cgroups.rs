//! cgroup2 as the file system shows it: where it is mounted, which directory and which number a cgroup has, who is in it.
//!
//! Everything here is a snapshot: a cgroup can be removed, or a process move, between two reads. What has gone is left out. Two words that
//! look alike: a *control group* is the path within the hierarchy, as in `/proc/PID/cgroup` and in systemd's `ControlGroup=`; a *directory* is
//! where that is found in the file system.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Component, Path, PathBuf},
};

use rustix::fs::{FsWord, statfs};

use super::procfs;

/// What `statfs` says of cgroup2 (`CGROUP2_SUPER_MAGIC`).
const CGROUP2_MAGIC: FsWord = 0x6367_7270;

/// How deep child cgroups are followed; far beyond what container runtimes nest.
const DEPTH_MAX: usize = 32;

/// Where the root of the hierarchy is, `/sys/fs/cgroup` or, beside cgroup v1, `/sys/fs/cgroup/unified`; nothing where it is not mounted.
///
/// Reads `/proc/self/mountinfo`: 0.1 ms, some milliseconds on a host with thousands of mounts.
pub fn mount() -> Option<PathBuf> {
    of_path("/")
}

/// The directory of a control group, whether there is one or not; nothing where no mount shows that part of the hierarchy. Costs what
/// [`mount`] costs.
pub fn of_path(control_group: &str) -> Option<PathBuf> {
    // A mount can be covered by a later one, as `ip netns exec` covers all below /sys.
    let is_visible = |directory: &PathBuf| {
        directory
            .ancestors()
            .find_map(|path| statfs(path).ok())
            .is_some_and(|found| found.f_type == CGROUP2_MAGIC)
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    directories(&mounts, Path::new(control_group)).find(is_visible)
}

/// The directory of this process's cgroup.
pub(crate) fn own() -> Option<PathBuf> {
    path_of(std::process::id())
}

/// The directory of the topmost cgroup that this process is in and sees: the hierarchy's root on a host, its own cgroup's or the pod's in
/// a container; nothing where cgroup2 is not mounted.
pub(crate) fn top() -> Option<PathBuf> {
    let own = procfs::cgroup_of(std::process::id())?;
    topmost(&fs::read_to_string("/proc/self/mountinfo").ok()?, Path::new(&own))
}

/// The directory of a process's cgroup; nothing where the process has gone. Costs what [`mount`] costs.
pub fn path_of(pid: u32) -> Option<PathBuf> {
    of_path(&procfs::cgroup_of(pid)?)
}

/// The directories of a cgroup's children that are wanted, by name.
pub fn children(directory: &Path, is_wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let wanted = entries.filter(|entry| entry.file_name().to_str().is_some_and(&is_wanted));
    wanted.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
}

/// The number of a cgroup, as sock_diag tells it of sockets and links tell it of programs. A removed cgroup's is not used again.
pub fn id(directory: &Path) -> io::Result<u64> {
    fs::metadata(directory).map(|directory| directory.ino())
}

/// The directory of the cgroup that has this number (Linux 5.5). Fails with ESTALE once it was removed, and with EPERM without
/// CAP_DAC_READ_SEARCH. Costs what [`mount`] costs.
pub fn of_id(id: u64) -> io::Result<PathBuf> {
    /// `struct file_handle` of `open_by_handle_at(2)`, with what cgroup2 has in it.
    #[repr(C)]
    struct Handle {
        length: u32,
        kind: i32,
        id: [u8; 8],
    }
    /// `FILEID_KERNFS` of linux/exportfs.h.
    const KERNFS: i32 = 0xfe;
    let mount = mount().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 is mounted"))?;
    let mount = fs::File::open(mount)?;
    let mut handle = Handle { length: 8, kind: KERNFS, id: id.to_ne_bytes() };
    // `O_PATH` is refused.
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    // SAFETY: the handle has the kernel's layout and as many bytes as it says.
    let opened = unsafe { libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), flags) };
    if opened < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us.
    let opened = unsafe { OwnedFd::from_raw_fd(opened) };
    fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

/// The numbers of a cgroup and of all below it: the sockets of a unit's processes have one of these, whichever process made them. Not among
/// them is that of a child cgroup which was removed since.
pub fn ids(directory: &Path) -> Vec<u64> {
    let mut ids = Vec::new();
    walk(directory, &mut |cgroup| ids.extend(id(cgroup)));
    ids
}

/// The processes in a cgroup and in all below it, by pid; none where there is no such cgroup. Those of another pid namespace are left out.
pub fn processes(directory: &Path) -> Vec<u32> {
    let mut processes = Vec::new();
    walk(directory, &mut |cgroup| {
        // Reading it fails in a threaded cgroup. Its processes are listed in the first parent that is a domain.
        let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        processes.extend(parse_procs(&text));
    });
    processes.sort_unstable();
    // One that moves while the tree is walked can be seen twice.
    processes.dedup();
    processes
}

/// Whether a control group is the other, or contains it; also of two directories.
pub fn holds(parent: impl AsRef<Path>, child: impl AsRef<Path>) -> bool {
    child.as_ref().starts_with(parent)
}

/// From `cgroup.procs`. 0 stands for a process that has no number in this pid namespace.
fn parse_procs(text: &str) -> impl Iterator<Item = u32> + '_ {
    text.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid != 0)
}

fn walk(directory: &Path, visit: &mut impl FnMut(&Path)) {
    fn below(directory: &Path, depth: usize, visit: &mut impl FnMut(&Path)) {
        visit(directory);
        let Some(depth) = depth.checked_sub(1) else { return };
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            below(&entry.path(), depth, visit);
        }
    }
    below(directory, DEPTH_MAX, visit);
}

/// From `/proc/self/mountinfo`: the directories that show a control group. A container's mount may show a part of the hierarchy only.
fn directories<'a>(text: &'a str, control_group: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
    // The kernel begins the path of a cgroup outside of this cgroup namespace with `/..`: it is not below the mount.
    let is_outside = control_group.components().any(|part| part == Component::ParentDir);
    mounts(text).filter(move |_| !is_outside).filter_map(move |(root, point)| {
        let below = control_group.strip_prefix(&root).ok()?;
        // `join` with nothing would leave a slash at the end.
        Some(if below == Path::new("") { point } else { point.join(below) })
    })
}

/// From `/proc/self/mountinfo`: the mount that shows the most of the hierarchy.
///
/// In a cgroup namespace, paths are relative to the namespace's root: a mount of a cgroup further up, as of the host's in a container that
/// is given it, has the root `/..` or `/../..`.
fn topmost(text: &str, control_group: &Path) -> Option<PathBuf> {
    let height = |root: &Path| {
        let names = root.components().filter(|component| *component != Component::RootDir);
        let is_above = names.clone().all(|component| component == Component::ParentDir);
        let depth = isize::try_from(names.count()).ok()?;
        match is_above {
            true => Some(depth),
            false => control_group.starts_with(root).then_some(-depth),
        }
    };
    let mounts = mounts(text).filter_map(|(root, point)| Some((height(&root)?, point)));
    // Of several of the same cgroup, the first.
    mounts.reduce(|best, other| if other.0 > best.0 { other } else { best }).map(|(_, point)| point)
}

/// The root and the mount point of each cgroup2 mount.
fn mounts(text: &str) -> impl Iterator<Item = (PathBuf, PathBuf)> {
    text.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        if rest.split(' ').next() != Some("cgroup2") {
            return None;
        }
        let mut fields = mount.split(' ').skip(3);
        Some((unescape(fields.next()?).into(), unescape(fields.next()?).into()))
    })
}

/// Blanks and backslashes stand as three octal digits in mountinfo.
fn unescape(field: &str) -> String {
    let codes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    codes.iter().fold(field.to_owned(), |field, (code, character)| field.replace(code, character))
}

#[cfg(test)]
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
mod tests {
    use std::{
        net::{Ipv4Addr, TcpListener},
        process::{Child, Command},
    };

    use super::*;
    use crate::sockets::{
        address::{ListenAddress, Protocol},
        diag::Diag,
    };

    /// Ends and reaps its process, and removes its cgroup, whatever becomes of the test.
    struct Inhabited(PathBuf, Child);

    impl Drop for Inhabited {
        fn drop(&mut self) {
            let _ = self.1.kill();
            let _ = self.1.wait();
            let _ = fs::remove_dir(&self.0);
            let _ = self.0.parent().map(fs::remove_dir);
        }
    }

    fn found(text: &str, control_group: &str) -> Vec<String> {
        directories(text, Path::new(control_group)).map(|found| found.display().to_string()).collect()
    }

    #[test]
    fn a_mount_shows_what_is_below_its_root() {
        let whole = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        let hybrid = "29 23 0:25 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      30 29 0:26 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n";
        let part = "30 23 0:26 /docker/ab\\040c /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        assert_eq!(found(whole, "/a/b"), ["/sys/fs/cgroup/a/b"]);
        assert_eq!(found(hybrid, "/"), ["/sys/fs/cgroup/unified"]);
        assert_eq!(found(part, "/docker/ab c/x"), ["/sys/fs/cgroup/x"]);
        assert_eq!(found(&[whole, part].concat(), "/docker/ab c").len(), 2);
        assert!(found(part, "/elsewhere").is_empty());
        assert!(found(whole, "/../outside").is_empty());
        assert!(found("", "/").is_empty());
    }

    #[test]
    fn processes_are_read_and_strangers_left_out() {
        assert_eq!(parse_procs("17\n0\n4242\nx\n").collect::<Vec<_>>(), [17, 4242]);
    }

    #[test]
    fn names_that_begin_alike_are_not_within_each_other() {
        assert!(holds("/system.slice/a.service", "/system.slice/a.service"));
        assert!(holds("/system.slice/a.service", "/system.slice/a.service/worker"));
        assert!(holds("/", "/system.slice"));
        assert!(!holds("/system.slice/a.service", "/system.slice/a.service2"));
        assert!(!holds("/system.slice/a.service/worker", "/system.slice/a.service"));
    }

    #[test]
    fn a_cgroup_has_the_processes_below_it() {
        let Some(own) = own() else { return eprintln!("skipped: no cgroup2 is mounted") };
        let parent = own.join(format!("steer-test-{}", std::process::id()));
        let child = parent.join("child");
        if let Err(error) = fs::create_dir_all(&child) {
            return eprintln!("skipped: {}: {error}", child.display());
        }
        let inhabited = Inhabited(child.clone(), Command::new("sleep").arg("600").spawn().unwrap());
        let pid = inhabited.1.id();
        fs::write(child.join("cgroup.procs"), pid.to_string()).unwrap();

        assert_eq!(path_of(pid), Some(child.clone()));
        assert_eq!(processes(&parent), [pid]);
        assert_eq!(ids(&parent), [id(&parent).unwrap(), id(&child).unwrap()]);
        assert_eq!(of_id(id(&child).unwrap()).unwrap(), child);
        let removed = id(&child).unwrap();
        drop(inhabited);
        assert!(!parent.exists(), "left behind");
        assert_eq!(of_id(removed).unwrap_err().raw_os_error(), Some(libc::ESTALE));
        assert!(processes(&parent).is_empty());
        assert_eq!(path_of(pid), None);
    }

    #[test]
    fn a_listener_names_the_cgroup_of_who_made_it() {
        let Some(own) = own() else { return eprintln!("skipped: no cgroup2 is mounted") };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = ListenAddress { protocol: Protocol::Tcp, address: listener.local_addr().unwrap() };
        let found = Diag::open().unwrap().listeners(address).unwrap();
        assert_eq!(found[0].cgroup, Some(id(&own).unwrap()));
    }

    #[test]
    fn the_topmost_cgroup_is_where_the_most_is_shown() {
        let mount = |root: &str, point: &str| format!("30 23 0:26 {root} {point} rw - cgroup2 cgroup2 rw\n");
        let found =
            |text: &str, path: &str| topmost(text, Path::new(path)).map(|found| found.display().to_string());
        let whole = mount("/", "/sys/fs/cgroup");
        assert_eq!(found(&whole, "/a/b").as_deref(), Some("/sys/fs/cgroup"));
        let part = mount("/docker/ab\\040c", "/sys/fs/cgroup");
        assert_eq!(found(&part, "/docker/ab c/x").as_deref(), Some("/sys/fs/cgroup"));
        assert_eq!(found(&part, "/elsewhere"), None, "of others only");
        assert_eq!(found(&mount("/../elsewhere", "/other"), "/"), None, "of others only");
        let both = mount("/", "/sys/fs/cgroup") + &mount("/../../..", "/host/sys/fs/cgroup");
        assert_eq!(found(&both, "/").as_deref(), Some("/host/sys/fs/cgroup"), "the host's, in a container");
        let twice = mount("/a", "/part") + &mount("/", "/first") + &mount("/", "/second");
        assert_eq!(found(&twice, "/a").as_deref(), Some("/first"));
    }
}
