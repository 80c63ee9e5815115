//! The daemon's side: reaches the keeper there is, or starts one.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::FileTypeExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::{
    fs::Mode,
    net::{
        AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, recv,
        socket_with,
        sockopt::{Timeout, set_socket_timeout, socket_peercred},
    },
};
use thiserror::Error;

use super::wire::{Answer, Request, receive, send};

/// How long an answer may take. The keeper does nothing that takes time.
const PATIENCE: Duration = Duration::from_secs(2);

/// This binary, also after its file was replaced by another version.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The keeper could not be reached, started, or did not do what it was asked.
#[derive(Debug, Error)]
#[error("cannot {operation} the keeper of sockets at {path}")]
pub struct KeeperError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl KeeperError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        match self.source.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied => {
                "nothing but the daemon has to write beside its control socket: look at what is there, and who put it there"
            }
            _ => "the daemon must be able to write beside its control socket and to run itself once more",
        }
    }

    /// Whether somebody else's is in its place.
    pub fn is_conflict(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied)
    }

    /// Whether it has closed the connection, and has not answered.
    fn is_hang_up(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
        matches!(self.source.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
    }
}

/// A connection to the keeper, and what it keeps for this daemon.
#[derive(Debug)]
pub struct Keeper {
    path: PathBuf,
    connection: OwnedFd,
    /// Its process, where this daemon has started it.
    child: Option<Child>,
    /// Duplicates of what is kept, for another keeper should this one be killed.
    kept: BTreeMap<String, OwnedFd>,
}

impl Keeper {
    /// Reaches the keeper at `path`, or starts one there; tells what it keeps already. Whoever calls holds the daemon's lock,
    /// so that no other daemon does the same.
    pub fn reach(path: &Path) -> Result<Self, KeeperError> {
        match Self::attempt(path) {
            // It was just ending, with nothing left to keep: before it hangs up, its path leads nowhere.
            Err(error) if error.is_hang_up() => Self::attempt(path),
            result => result,
        }
    }

    fn attempt(path: &Path) -> Result<Self, KeeperError> {
        let error = |operation| {
            let path = path.to_owned();
            move |source: io::Error| KeeperError { operation, path, source }
        };
        let (connection, child) = match connect_to(path) {
            Ok(connection) => (connection, None),
            // Only then: in place of one that serves, another would leave what that keeps with nobody to give it to.
            Err(failed)
                if matches!(failed.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) =>
            {
                let child = start(path).map_err(error("start"))?;
                (connect_to(path).map_err(error("reach"))?, Some(child))
            }
            Err(failed) => return Err(error("reach")(failed)),
        };
        let kept = list(&connection).map_err(error("ask"))?;
        Ok(Self { path: path.to_owned(), connection, child, kept })
    }

    /// What is kept, by name.
    pub fn kept(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.kept.iter().map(|(name, descriptor)| (name.as_str(), descriptor.as_fd()))
    }

    /// Has a duplicate of a descriptor kept under a name, in place of what had the name. When it returns, it is kept.
    pub fn keep(&mut self, name: &str, descriptor: BorrowedFd<'_>) -> Result<(), KeeperError> {
        let own = descriptor.try_clone_to_owned().map_err(self.error("duplicate a socket for"))?;
        self.kept.insert(name.to_owned(), own);
        match self.ask(&Request::Keep(name.to_owned()), Some(descriptor)) {
            Ok(()) => Ok(()),
            Err(_) => self.replace(),
        }
    }

    /// Has what has a name closed.
    pub fn release(&mut self, name: &str) -> Result<(), KeeperError> {
        if self.kept.remove(name).is_none() {
            return Ok(());
        }
        match self.ask(&Request::Drop(name.to_owned()), None) {
            Ok(()) => Ok(()),
            Err(_) => self.replace(),
        }
    }

    /// Whether the keeper is there; if it is not, another takes its place.
    pub fn look(&mut self) -> Result<bool, KeeperError> {
        let mut byte = [0; 1];
        match recv(&self.connection, &mut byte[..], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Err(rustix::io::Errno::AGAIN) => Ok(true),
            _ => self.replace().map(|()| false),
        }
    }

    /// Ends the keeper, with all it keeps. When it returns, the process is gone, and its path leads nowhere.
    pub fn end(&mut self) -> Result<(), KeeperError> {
        self.ask(&Request::End, None).map_err(self.error("end"))?;
        self.kept.clear();
        // It hangs up with its process.
        while receive(&self.connection).map_err(self.error("wait for"))?.is_some() {}
        if let Some(mut child) = self.child.take() {
            child.wait().map_err(self.error("wait for"))?;
        }
        Ok(())
    }

    fn error(&self, operation: &'static str) -> impl FnOnce(io::Error) -> KeeperError + use<> {
        let path = self.path.clone();
        move |source| KeeperError { operation, path, source }
    }

    fn replace(&mut self) -> Result<(), KeeperError> {
        if let Some(mut child) = self.child.take() {
            // One that lives without answering would keep for ever what nobody asks it for.
            let _ = child.kill();
            let _ = child.wait();
        }
        let child = start(&self.path).map_err(self.error("start"))?;
        self.connection = connect_to(&self.path).map_err(self.error("reach"))?;
        self.child = Some(child);
        let kept = std::mem::take(&mut self.kept);
        let result = kept.iter().try_for_each(|(name, descriptor)| {
            self.ask(&Request::Keep(name.clone()), Some(descriptor.as_fd()))
        });
        self.kept = kept;
        result.map_err(self.error("hand everything to"))
    }

    fn ask(&self, request: &Request, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        send(&self.connection, &request.encode(), descriptor)?;
        match answer(&self.connection)? {
            (Answer::Done, _) => Ok(()),
            (answer, _) => Err(io::Error::other(format!("its answer is {answer:?}"))),
        }
    }
}

/// A keeper with nothing to keep ends with its daemon. Its end is awaited, so that a daemon that does not come to serve leaves no
/// process behind.
impl Drop for Keeper {
    fn drop(&mut self) {
        if self.kept.is_empty() {
            // One that was ended before has hung up.
            let _ = self.end();
        }
    }
}

fn list(connection: &OwnedFd) -> io::Result<BTreeMap<String, OwnedFd>> {
    send(connection, &Request::List.encode(), None)?;
    let mut kept = BTreeMap::new();
    loop {
        match answer(connection)? {
            (Answer::Kept(name), Some(descriptor)) => drop(kept.insert(name, descriptor)),
            // The kernel drops a descriptor for which there is no room.
            (Answer::Kept(_), None) => return Err(io::Error::from_raw_os_error(libc::EMFILE)),
            (Answer::Done, _) => return Ok(kept),
            (answer, _) => return Err(io::Error::other(format!("its answer is {answer:?}"))),
        }
    }
}

fn answer(connection: &OwnedFd) -> io::Result<(Answer, Option<OwnedFd>)> {
    let gone = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let (bytes, descriptor) = receive(connection)?.ok_or_else(gone)?;
    let answer = Answer::decode(&bytes).ok_or(io::ErrorKind::InvalidData)?;
    Ok((answer, descriptor))
}

fn socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Connects to what listens at the path itself, if it is this user's or root's.
fn connect_to(path: &Path) -> io::Result<OwnedFd> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "what is there is no socket"));
    }
    let socket = socket()?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    set_socket_timeout(&socket, Timeout::Send, Some(PATIENCE))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    let listens = socket_peercred(&socket)?.uid;
    if listens != rustix::process::geteuid() && !listens.is_root() {
        let why = format!("user {} listens there", listens.as_raw());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(socket)
}

fn start(path: &Path) -> io::Result<Child> {
    let listener = socket()?;
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(&listener, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, Mode::from_raw_mode(0o600))?;
    listen(&listener, 4)?;
    let mut command = Command::new(THIS_PROGRAM);
    command.arg("keep").current_dir("/");
    command.stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::process::serve_all;

    #[test]
    fn what_is_kept_outlives_its_daemon() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("keeper");
        let listener = socket().unwrap();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 4).unwrap();
        let server = std::thread::spawn(move || serve_all(&listener).map(drop));
        let (mut reader, writer) = io::pipe().unwrap();
        let mut first = Keeper::reach(&path).unwrap();
        first.keep("web/0/1", writer.as_fd()).unwrap();
        first.keep("web/notify", writer.as_fd()).unwrap();
        first.release("web/notify").unwrap();
        first.release("web/notify").unwrap();
        drop((first, writer));

        let mut second = Keeper::reach(&path).unwrap();
        let names: Vec<&str> = second.kept().map(|(name, _)| name).collect();
        assert_eq!(names, ["web/0/1"]);
        rustix::io::write(second.kept().next().unwrap().1, b"still open").unwrap();
        second.end().unwrap();
        server.join().unwrap().unwrap();
        let mut said = String::new();
        io::Read::read_to_string(&mut reader, &mut said).unwrap();
        assert_eq!(said, "still open", "and closed with the keeper");
    }
}
