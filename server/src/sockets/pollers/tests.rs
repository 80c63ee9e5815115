//! Real processes that hold listeners, and wait for what comes in every way that there is.

use std::{
    io::Read as _,
    net::{Ipv4Addr, TcpListener},
    os::fd::{FromRawFd as _, OwnedFd},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::*;
use crate::sockets::{options, procfs};

/// What each of the programs begins with: `s` is the listener. They end with the test, also where
/// their parent has ended before they could ask for that.
const PRELUDE: &str = "import ctypes, os, select, signal, socket, sys, threading, time\n\
                       def tie(parent):\n  \
                         ctypes.CDLL(None).prctl(1, signal.SIGKILL)\n  \
                         if os.getppid() != parent: os._exit(1)\n\
                       tie(int(sys.argv[1])); me = os.getpid()\n\
                       def tell(): os.write(1, b'.')\n\
                       def ring(): assert ctypes.CDLL(None).syscall(425, 8, ctypes.create_string_buffer(120)) > 0\n\
                       s = socket.socket(fileno=0)\n";

struct Program {
    listener: TcpListener,
    inode: u64,
    child: Child,
}

impl Program {
    /// Starts a python program with a listener, its standard input.
    fn start(body: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let inode = options::inode(&listener).unwrap();
        let input = Stdio::from(OwnedFd::from(listener.try_clone().unwrap()));
        let program = [PRELUDE, body].concat();
        let child = Command::new("python3")
            .arg("-c")
            .arg(program)
            .arg(std::process::id().to_string())
            .stdin(input)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self { listener, inode, child }
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn look(&self, pids: &[u32]) -> Attention {
        look(pids, &HashSet::from([self.inode]))
    }

    /// Looks until this is found: a program takes its time to begin.
    fn await_taken(&self, pids: &[u32], wanted: &Taken) -> Attention {
        let begun = Instant::now();
        loop {
            let attention = self.look(pids);
            let taken = attention.taken(self.inode);
            if taken == *wanted {
                return attention;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{taken:?} where {wanted:?} was to be");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Waits until the program sleeps in the last call of its body, before which it has said so.
    fn await_blocked(&mut self) {
        let mut sign = [0];
        self.child.stdout.as_mut().unwrap().read_exact(&mut sign).unwrap();
        let begun = Instant::now();
        while procfs::stat(self.pid()).unwrap().state != 'S' {
            assert!(begun.elapsed() < Duration::from_secs(20));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn children(&self, count: usize) -> Vec<u32> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid());
        let begun = Instant::now();
        loop {
            let text = std::fs::read_to_string(&path).unwrap();
            let children: Vec<u32> = text.split_ascii_whitespace().flat_map(str::parse).collect();
            if children.len() == count {
                return children;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{children:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Has a connection wait at the listener, which the programs here take for a sign.
    fn connect(&self) -> std::net::TcpStream {
        std::net::TcpStream::connect(self.listener.local_addr().unwrap()).unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn polled(by: &[u32]) -> Taken {
    Taken::Polled { by: by.iter().copied().collect() }
}

fn not_polled(held_by: &[u32]) -> Taken {
    Taken::NotPolled { held_by: held_by.iter().copied().collect() }
}

fn unknown(held_by: &[u32]) -> Taken {
    Taken::Unknown { held_by: held_by.iter().copied().collect() }
}

/// Whether a ring can be made here; it is refused in many containers and by a setting of the kernel's.
fn has_uring() -> bool {
    let mut parameters = [0_u8; 120];
    // SAFETY: the kernel writes `struct io_uring_params`, which is that long.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr()) };
    if ring < 0 {
        let error = std::io::Error::last_os_error();
        assert!(matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS)), "{error}");
        eprintln!("without io_uring: {error}");
        return false;
    }
    // SAFETY: the kernel has just made it for us.
    drop(unsafe { OwnedFd::from_raw_fd(ring as i32) });
    true
}

#[test]
fn every_way_to_wait_is_seen() {
    let ways = [
        ("epoll", "e = select.epoll(); e.register(s, select.EPOLLIN); e.poll()"),
        ("an edge", "e = select.epoll(); e.register(s, select.EPOLLIN | select.EPOLLET); time.sleep(600)"),
        ("nested", "e = select.epoll(); e.register(s, 1); o = select.epoll(); o.register(e, 1); o.poll()"),
        ("dup", "e = select.epoll(); e.register(os.dup(0), select.EPOLLIN); e.poll()"),
        ("dup closed", "d = os.dup(0); e = select.epoll(); e.register(d, 1); os.close(d); e.poll()"),
        ("select", "select.select([s], [], [])"),
        ("select of a high one", "os.dup2(0, 900); select.select([900], [], [], 600)"),
        ("poll", "p = select.poll(); p.register(s, select.POLLIN); p.poll()"),
        (
            "poll with others",
            "p = select.poll(); r, w = os.pipe(); p.register(r); p.register(s, 1); p.poll(600000)",
        ),
        ("accept", "s.accept()"),
        ("accept in time", "s.settimeout(600); s.accept()"),
        ("accept in threads", "[threading.Thread(target=s.accept).start() for _ in range(2)]"),
        ("a thread beside a busy one", "threading.Thread(target=s.accept).start()\nwhile True: pass"),
        ("epoll beside io_uring", "ring(); e = select.epoll(); e.register(s, 1); e.poll()"),
    ];
    for (way, body) in ways {
        if body.contains("ring()") && !has_uring() {
            continue;
        }
        let program = Program::start(body);
        let attention = program.await_taken(&[program.pid()], &polled(&[program.pid()]));
        let [holder] = attention.holders(program.inode) else { panic!("{way}: {attention:?}") };
        assert_eq!((holder.pid, holder.descriptor), (program.pid(), 0), "{way}");
        let by_epoll = body.contains("epoll");
        assert_eq!(attention.watches(program.inode).count(), usize::from(by_epoll), "{way}");
        assert!(attention.watches(program.inode).all(|watch| watch.still_polled() == Still::Polled), "{way}");
    }
}

#[test]
fn who_waits_for_something_else_does_not_poll() {
    let ways = [
        ("asleep", "tell(); time.sleep(600)"),
        ("as nginx's master", "tell(); signal.pause()"),
        ("as gunicorn's arbiter", "r, w = os.pipe(); tell(); select.select([r], [], [], 600)"),
        (
            "as a shell",
            "p = os.fork()\nif p == 0: tie(me); os.close(0); signal.pause()\ntell(); os.waitpid(p, 0)",
        ),
        ("poll for writing", "p = select.poll(); p.register(s, select.POLLOUT); tell(); p.poll()"),
        ("an epoll of others", "r, w = os.pipe(); e = select.epoll(); e.register(r, 1); tell(); e.poll()"),
        ("paused", "e = select.epoll(); e.register(s, 1); e.modify(s, 0); tell(); e.poll()"),
        ("busy, with an epoll", "e = select.epoll(); a, b = socket.socketpair(); tell(); a.recv(1)"),
    ];
    for (way, body) in ways {
        if body.contains("ring()") && !has_uring() {
            continue;
        }
        let mut program = Program::start(body);
        program.await_blocked();
        let attention = program.look(&[program.pid()]);
        assert_eq!(attention.taken(program.inode), not_polled(&[program.pid()]), "{way}");
        assert_eq!(attention.watches(program.inode).count(), 0, "{way}");
    }
}

#[test]
fn what_does_not_show_is_unknown() {
    let ways = [
        ("with a client", "a, b = socket.socketpair(); tell(); a.recv(1)"),
        ("io_uring", "ring(); tell(); select.epoll().poll()"),
    ];
    for (way, body) in ways {
        if body.contains("ring()") && !has_uring() {
            continue;
        }
        let mut program = Program::start(body);
        program.await_blocked();
        let attention = program.look(&[program.pid()]);
        assert_eq!(attention.taken(program.inode), unknown(&[program.pid()]), "{way}");
    }
    let busy = Program::start("while True: pass");
    busy.await_taken(&[busy.pid()], &unknown(&[busy.pid()]));
}

#[test]
fn children_poll_what_their_master_holds() {
    let body = "for n in range(3):\n  \
                  if os.fork() == 0:\n    \
                    tie(me); e = select.epoll()\n    \
                    if n < 2: e.register(s, select.EPOLLIN)\n    \
                    e.poll()\n\
                signal.pause()\n";
    let program = Program::start(body);
    let children = program.children(3);
    let all = [&[program.pid()], &children[..]].concat();
    let attention = program.await_taken(&all, &polled(&children[..2]));
    let holders: Vec<u32> = attention.holders(program.inode).iter().map(|holder| holder.pid).collect();
    assert_eq!(holders, all);
    let others = [program.pid(), children[2]];
    program.await_taken(&others, &not_polled(&others));
}

#[test]
fn a_watch_tells_when_it_is_over() {
    let body = "e = select.epoll(); e.register(s, 1); e.poll(); e.unregister(s); e.poll()";
    let program = Program::start(body);
    let attention = program.await_taken(&[program.pid()], &polled(&[program.pid()]));
    let watch = attention.watches(program.inode).next().unwrap();
    assert_eq!(watch.still_polled(), Still::Polled);
    let _sign = program.connect();
    let begun = Instant::now();
    while watch.still_polled() == Still::Polled {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(watch.still_polled(), Still::NoMore);
    program.await_taken(&[program.pid()], &not_polled(&[program.pid()]));
}

#[test]
fn a_descriptor_that_is_used_again_does_not_deceive_a_watch() {
    // The listener goes, and something else has its number and its place in the epoll.
    let body = "d = os.dup(0); s.detach(); os.close(0)\n\
                e = select.epoll(); e.register(d, 1); e.poll()\n\
                r, w = os.pipe(); os.dup2(r, d); e.register(d, 1); e.poll()";
    let program = Program::start(body);
    let attention = program.await_taken(&[program.pid()], &polled(&[program.pid()]));
    let watch = attention.watches(program.inode).next().unwrap();
    let _sign = program.connect();
    program.await_taken(&[program.pid()], &Taken::NotHeld);
    let begun = Instant::now();
    while watch.still_polled() == Still::Polled {
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
    assert_eq!(watch.still_polled(), Still::Unknown);
}

#[test]
fn who_has_ended_holds_nothing() {
    let mut program = Program::start("e = select.epoll(); e.register(s, 1); e.poll()");
    let pid = program.pid();
    let watch = program.await_taken(&[pid], &polled(&[pid])).watches(program.inode).next().unwrap();
    program.child.kill().unwrap();
    // Until it is reaped it is a process without descriptors.
    program.await_taken(&[pid], &Taken::NotHeld);
    program.child.wait().unwrap();
    assert_eq!(program.look(&[pid, 0, u32::MAX]).taken(program.inode), Taken::NotHeld);
    assert_eq!(watch.still_polled(), Still::Unknown);
    assert_eq!(look(&[], &HashSet::new()).taken(program.inode), Taken::NotHeld);
}
