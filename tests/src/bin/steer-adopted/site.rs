//! Where a server runs: its directory, its addresses.

use std::{
    fs::{self, File, Permissions},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    rc::Rc,
};

use steer_tests::{exchanges::Exchange, wait};
use tempfile::TempDir;

use crate::program::{Program, SOON};

/// A directory and addresses for one run.
#[derive(Clone)]
pub(crate) struct Site {
    directory: Rc<TempDir>,
    pub(crate) addresses: Vec<SocketAddr>,
    /// What its clients do, the last of it where there is more than one.
    exchange: Exchange,
}

impl Site {
    pub(crate) fn new(addresses: &[SocketAddr], exchange: Exchange) -> Self {
        let directory = tempfile::Builder::new().prefix("steer-tests-").tempdir();
        let directory = directory.expect("a temporary directory can be made");
        // Workers of a server may run as another user.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).expect("it is ours");
        Self { directory: Rc::new(directory), addresses: addresses.to_vec(), exchange }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file, with `DIR` for the directory. Whole, or not at all: a server may be reading it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        write(self.directory.path(), name, text)
    }

    /// A line for each address: `ADDRESS` in it stands for address and port, `BARE` for the address without brackets, `PORT` for the port.
    pub(crate) fn each(&self, line: &str) -> String {
        self.addresses.iter().map(|address| fill_in(line, *address)).collect()
    }

    /// The same of the first address.
    pub(crate) fn first(&self, line: &str) -> String {
        fill_in(line, self.addresses[0])
    }

    /// Starts a line's program, words parted by blanks, with `DIR` for the directory; waits for nothing.
    pub(crate) fn start(&self, line: &str) -> Program {
        let line = line.replace("DIR", &self.directory.path().to_string_lossy());
        let line = format!("exec {line}");
        let open = |name| File::options().create(true).append(true).open(self.path(name));
        let (stdout, stderr) = (open("stdout").expect("a file"), open("stderr").expect("a file"));
        let mut command = Command::new("sh");
        command.args(["-c", &line]).current_dir(self.directory.path());
        // apache ends its whole process group.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        Program::new(command.spawn().unwrap_or_else(|error| panic!("running {line}: {error}")))
    }

    /// Waits until somebody answers at each address.
    #[track_caller]
    pub(crate) fn until_served(&self) {
        for address in &self.addresses {
            wait::until("the server serves", SOON, || {
                let client =
                    if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
                let answered = self.exchange.run(client, *address);
                answered.map_err(|error| format!("{error}; it says {}", self.said()))
            });
        }
    }

    /// What the server has printed last.
    pub(crate) fn said(&self) -> String {
        let read = |name| fs::read_to_string(self.path(name)).unwrap_or_default();
        let all = read("stdout") + &read("stderr");
        let last: Vec<&str> = all.lines().rev().take(8).collect();
        last.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

fn fill_in(line: &str, address: SocketAddr) -> String {
    line.replace("ADDRESS", &address.to_string())
        .replace("BARE", &address.ip().to_string())
        .replace("PORT", &address.port().to_string())
}

/// See [`Site::write`].
pub(crate) fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let (path, draft) = (directory.join(name), directory.join(format!("{name}.draft")));
    let parent = path.parent().expect("a file is in a directory");
    let text = text.replace("DIR", &directory.to_string_lossy());
    fs::create_dir_all(parent).expect("a directory can be made");
    fs::write(&draft, text).and_then(|()| fs::rename(&draft, &path)).expect("a file can be written");
    path
}
