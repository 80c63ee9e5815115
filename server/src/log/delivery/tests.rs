//! Real pipes and devices: what is dropped, what is told, and that nobody waits.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::OwnedFd,
    sync::atomic::AtomicUsize,
};

use rustix::pipe::{PipeFlags, pipe_with};

use super::*;

const SOON: Duration = Duration::from_secs(20);

fn tell(count: u64) -> String {
    format!("dropped {count}\n")
}

fn pipe() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC).unwrap()
}

/// The lines, until one is this.
fn read_until(read: &mut impl BufRead, last: &str) -> Vec<String> {
    let mut lines = Vec::new();
    for line in read.lines() {
        let line = line.unwrap();
        if line == last {
            return lines;
        }
        lines.push(line);
    }
    panic!("there is no {last}");
}

#[test]
fn a_reader_that_does_not_read_stops_nobody_and_is_told_what_it_has_missed() {
    let (read, write) = pipe();
    let delivery = Delivery::start(write, tell);
    let line = [b'x'; 99].iter().chain(b"\n").copied().collect::<Vec<u8>>();
    let count: u64 = 50_000;
    for _ in 0..count {
        delivery.put(Source::Worker, &line);
    }
    // The daemon's have room of their own.
    delivery.put(Source::Daemon, b"own\n");
    let dropped = delivery.dropped();
    assert!(dropped > count / 2, "{dropped}");
    assert!(!delivery.flush(Duration::from_millis(50)), "nothing is read");

    let mut read = BufReader::new(File::from(read));
    let written = read_until(&mut read, "own");
    let told: Vec<&String> = written.iter().filter(|line| line.starts_with("dropped ")).collect();
    assert_eq!(told, [&format!("dropped {dropped}")]);
    assert_eq!((written.len() - 1) as u64 + dropped, count);
    delivery.put(Source::Daemon, b"next\n");
    assert_eq!(read_until(&mut read, "next"), [] as [&str; 0]);
    assert!(delivery.flush(SOON));
    assert_eq!(delivery.dropped(), dropped);
}

#[test]
fn what_cannot_be_written_is_counted() {
    for broken in [OwnedFd::from(File::options().write(true).open("/dev/full").unwrap()), {
        let (read, write) = pipe();
        drop(read);
        write
    }] {
        let delivery = Delivery::start(broken, tell);
        for _ in 0..1000 {
            delivery.put(Source::Daemon, b"line\n");
        }
        assert!(delivery.flush(SOON), "there is nothing to wait for");
        assert_eq!(delivery.dropped(), 1000);
    }
}

#[test]
fn a_file_that_takes_lines_again_is_told_of_without_waiting_for_the_next_line() {
    // The same descriptor, whose file is replaced: dup2 of a pipe over /dev/full.
    let full: OwnedFd = File::options().write(true).open("/dev/full").unwrap().into();
    let number = full.try_clone().unwrap();
    let target = std::os::fd::AsRawFd::as_raw_fd(&number);
    let delivery = Delivery::start(number, tell);
    for _ in 0..10 {
        delivery.put(Source::Daemon, b"line\n");
    }
    assert!(delivery.flush(SOON));
    let (read, write) = pipe();
    // SAFETY: the descriptor at this number belongs to the delivery, which lives as long as the process and does not close it.
    let mut over =
        std::mem::ManuallyDrop::new(unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(target) });
    rustix::io::dup2(&write, &mut over).unwrap();
    let mut line = String::new();
    BufReader::new(File::from(read)).read_line(&mut line).unwrap();
    assert_eq!(line, "dropped 10\n");
}

#[test]
fn lines_wait_for_a_thread_that_cannot_be_made_at_first() {
    static TRIES: AtomicUsize = AtomicUsize::new(0);
    let (read, write) = pipe();
    let delivery = Delivery::with(write, tell, |body| match TRIES.fetch_add(1, Relaxed) {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => thread::Builder::new().spawn(body).map(drop),
    });
    delivery.put(Source::Daemon, b"first\n");
    assert_eq!(TRIES.load(Relaxed), 1, "it is not tried again with every line");
    assert!(!delivery.flush(Duration::from_millis(10)));
    *delivery.0.tried.lock().unwrap() = None;
    delivery.put(Source::Daemon, b"second\n");
    assert!(delivery.flush(SOON));
    assert_eq!(read_until(&mut BufReader::new(File::from(read)), "second"), ["first"]);
    assert_eq!((TRIES.load(Relaxed), delivery.dropped()), (2, 0));
}
