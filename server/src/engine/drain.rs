//! One generation's drain: from the table's change to the proof that nothing is left.
//!
//! In order: the table without it is published, and its grace period is the first instant; then its own half-open
//! handshakes and its queue run empty; then its open connections have a moment to end by themselves; then it is told to
//! stop and its connections are waited for; then its listener is shut down. Waiting for an empty queue alone would
//! be no drain (a handshake may still be half-open), nor would the kernel's migration alone (an ACK that races the close on
//! another CPU is reset, uncounted): so migration is for what is left at the deadline, or when the worker is lost.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    effect::Receiver,
    event::{Millis, Observation, OperationId},
};

/// The shortest and the longest time between two observations.
const OBSERVE_MIN: Millis = 2;
const OBSERVE_MAX: Millis = 100;

/// How many observations in a row must find handshakes and queue empty. A handshake that completes leaves the kernel's count of the
/// half-open before it is among the unaccepted: for an instant it is in neither.
const EMPTY_IN_A_ROW: u32 = 2;

/// How long SIGKILL may take to end a process before its generation ends without it.
pub(super) const KILL_PATIENCE: Millis = 10_000;

/// Why a generation drains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// It is to: a successor took over, or it leaves.
    Asked,
    /// Its process ended, or its listener does not serve any more.
    Lost(String),
    /// Of a server that somebody else starts: it has closed the listener.
    Left(String),
}

/// Where the drain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Step {
    /// The table without it is being published.
    Publish,
    /// Its handshakes and its queue run empty, and its flows become idle.
    Queue,
    /// Its open connections have a moment to end by themselves.
    Settle,
    /// It was told to stop; its process and connections end.
    Stop,
    /// Its listener is being shut down.
    Shutdown,
}

impl Step {
    /// The step's name in a receipt.
    pub fn name(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Queue => "queue",
            Self::Settle => "settle",
            Self::Stop => "stop",
            Self::Shutdown => "shutdown",
        }
    }
}

/// How far the listener's end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shut {
    /// It listens.
    Not,
    /// It was asked for.
    Asked,
    /// It is down, and what it held has moved.
    Done,
}

/// How long the parts of a drain may take, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// For open connections to end by themselves.
    pub settle: Millis,
    /// From the stop signal to SIGKILL, once nothing is left or the deadline is over.
    pub stop: Millis,
}

/// The state of a drain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// Who waits for its receipt.
    pub operation: Option<OperationId>,
    /// Why.
    pub cause: Cause,
    /// The generation that took over.
    pub successor: Option<u64>,
    /// When it stops waiting and has the kernel migrate what is left.
    pub deadline: Millis,
    /// The table that is the first without it, once its number is known.
    pub epoch: Option<u64>,
    /// When that table's grace period was over.
    pub first_instant: Option<Millis>,
    /// Where it is.
    pub step: Step,
    step_since: Millis,
    began_at: Millis,
    /// The steps done, with their durations.
    pub steps: Vec<(Step, Millis)>,
    /// As found first.
    pub began: Option<Observation>,
    /// As found last, since the first instant.
    pub last: Option<Observation>,
    /// Observations in a row, up to the last, that found handshakes and queue empty.
    empty_in_a_row: u32,
    observing: bool,
    next_observation: Millis,
    /// When it was told to stop.
    pub stop_sent: Option<Millis>,
    /// When it was killed.
    pub kill_sent: Option<Millis>,
    /// How far its listener is.
    pub shut: Shut,
    /// Who received what it held.
    #[serde(with = "super::pairs")]
    pub moved: BTreeMap<Receiver, u64>,
    /// Unaccepted connections that the kernel reset with the listener, as last seen: 0 where it migrates them.
    pub reset: u64,
    /// Whether the deadline came before the end.
    pub late: bool,
    /// As found last before the deadline, where that came before the end.
    pub at_deadline: Option<Observation>,
    /// Whether its process had ended before it was told to.
    pub deserted: bool,
    /// Whether its processes are another's: they are told nothing, and a listener that they serve is not shut.
    #[serde(default)]
    pub is_hands_off: bool,
}

/// What a drain wants done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Look what is left.
    Observe,
    /// Tell the process to stop.
    Stop,
    /// Kill its processes.
    Kill,
    /// Shut the listener down.
    Shut,
    /// Nothing is left: write the receipt.
    End,
}

impl Drain {
    /// A drain that begins now.
    pub fn new(
        now: Millis,
        deadline: Millis,
        cause: Cause,
        operation: Option<OperationId>,
        successor: Option<u64>,
    ) -> Self {
        Self {
            operation,
            cause,
            successor,
            deadline,
            epoch: None,
            first_instant: None,
            step: Step::Publish,
            step_since: now,
            began_at: now,
            steps: Vec::new(),
            began: None,
            last: None,
            empty_in_a_row: 0,
            observing: false,
            next_observation: now,
            stop_sent: None,
            kill_sent: None,
            shut: Shut::Not,
            moved: BTreeMap::new(),
            reset: 0,
            late: false,
            at_deadline: None,
            deserted: false,
            is_hands_off: false,
        }
    }

    /// The table without it is published, and nothing reads an older one.
    pub fn published(&mut self, now: Millis) {
        if self.first_instant.is_none() {
            self.first_instant = Some(now);
            self.next_observation = now;
            self.enter(Step::Queue, now);
        }
    }

    /// Takes in what was found. Only what was asked for after the first instant proves anything.
    pub fn observed(&mut self, now: Millis, first_instant: Option<Millis>, observation: Observation) {
        // One that comes twice says nothing new, and is not to put the next one off.
        if !std::mem::take(&mut self.observing) {
            return;
        }
        self.began.get_or_insert(observation);
        if first_instant.is_some() {
            let before = self.last.replace(observation);
            let Observation { handshakes, unaccepted, flows, by_id, unread, connections: _, is_estimate: _ } =
                observation;
            let is_empty = handshakes + unaccepted + flows + by_id + unread == 0;
            self.empty_in_a_row = if is_empty { self.empty_in_a_row + 1 } else { 0 };
            if let (true, Some(last), Some(before)) = (self.shut != Shut::Not, &mut self.last, before) {
                // They have gone elsewhere since, which is what it cost them, and none of its end.
                (last.flows, last.by_id) = (before.flows, before.by_id);
            }
        }
        self.next_observation = next_observation(now, now - self.began_at);
    }

    /// Nobody accepts from its listener any more: what it holds must not wait for the deadline. Once it was told to stop it may
    /// do so. Whether that changes anything.
    pub fn abandoned(&mut self, why: &str) -> bool {
        let changes = self.cause == Cause::Asked && !self.deserted && self.stop_sent.is_none();
        if changes {
            self.cause = Cause::Lost(why.to_owned());
        }
        changes
    }

    /// Goes on in another daemon: what was asked for and not answered is asked for again.
    pub fn resume(&mut self, now: Millis) {
        self.observing = false;
        self.next_observation = now;
        if self.shut == Shut::Asked {
            self.shut = Shut::Not;
        }
    }

    /// The listener is down. Where the kernel `migrates`, what it held has moved; else it was reset.
    pub fn listener_shut(&mut self, moved: BTreeMap<Receiver, u64>, migrates: bool) {
        if self.shut != Shut::Done {
            self.shut = Shut::Done;
            self.moved = moved;
            // What was seen in the queue is not left: it has moved, or is counted here and seen by no later look.
            if let Some(last) = &mut self.last {
                self.reset = if migrates { 0 } else { last.unaccepted };
                last.unaccepted = 0;
            }
        }
    }

    /// What to do now, one act at a time; the caller carries it out and asks again. `alive` is whether the
    /// process still runs.
    pub fn next(&mut self, now: Millis, alive: bool, limits: Limits) -> Option<Act> {
        if self.observation_is_due(now) {
            self.observing = true;
            return Some(Act::Observe);
        }
        self.first_instant?;
        if now >= self.deadline && !self.late && self.step < Step::Shutdown {
            self.late = self.something_is_left(alive);
            self.at_deadline = self.last.or(self.began).filter(|_| self.late);
        }
        let hasty = self.late || self.deserted || self.cause != Cause::Asked;
        let is_shut = hasty && (!self.is_hands_off || self.has_left());
        if is_shut && self.shut == Shut::Not {
            self.shut = Shut::Asked;
            return Some(Act::Shut);
        }
        match self.is_hands_off {
            true => self.wait_only(now, hasty),
            false => self.advance(now, alive, hasty, limits),
        }
    }

    /// Whether the listener was closed by the server that has it.
    pub(super) fn has_left(&self) -> bool {
        matches!(self.cause, Cause::Left(_))
    }

    /// Carries the drain of another's process on: until its queue and its connections have ended by themselves.
    fn wait_only(&mut self, now: Millis, hasty: bool) -> Option<Act> {
        if self.step == Step::Queue && (hasty || self.queue_is_empty()) {
            self.enter(Step::Settle, now);
        }
        if self.step == Step::Settle && (hasty || self.connections() == Some(0)) {
            self.enter(Step::Shutdown, now);
        }
        // What a closed listener held has moved, and is counted first.
        let is_over = self.step == Step::Shutdown && (!self.has_left() || self.shut == Shut::Done);
        if is_over {
            self.enter(Step::Shutdown, now);
        }
        is_over.then_some(Act::End)
    }

    /// The server has closed the listener while it drained.
    pub fn left(&mut self, why: String) {
        self.cause = Cause::Left(why);
    }

    fn advance(&mut self, now: Millis, alive: bool, hasty: bool, limits: Limits) -> Option<Act> {
        if self.step == Step::Queue && (hasty || self.queue_is_empty()) {
            self.enter(Step::Settle, now);
        }
        let settled =
            |drain: &Self| hasty || drain.connections() == Some(0) || now >= drain.step_since + limits.settle;
        if self.step == Step::Settle && (!alive || settled(self)) {
            self.enter(Step::Stop, now);
            if alive && self.stop_sent.is_none() {
                self.stop_sent = Some(now);
                return Some(Act::Stop);
            }
        }
        if self.step == Step::Stop {
            if self.kill_is_due(now, limits) {
                self.kill_sent = Some(now);
                return Some(Act::Kill);
            }
            let gave_up = self.kill_sent.is_some_and(|sent| now >= sent + KILL_PATIENCE);
            let gone = !alive && (self.connections() == Some(0) || self.kill_sent.is_some());
            if gone || gave_up {
                self.enter(Step::Shutdown, now);
            }
        }
        if self.step == Step::Shutdown {
            match self.shut {
                Shut::Not => {
                    self.shut = Shut::Asked;
                    return Some(Act::Shut);
                }
                Shut::Asked => {}
                Shut::Done => {
                    self.enter(Step::Shutdown, now);
                    return Some(Act::End);
                }
            }
        }
        None
    }

    /// When [`next`](Self::next) will have something to do by itself.
    pub fn wakes_at(&self, now: Millis, limits: Limits) -> Option<Millis> {
        let observation = (!self.observing && self.wants_observation()).then_some(self.next_observation);
        let deadline_counts = self.first_instant.is_some() && self.step < Step::Shutdown;
        let deadline = (deadline_counts && now < self.deadline).then_some(self.deadline);
        let is_settling = self.step == Step::Settle && !self.is_hands_off;
        let settle = is_settling.then_some(self.step_since + limits.settle);
        let kill = (self.step == Step::Stop).then(|| match self.kill_sent {
            Some(sent) => sent + KILL_PATIENCE,
            None => self.kill_at(limits),
        });
        [observation, deadline, settle, kill].into_iter().flatten().min()
    }

    fn enter(&mut self, step: Step, now: Millis) {
        self.steps.push((self.step, now - self.step_since));
        self.step = step;
        self.step_since = now;
    }

    fn observation_is_due(&self, now: Millis) -> bool {
        !self.observing && self.wants_observation() && now >= self.next_observation
    }

    fn wants_observation(&self) -> bool {
        match self.step {
            Step::Publish => self.began.is_none(),
            Step::Queue | Step::Settle | Step::Stop => true,
            Step::Shutdown => false,
        }
    }

    fn queue_is_empty(&self) -> bool {
        self.empty_in_a_row >= EMPTY_IN_A_ROW
    }

    fn connections(&self) -> Option<u64> {
        self.last.map(|last| last.connections)
    }

    fn something_is_left(&self, alive: bool) -> bool {
        let is_untold = alive && self.stop_sent.is_none() && !self.is_hands_off;
        !self.queue_is_empty() || self.connections() != Some(0) || is_untold
    }

    fn kill_is_due(&self, now: Millis, limits: Limits) -> bool {
        self.kill_sent.is_none() && now >= self.kill_at(limits)
    }

    /// With nothing left, a worker has `stop` from its signal; with connections open, it has it from the deadline.
    fn kill_at(&self, limits: Limits) -> Millis {
        let told = self.stop_sent.unwrap_or(self.step_since);
        if self.connections() == Some(0) { told + limits.stop } else { told.max(self.deadline) + limits.stop }
    }
}

/// When to look again at a drain that has gone on for so long: the longer, the later. On times that drains of about one age have in
/// common, so that however many there are, they are looked at together.
fn next_observation(now: Millis, age: Millis) -> Millis {
    let pace = (age / 8).clamp(OBSERVE_MIN, OBSERVE_MAX);
    let grid = 1 << (pace / 4).max(1).ilog2();
    (now + pace) / grid * grid
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drains_of_about_one_age_are_looked_at_together() {
        assert_eq!([0, 8, 40].map(|age| next_observation(1_001, age)), [1_003, 1_003, 1_006]);
        let late: std::collections::BTreeSet<Millis> =
            (0..1_000).map(|at| next_observation(at, 9_000)).collect();
        assert_eq!(late.len(), 1_000 / 16 + 1);
        for (now, age) in (0..200).flat_map(|now| (0..2_000).map(move |age| (now, age))) {
            let pace = (age / 8).clamp(OBSERVE_MIN, OBSERVE_MAX);
            let next = next_observation(now, age) - now;
            assert!(next > pace - pace / 4 - 1 && next <= pace, "{next} at {now}, {age}");
        }
    }

    const LIMITS: Limits = Limits { settle: 1_000, stop: 1_000 };

    #[test]
    fn flows_that_were_cut_count_though_the_process_lives_on_without_them() {
        let mut drain = Drain::new(0, 100, Cause::Asked, None, Some(2));
        drain.published(5);
        let see = |drain: &mut Drain, now, flows| {
            drain.observing = true;
            let observation = Observation { flows, ..Observation::default() };
            drain.observed(now, drain.first_instant, observation);
            drain.last.map(|last| last.flows)
        };
        assert_eq!(see(&mut drain, 5, 9), Some(9));
        assert_eq!(see(&mut drain, 50, 7), Some(7));
        drain.next_observation = 200;
        assert_eq!(drain.next(100, true, LIMITS), Some(Act::Shut));
        assert_eq!(see(&mut drain, 110, 3), Some(7), "the others have gone by the table by now");
        drain.listener_shut(BTreeMap::new(), true);
        assert_eq!(see(&mut drain, 120, 0), Some(7));
    }
}
