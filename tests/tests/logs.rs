//! Whatever the daemon's stderr is connected to: it answers, its groups serve and restart, and the log says what it has lost.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Write},
    net::SocketAddr,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
    process::Signal,
};
use serde_json::Value;
use steer_tests::{
    control::Control,
    mounts::{self, Mounted},
    netns::{self, Namespace},
    process, python,
    scrape::Samples,
    scripts,
    service::{group, sample},
    steer::{Steer, binary},
    traffic::Traffic,
    wait,
};

const ADDRESS: &str = "127.0.0.1:8080";
const SOON: Duration = Duration::from_secs(30);

fn address() -> SocketAddr {
    ADDRESS.parse().expect("an address")
}

/// Everything that is read of a stream, which is read by a thread to its end.
#[derive(Debug, Clone, Default)]
struct Reader(Arc<Mutex<Vec<u8>>>);

impl Reader {
    /// Reads from now on, with this pause after each piece.
    fn start(mut stream: impl Read + Send + 'static, piece: usize, pause: Duration) -> Self {
        let read = Self::default();
        let into = read.clone();
        thread::spawn(move || {
            let mut room = vec![0; piece];
            while let Ok(length @ 1..) = stream.read(&mut room) {
                into.0.lock().expect("nothing panics there").extend_from_slice(&room[..length]);
                thread::sleep(pause);
            }
        });
        read
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("nothing panics there")).into_owned()
    }

    #[track_caller]
    fn until(&self, what: &str) {
        wait::until(&format!("{what:?} is read"), SOON, || match self.text() {
            text if text.contains(what) => Ok(()),
            text => Err(text.chars().take(10_000).collect()),
        });
    }

    /// How many lines it says were dropped.
    fn told(&self) -> u64 {
        let text = self.text();
        let lines = text.lines().filter(|line| line.contains("steer::log"));
        let count = |line: &str| {
            let before = line.split(" line").next()?;
            before.rsplit(' ').next()?.parse::<u64>().ok()
        };
        lines.map(|line| count(line).unwrap_or_else(|| panic!("{line}"))).sum()
    }
}

fn pipe() -> (File, OwnedFd) {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).expect("a pipe can be made");
    fcntl_setpipe_size(&write, 64 * 1024).expect("as it is by default");
    (read.into(), write)
}

/// More than all queues together can hold.
const MUCH: &str = "yes 'a worker that says much' | head -n 200000";

/// `steer run` with two workers that each print what this command does.
fn chatty<'a>(namespace: &'a Namespace, place: &Path, says: &str, stderr: OwnedFd) -> Steer<'a> {
    let text = format!("{says} >&2 &\nexec {} worker", binary().display());
    let worker = scripts::shell(place, "worker", &text);
    let arguments =
        ["--listen", ADDRESS, "--workers", "2", "--ready", "notify", "--", &worker.to_string_lossy()];
    let mut steer = Steer::foreground(namespace, &binary(), &arguments);
    steer.stderr = Some(stderr);
    steer.start_daemon();
    steer
}

/// `steer daemon` with two workers that run this Python, and are sample workers from then on.
fn service<'a>(namespace: &'a Namespace, python: &str, stderr: OwnedFd) -> Steer<'a> {
    let source = format!("import os, sys\n{python}\nos.execv(sys.argv[1], sys.argv[1:])\n");
    let sample = sample(&binary());
    let words: Vec<&str> = sample.iter().map(String::as_str).collect();
    let command = python::command(&source, &words);
    let configured = group("web", ADDRESS, 2, &command, "ready = \"notify\"");
    let mut steer = Steer::service(namespace, &binary(), &configured);
    steer.stderr = Some(stderr);
    steer
}

fn dropped(steer: &Steer<'_>) -> u64 {
    let exposition = steer.command(["metrics"]).succeeded().stdout;
    Samples::read(&exposition).value("steer_log_lines_dropped_total") as u64
}

/// Waits until a worker's lines have been dropped.
#[track_caller]
fn until_dropped(steer: &Steer<'_>) {
    wait::until("lines are dropped", SOON, || match dropped(steer) {
        0 => Err("none".to_owned()),
        _ => Ok(()),
    });
}

/// All workers are restarted under load, and the daemon answers.
#[track_caller]
fn works(steer: &Steer<'_>, name: &str) {
    steer.until_working();
    let traffic = Traffic::start(&[address()]);
    let before = steer.worker_pids();
    let began = Instant::now();
    steer.command(["restart", "web"]).succeeded();
    let took = began.elapsed();
    let after = steer.worker_pids();
    assert!(after.len() == 2 && after.iter().all(|pid| !before.contains(pid)), "{before:?}, {after:?}");
    assert!(steer.command(["status"]).succeeded().stdout.contains("web/1"));
    traffic.more(100);
    let tally = traffic.end();
    println!("{name}: restart: {took:.0?}, connections: {}, failed: {}", tally.connections, tally.failed);
}

/// All that was dropped is told of, once the reader has caught up, and nothing else is wrong.
#[track_caller]
fn is_told_of(steer: &Steer<'_>, read: &Reader, name: &str) {
    wait::until("all that was dropped is told of", SOON, || match (dropped(steer), read.told()) {
        (dropped, told) if dropped == told => Ok(()),
        (dropped, told) => Err(format!("{dropped} dropped, {told} told of")),
    });
    let (count, text) = (read.told(), read.text());
    assert!(!text.contains("panicked"), "{text}");
    println!("{name}: dropped and told of: {count}");
}

#[test]
fn a_pipe_that_nobody_reads() {
    let place = tempfile::tempdir().unwrap();
    netns::run("log-unread", |namespace| {
        let (unread, stderr) = pipe();
        let mut steer = chatty(namespace, place.path(), MUCH, stderr);
        works(&steer, "unread");
        until_dropped(&steer);
        let read = Reader::start(unread, 64 * 1024, Duration::ZERO);
        is_told_of(&steer, &read, "unread");
        assert!(read.told() > 1000, "{}", read.told());
        // None of the daemon's own, though workers said far more than there is room for.
        for worker in ["web/0 generation 1 started", "web/1 generation 2 working"] {
            assert!(read.text().contains(worker), "{worker}");
        }
        steer.stop(SOON);
    });
}

#[test]
fn a_reader_that_is_slow() {
    let place = tempfile::tempdir().unwrap();
    netns::run("log-slow", |namespace| {
        let (unread, stderr) = pipe();
        let read = Reader::start(unread, 4096, Duration::from_millis(20));
        let mut steer = chatty(namespace, place.path(), MUCH, stderr);
        works(&steer, "slow");
        until_dropped(&steer);
        wait::until("dropped lines are told of", SOON, || match read.told() {
            0 => Err(dropped(&steer).to_string()),
            _ => Ok(()),
        });
        assert!(!read.text().contains("panicked"), "{}", read.text());
        steer.stop(SOON);
    });
}

#[test]
fn a_pipe_whose_reader_has_gone() {
    let place = tempfile::tempdir().unwrap();
    netns::run("log-closed", |namespace| {
        let (unread, stderr) = pipe();
        drop(unread);
        let mut steer = chatty(namespace, place.path(), MUCH, stderr);
        works(&steer, "closed");
        until_dropped(&steer);
        steer.stop(SOON);
    });
}

#[test]
fn workers_that_never_stop_talking_take_turns_with_all_else() {
    let place = tempfile::tempdir().unwrap();
    netns::run("log-endless", |namespace| {
        // Nothing is slow but the daemon itself, which has a line of a worker to read at any time.
        let stderr = File::options().write(true).open("/dev/null").expect("it is there");
        let mut steer = chatty(namespace, place.path(), "yes", stderr.into());
        works(&steer, "endless");
        steer.stop(SOON);
    });
}

#[test]
fn a_disk_that_is_full() {
    netns::run("log-full", |namespace| {
        let stderr = File::options().write(true).open("/dev/full").expect("it is there");
        let mut steer = service(namespace, "", stderr.into());
        steer.start_daemon();
        works(&steer, "full");
        until_dropped(&steer);
        steer.stop(SOON);
    });
}

#[test]
fn a_disk_that_is_full_and_has_room_again() {
    netns::run("log-room", |namespace| {
        mounts::unshare();
        let place = tempfile::tempdir().unwrap();
        let disk = Mounted::tmpfs(place.path(), "size=64k");
        let open = |name| File::options().create(true).append(true).open(place.path().join(name));
        let mut filler = open("filler").expect("it is empty");
        let stderr = open("log").expect("there is room for its name");
        while filler.write_all(&[0; 512]).is_ok() {}
        let mut steer = service(namespace, "", stderr.into());
        steer.start_daemon();
        works(&steer, "room");
        until_dropped(&steer);
        filler.set_len(0).expect("it is the test's");
        let log = || std::fs::read_to_string(place.path().join("log")).expect("it is text");
        wait::until("the log tells of it", SOON * 4, || match log() {
            log if log.contains(" dropped: stderr was not read\n") => Ok(()),
            log => Err(log),
        });
        assert!(!log().contains("panicked"), "{}", log());
        steer.stop(SOON);
        drop((filler, disk));
    });
}

const NOISE: &str = "
os.set_blocking(2, False)
try:
    while True:
        os.write(2, b'noise of a worker\\n' * 10)
except BlockingIOError:
    pass
";

#[test]
fn a_pipe_that_a_worker_has_made_not_to_block_and_filled() {
    netns::run("log-nonblocking", |namespace| {
        let (unread, stderr) = pipe();
        let own = stderr.try_clone().unwrap();
        let mut steer = service(namespace, NOISE, stderr);
        steer.start_daemon();
        works(&steer, "nonblocking");
        let flags = || fcntl_getfl(&own).expect("it is open");
        assert!(!flags().contains(OFlags::NONBLOCK), "it is not the worker's to set");
        // Somebody else who has the daemon's own, such as what has started it.
        fcntl_setfl(&own, flags() | OFlags::NONBLOCK).expect("it is open");
        works(&steer, "nonblocking of another");
        let read = Reader::start(unread, 64 * 1024, Duration::ZERO);
        read.until("web/1 generation 3 working");
        assert_eq!((dropped(&steer), read.told()), (0, 0), "there was room for all lines");
        assert!(read.text().contains("noise of a worker"));
        assert!(!read.text().contains("panicked"), "{}", read.text());
        steer.stop(SOON);
    });
}

const SHUTDOWN: &str = "
import socket
try:
    socket.socket(fileno=os.dup(2)).shutdown(socket.SHUT_RDWR)
except OSError:
    pass
";

#[test]
fn a_socket_that_a_worker_shuts_down() {
    netns::run("log-socket", |namespace| {
        let (unread, stderr) = UnixStream::pair().unwrap();
        let mut steer = service(namespace, SHUTDOWN, stderr.into());
        steer.start_daemon();
        let read = Reader::start(unread, 4096, Duration::ZERO);
        works(&steer, "socket");
        read.until("web/1 generation 2 working");
        let lost = read.text().matches("what workers print is lost").count();
        assert_eq!(lost, 1, "{}", read.text());
        assert_eq!(dropped(&steer), 0);
        steer.stop(SOON);
    });
}

#[test]
fn the_journal_s_socket_that_a_worker_shuts_down() {
    netns::run("log-journal", |namespace| {
        mounts::unshare();
        let directory = Path::new("/run/systemd/journal");
        let made = !Path::new("/run/systemd").exists();
        if made {
            std::fs::create_dir_all("/run/systemd").expect("root may");
        }
        let _hidden = Mounted::tmpfs(Path::new("/run/systemd"), "size=64k");
        std::fs::create_dir(directory).expect("it is the test's");
        let journal = UnixListener::bind(directory.join("stdout")).expect("it is the test's");
        let stderr = UnixStream::connect(directory.join("stdout")).expect("it listens");
        let streams = Arc::new(Mutex::new(Vec::<Reader>::new()));
        let accepted = Arc::clone(&streams);
        thread::spawn(move || {
            for stream in journal.incoming() {
                let Ok(stream) = stream else { return };
                let read = Reader::start(stream, 4096, Duration::ZERO);
                accepted.lock().expect("nothing panics there").push(read);
            }
        });
        let says = "os.write(2, ('says ' + os.environ['STEER_WORKER']).encode() + b'\\n')".to_owned();
        let stat = rustix::fs::fstat(&stderr).expect("it is open");
        let mut steer = service(namespace, &(says + SHUTDOWN), stderr.into());
        let named = format!("{}:{}", stat.st_dev, stat.st_ino);
        steer.environment.push(("JOURNAL_STREAM".to_owned(), named.into()));
        steer.start_daemon();
        works(&steer, "journal");
        let streams = || streams.lock().expect("nothing panics there").clone();
        streams()[0].until("web/1 generation 2 working");
        // Two workers, two generations of each.
        let of_workers: Vec<String> = streams()[1..].iter().map(Reader::text).collect();
        assert_eq!(of_workers.len(), 4, "{of_workers:?}");
        let count = |worker: &str| {
            let expected = format!("steer\n\n30\n1\n0\n0\n0\nsays {worker}\n");
            of_workers.iter().filter(|text| **text == expected).count()
        };
        assert_eq!((count("web/0"), count("web/1")), (2, 2), "{of_workers:?}");
        assert_eq!(dropped(&steer), 0);
        steer.stop(SOON);
        if made {
            // The mount is of this namespace of mounts, the directory of all.
            drop(_hidden);
            let _ = std::fs::remove_dir("/run/systemd");
        }
    });
}

#[test]
fn a_panic_is_told_to_who_asks_where_no_log_can_be_written() {
    netns::run("log-panic", |namespace| {
        let command = sample(&binary());
        let configured = group("web", ADDRESS, 2, &command, "ready = \"notify\"")
            + &group("other", "127.0.0.1:8081", 2, &command, "ready = \"notify\"");
        let (unread, stderr) = pipe();
        drop(unread);
        let mut steer = Steer::service(namespace, &binary(), &configured);
        steer.stderr = Some(stderr);
        steer.environment.push(("STEER_CRASH_AT".to_owned(), "panic:observe:1".into()));
        steer.start_daemon();
        steer.until_working();
        for arguments in [&["restart", "web"][..], &["scale", "web", "3"]] {
            let said = steer.command(arguments).exited(1).stderr;
            assert!(said.contains("nobody looks after the group web any more"), "{said}");
        }
        steer.command(["restart", "other"]).succeeded();
        assert!(dropped(&steer) > 0);
    });
}

#[test]
fn events_have_fields_and_the_level_that_they_deserve() {
    netns::run("log-fields", |namespace| {
        let (unread, stderr) = pipe();
        let read = Reader::start(unread, 4096, Duration::ZERO);
        let mut steer = service(namespace, "", stderr);
        steer.arguments.extend(["--log-format", "json"].map(str::to_owned));
        steer.start_daemon();
        steer.until_working();
        let first = steer.worker_pids();
        Control::new(&steer.socket()).restart(0);
        process::signal(first[1], Signal::KILL);
        read.until("signal 9, without being told to");
        steer.until_working();
        read.until("web/1 generation 2 working");
        steer.stop(SOON);

        let text = read.text();
        let mut events: BTreeMap<(String, String, u64), Value> = BTreeMap::new();
        for line in text.lines() {
            let line: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
            let fields = &line["fields"];
            if let (Some(event), Some(worker)) = (fields["event"].as_str(), fields["worker"].as_str()) {
                assert_eq!((&fields["group"], &line["target"]), (&"web".into(), &"steer::events".into()));
                let generation = fields["generation"].as_u64().unwrap_or_else(|| panic!("{line}"));
                events.insert((event.to_owned(), worker.to_owned(), generation), line);
            }
        }
        let of = |event: &str, worker: &str, generation: u64| {
            let found = events.get(&(event.to_owned(), worker.to_owned(), generation));
            found.unwrap_or_else(|| panic!("no {event} of {worker}: {text}"))
        };
        let started = of("started", "web/0", 1);
        assert_eq!((&started["level"], &started["fields"]["pid"]), (&"INFO".into(), &first[0].into()));
        let message = format!("web/0 generation 1 started: pid {}", first[0]);
        assert_eq!((&started["fields"]["message"], started["fields"].get("exit")), (&message.into(), None));
        // As it was told, and not.
        let told = of("exited", "web/0", 1);
        assert_eq!((&told["level"], &told["fields"]["exit"]), (&"INFO".into(), &"exit 0".into()));
        let killed = of("exited", "web/1", 1);
        assert_eq!((&killed["level"], &killed["fields"]["exit"]), (&"WARN".into(), &"signal 9".into()));
        assert_eq!(killed["fields"]["pid"], first[1]);
        assert_eq!(of("lost", "web/1", 1)["level"], "WARN");
        assert_eq!(of("working", "web/1", 2)["level"], "INFO");
    });
}
