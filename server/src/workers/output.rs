//! Passes what workers write on to the daemon's stderr, each line with its worker's name in front.
//!
//! Each pipe has a task that always reads, so that a worker never waits. These tasks have a thread of their own: a worker that never stops
//! talking has a line to read at any time, and would leave the daemon's loop none. The lines go where the daemon's own go, with
//! room of their own there: when stderr is slower than the workers, lines are dropped and counted, instead of stopping anybody.

use std::{
    collections::{BTreeMap, VecDeque},
    future::pending,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::{
    net::unix::pipe,
    runtime::{self, Handle},
    sync::watch,
    task::yield_now,
    time::timeout,
};

use crate::{
    log::{self, Delivery, Line, Source},
    names::WorkerName,
    values::LogFormat,
};

/// Longer lines are cut, in bytes.
const LINE_MAX: usize = 8 * 1024;

/// How many of the last lines of a worker that starts are kept.
const LAST_LINES: usize = 3;

/// Of longer ones, so many characters.
const LAST_LINE_MAX: usize = 200;

/// How long the last lines of workers that have ended may take to be read.
const AT_END: Duration = Duration::from_millis(200);

/// The ends to read from of a worker's stdout and stderr.
#[derive(Debug)]
pub struct WorkerOutput {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Where workers' lines go. Clones are one.
#[derive(Debug, Clone)]
pub struct OutputSink {
    delivery: Delivery,
    format: LogFormat,
    /// Where the pipes are read, once there is one.
    readers: Arc<OnceLock<Handle>>,
    /// How many pipes are read.
    open: Arc<watch::Sender<usize>>,
    /// The last lines of workers that have not been ready yet.
    last: Arc<Mutex<BTreeMap<WorkerName, VecDeque<String>>>>,
}

impl OutputSink {
    /// To this process's stderr, among the lines of its own log.
    pub fn to_stderr(format: LogFormat) -> Self {
        Self::new(log::of_stderr(format).clone(), format)
    }

    fn new(delivery: Delivery, format: LogFormat) -> Self {
        let open = Arc::new(watch::Sender::new(0));
        Self { delivery, format, readers: Arc::default(), open, last: Arc::default() }
    }

    /// Starts the two tasks that pass a worker's output on, as `web/0: text` or as an object; they end with the pipes, which is
    /// when the last process that holds them ends.
    pub fn follow(&self, worker: &WorkerName, output: WorkerOutput) -> io::Result<()> {
        self.last().entry(worker.clone()).or_default();
        let readers = self.readers();
        let _entered = readers.enter();
        for (stream, end) in [("stdout", output.stdout), ("stderr", output.stderr)] {
            let pipe = pipe::Receiver::from_owned_fd(end)?;
            self.open.send_modify(|open| *open += 1);
            readers.spawn(read_lines(pipe, worker.clone(), stream, self.clone()));
        }
        Ok(())
    }

    /// Waits until the pipes of all workers are read to their end, but not for long: what a worker has left behind may hold them.
    pub async fn ended(&self) {
        let mut open = self.open.subscribe();
        let _ = timeout(AT_END, open.wait_for(|open| *open == 0)).await;
    }

    /// The runtime that reads; the caller's own where no thread can be made for another just now.
    fn readers(&self) -> Handle {
        if self.readers.get().is_none()
            && let Ok(handle) = start_thread()
        {
            // Another caller may have been first: then this one's has nothing to do.
            let _ = self.readers.set(handle);
        }
        self.readers.get().cloned().unwrap_or_else(Handle::current)
    }

    /// The last lines of a worker that is not ready, the oldest first; of those that the daemon reads.
    pub fn last_lines(&self, worker: &WorkerName) -> Vec<String> {
        self.last().get(worker).map(|lines| lines.iter().cloned().collect()).unwrap_or_default()
    }

    /// A worker is ready: its lines are not kept any more.
    pub fn forget_lines(&self, worker: &WorkerName) {
        self.last().remove(worker);
    }

    fn last(&self) -> MutexGuard<'_, BTreeMap<WorkerName, VecDeque<String>>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, worker: &WorkerName, stream: &str, text: &str) {
        if let Some(lines) = self.last().get_mut(worker).filter(|_| !text.trim().is_empty()) {
            lines.push_back(text.chars().take(LAST_LINE_MAX).collect());
            if lines.len() > LAST_LINES {
                lines.pop_front();
            }
        }
        self.delivery.put(Source::Worker, line(self.format, worker, stream, text).as_bytes());
    }
}

/// Starts a thread that runs what is spawned on it, as long as the process lasts.
fn start_thread() -> io::Result<Handle> {
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name("output".to_owned()).spawn(move || runtime.block_on(pending::<()>()))?;
    Ok(handle)
}

async fn read_lines(pipe: pipe::Receiver, worker: WorkerName, stream: &str, sink: OutputSink) {
    let mut splitter = LineSplitter::default();
    let mut put = |text: &str| sink.put(&worker, stream, text);
    // A pipe that cannot be read has no more lines; its worker is watched elsewhere.
    while pipe.readable().await.is_ok() && read_what_is_there(&pipe, &mut splitter, &mut put) {
        // A pipe that has more at once would have the others wait.
        yield_now().await;
    }
    splitter.finish(&mut put);
    sink.open.send_modify(|open| *open -= 1);
}

/// Whether there may be more. The room is on the stack: a worker that says nothing has none.
fn read_what_is_there(
    pipe: &pipe::Receiver,
    splitter: &mut LineSplitter,
    put: &mut impl FnMut(&str),
) -> bool {
    let mut buffer = [0; 16 * 1024];
    match pipe.try_read(&mut buffer) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
        Ok(0) | Err(_) => false,
        Ok(length) => {
            splitter.push(&buffer[..length], put);
            true
        }
    }
}

/// What is written for one line of a worker. An object has the fields of the daemon's own messages, so that a reader finds the same
/// in all.
fn line(format: LogFormat, worker: &WorkerName, stream: &str, text: &str) -> String {
    if format == LogFormat::Text {
        return format!("{worker}: {text}\n");
    }
    let fields =
        [("worker", worker.to_string()), ("group", worker.group.to_string()), ("stream", stream.into())];
    let fields = Map::from_iter(fields.map(|(name, value)| (name.to_owned(), Value::from(value))));
    Line { level: tracing::Level::INFO, target: "worker", message: text, fields }.format(format)
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Debug, Default)]
struct LineSplitter {
    line: Vec<u8>,
    /// The line was cut and its rest is passed over.
    cut: bool,
}

impl LineSplitter {
    fn push(&mut self, bytes: &[u8], put: &mut impl FnMut(&str)) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            let room = LINE_MAX - self.line.len();
            self.cut |= text.len() > room;
            self.line.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.put_line(put);
            }
        }
    }

    /// The last line may lack its end.
    fn finish(&mut self, put: &mut impl FnMut(&str)) {
        if !self.line.is_empty() {
            self.put_line(put);
        }
    }

    fn put_line(&mut self, put: &mut impl FnMut(&str)) {
        let text = String::from_utf8_lossy(&self.line);
        let text = text.strip_suffix('\r').unwrap_or(&text);
        if self.cut {
            put(&format!("{text} [cut]"))
        } else {
            put(text)
        }
        self.line.clear();
        self.cut = false;
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<String> {
        let mut lines = Vec::new();
        let mut splitter = LineSplitter::default();
        let mut put = |line: &str| lines.push(line.to_owned());
        for piece in pieces {
            splitter.push(piece, &mut put);
        }
        splitter.finish(&mut put);
        lines
    }

    #[test]
    fn lines_are_whole_however_they_come() {
        assert_eq!(split(&[b"one\ntw", b"o\r\n", b"\n", b"rest"]), ["one", "two", "", "rest"]);
        assert_eq!(split(&[b"\xff\n"]), ["\u{fffd}"]);
        assert_eq!(split(&[]), [] as [&str; 0]);
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_is_whole() {
        let long = vec![b'x'; 3 * LINE_MAX];
        let lines = split(&[&long, &long, b"\nnext\n"]);
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0].len(), LINE_MAX + " [cut]".len());
        assert_eq!(lines[1], "next");
        let exact = vec![b'x'; LINE_MAX];
        assert_eq!(split(&[&exact, b"\n"])[0].len(), LINE_MAX, "a line of just that length is not cut");
    }

    #[test]
    fn a_line_as_an_object_is_one_line_whatever_it_holds() {
        let (text, worker) = ("say \"x\"\t\u{fffd}", "web/0".parse().unwrap());
        assert_eq!(line(LogFormat::Text, &worker, "stdout", text), format!("web/0: {text}\n"));
        let written = line(LogFormat::Json, &worker, "stdout", text);
        assert_eq!(written.find('\n'), Some(written.len() - 1));
        let object: serde_json::Value = serde_json::from_str(&written).unwrap();
        let expected = serde_json::json!({
            "message": text, "worker": "web/0", "group": "web", "stream": "stdout"
        });
        assert_eq!(object["fields"], expected);
        assert!(object["timestamp"].as_str().unwrap().ends_with('Z'), "{object}");
        assert_eq!((&object["level"], &object["target"]), (&"INFO".into(), &"worker".into()));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_stderr_that_nobody_reads_stops_no_worker() {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (_unread, full) = pipe();
        let sink = OutputSink::new(Delivery::start(full, |_| String::new()), LogFormat::Text);
        let (read, write) = pipe();
        let (other, _keep) = pipe();
        sink.follow(&"web/0".parse().unwrap(), WorkerOutput { stdout: read, stderr: other }).unwrap();
        let written = tokio::task::spawn_blocking(move || {
            let mut pipe = std::fs::File::from(write);
            // Far more than the pipe and the queue can hold.
            for _ in 0..64 {
                pipe.write_all(&b"line\n".repeat(10_000)).unwrap();
            }
        });
        tokio::time::timeout(std::time::Duration::from_secs(20), written).await.unwrap().unwrap();
        assert!(sink.delivery.dropped() > 0);
    }
}
