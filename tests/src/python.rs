//! Small Python programs: servers that know nothing of steer.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The interpreter: Debian's if it is there, else the first on `PATH` (which may be a shim that starts slowly).
pub fn interpreter() -> PathBuf {
    let debian = PathBuf::from("/usr/bin/python3");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).map(|directory| directory.join("python3"));
    std::iter::once(debian)
        .chain(all)
        .find(|program| program.exists())
        .expect("python3 is installed; `cargo xtask test` installs it")
}

/// Writes a program to `directory` and returns its path: executable, run by [`interpreter`].
#[track_caller]
pub fn script(directory: &Path, name: &str, source: &str) -> PathBuf {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join(name);
    let text = format!("#!{}\n{source}", interpreter().display());
    fs::write(&path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
        .unwrap_or_else(|error| panic!("making {} executable: {error}", path.display()));
    path
}

/// The source of a plain server: it binds the address and port of its arguments with SO_REUSEPORT, answers one request of
/// HTTP/1.1 on each connection, one after another, names its process in `X-Pid`, and dies by SIGTERM as any program does
/// that does not handle it.
pub const PLAIN_SERVER: &str = r#"
import os, socket, sys
address, port = sys.argv[1], int(sys.argv[2])
listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind((address, port))
listener.listen(1024)
answer = b"HTTP/1.1 200 OK\r\nX-Pid: %d\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n" % os.getpid()
while True:
    connection, _ = listener.accept()
    try:
        request = b""
        while b"\r\n\r\n" not in request:
            piece = connection.recv(4096)
            if not piece:
                break
            request += piece
        else:
            connection.sendall(answer)
    except OSError:
        pass
    connection.close()
"#;

/// The plain server without the line by which it knows of SO_REUSEPORT: the second of two gets EADDRINUSE.
pub fn unaware_server() -> String {
    const AWARE: &str = "listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n";
    assert!(PLAIN_SERVER.contains(AWARE));
    PLAIN_SERVER.replace(AWARE, "")
}

/// The source of a server with a listener at each of its arguments, `0.0.0.0@80 ::@80`, and one process. It knows nothing of SO_REUSEPORT. One at an
/// address of IPv6 takes IPv4 as well, unless another has the port for that; `mptcp` before them makes them MPTCP ones. By SIGTERM it closes them
/// and answers what it has accepted.
pub const WIDE_SERVER: &str = r#"
import os, selectors, signal, socket, sys
places = [(address, int(port)) for address, _, port in (word.partition("@") for word in sys.argv[1:]) if port]
protocol = 262 if "mptcp" in sys.argv else 0
ready = selectors.DefaultSelector()
for address, port in places:
    is_ipv6 = ":" in address
    listener = socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_ipv6 and any(":" not in other and port == its for other, its in places):
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))
    listener.listen(1024)
    listener.setblocking(False)
    ready.register(listener, selectors.EVENT_READ)
wake, signalled = socket.socketpair()
signalled.setblocking(False)
signal.signal(signal.SIGTERM, lambda *_: None)
signal.set_wakeup_fd(signalled.fileno())
ready.register(wake, selectors.EVENT_READ)
answer = b"HTTP/1.1 200 OK\r\nX-Pid: %d\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n" % os.getpid()
while True:
    for key, _ in ready.select():
        if key.fileobj is wake:
            sys.exit(0)
        try:
            connection, _ = key.fileobj.accept()
        except OSError:
            continue
        try:
            connection.settimeout(20)
            request = b""
            while b"\r\n\r\n" not in request:
                piece = connection.recv(4096)
                if not piece:
                    break
                request += piece
            else:
                connection.sendall(answer)
        except OSError:
            pass
        connection.close()
"#;

/// The source of a server of datagrams with threads: each has a socket of its own, bound with SO_REUSEPORT to the address and port of
/// the arguments, and answers with its process and its number. The last argument is how many there are.
pub const THREADED_SERVER: &str = r#"
import os, socket, sys, threading
address, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
def serve(own, number):
    while True:
        own.sendto(b"%d %d" % (os.getpid(), number), own.recvfrom(65536)[1])
for number in range(count):
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    own.bind((address, port))
    threading.Thread(target=serve, args=(own, number)).start()
"#;

/// The source of a server of datagrams with a process and several sockets, which speaks as the sample worker does: it says of each flow whether
/// that socket knows it. After address and port come how many sockets it has, and how many after each SIGHUP; `reuse` sets SO_REUSEPORT.
pub const DATAGRAM_SERVER: &str = r#"
import os, selectors, signal, socket, sys
address, port, steps = sys.argv[1], int(sys.argv[2]), [int(step) for step in sys.argv[3:] if step != "reuse"]
ready, sockets, made = selectors.DefaultSelector(), [], 0
def change(count):
    global made
    while len(sockets) < count:
        own = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        if "reuse" in sys.argv:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        own.bind((address, port))
        own.setblocking(False)
        made += 1
        ready.register(own, selectors.EVENT_READ, (made, set()))
        sockets.append(own)
    while len(sockets) > count:
        own = sockets.pop()
        ready.unregister(own)
        own.close()
wake, signalled = socket.socketpair()
wake.setblocking(False)
signalled.setblocking(False)
signal.signal(signal.SIGHUP, lambda *_: None)
signal.set_wakeup_fd(signalled.fileno())
ready.register(wake, selectors.EVENT_READ, None)
change(steps.pop(0))
while True:
    for key, _ in ready.select():
        if key.data is None:
            for number in wake.recv(64):
                change(steps.pop(0))
            break
        number, known = key.data
        try:
            while True:
                datagram, client = key.fileobj.recvfrom(65536)
                verdict = "ok" if datagram[:1] == b"+" or client in known else "unknown"
                known.add(client)
                key.fileobj.sendto(b"socket/%d 1 %d %s\n" % (number, os.getpid(), verdict.encode()) + datagram, client)
        except BlockingIOError:
            pass
"#;

/// The source of a server that changes its listeners while it serves, as servers do that reload: by each SIGHUP it takes the next of its
/// arguments, after address, port and how many listeners it begins with. A number is how many it has then; `anew` binds as many others and closes
/// those that it has, `closed-first` the other way round. It knows nothing of SO_REUSEPORT, and names the listener in `X-Socket`.
pub const CHANGING_SERVER: &str = r#"
import selectors, signal, socket, sys, time
address, port, steps = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
ready, listeners, made = selectors.DefaultSelector(), [], 0
def add():
    global made
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    listener.bind((address, port))
    listener.listen(1024)
    listener.setblocking(False)
    made += 1
    ready.register(listener, selectors.EVENT_READ, made)
    listeners.append(listener)
def drop():
    listener = listeners.pop(0)
    ready.unregister(listener)
    listener.close()
def change(step):
    count = len(listeners)
    if step == "anew":
        for _ in range(count): add()
        for _ in range(count): drop()
    elif step == "closed-first":
        for _ in range(count): drop()
        time.sleep(0.03)
        for _ in range(count): add()
    else:
        while len(listeners) < int(step): add()
        while len(listeners) > int(step): drop()
def answer(listener, number):
    try:
        connection, _ = listener.accept()
    except OSError:
        return
    try:
        connection.settimeout(20)
        request = b""
        while b"\r\n\r\n" not in request:
            piece = connection.recv(4096)
            if not piece:
                break
            request += piece
        else:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Socket: %d\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n" % number)
    except OSError:
        pass
    connection.close()
wake, signalled = socket.socketpair()
wake.setblocking(False)
signalled.setblocking(False)
signal.signal(signal.SIGHUP, lambda *_: None)
signal.set_wakeup_fd(signalled.fileno())
ready.register(wake, selectors.EVENT_READ, 0)
change(steps.pop(0))
while True:
    for key, _ in ready.select():
        if key.data:
            answer(key.fileobj, key.data)
        else:
            for number in wake.recv(64):
                if number == signal.SIGHUP:
                    change(steps.pop(0))
            break
"#;

/// The command of a program in Python with these arguments: words that need no file, so that every user can run it.
pub fn command(source: &str, arguments: &[&str]) -> Vec<String> {
    let interpreter = interpreter().to_string_lossy().into_owned();
    let words = [interpreter.as_str(), "-c", source].into_iter().chain(arguments.iter().copied());
    words.map(str::to_owned).collect()
}

/// A program that a test has started by hand: without the daemon, and unknown to it. Killed when dropped.
#[derive(Debug)]
pub struct ByHand(std::process::Child);

impl ByHand {
    /// Starts the program in the namespace of the calling thread; waits for nothing.
    #[track_caller]
    pub fn start(source: &str, arguments: &[&str]) -> Self {
        let words = command(source, arguments);
        let child = std::process::Command::new(&words[0])
            .args(&words[1..])
            .stdin(std::process::Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("running {}: {error}", words[0]));
        Self(child)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Tells it to end, by SIGTERM, and waits until it has.
    #[track_caller]
    pub fn end(mut self) {
        crate::process::signal(self.pid(), rustix::process::Signal::TERM);
        self.0.wait().expect("it is this process's child");
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
