//! Ctrl-C, and what else asks a soak to end: it ends in order, so that no daemon, worker, pin or namespace is left behind.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static IS_ASKED_FOR: AtomicBool = AtomicBool::new(false);

/// Has SIGINT, SIGTERM and SIGHUP ask for the end; the second of one kind is as always. What is started from now on has them as
/// always, too: handlers do not outlive an exec.
pub(crate) fn listen() {
    extern "C" fn ask(signal: libc::c_int) {
        IS_ASKED_FOR.store(true, Relaxed);
        // SAFETY: `signal` may be called in a handler.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler stores to an atomic and calls what may be called there.
        unsafe { libc::signal(signal, ask as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}

/// Whether the end is asked for.
pub(crate) fn is_asked_for() -> bool {
    IS_ASKED_FOR.load(Relaxed)
}
