//! The socket on which workers say that they are ready: the `sd_notify` protocol, as its receiver.

mod reader;

use std::{
    fs, io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, PermissionsExt},
            net::UnixDatagram as StdDatagram,
        },
    },
    path::{Path, PathBuf},
};

use thiserror::Error;
use tokio::net::UnixDatagram;

pub use self::reader::NotifyReader;
use crate::sockets::{
    passed::{ClosedElsewhere, Closer},
    procfs,
};

/// Longer texts are cut, in characters.
const STATUS_MAX: usize = 256;

/// What a worker can say that we act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// `READY=1`: it accepts.
    Ready,
    /// `STOPPING=1`: it ends by itself.
    Stopping,
    /// `STATUS=`: for people; one line of at most 256 characters.
    Status(String),
}

/// One datagram, from a sender that the kernel vouches for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// The process that sent it.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// The process, its parents and their sessions, as they were when the datagram was received; only the process
    /// itself where it had ended by then.
    pub lineage: Vec<u32>,
    /// What it said, in order; never empty.
    pub messages: Vec<Message>,
}

impl Notification {
    /// Whether the sender belongs to the worker whose process, and session, `leader` is.
    pub fn is_from(&self, leader: u32) -> bool {
        self.pid == leader || self.lineage.contains(&leader)
    }
}

/// A notification socket that could not be made or read.
#[derive(Debug, Error)]
#[error("cannot {operation} the notification socket {path:?}")]
pub struct NotifyError {
    operation: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl NotifyError {
    /// The way out, for a `hint:` line.
    pub fn hint(&self) -> &'static str {
        match self.is_conflict() {
            true => "remove what is there; nothing but the daemon has to write beside its control socket",
            false => {
                "the daemon must be able to write beside its control socket; --socket names another place"
            }
        }
    }

    /// Whether something else is in its place.
    pub fn is_conflict(&self) -> bool {
        self.source.kind() == io::ErrorKind::AddrInUse
    }
}

/// The daemon's end of NOTIFY_SOCKET. Dropping it removes its path, unless another daemon is to go on with it.
#[derive(Debug)]
pub struct NotifySocket {
    path: PathBuf,
    is_lasting: bool,
    socket: UnixDatagram,
    /// After the socket, whose last close is its.
    last: ClosedElsewhere,
}

impl NotifySocket {
    /// Makes the socket at `path`, in place of one that an earlier daemon left, writable for every user: workers
    /// run as others. Who may write is decided by who the sender is, see [`Notification::is_from`]; the directory
    /// must let workers through. Needs a tokio runtime with I/O.
    ///
    /// A path rather than an abstract name: many programs only know the former, and the latter would be another
    /// one in each network namespace.
    ///
    /// What comes along with datagrams is closed by the `closer`.
    pub fn bind(path: impl Into<PathBuf>, closer: &Closer) -> Result<Self, NotifyError> {
        let path = path.into();
        let failed = |operation| {
            let path = path.clone();
            move |source| NotifyError { operation, path, source }
        };
        remove_stale(&path).map_err(failed("replace"))?;
        let socket = StdDatagram::bind(&path).map_err(failed("bind"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).map_err(failed("open up"))?;
        socket.set_nonblocking(true).map_err(failed("set up"))?;
        socket2::SockRef::from(&socket).set_passcred(true).map_err(failed("set up"))?;
        let last = ClosedElsewhere::new(&socket, closer.sender()).map_err(failed("set up"))?;
        let socket = UnixDatagram::from_std(socket).map_err(failed("set up"))?;
        Ok(Self { path, is_lasting: false, socket, last })
    }

    /// Goes on with a socket that another daemon made at `path`, and with what was written to it meanwhile.
    pub fn take_over(
        path: impl Into<PathBuf>,
        socket: OwnedFd,
        closer: &Closer,
    ) -> Result<Self, NotifyError> {
        let path = path.into();
        let failed = |source| NotifyError { operation: "go on with", path: path.clone(), source };
        let last = ClosedElsewhere::new(&socket, closer.sender()).map_err(&failed)?;
        let socket = UnixDatagram::from_std(StdDatagram::from(socket)).map_err(failed)?;
        Ok(Self { path, is_lasting: true, socket, last })
    }

    /// Has the path stay when this is dropped: a duplicate of the socket is kept elsewhere.
    pub fn lasting(mut self) -> Self {
        self.is_lasting = true;
        self
    }

    /// Removes the path: nobody goes on with it.
    pub fn remove(&self) {
        let _ = fs::remove_file(&self.path);
    }

    /// The path, for a worker's NOTIFY_SOCKET.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn unreadable(&self, source: io::Error) -> NotifyError {
        NotifyError { operation: "read", path: self.path.clone(), source }
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        if !self.is_lasting {
            // What cannot be removed is replaced by the next daemon.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        // The bind then says that it is in use.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a datagram says.
fn understand(bytes: &[u8], pid: u32, uid: u32) -> Option<Notification> {
    let messages = parse(bytes);
    if messages.is_empty() {
        return None;
    }
    let mut lineage = procfs::lineage(pid);
    if lineage.is_empty() {
        lineage.push(pid);
    }
    Some(Notification { pid, uid, lineage, messages })
}

/// Reads a datagram's lines; what is unknown or no text is passed over.
fn parse(bytes: &[u8]) -> Vec<Message> {
    let lines = bytes.split(|&byte| byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok());
    let message = |line: &str| match line.split_once('=')? {
        ("READY", "1") => Some(Message::Ready),
        ("STOPPING", "1") => Some(Message::Stopping),
        ("STATUS", text) => {
            let text = text.chars().map(|c| if c.is_control() { ' ' } else { c });
            Some(Message::Status(text.take(STATUS_MAX).collect()))
        }
        _ => None,
    };
    lines.filter_map(message).collect()
}

#[cfg(test)]
mod tests {
    use std::{
        process::{Command, Stdio},
        sync::Arc,
        time::{Duration, Instant},
    };

    use super::{reader::DATAGRAM_MAX, *};
    use crate::sockets::passed::tests::{LINGER, lingering, pass};

    fn socket(name: &str) -> NotifySocket {
        let name = format!("steer-notify-{}-{name}", std::process::id());
        NotifySocket::bind(std::env::temp_dir().join(name), &Closer::start().unwrap()).unwrap()
    }

    fn to(notify: &NotifySocket) -> StdDatagram {
        let sender = StdDatagram::unbound().unwrap();
        sender.connect(notify.path()).unwrap();
        sender
    }

    /// The next that says something.
    async fn next(reader: &mut NotifyReader) -> Notification {
        loop {
            if let Some(notification) = reader.peek().await.unwrap() {
                return notification;
            }
        }
    }

    #[test]
    fn known_lines_are_read_and_others_passed_over() {
        let messages = parse(b"MAINPID=1\nREADY=1\nREADY=0\n\xff\nSTATUS=at\twork\nSTOPPING=1\nx");
        let expected = [Message::Ready, Message::Status("at work".to_owned()), Message::Stopping];
        assert_eq!(messages, expected);
        let long = format!("STATUS={}", "y".repeat(2 * STATUS_MAX));
        assert_eq!(parse(long.as_bytes()), [Message::Status("y".repeat(STATUS_MAX))]);
    }

    #[tokio::test]
    async fn garbage_is_ignored_and_the_sender_is_told() {
        let notify = Arc::new(socket("garbage"));
        let (sender, mut reader) = (to(&notify), NotifyReader::new(notify.clone()));
        sender.send(b"").unwrap();
        sender.send(&[0xff; 100]).unwrap();
        sender.send(&[b"READY=1\n".as_slice(), &[b'x'; DATAGRAM_MAX]].concat()).unwrap();
        sender.send(b"STATUS=here").unwrap();
        for nonsense in ["empty", "no text", "too long"] {
            assert_eq!(reader.peek().await.unwrap(), None, "{nonsense}");
        }
        let notification = reader.peek().await.unwrap().unwrap();
        assert_eq!(notification.messages, [Message::Status("here".to_owned())]);
        assert_eq!(notification.pid, std::process::id());
        assert_eq!(notification.uid, rustix::process::geteuid().as_raw());
        assert!(notification.is_from(std::process::id()));
        assert!(!notification.is_from(1));
        // All are in the queue until they are taken, each in its turn.
        for _ in 0..3 {
            reader.take().await.unwrap();
        }
        assert_eq!(NotifyReader::new(notify.clone()).peek().await.unwrap(), Some(notification));
        reader.take().await.unwrap();
        let mut after = NotifyReader::new(notify.clone());
        assert!(tokio::time::timeout(Duration::ZERO, after.peek()).await.is_err(), "the queue is empty");
    }

    /// As a daemon is that is killed after it has read what workers said, and its successor, who has the socket from the keeper.
    #[tokio::test]
    async fn what_was_peeked_and_not_taken_is_there_for_who_takes_over() {
        let notify = Arc::new(socket("peeked").lasting());
        let kept = notify.as_fd().try_clone_to_owned().unwrap();
        let sender = to(&notify);
        // An empty one is passed over by peeks once it was peeked.
        for text in [b"".as_slice(), b"READY=1", b"STATUS=after", b"STOPPING=1"] {
            sender.send(text).unwrap();
        }
        let mut reader = NotifyReader::new(notify.clone());
        let before = [next(&mut reader).await, next(&mut reader).await];
        assert_eq!(before[0].messages, [Message::Ready]);
        let path = notify.path().to_owned();
        drop((notify, reader));
        let kept = NotifySocket::take_over(path, kept, &Closer::start().unwrap()).unwrap();
        let kept = Arc::new(kept);
        let mut successor = NotifyReader::new(kept.clone());
        assert_eq!([next(&mut successor).await, next(&mut successor).await], before);
        successor.take().await.unwrap();
        successor.take().await.unwrap();
        // What has come meanwhile, and what nobody has peeked, is where it was.
        sender.send(b"READY=1").unwrap();
        assert_eq!(next(&mut successor).await.messages, [Message::Stopping]);
        successor.take().await.unwrap();
        successor.take().await.unwrap();
        assert_eq!(next(&mut successor).await.messages, [Message::Ready]);
        kept.remove();
    }

    /// As `systemd-notify` is: a child of the worker that lives only for the message and waits for its barrier.
    #[tokio::test]
    async fn a_child_speaks_for_its_worker_and_descriptors_are_closed() {
        let notify = Arc::new(socket("child"));
        let script = "import os,socket,array\n\
                      s=socket.socket(socket.AF_UNIX,socket.SOCK_DGRAM); s.connect(os.environ['NOTIFY_SOCKET'])\n\
                      r,w=os.pipe()\n\
                      s.sendmsg([b'READY=1\\n'],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array('i',[w]))])\n\
                      os.close(w)\n\
                      os.read(r,1)\n";
        let mut worker = Command::new("/bin/sh")
            .args(["-c", "python3 -c \"$SCRIPT\"; exit $?"])
            .env("SCRIPT", script)
            .env("NOTIFY_SOCKET", notify.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut reader = NotifyReader::new(notify.clone());
        let notification = next(&mut reader).await;
        reader.take().await.unwrap();
        assert_eq!(notification.messages, [Message::Ready]);
        assert_ne!(notification.pid, worker.id());
        assert!(notification.is_from(worker.id()), "{notification:?}");
        let ended = tokio::task::spawn_blocking(move || worker.wait()).await.unwrap().unwrap();
        assert!(ended.success(), "its barrier was lifted");
    }

    /// The whole runtime of this test would wait for the close.
    #[tokio::test]
    async fn a_lingering_socket_that_comes_along_keeps_nobody() {
        let notify = Arc::new(socket("lingering"));
        let (sender, mut reader) = (to(&notify), NotifyReader::new(notify.clone()));
        let began = Instant::now();
        // With what is understood and what is not, and with what is not even read.
        let mut peers = Vec::new();
        for bytes in [b"READY=1".as_slice(), b"nonsense", &[b'x'; DATAGRAM_MAX + 1], b"STATUS=unread"] {
            let (lingering, peer) = lingering();
            pass(&sender, bytes, &lingering).unwrap();
            peers.push(peer);
            if peers.len() == 3 {
                sender.send(b"STOPPING=1").unwrap();
            }
        }
        assert_eq!(next(&mut reader).await.messages, [Message::Ready]);
        reader.take().await.unwrap();
        assert_eq!(next(&mut reader).await.messages, [Message::Stopping]);
        reader.take().await.unwrap();
        drop((notify, reader));
        assert!(began.elapsed() < LINGER / 3, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn a_socket_that_was_left_behind_is_replaced_and_a_file_is_not() {
        let path = std::env::temp_dir().join(format!("steer-notify-{}-stale", std::process::id()));
        drop(StdDatagram::bind(&path).unwrap());
        let closer = Closer::start().unwrap();
        let notify = NotifySocket::bind(&path, &closer).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
        drop(notify);
        assert!(!path.exists());
        fs::write(&path, "precious").unwrap();
        let error = NotifySocket::bind(&path, &closer).unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(libc::EADDRINUSE));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_file(&path).unwrap();
    }
}
