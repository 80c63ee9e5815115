//! Passes what workers write on to the daemon's stderr, each line with its worker's name in front.
//!
//! Each pipe has a task that always reads, so that a worker never waits; one task writes. Between them is a queue:
//! when stderr is slower than the workers, lines are left out and counted, instead of stopping anybody.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::unix::pipe,
    sync::mpsc,
    task::JoinHandle,
};
use tracing_subscriber::fmt::{
    format::Writer,
    time::{FormatTime, SystemTime},
};

use crate::{names::WorkerName, values::LogFormat};

/// Longer lines are cut, in bytes.
const LINE_MAX: usize = 8 * 1024;

/// Lines that wait for stderr.
const QUEUE_MAX: usize = 1024;

/// The ends to read from of a worker's stdout and stderr.
#[derive(Debug)]
pub struct WorkerOutput {
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

/// Where workers' lines go. Clones are one.
#[derive(Debug, Clone)]
pub struct OutputSink {
    lines: mpsc::Sender<String>,
    format: LogFormat,
    left_out: Arc<AtomicU64>,
}

impl OutputSink {
    /// Starts the task that writes lines to stderr; it ends with the last clone and its readers.
    pub fn to_stderr(format: LogFormat) -> (Self, JoinHandle<()>) {
        Self::to_writer(tokio::io::stderr(), format)
    }

    /// Starts the task that writes lines to `writer`.
    pub fn to_writer(
        writer: impl AsyncWrite + Unpin + Send + 'static,
        format: LogFormat,
    ) -> (Self, JoinHandle<()>) {
        let (lines, queue) = mpsc::channel(QUEUE_MAX);
        let left_out = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(write_lines(queue, writer, format, Arc::clone(&left_out)));
        (Self { lines, format, left_out }, task)
    }

    /// Starts the two tasks that pass a worker's output on, as `web/0: text` or as an object; they end with the pipes, which is
    /// when the last process that holds them ends.
    pub fn follow(&self, worker: &WorkerName, output: WorkerOutput) -> io::Result<()> {
        for end in [output.stdout, output.stderr] {
            tokio::spawn(read_lines(pipe::Receiver::from_owned_fd(end)?, worker.to_string(), self.clone()));
        }
        Ok(())
    }

    fn put(&self, line: String) {
        if self.lines.try_send(line).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }
}

async fn read_lines(pipe: pipe::Receiver, worker: String, sink: OutputSink) {
    let mut splitter = LineSplitter::default();
    let mut put = |text: &str| sink.put(line(sink.format, Some(&worker), text));
    // A pipe that cannot be read has no more lines; its worker is watched elsewhere.
    while pipe.readable().await.is_ok() && read_what_is_there(&pipe, &mut splitter, &mut put) {}
    splitter.finish(&mut put);
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

async fn write_lines(
    mut queue: mpsc::Receiver<String>,
    mut writer: impl AsyncWrite + Unpin,
    format: LogFormat,
    left_out: Arc<AtomicU64>,
) {
    while let Some(mut text) = queue.recv().await {
        while let Ok(more) = queue.try_recv() {
            text.push_str(&more);
        }
        let count = left_out.swap(0, Ordering::Relaxed);
        if count > 0 {
            let said = format!("{count} lines of workers were left out: stderr is too slow");
            text.push_str(&line(format, None, &said));
        }
        // Nobody reads stderr any more: nothing can be said about it, and the queue goes on being emptied.
        let _ = writer.write_all(text.as_bytes()).await;
        let _ = writer.flush().await;
    }
}

/// What is written for one line of a worker, or of nobody. An object has the fields of the daemon's own messages, so that a
/// reader finds the same in all.
fn line(format: LogFormat, worker: Option<&str>, text: &str) -> String {
    match (format, worker) {
        (LogFormat::Text, Some(worker)) => format!("{worker}: {text}\n"),
        (LogFormat::Text, None) => format!("{text}\n"),
        (LogFormat::Json, worker) => {
            let mut timestamp = String::new();
            // Writing to a string cannot fail.
            let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
            let mut fields = serde_json::json!({ "message": text });
            if let Some(worker) = worker {
                fields["worker"] = worker.into();
            }
            let level = if worker.is_some() { "INFO" } else { "WARN" };
            let object = serde_json::json!({
                "timestamp": timestamp, "level": level, "fields": fields, "target": "worker",
            });
            format!("{object}\n")
        }
    }
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
    use std::{
        io::Write,
        pin::Pin,
        task::{Context, Poll},
    };

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
        let text = "say \"x\"\t\u{fffd}";
        assert_eq!(line(LogFormat::Text, Some("web/0"), text), format!("web/0: {text}\n"));
        let written = line(LogFormat::Json, Some("web/0"), text);
        assert_eq!(written.find('\n'), Some(written.len() - 1));
        let object: serde_json::Value = serde_json::from_str(&written).unwrap();
        assert_eq!(object["fields"], serde_json::json!({ "message": text, "worker": "web/0" }));
        assert!(object["timestamp"].as_str().unwrap().ends_with('Z'), "{object}");
        assert_eq!((&object["level"], &object["target"]), (&"INFO".into(), &"worker".into()));
    }

    /// Takes nothing, as a terminal that was stopped.
    struct Stuck;

    impl AsyncWrite for Stuck {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }
        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_slow_stderr_stops_no_worker() {
        let (sink, _task) = OutputSink::to_writer(Stuck, LogFormat::Text);
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (other, _keep) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        sink.follow(&"web/0".parse().unwrap(), WorkerOutput { stdout: read, stderr: other }).unwrap();
        let written = tokio::task::spawn_blocking(move || {
            let mut pipe = std::fs::File::from(write);
            // Far more than the pipe and the queue can hold.
            for _ in 0..64 {
                pipe.write_all(&b"line\n".repeat(10_000)).unwrap();
            }
        });
        tokio::time::timeout(std::time::Duration::from_secs(20), written).await.unwrap().unwrap();
        assert!(sink.left_out.load(Ordering::Relaxed) > 0);
    }
}
