//! The host executes a group's effects. It owns the parts (members, processes, record, report) and passes results between them; no part
//! sees another.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::sync::oneshot;

use crate::{
    daemon::{clock::Clock, foreground::Foreground, journal::Journal, settings::GroupSettings},
    engine::{
        effect::Effect,
        event::{Event, GenerationId, Millis, Moved, Slot},
        group::Group,
    },
    threads::Threads,
    workers::notify::NotifySocket,
};

use super::{
    adopt::Adoption,
    convert,
    members::Members,
    message::{Inbox, Message, Purpose},
    neighbours::Neighbours,
    observer::Observer,
    pending_reply::PendingReplies,
    processes::{Processes, Sign},
    record::{FORMAT, MAPS, Record, RecordNews, Saved},
    report::{Board, View},
    runtime::{Host, Recording},
    sharing::Sharing,
    starts::Starts,
    totals::Totals,
};

/// How often signs of readiness that nobody sends are looked for, while a worker is starting.
const READINESS: Duration = Duration::from_millis(5);

/// How often a listener is looked for that the bind hook would tell of: a bind that was not told of is found all the same.
const UNTOLD: Duration = Duration::from_millis(250);

/// How long something goes on to happen, in milliseconds, after the engine was told of anything or a connection was seen to wait.
const LIVELY: Millis = 5_000;

/// A group's parts.
#[derive(Debug)]
pub(crate) struct GroupHost {
    pub(super) settings: Arc<GroupSettings>,
    pub(super) members: Members,
    pub(super) processes: Processes,
    /// What makes the group outlive this daemon, where it is to.
    pub(super) record: Option<Record>,
    /// What lets any program share the addresses, where workers bind themselves and the kernel can.
    pub(super) sharing: Option<Sharing>,
    /// Why that is not there, where it was to be.
    pub(super) unshared: Option<String>,
    /// The server that somebody else starts, where its listeners are the workers.
    pub(super) adoption: Option<Adoption>,
    pub(super) replies: PendingReplies,
    pub(super) totals: Totals,
    /// Sockets of others in the group, as last seen.
    pub(super) strangers: u64,
    /// What was migrated from a generation's listener when its process ended, until somebody is told.
    pub(super) moved: BTreeMap<GenerationId, Moved>,
    /// Receipts for which it is still to be found out what was left behind.
    pub(super) owed: BTreeMap<GenerationId, super::execute::Owed>,
    /// Who waits for the group's release.
    pub(super) release: Option<super::release::Pending>,
    /// Until when something happens in it: what nobody tells is looked for more often.
    pub(super) lively_until: Millis,
    /// What has become of the workers' starts so far.
    pub(super) starts: Starts,
    /// Whether it was given back to the kernel.
    pub(super) is_released: bool,
    /// What is to be heard before anything else: answers that were there at once.
    pub(super) later: VecDeque<Message>,
    pub(super) shared: HostShared,
}

/// What a group has from its daemon.
#[derive(Debug)]
pub(crate) struct HostShared {
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
    pub(crate) observer: Observer,
    pub(crate) neighbours: Neighbours,
    pub(crate) threads: Threads,
    pub(crate) board: Board,
    pub(crate) foreground: Option<Foreground>,
    pub(crate) inbox: Inbox,
    /// The daemon's control socket.
    pub(crate) socket: PathBuf,
    /// Where workers say that they are ready. Its path goes with the group.
    pub(crate) notify: Arc<NotifySocket>,
}

impl Host for GroupHost {
    type Acknowledgement = oneshot::Sender<()>;

    fn execute(&mut self, engine: &Group, effect: Effect) {
        super::crash::before(&effect);
        let after = super::crash::after(&effect);
        self.carry_out(engine, effect);
        after();
    }

    fn let_go(&mut self, generation: GenerationId) {
        let message = self.processes.let_go(generation);
        self.later.extend(message);
    }

    fn acknowledge(&mut self, acknowledgement: oneshot::Sender<()>) {
        // Who waits for it is gone where the group is being closed.
        let _ = acknowledgement.send(());
    }

    fn record(&mut self, number: u64, engine: &Arc<Group>) -> Recording {
        let saved = self.saved(engine);
        match (&mut self.record, saved) {
            (Some(record), Some(saved)) => record.write(number, saved, &self.shared.inbox),
            _ => Recording::Over,
        }
    }

    fn publish(&mut self, engine: &Arc<Group>) {
        self.shared.board.publish(View {
            settings: self.settings.clone(),
            engine: engine.clone(),
            generations: self.processes.views(),
            readers: self.members.readers(),
            totals: self.totals.clone(),
            strangers: self.strangers,
        });
    }
}

impl GroupHost {
    /// The group as the next daemon has to know it; nothing where there is to be none.
    fn saved(&self, engine: &Arc<Group>) -> Option<Saved> {
        let record = self.record.as_ref()?;
        Some(Saved {
            format: FORMAT,
            maps: MAPS,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: record.boot().to_owned(),
            settings: self.settings.clone(),
            engine: engine.clone(),
            addresses: self.members.saved(),
            holders: self.processes.holders().collect(),
            processes: self.processes.saved(),
            totals: (&self.totals).into(),
            strangers: self.strangers,
            last_operation: self.replies.last(),
            last_event: self.shared.journal.last(),
        })
    }

    /// Has the task hear something before anything else, as if it had come from elsewhere.
    pub(super) fn tell(&mut self, event: Event) {
        self.later.push_back(Message::Event(event));
    }

    /// Adds an event to the journal.
    pub(super) fn journal(&self, kind: &str, generation: Option<GenerationId>, detail: String) {
        let worker = generation.map(|id| self.settings.name.worker(id.worker));
        let number = generation.map(|id| id.number);
        self.shared.journal.add(kind, &self.settings.name, worker, number, detail);
    }

    /// Has what nobody tells be looked for more often for a while.
    pub(super) fn stay_lively(&mut self) {
        self.lively_until = self.shared.clock.now() + LIVELY;
    }

    /// How long after the last look the next is to be taken for signs of readiness that nobody sends; nothing where none is wanted.
    pub(super) fn next_look_for_signs(&self, now: Millis) -> Option<Duration> {
        let adopted = self.adoption.as_ref().and_then(|adoption| adoption.pace(now));
        self.processes.signs().map(|sign| self.pace(sign, now)).chain(adopted).min()
    }

    /// How often a sign is looked for.
    fn pace(&self, sign: Sign, now: Millis) -> Duration {
        let is_told = self.sharing.as_ref().is_some_and(|sharing| !sharing.expects(now));
        match sign {
            Sign::Listeners(id, _) if is_told && !self.processes.is_urgent(id) => UNTOLD,
            Sign::Listeners(..) | Sign::Accepted(..) => READINESS,
        }
    }

    /// Whether a generation's listeners are to be looked for now: a look for another sign may come sooner.
    pub(super) fn is_search_due(&self, id: GenerationId, slot: Slot) -> bool {
        let pace = self.pace(Sign::Listeners(id, slot), self.shared.clock.now());
        self.processes.searched_since(id).is_none_or(|since| since + READINESS >= pace)
    }

    /// Tells what has become of the writing of records.
    pub(super) fn tell_of_record(&self, news: Option<RecordNews>) {
        match news {
            Some(RecordNews::Unsaved(why)) => {
                let detail = format!("{why}: a daemon that follows would not know of what happens now");
                self.journal("state-unsaved", None, detail);
            }
            Some(RecordNews::Saved) => {
                self.journal("state-saved", None, "the state is written again".to_owned());
            }
            None => {}
        }
    }

    /// Has descriptors of a slot's listeners be taken from the processes of the generation whose it is, on a thread. The task is told.
    pub(super) fn take_from(&mut self, id: GenerationId, slot: u16, purpose: Purpose) {
        let (mut inodes, process) = (self.members.inodes(slot), self.processes.process(id).cloned());
        if purpose == Purpose::Release {
            // Of datagrams, too: no descriptor of an adopted server's is kept.
            inodes = self.members.all_inodes(slot);
            inodes.extend(self.members.inodes_passed_over(slot));
        }
        let nothing = move |_| Message::Taken { slot, purpose, listeners: Vec::new() };
        let job = move || {
            let tree = process.map(|process| process.tree()).unwrap_or_default();
            let listeners = crate::sockets::pidfd::take_sockets(&tree, &inodes);
            Message::Taken { slot, purpose, listeners }
        };
        let at_once = self.shared.inbox.hand_in(&self.shared.threads.processes, nothing, job);
        self.later.extend(at_once);
    }

    /// Has the anchors outlive this daemon.
    pub(super) fn keep_anchors(&mut self) {
        if let Some(record) = &self.record {
            record.keep_anchors(self.members.anchors_to_keep());
        }
    }

    /// The words for a failure of the engine's.
    pub(super) fn fault(&self, failure: crate::engine::effect::Failure) -> crate::control::api::Fault {
        convert::fault(&self.settings.name, failure)
    }
}
