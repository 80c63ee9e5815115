//! What proptest draws: the rules, the world's chances, and who does what when.

use std::collections::BTreeMap;

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};
use server_common::flow_hash::Seed;

use crate::policy::{Policy, WEIGHT_MAX};

use super::super::{
    drain::Limits,
    event::Decision,
    group::Rules,
    reconfigure::{Conduct, Reconfiguration},
};

/// The seed of every simulated group.
pub(super) const SEED: Seed = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

/// One case.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) rules: Rules,
    /// Whether listeners are the processes' own and end with them; otherwise the daemon keeps a duplicate.
    pub(super) own: bool,
    pub(super) bytes: Vec<u8>,
    /// What becomes of the first start, the second, and so on, over and over.
    pub(super) fates: Vec<Fate>,
    /// What is done, each after a pause in milliseconds.
    pub(super) actions: Vec<(u64, Action)>,
}

/// What someone, or chance, does to the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Restart(u32),
    RestartAll,
    Drain(u32),
    /// With a deadline so far away that adding it to the time would overflow.
    DrainForever(u32),
    Undrain(u32),
    Scale(u32),
    Stop,
    /// A restart that begins with a canary of so many thousandths, for so long or until someone decides.
    Canary(Option<u32>, u32, Option<u64>),
    Decide(Decision),
    SetPolicy(Policy),
    /// Another configuration, as it would be read.
    Reconfigure(Reconfiguration),
    SetWeight(u32, u32),
    /// Over so many milliseconds.
    Ramp(u32, u32, u64),
    /// A worker's processes are pinned to these CPUs, as bits.
    Pin(u32, u8),
    /// The working process dies.
    Crash(u32),
    /// All processes die.
    CrashAll,
    /// The daemon is killed, and another takes over.
    Succeed,
    /// Many clients at once.
    Burst,
    /// An event of the past comes again.
    Stale,
    /// Of a server that somebody else starts: a listener comes for a worker, or for each.
    Come(u32),
    ComeAll,
    /// A worker's listener is closed, or each.
    Go(u32),
    GoAll,
    /// Whether the server is about to be started again.
    Expect(bool),
    DrainUntilReplaced(u32),
    DrainAllUntilReplaced,
}

/// What becomes of one start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fate {
    pub(super) start: Start,
    pub(super) afterwards: Afterwards,
    pub(super) on_stop: OnStop,
    /// Whether SIGKILL takes longer than anybody's patience.
    pub(super) dies_slowly: bool,
}

impl Fate {
    /// A worker that does all it should.
    pub(super) const BENIGN: Self = Self {
        start: Start::Works,
        afterwards: Afterwards::Stays,
        on_stop: OnStop::Leaves,
        dies_slowly: false,
    };
}

/// How a start goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Works,
    Fails,
    NeverReady,
    ExitsEarly,
}

/// What happens to a worker that was ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Afterwards {
    Stays,
    Crashes,
    /// It shuts its own listener down and lives on.
    LosesListener,
    /// It lives on, but nobody accepts.
    GoesDeaf,
}

/// How a worker takes the stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnStop {
    /// It ends once its connections have ended.
    Leaves,
    /// It ends with its connections.
    LeavesAtOnce,
    Ignores,
}

pub(super) fn script() -> impl Strategy<Value = Script> {
    let weights = prop_oneof![3 => Just(BTreeMap::new()), 1 => btree_map(0u32..6, 0u32..6, 0..4)];
    let rules =
        (1u32..=5, weights, prop::bool::weighted(0.25), prop::bool::weighted(0.8), 0u32..12, policy());
    let rules = rules.prop_map(|(workers, weights, replace, hold, spare, policy)| Rules {
        seed: SEED,
        policy,
        // Just enough for every worker and the holding listener to have two, and few more: slots come back soon.
        slots: 2 * workers.max(3) + 3 + spare,
        workers,
        weights,
        replace,
        hold,
        adopts: false,
        hold_max: None,
        migrates: true,
        start: 300,
        drain: 800,
        limits: Limits { settle: 40, stop: 120 },
    });
    let actions = vec(piece(), 1..36).prop_map(|pieces| pieces.concat());
    let stop = prop::option::weighted(0.15, 0usize..40);
    (rules, any::<bool>(), vec(any::<u8>(), 1..200), vec(fate(), 1..12), actions, stop).prop_map(
        |(rules, own, bytes, fates, mut actions, stop)| {
            if let Some(at) = stop {
                actions.insert(at.min(actions.len()), (100, Action::Stop));
            }
            Script { rules, own, bytes, fates, actions }
        },
    )
}

pub(super) fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        2 => Just(Policy::Hash),
        1 => Just(Policy::Source { ipv4: 32, ipv6: 128 }),
        1 => Just(Policy::Source { ipv4: 24, ipv6: 64 }),
        2 => (0u32..20).prop_map(|tie| Policy::LeastLoaded { tie }),
        2 => Just(Policy::Cpu),
    ]
}

/// Mostly small, now and then one that is not.
fn weight() -> impl Strategy<Value = u32> {
    prop_oneof![3 => Just(0), 6 => 1u32..6, 2 => 0u32..=WEIGHT_MAX, 1 => Just(WEIGHT_MAX + 1)]
}

/// What is done together, each after its pause: mostly one action; who restarts with a canary may decide later, and who changes
/// a weight step by step may think better of it.
fn piece() -> impl Strategy<Value = Vec<(u64, Action)>> {
    let decided = (0u64..900, canary(), 20u64..900, select(vec![Decision::Proceed, Decision::Abort]));
    let overruled = (0u64..900, 0u32..3, 0u32..9, 20u64..900, 0u32..4);
    prop_oneof![
        9 => (0u64..900, action()).prop_map(|action| vec![action]),
        1 => overruled.prop_map(|(pause, worker, weight, until, last)| {
            vec![(pause, Action::Ramp(worker, weight, 2_000)), (until, Action::SetWeight(worker, last))]
        }),
        2 => decided.prop_map(|(pause, canary, until, decision)| {
            vec![(pause, canary), (until, Action::Decide(decision))]
        }),
    ]
}

pub(super) fn reconfiguration() -> impl Strategy<Value = Reconfiguration> {
    let weights = || btree_map(0u32..6, weight(), 0..3);
    let limits = (0u64..80, 60u64..200).prop_map(|(settle, stop)| Limits { settle, stop });
    let conduct = (
        weights(),
        prop::bool::weighted(0.25),
        prop::bool::weighted(0.8),
        200u64..400,
        600u64..1_000,
        limits,
    );
    let conduct = conduct.prop_map(|(weights, replace, hold, start, drain, limits)| Conduct {
        hold_max: None,
        // What comes from a file has been checked.
        weights: weights.into_iter().filter(|(_, weight)| *weight < 6).collect(),
        replace,
        hold,
        start,
        drain,
        limits,
    });
    let workers = prop::option::weighted(0.4, 0u32..7);
    (prop::option::weighted(0.4, policy()), weights(), workers, conduct).prop_map(
        |(policy, weights, workers, conduct)| Reconfiguration {
            policy,
            weights,
            workers,
            timeout: None,
            conduct,
        },
    )
}

fn canary() -> impl Strategy<Value = Action> {
    (
        prop::option::weighted(0.6, 0u32..3),
        prop_oneof![8 => 1u32..1000, 1 => Just(0), 1 => Just(1000)],
        prop::option::weighted(0.5, 0u64..600),
    )
        .prop_map(|(worker, permille, hold)| Action::Canary(worker, permille, hold))
}

fn action() -> impl Strategy<Value = Action> {
    let worker = 0u32..6;
    prop_oneof![
        4 => canary(),
        2 => select(vec![Decision::Proceed, Decision::Abort]).prop_map(Action::Decide),
        4 => policy().prop_map(Action::SetPolicy),
        6 => reconfiguration().prop_map(Action::Reconfigure),
        6 => (worker.clone(), weight()).prop_map(|(worker, weight)| Action::SetWeight(worker, weight)),
        6 => (worker.clone(), weight(), 0u64..4000)
            .prop_map(|(worker, weight, over)| Action::Ramp(worker, weight, over)),
        6 => (worker.clone(), 0u8..16).prop_map(|(worker, cpus)| Action::Pin(worker, cpus)),
        6 => worker.clone().prop_map(Action::Restart),
        6 => Just(Action::RestartAll),
        4 => worker.clone().prop_map(Action::Drain),
        1 => worker.clone().prop_map(Action::DrainForever),
        4 => worker.clone().prop_map(Action::Undrain),
        5 => (0u32..7).prop_map(Action::Scale),
        6 => worker.prop_map(Action::Crash),
        3 => Just(Action::CrashAll),
        4 => Just(Action::Burst),
        9 => Just(Action::Stale),
        8 => Just(Action::Succeed),
    ]
}

fn fate() -> impl Strategy<Value = Fate> {
    use Start::{ExitsEarly, Fails, NeverReady, Works};
    let start = select(vec![Works, Works, Works, Works, Works, Works, Works, Fails, NeverReady, ExitsEarly]);
    let afterwards = prop_oneof![
        6 => Just(Afterwards::Stays),
        1 => Just(Afterwards::Crashes),
        1 => Just(Afterwards::LosesListener),
        1 => Just(Afterwards::GoesDeaf),
    ];
    let on_stop =
        prop_oneof![4 => Just(OnStop::Leaves), 1 => Just(OnStop::LeavesAtOnce), 1 => Just(OnStop::Ignores)];
    (start, afterwards, on_stop, prop::bool::weighted(0.05)).prop_map(
        |(start, afterwards, on_stop, dies_slowly)| Fate { start, afterwards, on_stop, dies_slowly },
    )
}
