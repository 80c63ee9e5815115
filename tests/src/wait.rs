//! Waiting for a state, never for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

/// Between two looks at a state that nothing announces.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks until `look` gives a value, and returns it. Panics at the deadline with the last state that `look` gave instead.
///
/// `look` is called at least once, and once more at the deadline: a slow machine does not fail what has come true.
#[track_caller]
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        let is_last = began.elapsed() >= deadline;
        match look() {
            Ok(value) => return value,
            Err(state) if is_last => panic!("{what}: not within {deadline:?}; last state: {state}"),
            Err(_) => thread::sleep(PAUSE.min(deadline)),
        }
    }
}
