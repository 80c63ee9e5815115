//! What the daemon and the kernel have written down: receipts, events, counters.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use steer::control::api::{Counters, Event, GroupStatus, Receipt};

use crate::{output::Output, steer::Steer, wait};

/// The receipts that a command has printed with `--json`, whatever else it printed and however it ended.
#[track_caller]
pub fn receipts_of(output: &Output) -> Vec<Receipt> {
    output.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// The only receipt that a command has printed with `--json`.
#[track_caller]
pub fn receipt_of(output: &Output) -> Receipt {
    let mut receipts = receipts_of(output);
    assert_eq!(receipts.len(), 1, "receipts in: {}{}", output.stdout, output.stderr);
    receipts.remove(0)
}

/// Waits for an event of one generation of a worker, `web/0`.
#[track_caller]
pub fn until_event(steer: &Steer<'_>, kind: &str, worker: &str, generation: u64) -> Event {
    wait::until(&format!("{kind} {worker} generation {generation}"), Duration::from_secs(30), || {
        let output = steer.command(["events", "--json"]).succeeded();
        let is_it = |event: &Event| {
            event.kind == kind
                && event.generation == Some(generation)
                && event.worker.as_ref().is_some_and(|name| name.to_string() == worker)
        };
        output.parse_lines::<Event>().into_iter().find(is_it).ok_or(output.stdout)
    })
}

/// Waits until the last event is this long ago.
///
/// Whose a half-open handshake is, the daemon knows to the precision of the kernel's timers: 30 ms while the SYN-ACK has been
/// sent once, and a seventh of its age later. Handshakes that a test begins after 600 ms are told from those before the
/// event until they are 4 seconds old.
#[track_caller]
pub fn until_quiet(steer: &Steer<'_>, quiet: Duration) {
    wait::until(&format!("no event for {quiet:?}"), Duration::from_secs(30), || {
        let events = steer.command(["events", "--json"]).succeeded().parse_lines::<Event>();
        let last = events.last().map_or(Duration::ZERO, |event| Duration::from_millis(event.unix_ms));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set");
        if now > last + quiet { Ok(()) } else { Err(format!("{:?}", events.last())) }
    });
}

/// The status of the only group, whose counters add up: in each stage, every run once.
#[track_caller]
pub fn group_of(steer: &Steer<'_>) -> GroupStatus {
    let mut status = steer.status();
    assert_eq!(status.groups.len(), 1);
    let group = status.groups.remove(0);
    check_sums(&group.counters);
    group
}

/// In each of the two stages every run is counted exactly once.
#[track_caller]
pub fn check_sums(counters: &Counters) {
    let Counters { runs, asked, outcome, flows: _, ids: _ } = counters;
    assert_eq!(asked.connection + asked.segment + asked.datagram + asked.migration, *runs, "{counters:?}");
    let by_table = outcome.first_choice + outcome.further_choice + outcome.held + outcome.dropped;
    let sum = by_table + outcome.less_loaded + outcome.own_cpu + outcome.kept + outcome.by_id;
    assert_eq!(sum, *runs, "{counters:?}");
}

/// How many connections of the network namespace of the calling thread were reset at one of their ends before that end had
/// closed: by a client while it connected, or by either side of an established connection.
///
/// `OutRsts` would not do: an ACK that is handled after the FIN that was sent behind it (on two CPUs, with one held up) finds
/// TIME_WAIT, is answered with an ACK, and that ACK finds nothing and is answered with a reset. Nobody is there to be harmed.
#[track_caller]
pub fn connections_reset() -> u64 {
    tcp_counter("AttemptFails") + tcp_counter("EstabResets")
}

/// A TCP counter of the network namespace of the calling thread: `EstabResets`, `TCPMigrateReqSuccess`.
#[track_caller]
pub fn tcp_counter(name: &str) -> u64 {
    let found = ["snmp", "netstat"].into_iter().find_map(|file| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{file}")).expect("counters can be read");
        parse_counters(&text).remove(name)
    });
    found.unwrap_or_else(|| panic!("the kernel has no counter {name}"))
}

/// The TCP counters of the network namespace of the calling thread that are not 0, for people.
pub fn tcp_counters() -> String {
    let texts = ["snmp", "netstat"].map(|file| fs::read_to_string(format!("/proc/thread-self/net/{file}")));
    let counters = texts.iter().flatten().flat_map(|text| parse_counters(text));
    let counted = counters.filter(|(_, count)| *count != 0);
    counted.map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>().join(", ")
}

/// The UDP counters of the network namespace of the calling thread that are not 0, of both families: what was dropped is among them
/// with its reason.
pub fn udp_counters() -> String {
    let read = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default();
    let (ipv4, ipv6) = (read("snmp"), read("snmp6"));
    let lines: Vec<&str> = ipv4.lines().filter(|line| line.starts_with("Udp:")).collect();
    let of_ipv4 = lines.chunks_exact(2).flat_map(|pair| {
        let values = pair[1].split_whitespace().skip(1);
        pair[0].split_whitespace().skip(1).zip(values).map(|(name, value)| (format!("Udp{name}"), value))
    });
    let of_ipv6 = ipv6.lines().filter_map(|line| {
        let (name, value) = line.split_once(char::is_whitespace)?;
        name.starts_with("Udp6").then(|| (name.to_owned(), value.trim()))
    });
    let counted = of_ipv4.chain(of_ipv6).filter(|(_, value)| *value != "0");
    counted.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
}

/// Lines come in pairs, `Tcp: NAME NAME` and `Tcp: 1 2`. TCP's names are its own.
fn parse_counters(text: &str) -> BTreeMap<&str, u64> {
    let lines: Vec<&str> = text.lines().collect();
    let tcp = lines.chunks(2).filter(|pair| pair[0].starts_with("Tcp"));
    tcp.filter_map(|pair| Some((pair[0], pair.get(1)?)))
        .flat_map(|(names, values)| names.split_whitespace().zip(values.split_whitespace()).skip(1))
        .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name_and_may_be_negative() {
        let text = "Ip: A B\nIp: 1 2\nTcp: MaxConn OutRsts\nTcp: -1 7\nTcpExt: Other\nTcpExt: 3\n";
        assert_eq!(parse_counters(text), [("OutRsts", 7), ("Other", 3)].into());
    }
}
