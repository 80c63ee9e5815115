//! The iterators that look: at the queues of the daemon's listeners, and at the connections that a process holds. They are in an
//! object of their own, which the daemon loads once and not for each address.
//!
//! A look costs what is watched, not what the host has. Loads are typed (see `kernel.rs`), so the programs load under
//! `lockdown=confidentiality` too, but for one field of IPv4 UDP sockets.
#![no_std]
#![no_main]

mod connections;
mod kernel;
mod listeners;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The kernel lends some helpers only to programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
