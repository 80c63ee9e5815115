//! One group's task: brings the engine events, and carries its effects out.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use server_common::counters::SlotCounters;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    control::api::{Fault, GroupStatus, PolicyReport, Response, Table},
    engine::{
        effect::Effect,
        event::{Command, Event, GenerationId, Millis, OperationId},
        group::Group,
    },
    sockets::{diag::Diag, procfs::Processes},
    workers::{
        limits::{Limit, Resource},
        notify::{self, Notification, NotifySocket},
        output::OutputSink,
        user::ResolvedUser,
    },
};

use super::{
    cells::CellKeeper, clock::Clock, crash, endpoint::Endpoint, flow_list::FlowQuestion, journal::Journal,
    neighbours::Neighbours, persistence::Persistence, reload::Proposal, running::Running,
    settings::GroupSettings, totals::Totals, tune::Tune, waiter::Waiter,
};

/// How often the group looks for what nobody tells, lost listeners and an occupied hold, while something happens in it.
const SUPERVISION: Duration = Duration::from_millis(250);

/// How often it looks in any case: for that, for strangers, and whether somebody has undone what it did in the kernel.
const MENDING: Duration = Duration::from_secs(1);

/// How long something goes on to happen, in milliseconds, after the engine was told of anything or a connection was seen to wait.
const LIVELY: Millis = 5_000;

/// How often it looks for signs of readiness that nobody sends, while a worker is starting.
const READINESS: Duration = Duration::from_millis(5);

/// How often it samples the queues for the policy `least-loaded`: together with the window of [`stall`](super::stall), often
/// enough for 50 ms.
const SAMPLING: Duration = Duration::from_millis(8);

/// How many of a group's workers work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Whether its first table is published: its program is attached then.
    pub(super) is_serving: bool,
    pub(super) working: usize,
    pub(super) workers: usize,
}

/// What can be sent to a group's task.
#[derive(Debug)]
pub(super) enum Message {
    /// Someone asks for a change.
    Command {
        command: Command,
        answers: mpsc::Sender<Response>,
        done: oneshot::Sender<Result<Response, Fault>>,
    },
    /// Someone asks for the state, and has looked which processes there are.
    Status { processes: Arc<Processes>, answer: oneshot::Sender<Result<GroupStatus, Fault>> },
    /// Someone asks why the group is not ready, if it is not.
    Readiness(oneshot::Sender<Option<String>>),
    /// Someone asks how many workers work, which needs nothing else.
    Count(oneshot::Sender<Result<Counts, Fault>>),
    /// Someone asks for the table, and where clients go.
    Table { clients: Vec<SocketAddr>, to: Option<SocketAddr>, answer: oneshot::Sender<Result<Table, Fault>> },
    /// Someone asks for UDP flows.
    Flows(FlowQuestion),
    /// Someone asks for the policy.
    Policy(oneshot::Sender<Result<PolicyReport, Fault>>),
    /// Someone asks for another policy or weight, or what that would change.
    Tune(Tune),
    /// Another configuration is to be taken over.
    Propose(Box<Proposal>),
    /// A probe has connected, or could not.
    Probed { generation: GenerationId, connected: io::Result<TcpStream> },
    /// A process has written to the notification socket.
    Notified(Notification),
    /// A generation's process has ended.
    Exited { generation: GenerationId, exit: String },
    /// A table is published on every listen address, or could not be on one.
    Publication { epoch: u64, result: Result<(), String> },
    /// Someone wants the group to be given back to the kernel.
    Release(oneshot::Sender<Result<Response, Fault>>),
    /// An effect that could not be carried out before, once more.
    Again(Effect),
}

/// A group and all that the daemon holds for it.
pub(super) struct Actor {
    pub(super) settings: Arc<GroupSettings>,
    pub(super) engine: Group,
    pub(super) clock: Clock,
    pub(super) journal: Journal,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) diag: Diag,
    pub(super) neighbours: Neighbours,
    pub(super) notify: Arc<NotifySocket>,
    /// The task that reads it.
    pub(super) listening: JoinHandle<()>,
    pub(super) output: OutputSink,
    /// The limits that workers have where nothing is configured.
    pub(super) limits: Vec<(Resource, Limit)>,
    /// Whom the workers run as, where that is not the daemon's user.
    pub(super) user: Option<ResolvedUser>,
    pub(super) generations: BTreeMap<GenerationId, Running>,
    pub(super) totals: Totals,
    pub(super) strangers: u64,
    pub(super) cells: CellKeeper,
    pub(super) sender: mpsc::UnboundedSender<Message>,
    pub(super) messages: mpsc::UnboundedReceiver<Message>,
    pub(super) waiters: BTreeMap<OperationId, Waiter>,
    pub(super) last_operation: OperationId,
    /// What makes the group outlive this daemon, where it is to.
    pub(super) persistence: Option<Persistence>,
    /// Whether it goes on with what another daemon had.
    pub(super) is_taken_over: bool,
    /// Whether the last look at what others can take away was at the odd slots.
    pub(super) mended_odd: bool,
    /// Until when something happens in it: what nobody tells is looked for more often.
    pub(super) lively_until: Millis,
    /// Whether it was given back to the kernel.
    pub(super) is_released: bool,
}

impl Actor {
    /// Runs until the group has been stopped.
    pub(super) async fn run(mut self) {
        let [mut supervision, mut mending, mut sampling] =
            [SUPERVISION, MENDING, SAMPLING].map(|period| self.clock.ticks(period));
        if self.is_taken_over {
            self.resume();
        } else {
            self.feed(Event::Tick);
        }
        while !self.engine.is_stopped() && !self.is_released {
            let now = self.clock.now();
            let wake = self.engine.wakes_at(now).map(|at| Instant::from_std(self.clock.instant(at)));
            let far = Instant::now() + Duration::from_secs(3600);
            let looks = self.looks_for_readiness();
            let samples = self.samples_loads();
            let is_lively = now < self.lively_until;
            tokio::select! {
                message = self.messages.recv() => match message {
                    Some(Message::Propose(proposal)) => self.consider(*proposal).await,
                    Some(message) => self.receive(message),
                    None => break,
                },
                () = tokio::time::sleep_until(wake.unwrap_or(far)) => self.feed(Event::Tick),
                () = tokio::time::sleep(READINESS), if looks => self.look_for_readiness(),
                _ = sampling.tick(), if samples => self.sample_loads(),
                _ = supervision.tick(), if is_lively => self.supervise(),
                _ = mending.tick() => {
                    self.mend();
                    self.look_around();
                }
            }
        }
        if let Some(persistence) = &self.persistence {
            self.notify.remove();
            persistence.remove();
        }
        self.close().await;
    }

    /// Gives up a group that never ran, and leaves behind what was there before it and nothing else.
    pub(super) async fn abandon(self) {
        if let (Some(persistence), false) = (&self.persistence, self.is_taken_over) {
            self.notify.remove();
            persistence.undo();
        }
        self.close().await;
    }

    /// Lets everything go: once this is over, another group can have its name and its addresses.
    pub(super) async fn close(mut self) {
        // It holds the notification socket, whose path goes with it.
        self.listening.abort();
        // Its error is that it was aborted.
        let _ = (&mut self.listening).await;
    }

    fn receive(&mut self, message: Message) {
        match message {
            Message::Command { command, answers, done } => {
                self.last_operation += 1;
                let operation = self.last_operation;
                self.waiters.insert(operation, Waiter::new(answers, done));
                self.feed(Event::Command { operation, command });
            }
            // Whoever asked may be gone.
            Message::Status { processes, answer } => drop(answer.send(self.status(&processes))),
            Message::Readiness(answer) => drop(answer.send(self.unready())),
            Message::Count(answer) => drop(answer.send(Ok(self.counts()))),
            Message::Table { clients, to, answer } => drop(answer.send(self.table(&clients, to))),
            Message::Flows(question) => self.answer_flows(question),
            Message::Policy(answer) => drop(answer.send(Ok(self.policy_report()))),
            Message::Tune(tune) => self.tune(tune),
            // The loop has taken it: it waits, as nothing here does.
            Message::Propose(_) => {}
            Message::Probed { generation, connected } => self.probed(generation, connected),
            Message::Notified(said) => {
                if said.messages.contains(&notify::Message::Ready) {
                    self.told(|leader| said.is_from(leader));
                }
            }
            Message::Exited { generation, exit } => self.process_exited(generation, exit),
            Message::Publication { epoch, result } => self.publication_ended(epoch, result),
            Message::Release(done) => drop(done.send(self.release())),
            Message::Again(effect) => {
                for event in self.carry(effect) {
                    self.feed(event);
                }
            }
        }
    }

    /// Gives the engine an event and carries out what it wants, and what comes of that, until nothing is left to do
    /// at once.
    pub(super) fn feed(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            tracing::trace!(?event, "event");
            // What was looked at is looked at again: everything else is known from now on.
            let is_look = matches!(event, Event::Tick | Event::Observed { .. });
            let effects = self.engine.handle(self.clock.now(), event);
            if !is_look || !effects.is_empty() {
                self.save(None);
                self.stay_lively();
            }
            for effect in effects {
                tracing::trace!(?effect, "effect");
                events.extend(self.carry_and_fail(effect));
            }
        }
    }

    /// Has what nobody tells be looked for more often for a while.
    pub(super) fn stay_lively(&mut self) {
        self.lively_until = self.clock.now() + LIVELY;
    }

    /// Carries an effect out, unless the process is to end there.
    pub(super) fn carry_and_fail(&mut self, effect: Effect) -> Vec<Event> {
        crash::before(&effect);
        let after = crash::after(&effect);
        let events = self.carry(effect);
        after();
        events
    }

    /// The group's listen addresses, for people.
    pub(super) fn addresses(&self) -> String {
        let addresses: Vec<String> =
            self.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        addresses.join(", ")
    }

    /// Sums up what was counted, over the listen addresses.
    pub(super) fn sum(parts: impl IntoIterator<Item = SlotCounters>) -> SlotCounters {
        parts.into_iter().fold(SlotCounters::default(), |sum, part| sum.plus(&part))
    }
}
