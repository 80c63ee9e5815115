//! Writes bytes to a descriptor that anybody may have filled, closed, or set O_NONBLOCK on.

use std::{os::fd::AsFd, thread::sleep, time::Duration};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

/// How long to wait where poll(2) has said that a descriptor takes bytes and write(2) says again that it takes none.
const UNDECIDED: Duration = Duration::from_millis(10);

/// Writes all of it, however long that takes. On an error, how much of it was written before.
///
/// The descriptor's open file description may be shared with other processes, any of which can set O_NONBLOCK on it at any
/// time: EAGAIN is waited out, as a blocking write would.
pub(super) fn write_all(fd: impl AsFd, bytes: &[u8]) -> Result<(), (usize, Errno)> {
    let mut written = 0;
    let mut was_refused = false;
    while written < bytes.len() {
        match rustix::io::write(&fd, &bytes[written..]) {
            // No file that stands for stderr says so; it would be asked for ever.
            Ok(0) => return Err((written, Errno::IO)),
            Ok(length) => {
                written += length;
                was_refused = false;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                if was_refused {
                    sleep(UNDECIDED);
                }
                was_refused = true;
                // An error of poll, such as a signal: as if it had said yes. The next write tells what is wrong with the file.
                let _ = poll(&mut [PollFd::new(&fd, PollFlags::OUT)], None);
            }
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Read, thread};

    use rustix::{
        fs::{OFlags, fcntl_getfl, fcntl_setfl},
        pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
    };

    use super::*;

    #[test]
    fn a_pipe_that_was_made_not_to_block_gets_every_byte() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        fcntl_setpipe_size(&write, 4096).unwrap();
        let flags = fcntl_getfl(&write).unwrap();
        fcntl_setfl(&write, flags | OFlags::NONBLOCK).unwrap();
        let bytes: Vec<u8> = (0..200_000_u32).map(|number| number as u8).collect();
        let expected = bytes.clone();
        let writing = thread::spawn(move || write_all(write, &bytes));
        let mut found = Vec::new();
        File::from(read).read_to_end(&mut found).unwrap();
        writing.join().unwrap().unwrap();
        assert!(found == expected);
    }

    #[test]
    fn an_error_is_said_with_what_was_written_before() {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        drop(read);
        assert_eq!(write_all(write, b"text"), Err((0, Errno::PIPE)));
        let full = File::options().write(true).open("/dev/full").unwrap();
        assert_eq!(write_all(full, b"text"), Err((0, Errno::NOSPC)));
    }
}
