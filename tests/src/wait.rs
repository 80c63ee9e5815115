//! Waiting for a state, never for a time.

use std::{
    env,
    sync::LazyLock,
    thread,
    time::{Duration, Instant},
};

/// Between two looks at a state that nothing announces.
const PAUSE: Duration = Duration::from_millis(5);

/// By how many times a deadline is later on a machine that is emulated: `STEER_TESTS_PATIENCE`, which `cargo xtask vm` sets.
static PATIENCE: LazyLock<u32> = LazyLock::new(|| match env::var("STEER_TESTS_PATIENCE") {
    Ok(text) => text.parse().unwrap_or_else(|error| panic!("STEER_TESTS_PATIENCE={text:?}: {error}")),
    Err(_) => 1,
});

/// The deadline, as late as the machine needs it.
pub fn patient(deadline: Duration) -> Duration {
    deadline.saturating_mul(*PATIENCE)
}

/// Looks until `look` gives a value, and returns it. Panics at the deadline with the last state that `look` gave instead.
///
/// `look` is called at least once, and once more at the deadline: a slow machine does not fail what has come true.
#[track_caller]
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = patient(deadline);
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
