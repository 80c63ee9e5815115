//! What it takes to get from one configuration to another: a pure function of the two.

use std::{collections::BTreeMap, path::Path};

use crate::{
    config::{Config, DaemonSettings},
    control::{DEFAULT_SOCKET, api::KeyChange},
    daemon::settings::{GroupSettings, Mode, Readiness},
    names::GroupName,
};

use super::keys::{self, changes};

/// Everything that is different.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Plan {
    /// New groups.
    pub(super) added: Vec<GroupSettings>,
    /// Groups that are not there any more.
    pub(super) removed: Vec<GroupName>,
    /// Groups that are other than they were.
    pub(super) changed: Vec<GroupChange>,
    /// What of the daemon's own is different.
    pub(super) daemon: Vec<KeyChange>,
}

/// A group that is another than it was.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct GroupChange {
    /// What it was.
    pub(super) old: GroupSettings,
    /// What it is to be.
    pub(super) new: GroupSettings,
    /// The difference.
    pub(super) keys: Vec<KeyChange>,
}

/// Something that cannot be changed while the daemon, or the group, runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The group, or the daemon.
    pub(super) whose: String,
    pub(super) key: &'static str,
    pub(super) before: String,
    pub(super) after: String,
    /// The way out.
    pub(super) hint: String,
}

/// What it takes to make `old` into `new`; or all that cannot be. `socket` is where the control socket is.
pub(super) fn plan(old: &Config, new: &Config, socket: &Path) -> Result<Plan, Vec<Refusal>> {
    let mut refusals: Vec<Refusal> = refuse_socket(old, new, socket).into_iter().collect();
    refusals.extend(refuse_for_the_daemons_life(&old.daemon, &new.daemon));
    let mut plan = Plan { daemon: keys::daemon_changes(&old.daemon, &new.daemon), ..Plan::default() };
    let before: BTreeMap<&GroupName, &GroupSettings> =
        old.groups.iter().map(|group| (&group.name, group)).collect();
    let is_in = |config: &Config, name: &GroupName| config.groups.iter().any(|group| group.name == *name);
    let gone = old.groups.iter().filter(|group| !is_in(new, &group.name));
    plan.removed = gone.clone().map(|group| group.name.clone()).collect();
    for group in &new.groups {
        match before.get(&group.name) {
            Some(old) => {
                let new = keeping(old, group);
                refusals.extend(refuse_for_life(old, &new));
                let old = (*old).clone();
                let keys = changes(&old, &new);
                if !keys.is_empty() {
                    plan.changed.push(GroupChange { old, new, keys });
                }
            }
            None => {
                refusals.extend(gone.clone().filter_map(|gone| refuse_move(gone, group)));
                plan.added.push(group.clone());
            }
        }
    }
    if refusals.is_empty() { Ok(plan) } else { Err(refusals) }
}

/// The configuration that counts once `new` was taken over: a group [keeps](keeping) what is not said any more.
pub(super) fn taken_over(old: &Config, new: Config) -> Config {
    let groups = new.groups.iter().map(|group| {
        let before = old.groups.iter().find(|before| before.name == group.name);
        before.map_or_else(|| group.clone(), |before| keeping(before, group))
    });
    Config { groups: groups.collect(), ..new }
}

/// A group's new settings with what it keeps of the old: a seed that is not said any more; and mode inherit, which is a case of auto and
/// was what a release before took where nothing was said.
fn keeping(old: &GroupSettings, new: &GroupSettings) -> GroupSettings {
    let mut kept = GroupSettings { seed: new.seed.or(old.seed), ..new.clone() };
    if let (Some(before), Some(now)) = (&old.adopt, &mut kept.adopt)
        && before.server == now.server
    {
        // What was found of the server, no file says.
        (now.owner, now.inherited) = (before.owner, before.inherited.clone());
        kept.workers = old.workers;
    }
    if (old.mode, new.mode) != (Mode::Inherit, Mode::Auto) {
        return kept;
    }
    let ready = match new.ready {
        Readiness::Any => Readiness::default_for(Mode::Inherit, new.command.is_none(), new.has_tcp()),
        said => said,
    };
    GroupSettings { mode: Mode::Inherit, ready, ..kept }
}

fn refuse_socket(old: &Config, new: &Config, socket: &Path) -> Option<Refusal> {
    let configured = |config: &Config| config.daemon.socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into());
    // Where the command line says another, what the file says has no part in it.
    let is_in_force = configured(old) == socket;
    (is_in_force && configured(new) != socket).then(|| Refusal {
        whose: "daemon".to_owned(),
        key: "socket",
        before: format!("{:?}", configured(old)),
        after: format!("{:?}", configured(new)),
        hint: "start the daemon again for another socket".to_owned(),
    })
}

/// What a daemon has from its begin to its end, beside its socket.
fn refuse_for_the_daemons_life(old: &DaemonSettings, new: &DaemonSettings) -> Vec<Refusal> {
    let metrics = |daemon: &DaemonSettings| {
        daemon.metrics.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
    };
    let format = |daemon: &DaemonSettings| format!("{:?}", daemon.log_format).to_lowercase();
    let values = [("metrics", metrics(old), metrics(new)), ("log_format", format(old), format(new))];
    let changed = values.into_iter().filter(|(_, before, after)| before != after);
    let refusal = |(key, before, after)| Refusal {
        whose: "daemon".to_owned(),
        key,
        before,
        after,
        hint: "start the daemon again for that: its groups go on serving meanwhile".to_owned(),
    };
    changed.map(refusal).collect()
}

/// What a group has from its begin to its end.
fn refuse_for_life(old: &GroupSettings, new: &GroupSettings) -> Vec<Refusal> {
    let name = &new.name;
    let mut refusals = Vec::new();
    let mut refuse = |key, before: String, after: String, why: &str| {
        if before != after {
            let hint = format!("{why}: add a group of another name, and remove {name} with a later reload");
            refusals.push(Refusal { whose: name.to_string(), key, before, after, hint });
        }
    };
    refuse("listen", keys::listen(old), keys::listen(new), "its addresses are a group's for life");
    let server = |group: &GroupSettings| {
        group.adopt.as_ref().map_or_else(|| "none".to_owned(), |adopt| adopt.server.to_string())
    };
    refuse("adopt", server(old), server(new), "a group has one server for life");
    refuse("workers.mode", keys::mode(old), keys::mode(new), "listeners of both modes do not go together");
    if old.mode == Mode::Own && new.mode == Mode::Own {
        let why = "in mode own the kernel lets sockets of one user only into a group";
        refuse("workers.user", keys::user(old), keys::user(new), why);
    }
    // The daemon makes one for each address; and what is refused with the mode need not be refused twice.
    if old.mode == new.mode && new.mode != Mode::Inherit {
        let why = "the sockarray is of one size for the group's life";
        refuse("workers.sockets", keys::sockets(old), keys::sockets(new), why);
    }
    let flows = |group: &GroupSettings| (group.flows.max.to_string(), keys::duration(group.flows.idle));
    let ((max_before, idle_before), (max_after, idle_after)) = (flows(old), flows(new));
    let why = "what is known of flows is of one size and one time for the group's life";
    refuse("flows.max", max_before, max_after, why);
    refuse("flows.idle", idle_before, idle_after, why);
    if new.seed.is_some() {
        refuse("seed", keys::seed(old), keys::seed(new), "another seed would move every connection's worker");
    }
    refusals
}

/// A group can take an address over only once the one that has it is gone.
fn refuse_move(gone: &GroupSettings, added: &GroupSettings) -> Option<Refusal> {
    let taken = |address: &&_| gone.listen.contains(address);
    let address = added.listen.iter().filter(|address| address.address.port() != 0).find(taken)?;
    Some(Refusal {
        whose: added.name.to_string(),
        key: "listen",
        before: format!("{address} of the group {}, which goes", gone.name),
        after: format!("{address} of the group {}, which comes", added.name),
        hint: format!(
            "keep the name {}, or remove it with one reload and add {} with the next",
            gone.name, added.name
        ),
    })
}
