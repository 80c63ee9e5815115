//! What a reload has changed.

use super::{receipt, units};
use crate::control::api::{Applies, GroupReload, KeyChange, Reload};

/// Each group that is another, with its changes; then what waits, and what went wrong.
pub(super) fn text(reload: &Reload) -> String {
    let mut lines = Vec::new();
    if !reload.daemon.is_empty() {
        lines.push("daemon: changed".to_owned());
        lines.extend(changes(&reload.daemon));
    }
    lines.extend(reload.reloaded.iter().flat_map(group));
    if lines.is_empty() {
        lines.push("nothing has changed".to_owned());
    }
    let files = match &reload.files[..] {
        [only] => only.clone(),
        [first, more @ ..] => format!("{first} and {} of conf.d", more.len()),
        [] => "the configuration".to_owned(),
    };
    lines.push(format!("read {files} again in {}", units::duration(reload.milliseconds)));
    lines.join("\n")
}

fn group(reload: &GroupReload) -> Vec<String> {
    let GroupReload { group, outcome, changes: keys, restart, receipts, fault } = reload;
    let mut lines: Vec<String> = receipts.iter().map(receipt::text).collect();
    lines.push(format!("{group}: {outcome}"));
    lines.extend(changes(keys));
    if let Some(command) = restart {
        lines.push(format!("  * from each worker's next generation on: `{command}` makes it so now"));
    }
    lines.extend(fault.iter().map(|fault| format!("  it is as the configuration says, but: {fault}")));
    lines
}

fn changes(keys: &[KeyChange]) -> impl Iterator<Item = String> {
    let width = keys.iter().map(|change| change.key.chars().count()).max().unwrap_or(0);
    keys.iter().map(move |KeyChange { key, before, after, applies }| {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "(not set)".to_owned());
        let mark = if *applies == Applies::Now { "" } else { " *" };
        format!("  {key:<width$}  {} -> {}{mark}", value(before), value(after))
    })
}

#[cfg(test)]
mod tests {
    use super::{super::fixtures, *};

    #[test]
    fn what_has_changed_and_what_waits() {
        insta::assert_snapshot!(text(&fixtures::reload()), @r"
        daemon: changed
          access  alice -> alice, bob
        api: added
        web: changed
          policy        hash -> source
          workers.user  (not set) -> www-data *
          * from each worker's next generation on: `steer restart web` makes it so now
          it is as the configuration says, but: generation 1 of worker 4 was not ready within 30000 ms
        web/0 generation 3: drained in 1.0 s, generation 4 has taken over
          handshakes  2 -> 0
          unaccepted  5 -> 0
          flows       0 -> 0
          connections 7 -> 0
          migrated    3 (1 to hold, 2 to web/1)
          steps       publish 9 ms, queue 12 ms, settle 1000 ms, stop 31 ms
          exit        exit 0
        www: removed
        read /etc/steer/steer.toml and 1 of conf.d again in 1.2 s
        ");
    }

    #[test]
    fn nothing_is_said_to_be_nothing() {
        let reload = Reload {
            files: vec!["/etc/steer/steer.toml".into()],
            daemon: vec![],
            reloaded: vec![],
            ..fixtures::reload()
        };
        assert_eq!(text(&reload), "nothing has changed\nread /etc/steer/steer.toml again in 1.2 s");
    }
}
