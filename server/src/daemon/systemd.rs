//! Tells the service manager how the daemon is: the `sd_notify` protocol, as its sender. Without NOTIFY_SOCKET, which says who
//! listens, nothing is said.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    time::Duration,
};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use crate::group::Counts;

use super::registry::Daemon;

/// How often the groups are looked at while not all of them serve yet: READY is to come at once.
const STARTING: Duration = Duration::from_millis(50);
/// How old the status line may get, where no watchdog asks more often.
const SERVING: Duration = Duration::from_secs(5);

/// Says READY once every group's program is attached; then how many workers work, and feeds the watchdog, for as long as
/// the groups' loop takes its turns. Never returns where somebody listens.
pub(super) async fn report(daemon: Daemon) {
    if env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let period = period(sd_notify::watchdog_enabled());
    let mut told = Told::default();
    while !told.ready {
        told.say(look(&daemon, period).await);
        tokio::time::sleep(STARTING).await;
    }
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        told.say(look(&daemon, period).await);
    }
}

/// Says that the configuration is being read again; [`reloaded`] has to follow.
pub fn reloading() {
    // systemd 253 and later (Type=notify-reload) wants the time; the ones before ignore it.
    let time = NotifyState::monotonic_usec_now().ok();
    notify(&[NotifyState::Reloading].into_iter().chain(time).collect::<Vec<_>>());
}

/// Says that it was read, and taken or refused: the daemon serves either way.
pub fn reloaded() {
    notify(&[NotifyState::Ready]);
}

/// Says that the daemon ends. From here on the service manager gives it no longer than TimeoutStopSec=, so it comes after every
/// drain.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// What was said last.
#[derive(Debug, Default)]
struct Told {
    /// Somebody has heard that it is ready.
    ready: bool,
    status: String,
}

/// What one look at the groups found.
enum Look {
    /// Their loop takes its turns.
    Alive(Vec<Counts>),
    /// It has not within this time.
    Silent(Duration),
}

async fn look(daemon: &Daemon, patience: Duration) -> Look {
    match daemon.is_alive(patience).await {
        true => Look::Alive(daemon.counts()),
        false => Look::Silent(patience),
    }
}

impl Told {
    fn say(&mut self, look: Look) {
        let states = self.states(look);
        if states.is_empty() {
            return;
        }
        let says_ready = states.iter().any(|state| matches!(state, NotifyState::Ready));
        let is_heard =
            notify(&states.into_iter().chain([NotifyState::Status(&self.status)]).collect::<Vec<_>>());
        self.ready |= says_ready && is_heard;
    }

    /// What is to be said beside the status line; nothing where that would be a lie.
    fn states(&mut self, look: Look) -> Vec<NotifyState<'static>> {
        let groups = match look {
            Look::Alive(groups) => groups,
            Look::Silent(patience) => {
                tracing::error!("the groups have not answered within {patience:?}: the watchdog is not fed");
                return Vec::new();
            }
        };
        self.status = summary(&groups);
        let mut states = vec![NotifyState::Watchdog];
        if !self.ready && is_serving(&groups) {
            states.push(NotifyState::Ready);
        }
        states
    }
}

/// Half of what the watchdog allows, as its protocol recommends, or more often.
fn period(watchdog: Option<Duration>) -> Duration {
    watchdog.map_or(SERVING, |limit| (limit / 2).min(SERVING))
}

/// Whether every group's first table is published: its program is attached then.
fn is_serving(groups: &[Counts]) -> bool {
    groups.iter().all(|group| group.is_serving)
}

/// The status line.
fn summary(groups: &[Counts]) -> String {
    let sum = |count: fn(&Counts) -> usize| groups.iter().map(count).sum::<usize>();
    let (working, workers) = (sum(|group| group.working), sum(|group| group.workers));
    let groups = match groups.len() {
        1 => "1 group".to_owned(),
        count => format!("{count} groups"),
    };
    format!("{groups}, {working} of {workers} workers working")
}

/// Sends the states, and says whether somebody got them. An error is no reason to stop serving: whoever listened may be gone.
///
/// Not by `sd_notify::notify`, which waits for room in the listener's queue: a service manager that hangs would take the daemon's
/// one loop along.
fn notify(states: &[NotifyState<'_>]) -> bool {
    let Some(listener) = env::var_os("NOTIFY_SOCKET") else { return false };
    let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
    match send(&listener, &lines) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!("cannot tell the service manager: {error}");
            false
        }
    }
}

fn send(listener: &OsStr, lines: &str) -> io::Result<()> {
    let address = match listener.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(lines.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(is_serving: bool) -> Counts {
        Counts { is_serving, is_hold_idle: true, working: 2, workers: 3 }
    }

    fn said(told: &mut Told, look: Look) -> Vec<String> {
        told.states(look).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ready_is_said_until_it_is_heard_and_not_before_every_group_has_a_table() {
        let mut told = Told::default();
        let half = vec![group(true), group(false)];
        assert_eq!(said(&mut told, Look::Alive(half)), ["WATCHDOG=1"]);
        assert_eq!(said(&mut told, Look::Alive(vec![group(true)])), ["WATCHDOG=1", "READY=1"]);
        told.ready = true;
        assert_eq!(said(&mut told, Look::Alive(vec![group(true)])), ["WATCHDOG=1"]);
    }

    #[test]
    fn a_silent_loop_keeps_the_watchdog_from_being_fed_and_groups_that_have_ended_do_not() {
        let mut told = Told::default();
        assert!(said(&mut told, Look::Silent(SERVING)).is_empty());
        assert_eq!(said(&mut told, Look::Alive(Vec::new())), ["WATCHDOG=1", "READY=1"]);
        assert_eq!(told.status, "0 groups, 0 of 0 workers working");
    }

    #[test]
    fn the_status_line_counts_groups_and_workers() {
        assert_eq!(summary(&[group(true)]), "1 group, 2 of 3 workers working");
        assert_eq!(summary(&[group(true), group(true)]), "2 groups, 4 of 6 workers working");
    }

    #[test]
    fn the_watchdog_is_fed_twice_in_its_time_or_more_often() {
        assert_eq!(period(Some(Duration::from_secs(4))), Duration::from_secs(2));
        assert_eq!(period(Some(Duration::from_secs(600))), SERVING);
        assert_eq!(period(None), SERVING);
    }
}
