//! From a group's settings to the engine's rules, and from other settings to the change that they are.

use std::collections::BTreeMap;

use server_common::{flow_hash::Seed, limits};

use crate::engine::{
    drain::Limits,
    event::Millis,
    group::Rules,
    reconfigure::{Conduct, Reconfiguration},
};

use super::{
    clock::millis,
    settings::{Deadlines, GroupSettings, Mode, RestartKind, WhenEmpty},
};

/// The rules of a group that begins, with this seed.
pub(crate) fn rules(settings: &GroupSettings, seed: Seed) -> Rules {
    let Conduct { weights, replace, hold, hold_max, start, drain, limits } = conduct(settings);
    Rules {
        seed,
        policy: settings.policy,
        slots: limits::slots(settings.workers),
        workers: settings.workers,
        weights,
        replace,
        hold,
        migrates: true,
        adopts: settings.mode == Mode::Adopt,
        hold_max,
        start,
        drain,
        limits,
    }
}

/// What of a running group is to be another, where its settings were `old` and are `new`. What is in both alike stays as it is,
/// also where somebody has changed it since.
pub(crate) fn reconfiguration(
    old: &GroupSettings,
    new: &GroupSettings,
    timeout: Option<Millis>,
) -> Reconfiguration {
    let indices = old.weights.keys().chain(new.weights.keys());
    let weights: BTreeMap<u32, u32> = indices
        .filter(|index| old.weight(**index) != new.weight(**index))
        .map(|&index| (index, new.weight(index)))
        .collect();
    Reconfiguration {
        policy: (old.policy != new.policy).then_some(new.policy),
        weights,
        workers: (old.workers != new.workers).then_some(new.workers),
        timeout,
        conduct: conduct(new),
    }
}

fn conduct(settings: &GroupSettings) -> Conduct {
    let Deadlines { start, drain, settle, stop, hold } = settings.deadlines;
    Conduct {
        weights: settings.weights.clone(),
        replace: settings.restart == RestartKind::Replace,
        hold: settings.when_empty == WhenEmpty::Hold,
        hold_max: hold.map(millis),
        start: millis(start),
        drain: millis(drain),
        limits: Limits { settle: millis(settle), stop: millis(stop) },
    }
}
