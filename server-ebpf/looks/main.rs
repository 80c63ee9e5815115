//! Three iterators: the queues of watched listeners, the open connections of a process, the processes. They are an object of their
//! own, because the daemon loads them once and the steering program once for each address.
//!
//! All loads but one are typed (see `kernel.rs`), so the programs load under `lockdown=confidentiality`.
#![no_std]
#![no_main]

mod connections;
mod kernel;
mod listeners;
mod processes;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends some helpers only to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
