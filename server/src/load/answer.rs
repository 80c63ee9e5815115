//! Reading one HTTP/1.1 answer as its bytes arrive: no I/O.

/// An answer's head may not be longer; the sample worker's takes about 150 bytes.
const HEAD_MAX: usize = 16 * 1024;

/// Who gave a complete answer, by its headers; empty where the header is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Responder {
    /// `X-Worker`.
    pub worker: String,
    /// `X-Generation`.
    pub generation: String,
    /// `X-Pid`.
    pub pid: String,
}

/// Collects an answer's bytes until it is complete.
#[derive(Debug, Default)]
pub(super) struct AnswerReader {
    /// The head, up to and with its empty line.
    head: Vec<u8>,
    /// Bytes of the body that are still to come, once the head is complete.
    body_left: Option<u64>,
    responder: Responder,
}

impl AnswerReader {
    /// Takes the next bytes. `Ok(true)` once the answer is complete; an error says what is wrong with it.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<bool, String> {
        let body = match self.body_left {
            Some(_) => bytes,
            None => {
                // The empty line may be split over two reads: search from three bytes before the new ones.
                let searched = self.head.len().saturating_sub(3);
                let before = self.head.len();
                self.head.extend_from_slice(bytes);
                let Some(end) = find(&self.head[searched..], b"\r\n\r\n").map(|at| searched + at + 4) else {
                    if self.head.len() > HEAD_MAX {
                        return Err(format!("the answer's head is longer than {HEAD_MAX} bytes"));
                    }
                    return Ok(false);
                };
                self.head.truncate(end);
                self.read_head()?;
                &bytes[end - before..]
            }
        };
        let left = self.body_left.unwrap_or(0);
        let got = body.len() as u64;
        if got > left {
            return Err(format!("{got} bytes of a body of which {left} were left"));
        }
        self.body_left = Some(left - got);
        Ok(got == left)
    }

    /// Who gave the answer; full once the head is complete.
    pub(super) fn responder(&self) -> &Responder {
        &self.responder
    }

    /// Forgets this answer, for the next on the same connection.
    pub(super) fn reset(&mut self) {
        self.head.clear();
        self.body_left = None;
        self.responder.worker.clear();
        self.responder.generation.clear();
        self.responder.pid.clear();
    }

    fn read_head(&mut self) -> Result<(), String> {
        let head = std::str::from_utf8(&self.head).map_err(|_| "the answer's head is not text".to_owned())?;
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default();
        if !(status.starts_with("HTTP/1.1 200 ") || status == "HTTP/1.1 200") {
            return Err(format!("the answer is {status:?}, not 200"));
        }
        let mut length = None;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.parse().map_err(|_| format!("Content-Length is {value:?}"))?);
            } else if name.eq_ignore_ascii_case("x-worker") {
                value.clone_into(&mut self.responder.worker);
            } else if name.eq_ignore_ascii_case("x-generation") {
                value.clone_into(&mut self.responder.generation);
            } else if name.eq_ignore_ascii_case("x-pid") {
                value.clone_into(&mut self.responder.pid);
            }
        }
        // Without a length, an answer that was cut off and one that is complete look the same.
        self.body_left = Some(length.ok_or("the answer has no Content-Length")?);
        Ok(())
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\nX-Worker: web/1\r\nx-generation: 7\r\nX-Pid: 42\r\n\
        Content-Length: 5\r\n\r\nhello";

    #[test]
    fn an_answer_reads_the_same_however_it_is_cut() {
        for cut in 1..WHOLE.len() {
            let mut reader = AnswerReader::default();
            assert!(!reader.take(&WHOLE[..cut]).unwrap(), "complete at {cut}");
            assert!(reader.take(&WHOLE[cut..]).unwrap(), "cut at {cut}");
            let expected = Responder { worker: "web/1".into(), generation: "7".into(), pid: "42".into() };
            assert_eq!(reader.responder(), &expected);
        }
    }

    #[test]
    fn an_empty_body_is_complete_with_its_head() {
        assert!(AnswerReader::default().take(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap());
    }

    #[test]
    fn what_is_no_complete_answer_says_why() {
        for (text, reason) in [
            ("HTTP/1.1 503 No\r\n\r\n", "503"),
            ("HTTP/1.1 2000 No\r\n\r\n", "2000"),
            ("SSH-2.0-x\r\n\r\n", "SSH"),
            ("HTTP/1.1 200 OK\r\n\r\n", "Content-Length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "\"x\""),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab", "of which 1"),
        ] {
            let error = AnswerReader::default().take(text.as_bytes()).unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
        assert!(AnswerReader::default().take(&[b'x'; HEAD_MAX + 1]).is_err());
    }
}
