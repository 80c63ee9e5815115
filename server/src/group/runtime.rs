//! A group's runtime: takes an event, asks the engine, has the record written, hands the effects out. It decides nothing and waits
//! for nothing.
//!
//! The order is what makes a group outlive its daemon: an effect is executed only once a record is written that says so. While one is
//! being written events are still taken in; what comes of them waits for the next record, so there is at most one on its way,
//! and many events share one. What comes of an effect is a later event, as in the engine's simulation, which drives this same
//! runtime.
//!
//! Effects do not wait for a record that is late. Processes that are to go to their programs do: a worker that no record names would
//! never be ended.

use std::{collections::VecDeque, fmt::Debug, sync::Arc};

use crate::engine::{
    effect::Effect,
    event::{Event, GenerationId, Millis},
    group::Group,
};

/// What a runtime has others do. Nothing here may wait.
pub(crate) trait Host {
    /// What goes to who has brought something and keeps it until a record says what came of it.
    type Acknowledgement: Debug;

    /// Gives an acknowledgement.
    fn acknowledge(&mut self, acknowledgement: Self::Acknowledgement);

    /// Begins an effect; what comes of it is told as an event, later.
    fn execute(&mut self, engine: &Group, effect: Effect);

    /// Lets a generation's process go to its program: a record names it, or none can be had.
    fn let_go(&mut self, generation: GenerationId);

    /// Begins to write a record of the group as it is now.
    fn record(&mut self, number: u64, engine: &Arc<Group>) -> Recording;

    /// Shows others the group as it is now.
    fn publish(&mut self, engine: &Arc<Group>);
}

/// How far the writing of a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recording {
    /// Nothing has to be awaited.
    Over,
    /// An earlier one is late. Effects do not wait for this one; processes wait for the next that is written.
    Late,
    /// [`Runtime::recorded`] is told its number.
    UnderWay,
}

/// What waits for a record.
#[derive(Debug)]
enum Held<A> {
    Effect(Box<Effect>),
    Acknowledgement(A),
}

/// The engine of one group, what carries its effects out, and what lies between them.
#[derive(Debug)]
pub(crate) struct Runtime<H: Host> {
    engine: Group,
    host: H,
    /// In order, each with the number of the record that has to be written first.
    held: VecDeque<(u64, Held<H::Acknowledgement>)>,
    /// Processes that wait to be let go, in the same way.
    forked: VecDeque<(u64, GenerationId)>,
    /// The number of the newest record that was begun.
    begun: u64,
    /// The number of the newest record that effects do not wait for any more.
    over: u64,
    /// The number of the newest record that processes do not wait for any more.
    written: u64,
    /// Whether something has changed that no record says yet.
    is_unrecorded: bool,
    /// Whether something has changed that was not shown yet.
    is_unpublished: bool,
}

impl<H: Host> Runtime<H> {
    pub(crate) fn new(engine: Group, host: H) -> Self {
        Self {
            engine,
            host,
            held: VecDeque::new(),
            forked: VecDeque::new(),
            begun: 0,
            over: 0,
            written: 0,
            is_unrecorded: false,
            is_unpublished: true,
        }
    }

    pub(crate) fn engine(&self) -> &Group {
        &self.engine
    }

    pub(crate) fn host(&self) -> &H {
        &self.host
    }

    pub(crate) fn host_mut(&mut self) -> &mut H {
        &mut self.host
    }

    /// Both, for what is asked of the host about the engine's state.
    pub(crate) fn parts(&mut self) -> (&Group, &mut H) {
        (&self.engine, &mut self.host)
    }

    /// Goes on where an earlier daemon has stopped: what was asked for and not answered is asked for again.
    pub(crate) fn resume(&mut self, now: Millis) {
        let effects = self.engine.resume(now);
        self.hold(effects);
        self.changed();
    }

    /// Takes an event in.
    pub(crate) fn take_in(&mut self, now: Millis, event: Event) {
        tracing::trace!(?event, "event");
        // What was looked at is looked at again by the next daemon: everything else is known from now on.
        let is_look = matches!(event, Event::Tick | Event::Observed { .. });
        let mut effects = self.engine.handle(now, event);
        // A look that a look asks for changes nothing, so no record has to come before it.
        if is_look {
            effects.retain(|effect| {
                let again = matches!(effect, Effect::Observe { .. });
                if again {
                    self.host.execute(&self.engine, effect.clone());
                }
                !again
            });
        }
        if !is_look || !effects.is_empty() {
            self.changed();
        }
        self.hold(effects);
    }

    /// A generation's process was made: once a record names it, it goes to its program.
    pub(crate) fn forked(&mut self, generation: GenerationId) {
        self.forked.push_back((self.begun + 1, generation));
        self.changed();
    }

    /// What was just taken in came from outside, where it is kept: it is acknowledged once a record says what has come of it. A record
    /// that cannot be written or takes too long keeps nobody: it is over, here as for effects.
    pub(crate) fn acknowledge(&mut self, acknowledgement: H::Acknowledgement) {
        // In order: only with something unrecorded does anything wait for a record that is not begun.
        let number = self.begun + u64::from(self.is_unrecorded);
        self.held.push_back((number, Held::Acknowledgement(acknowledgement)));
    }

    /// Something of the host has changed that the record and those who look have to know.
    pub(crate) fn changed(&mut self) {
        self.is_unrecorded = true;
        self.is_unpublished = true;
    }

    fn hold(&mut self, effects: Vec<Effect>) {
        let number = self.begun + 1;
        self.held.extend(effects.into_iter().map(|effect| (number, Held::Effect(Box::new(effect)))));
    }

    /// A record is written, or could not be.
    pub(crate) fn recorded(&mut self, number: u64) {
        self.over = self.over.max(number);
        self.written = self.written.max(number);
    }

    /// A record is late: effects do not wait for it any longer.
    pub(crate) fn is_late(&mut self, number: u64) {
        self.over = self.over.max(number);
    }

    /// The record that is late is given up: processes do not wait for it any longer, nor for any that was begun since.
    pub(crate) fn gave_up(&mut self) {
        self.recorded(self.begun);
    }

    /// Whether everything that was decided is under way. A process that still waits to be let go is of no generation any more where the
    /// group has been stopped, and ends with this value.
    pub(crate) fn is_settled(&self) -> bool {
        self.held.is_empty() && !self.is_unrecorded
    }

    /// To be called after what came was taken in: begins a record of it, executes what was recorded, and shows the result.
    pub(crate) fn settle(&mut self) {
        loop {
            self.release();
            if !self.is_unrecorded || self.begun != self.over {
                break;
            }
            self.begun += 1;
            self.is_unrecorded = false;
            let snapshot = Arc::new(self.engine.clone());
            self.publish(&snapshot);
            match self.host.record(self.begun, &snapshot) {
                Recording::Over => self.recorded(self.begun),
                Recording::Late => self.is_late(self.begun),
                Recording::UnderWay => break,
            }
        }
        if self.is_unpublished {
            let snapshot = Arc::new(self.engine.clone());
            self.publish(&snapshot);
        }
    }

    fn publish(&mut self, snapshot: &Arc<Group>) {
        if std::mem::take(&mut self.is_unpublished) {
            self.host.publish(snapshot);
        }
    }

    fn release(&mut self) {
        while self.held.front().is_some_and(|(number, _)| *number <= self.over) {
            // Before an answer, those who look are to see what it speaks of.
            let answers = matches!(self.held.front(), Some((_, Held::Effect(effect))) if matches!(**effect, Effect::Finished { .. }));
            if answers && self.is_unpublished {
                let snapshot = Arc::new(self.engine.clone());
                self.publish(&snapshot);
            }
            match self.held.pop_front() {
                Some((_, Held::Effect(effect))) => {
                    tracing::trace!(?effect, "effect");
                    self.host.execute(&self.engine, *effect);
                }
                Some((_, Held::Acknowledgement(acknowledgement))) => self.host.acknowledge(acknowledgement),
                None => {}
            }
        }
        while let Some((_, generation)) = self.forked.pop_front_if(|(number, _)| *number <= self.written) {
            self.host.let_go(generation);
        }
    }
}
