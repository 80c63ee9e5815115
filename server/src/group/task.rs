//! One group's task: hears what it is told and asked, and wakes the engine when time has passed.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, Interval},
};

use crate::{
    daemon::settings::GroupSettings,
    engine::{
        event::{Command, Event},
        plan::Change,
    },
    policy::Policy,
    sockets::address::ListenAddress,
    workers::notify,
};

use super::{
    adopt::{Follower, Look, uninstall},
    host::GroupHost,
    listening,
    message::{Ask, Message, Tune},
    record::Expired,
    reload::{Approval, Proposal},
    runtime::{Host as _, Runtime},
    sharing::Sharing,
};

/// How often the group looks for what nobody tells, lost listeners and an occupied hold, while something happens in it.
const SUPERVISION: Duration = Duration::from_millis(250);

/// How often it looks in any case: for that, for strangers, and whether somebody has undone what it did in the kernel.
const UPKEEP: Duration = Duration::from_secs(1);

/// How often it samples the queues for the policy `least-loaded`: together with the window of the judgement of stalls, often
/// enough for 50 ms.
const SAMPLING: Duration = Duration::from_millis(8);

/// How many messages are heard before anything else of the daemon has its turn.
const BATCH: usize = 64;

/// A group that can run.
#[derive(Debug)]
pub(crate) struct GroupTask {
    pub(super) runtime: Runtime<GroupHost>,
    messages: mpsc::Receiver<Message>,
    /// The runtime where clients are served, and notifications are read.
    pub(super) outside: Handle,
    /// The task that reads them, while the group runs.
    listening: Option<JoinHandle<()>>,
    /// Whether it goes on with what another daemon had.
    is_taken_over: bool,
    /// What was found of a server that is adopted.
    pub(super) first_look: Option<Look>,
    /// The task that tells of the unit whose server that is.
    follower: Option<Follower>,
    /// When it looked last for signs of readiness that nobody sends.
    looked_at: Instant,
}

/// The group's clocks.
struct Ticks {
    supervision: Interval,
    upkeep: Interval,
    sampling: Interval,
}

impl GroupTask {
    pub(super) fn new(
        runtime: Runtime<GroupHost>,
        messages: mpsc::Receiver<Message>,
        outside: Handle,
        is_taken_over: bool,
        first_look: Option<Look>,
    ) -> Self {
        Self {
            runtime,
            messages,
            outside,
            listening: None,
            is_taken_over,
            first_look,
            follower: None,
            looked_at: Instant::now(),
        }
    }

    /// How the group is configured.
    pub(crate) fn settings(&self) -> &Arc<GroupSettings> {
        &self.runtime.host().settings
    }

    /// The group's listen addresses, for people.
    pub(crate) fn addresses(&self) -> String {
        let addresses =
            self.runtime.host().members.addresses().map(|address: ListenAddress| address.to_string());
        addresses.collect::<Vec<_>>().join(", ")
    }

    /// Runs until the group has been stopped or given back.
    pub(crate) async fn run(mut self) {
        let clock = self.runtime.host().shared.clock;
        let [supervision, upkeep, sampling] =
            [SUPERVISION, UPKEEP, SAMPLING].map(|period| clock.ticks(period));
        let mut ticks = Ticks { supervision, upkeep, sampling };
        let shared = &self.runtime.host().shared;
        self.follower = self.runtime.host().followed().map(|followed| {
            Follower::begin(&self.outside, followed, self.runtime.host().shared.inbox.clone())
        });
        self.listening = Some(listening::begin(&self.outside, shared.notify.clone(), shared.inbox.clone()));
        if self.is_taken_over {
            self.resume();
        } else {
            if let Some(first) = self.first_look.take() {
                // Before the first table, which has them.
                self.adopted(Ok(first));
            }
            self.take_in(Event::Tick);
        }
        loop {
            self.runtime.settle();
            if self.is_over() {
                break;
            }
            match self.runtime.host_mut().later.pop_front() {
                Some(message) => self.hear_all(message).await,
                None => self.wait(&mut ticks).await,
            }
        }
        self.end().await;
    }

    fn is_over(&self) -> bool {
        let host = self.runtime.host();
        let is_stopped =
            self.runtime.engine().is_stopped() && self.runtime.is_settled() && !host.replies.are_owed();
        is_stopped || host.is_released
    }

    /// Hears a message, and those that are there already, up to a bound.
    async fn hear_all(&mut self, first: Message) {
        let mut next = Some(first);
        for _ in 0..BATCH {
            let Some(message) = next else { return };
            match message {
                // The one that waits: for all other groups to have answered, which takes each as long as one event.
                Message::Propose(proposal) => self.consider(*proposal).await,
                message => self.hear(message),
            }
            let host = self.runtime.host_mut();
            next = host.later.pop_front().or_else(|| self.messages.try_recv().ok());
        }
        self.runtime.host_mut().later.extend(next);
        tokio::task::yield_now().await;
    }

    async fn wait(&mut self, ticks: &mut Ticks) {
        let (clock, far) = (self.runtime.host().shared.clock, Instant::now() + Duration::from_secs(3600));
        let now = clock.now();
        let wake = self.runtime.engine().wakes_at(now).map(|at| Instant::from_std(clock.instant(at)));
        let host = self.runtime.host();
        let expiry = host.record.as_ref().and_then(|record| record.expires_at()).map(Instant::from_std);
        let looks_at = host.next_look_for_signs(now).map(|pace| self.looked_at + pace);
        let samples = matches!(self.runtime.engine().policy(), Policy::LeastLoaded { .. });
        let is_lively = now < host.lively_until;
        tokio::select! {
            // The group's end drops the sender with the daemon's books: there is always one.
            message = self.messages.recv() => if let Some(message) = message { self.hear_all(message).await },
            () = tokio::time::sleep_until(wake.unwrap_or(far)) => self.take_in(Event::Tick),
            () = tokio::time::sleep_until(expiry.unwrap_or(far)) => self.give_record_up(),
            () = tokio::time::sleep_until(looks_at.unwrap_or(far)) => {
                self.looked_at = Instant::now();
                self.look_for_signs();
            }
            _ = ticks.sampling.tick(), if samples => self.runtime.host_mut().sample_loads(),
            _ = ticks.supervision.tick(), if is_lively => self.supervise(),
            _ = ticks.upkeep.tick() => self.look_around(),
        }
    }

    pub(super) fn take_in(&mut self, event: Event) {
        let now = self.runtime.host().shared.clock.now();
        // Nothing has happened where time has passed or a look was taken.
        if !matches!(event, Event::Tick | Event::Observed { .. }) {
            self.runtime.host_mut().stay_lively();
        }
        self.runtime.take_in(now, event);
    }

    pub(super) fn hear(&mut self, message: Message) {
        match message {
            Message::Command(Ask { command, answers, done }) => {
                if let Err(fault) = self.runtime.host_mut().prepare(&command) {
                    return drop(done.send(Err(fault)));
                }
                let operation = self.runtime.host_mut().replies.add(answers, done);
                self.take_in(Event::Command { operation, command });
            }
            Message::Tune(tune) => self.tune(tune),
            // Its wait is the caller's.
            Message::Propose(_) => {}
            Message::Release { done, is_last } => self.release(done, is_last),
            Message::Event(event) => self.take_in(event),
            Message::Changed => self.runtime.changed(),
            Message::Again(effect) => {
                let (engine, host) = self.runtime.parts();
                host.carry_out(engine, effect);
            }
            Message::Recorded { number, result } => self.recorded(number, result),
            Message::Forked { generation, result } => self.forked(generation, result),
            Message::Executed { generation, failure } => self.executed(generation, failure.as_ref()),
            Message::Exited { generation, exit } => {
                if let Some(ended) = self.runtime.host_mut().processes.exited(generation, exit) {
                    self.exited(generation, ended);
                }
            }
            Message::LeftBehind { generation, killed } => {
                self.runtime.host_mut().left_behind(generation, &killed)
            }
            Message::Published { epoch, result } => {
                let (engine, host) = self.runtime.parts();
                host.published(engine, epoch, result);
            }
            Message::HoldKept { slot, result } => self.runtime.host_mut().hold_kept(slot, result),
            Message::Taken { slot, purpose, listeners } => self.taken(slot, purpose, listeners),
            Message::Discovered { generation, found, astray } => self.discovered(generation, found, astray),
            Message::Adopted(found) => self.adopted(found),
            Message::UnitChanged(state) => self.unit_changed(&state),
            Message::Neighbours(found) => {
                let most = self.sockets_most();
                self.runtime.host_mut().strangers_found(most, found);
            }
            Message::Astray { generation, astray } => self.runtime.host_mut().goes_astray(generation, astray),
            Message::Unattended { generation, inodes } => self.unattended(generation, &inodes),
            Message::Notified { said, acknowledgement } => {
                let is_ready = said.messages.contains(&notify::Message::Ready);
                if is_ready && self.told(|leader| said.is_from(leader)) {
                    self.runtime.acknowledge(acknowledgement);
                } else {
                    // Nothing comes of it that the next daemon would have to know.
                    self.runtime.host_mut().acknowledge(acknowledgement);
                }
            }
            Message::Bound { bind, belongs_to } => self.bound(&bind, &belongs_to),
            Message::HookAttached(attached) => self.hook_attached(attached),
            Message::Probed { generation, connected } => self.probed(generation, connected),
        }
    }

    /// Plans a change of policy or weight, and begins it in the same step.
    fn tune(&mut self, Tune { change, over, planned, done }: Tune) {
        if change == Change::Policy(Policy::Cpu) {
            // The table that first decides by them is to know them.
            self.look_at_cpus(|_| true);
        }
        match self.runtime.engine().plan(&change) {
            Ok(plan) => drop(planned.send(plan)),
            Err(failure) => {
                let fault = self.runtime.host().fault(failure);
                return drop(done.send(Err(fault)));
            }
        }
        let command = match change {
            Change::Policy(policy) => Command::SetPolicy(policy),
            Change::Weight { worker, weight } => Command::SetWeight { worker, weight, over },
        };
        // No receipts come on the way.
        self.hear(Message::Command(Ask { command, answers: mpsc::channel(1).0, done }));
    }

    /// Answers a proposal and does nothing else until the verdict has come: what was said of this instant stays so.
    async fn consider(&mut self, Proposal { settings, user, change, answer, verdict }: Proposal) {
        let can = self.runtime.engine().check_reconfiguration(&change);
        let can = can.map_err(|failure| self.runtime.host().fault(failure));
        let is_possible = can.is_ok();
        if answer.send(can).is_err() || !is_possible {
            return;
        }
        let Ok(Approval { answers, done }) = verdict.await else { return };
        let host = self.runtime.host_mut();
        host.settings = Arc::new(settings);
        host.processes.reconfigure(host.settings.clone(), user);
        self.hear(Message::Command(Ask { command: Command::Reconfigure(Box::new(change)), answers, done }));
    }

    fn recorded(&mut self, number: u64, result: Result<(), String>) {
        let host = self.runtime.host_mut();
        if let Some(record) = &mut host.record {
            let (is_outdated, news) = record.recorded(number, result);
            host.tell_of_record(news);
            if is_outdated {
                self.runtime.changed();
            }
        }
        self.runtime.recorded(number);
    }

    fn give_record_up(&mut self) {
        let host = self.runtime.host_mut();
        let expired = host.record.as_mut().and_then(|record| record.expired(std::time::Instant::now()));
        match expired {
            Some(Expired::Late(number, news)) => {
                host.tell_of_record(news);
                self.runtime.is_late(number);
            }
            Some(Expired::GivenUp) => self.runtime.gave_up(),
            None => {}
        }
    }

    /// Gives up a group that never ran, and leaves behind what was there before it and nothing else. It waits for files and the
    /// keeper.
    pub(crate) async fn abandon(mut self) {
        let host = self.runtime.host();
        if let (Some(record), false) = (&host.record, self.is_taken_over) {
            host.shared.notify.remove();
            record.undo();
        }
        let sharing = self.runtime.host_mut().sharing.take().filter(|_| !self.is_taken_over);
        sharing.into_iter().for_each(Sharing::remove);
        self.close().await;
    }

    /// The group has ended: removes what made it outlive the daemon.
    async fn end(mut self) {
        let host = self.runtime.host();
        if let Some(record) = &host.record {
            host.shared.notify.remove();
            record.remove().await;
        }
        let host = self.runtime.host_mut();
        if let Some(followed) = host.followed() {
            self.follower = None;
            // It is not waited for: systemd may take its time.
            self.outside.spawn(async move { uninstall(&followed.unit).await });
        }
        let host = self.runtime.host_mut();
        if let Some(sharing) = host.sharing.take() {
            // Where there is no thread for it, the next daemon removes the cgroup.
            let _ = host.shared.threads.records.run(move || sharing.remove()).await;
        }
        self.close().await;
    }

    /// Lets everything go: once this is over, another group can have its name and its addresses.
    async fn close(mut self) {
        // It holds the notification socket, whose path goes with it.
        if let Some(listening) = self.listening.take() {
            listening.abort();
            // Its error is that it was aborted.
            let _ = listening.await;
        }
    }
}
