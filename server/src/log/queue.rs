//! The lines that wait to be written: bounded, and what does not fit is counted. Pure.

use std::collections::VecDeque;

/// Who has said a line. Each has room of its own: a worker that says much pushes out none of the daemon's lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The daemon.
    Daemon,
    /// A worker, through the daemon.
    Worker,
}

/// How much may wait for each source: a group of 1,024 workers says less in a restart of all of them.
pub(super) const ROOM: Room = Room { lines: 8192, bytes: 1 << 20 };

/// What is written at once, in bytes, unless one line is longer: PIPE_BUF of Linux. A pipe takes so much whole or not at all, so
/// that the lines of workers that share it come in between lines and not within them.
pub(super) const CHUNK_MAX: usize = 4096;

/// How much may wait for one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) lines: usize,
    pub(super) bytes: usize,
}

impl Room {
    const NONE: Self = Self { lines: 0, bytes: 0 };
}

#[derive(Debug)]
struct Line {
    source: Source,
    text: Box<[u8]>,
}

/// The lines that wait, and how many were dropped that nobody was told of yet.
#[derive(Debug)]
pub(super) struct Queue {
    room: Room,
    waiting: VecDeque<Line>,
    used: [Room; 2],
    /// How many lines were ever taken in.
    accepted: u64,
    /// How many lines were ever taken out.
    taken: u64,
    dropped: u64,
    /// The lines dropped are told of once this many are taken out: where they are missing.
    gap_at: u64,
}

/// What is written at once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) bytes: Vec<u8>,
    /// Where each line ends.
    pub(super) ends: Vec<usize>,
    /// The line before all others that tells of dropped lines: where it ends, and of how many it tells.
    pub(super) told: Option<(usize, u64)>,
}

impl Queue {
    pub(super) fn new(room: Room) -> Self {
        let used = [Room::NONE; 2];
        Self { room, waiting: VecDeque::new(), used, accepted: 0, taken: 0, dropped: 0, gap_at: 0 }
    }

    /// Takes a line in, or drops it where its source has no room left. Returns whether it is in.
    pub(super) fn put(&mut self, source: Source, text: &[u8]) -> bool {
        let used = &mut self.used[source as usize];
        if used.lines == self.room.lines || text.len() > self.room.bytes - used.bytes {
            self.drop_lines(1, self.accepted);
            return false;
        }
        used.lines += 1;
        used.bytes += text.len();
        self.accepted += 1;
        self.waiting.push_back(Line { source, text: text.into() });
        true
    }

    /// Takes out what is to be written next: at first, where lines are missing there, what `tell` says of that; then lines.
    pub(super) fn take(&mut self, tell: impl FnOnce(u64) -> String) -> Option<Chunk> {
        let mut chunk = Chunk::default();
        if self.has_gap() {
            chunk.bytes.extend_from_slice(tell(self.dropped).as_bytes());
            chunk.told = Some((chunk.bytes.len(), std::mem::take(&mut self.dropped)));
        }
        while let Some(line) = self.waiting.front() {
            let is_first = chunk.ends.is_empty();
            let is_gap = !is_first && self.has_gap();
            if is_gap || (!chunk.bytes.is_empty() && chunk.bytes.len() + line.text.len() > CHUNK_MAX) {
                break;
            }
            let Some(line) = self.waiting.pop_front() else { break };
            let used = &mut self.used[line.source as usize];
            used.lines -= 1;
            used.bytes -= line.text.len();
            self.taken += 1;
            chunk.bytes.extend_from_slice(&line.text);
            chunk.ends.push(chunk.bytes.len());
        }
        if self.waiting.is_empty() {
            // What a burst has needed is given back.
            self.waiting.shrink_to(64);
        }
        (!chunk.bytes.is_empty()).then_some(chunk)
    }

    /// Counts what was not written of a chunk after this many bytes of it. Returns how many lines that are.
    pub(super) fn not_written(&mut self, chunk: &Chunk, written: usize) -> u64 {
        let untold = chunk.told.filter(|(end, _)| written < *end).map_or(0, |(_, count)| count);
        let lines = chunk.ends.iter().filter(|end| written < **end).count() as u64;
        self.drop_lines(untold + lines, self.taken);
        lines
    }

    fn drop_lines(&mut self, count: u64, at: u64) {
        // The first gap tells of all.
        if self.dropped == 0 {
            self.gap_at = at;
        }
        self.dropped += count;
    }

    /// Whether lines are missing where the next would be written.
    pub(super) fn has_gap(&self) -> bool {
        self.dropped > 0 && self.taken >= self.gap_at
    }

    /// Whether no line waits. There may be dropped ones to tell of.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many lines were ever taken in.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// How many lines were ever taken out.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALL: Room = Room { lines: 3, bytes: 64 };

    fn take(queue: &mut Queue) -> String {
        let chunk = queue.take(|count| format!("[{count}]")).unwrap_or_default();
        String::from_utf8(chunk.bytes).unwrap()
    }

    #[test]
    fn a_gap_is_told_of_where_the_lines_are_missing() {
        let mut queue = Queue::new(SMALL);
        for line in ["a", "b", "c", "d", "e"] {
            assert_eq!(queue.put(Source::Daemon, line.as_bytes()), line < "d");
        }
        assert_eq!(take(&mut queue), "abc");
        assert!(queue.put(Source::Daemon, b"f"));
        assert_eq!(take(&mut queue), "[2]f");
        assert_eq!(take(&mut queue), "");
    }

    #[test]
    fn a_gap_within_a_chunk_ends_the_chunk() {
        let mut queue = Queue::new(SMALL);
        for line in [b"a", b"b", b"c", b"d"] {
            queue.put(Source::Worker, line);
        }
        queue.put(Source::Daemon, b"x");
        assert_eq!(take(&mut queue), "abc");
        assert_eq!(take(&mut queue), "[1]x");
    }

    #[test]
    fn workers_do_not_push_out_the_daemon_s_lines() {
        let mut queue = Queue::new(SMALL);
        let taken = (0..10).filter(|_| queue.put(Source::Worker, b"w")).count();
        assert_eq!(taken, SMALL.lines);
        assert!((0..SMALL.lines).all(|_| queue.put(Source::Daemon, b"d")));
        assert!(!queue.put(Source::Daemon, b"d"));
    }

    #[test]
    fn bytes_are_bounded_too_and_room_comes_back() {
        let mut queue = Queue::new(SMALL);
        assert!(!queue.put(Source::Daemon, &[b'x'; 65]), "longer than all the room there is");
        assert!(queue.put(Source::Daemon, &[b'x'; 60]));
        assert!(!queue.put(Source::Daemon, b"12345"));
        assert!(queue.put(Source::Daemon, b"1234"));
        while queue.take(|_| String::new()).is_some() {}
        assert!(queue.put(Source::Daemon, &[b'x'; 64]));
    }

    #[test]
    fn what_was_not_written_is_told_of_before_the_next_line() {
        let mut queue = Queue::new(SMALL);
        for line in [b"ab", b"cd", b"ef"] {
            queue.put(Source::Daemon, line);
        }
        let chunk = queue.take(|_| unreachable!()).unwrap();
        assert_eq!(queue.not_written(&chunk, 3), 2, "the second is written in part");
        let telling = queue.take(|count| format!("[{count}]")).unwrap();
        assert_eq!((telling.bytes.as_slice(), telling.told), (&b"[2]"[..], Some((3, 2))));
        // Telling fails as well: no line more, and none less.
        assert_eq!(queue.not_written(&telling, 2), 0);
        queue.put(Source::Daemon, b"g");
        assert_eq!(take(&mut queue), "[2]g");
    }

    proptest! {
        /// Each line is written once or counted once, in order, whatever is dropped and whatever fails.
        #[test]
        fn each_line_is_written_or_counted(steps in prop::collection::vec((0_u8..4, 0_usize..40), 1..200)) {
            let mut queue = Queue::new(SMALL);
            let (mut offered, mut written, mut told) = (0_u64, Vec::new(), 0_u64);
            let mut write = |queue: &mut Queue, failing: Option<usize>| {
                let Some(chunk) = queue.take(|_| "[]".to_owned()) else { return };
                let until = failing.unwrap_or(chunk.bytes.len()).min(chunk.bytes.len());
                queue.not_written(&chunk, until);
                told += chunk.told.filter(|(end, _)| *end <= until).map_or(0, |(_, count)| count);
                let mut begin = chunk.told.map_or(0, |(end, _)| end);
                for end in chunk.ends.iter().copied().filter(|end| *end <= until) {
                    let line = String::from_utf8(chunk.bytes[begin..end].to_vec()).unwrap();
                    written.push(line.trim().parse::<u64>().unwrap());
                    begin = end;
                }
            };
            for (step, size) in steps {
                match step {
                    0 | 1 => {
                        let source = if step == 0 { Source::Daemon } else { Source::Worker };
                        queue.put(source, format!("{offered:>size$}\n").as_bytes());
                        offered += 1;
                    }
                    2 => write(&mut queue, None),
                    _ => write(&mut queue, Some(size)),
                }
            }
            while !queue.is_empty() || queue.has_gap() {
                write(&mut queue, None);
            }
            prop_assert!(written.is_sorted());
            prop_assert_eq!(written.len() as u64 + told, offered);
            prop_assert_eq!(queue.accepted(), queue.taken());
        }
    }
}
