//! What was adopted, or would be.

use super::units;
use crate::control::api::{Adopted, AdoptedAddress};

/// The group, its addresses and how many workers it has there; then what else there is to know.
pub(super) fn text(adopted: &Adopted) -> String {
    let Adopted { group, server, listen, adopted, kept, notes, milliseconds, .. } = adopted;
    let mut lines = vec![match adopted {
        true => format!("{group}: adopted the server of {server} in {}", units::duration(*milliseconds)),
        false => format!("{group}: would adopt the server of {server}"),
    }];
    lines.extend(listen.iter().map(address));
    lines.extend(notes.iter().map(|note| format!("  note: {note}")));
    lines.extend(kept.iter().map(|path| format!("  kept in {path}")));
    lines.join("\n")
}

fn address(at: &AdoptedAddress) -> String {
    let count = |count: u32, what: &str| match count {
        1 => format!("1 {what}"),
        _ if what.ends_with('s') => format!("{count} {what}es"),
        _ => format!("{count} {what}s"),
    };
    format!("  {}: {}, {}", at.address, count(at.listeners, "listener"), count(at.processes, "process"))
}
