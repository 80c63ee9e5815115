//! One `[[group]]`: from its keys to its settings, with every default filled in.

use std::{collections::BTreeMap, ops::Range, time::Duration};

use toml::Spanned;

use super::{
    section::Section,
    source::Source,
    value::{self, one_of},
};
use crate::{
    daemon::{
        checks::{self, Setting, Written},
        settings::{
            AdoptSettings, Deadlines, FlowSettings, GroupSettings, Mode, Readiness, RestartKind, Server,
            WhenEmpty,
        },
    },
    names::GroupName,
    policy::{Policy, WEIGHT_DEFAULT},
    sockets::address::{Listen, ListenAddress, Protocol},
    workers::limits::{Limit, Resource},
};

pub(super) const MODES: [(&str, Mode); 3] =
    [("auto", Mode::Auto), ("inherit", Mode::Inherit), ("own", Mode::Own)];

pub(super) const RESTARTS: [(&str, RestartKind); 2] =
    [("surge", RestartKind::Surge), ("replace", RestartKind::Replace)];

pub(super) const READINESSES: [(&str, Readiness); 3] =
    [("notify", Readiness::Notify), ("listener", Readiness::Listener), ("probe", Readiness::Probe)];

pub(super) const WHEN_EMPTY: [(&str, WhenEmpty); 2] =
    [("hold", WhenEmpty::Hold), ("refuse", WhenEmpty::Refuse)];

/// What was found of a group, for the comparison with the others; and its settings, where nothing is wrong with it.
#[derive(Debug)]
pub(super) struct FoundGroup {
    pub(super) source: Source,
    pub(super) name: Option<Spanned<GroupName>>,
    pub(super) listen: Vec<Spanned<ListenAddress>>,
    pub(super) settings: Option<GroupSettings>,
}

/// The workers' keys. Places are kept where a check may point at them.
struct Workers {
    count: Option<Spanned<u32>>,
    weights: BTreeMap<u32, u32>,
    weights_at: Option<Range<usize>>,
    command: Option<Spanned<Vec<String>>>,
    user: Option<String>,
    directory: Option<std::path::PathBuf>,
    environment: Vec<(String, String)>,
    limits: Vec<(Resource, Limit)>,
    mode: Option<Mode>,
    sockets: Option<Spanned<u32>>,
    ready: Option<Spanned<Readiness>>,
    restart: RestartKind,
    stop_signal: i32,
}

pub(super) fn read(mut section: Section<'_>) -> FoundGroup {
    section.require("name");
    let name = section.get("name", value::name);
    section.require("listen");
    let listen = section.list("listen", value::listen);
    section.require_some("listen");
    let listen: Vec<Spanned<ListenAddress>> = listen.map_or_else(Vec::new, |written| {
        let each = |written: Spanned<Listen>| {
            let span = written.span();
            written.into_inner().addresses.into_iter().map(move |address| Spanned::new(span.clone(), address))
        };
        written.into_inner().into_iter().flat_map(each).collect()
    });
    let policy = section.get("policy", value::policy);
    let seed = section.get("seed", value::seed).map(Spanned::into_inner);
    let when_empty = section.get("when_empty", one_of(&WHEN_EMPTY));
    let adopt = section.table("adopt", "group.adopt").map(read_adopt);
    let workers = match &adopt {
        // Each listener of the server's is one: there is nothing to say of them.
        Some(_) => {
            let message = "the workers of an adopted server are its listeners";
            section.refuse("workers", message, "leave [group.workers] out, or [group.adopt]");
            Some(Workers::of_adopted())
        }
        None => {
            section.require("workers");
            section.table("workers", "group.workers").map(read_workers)
        }
    };
    let (flows, flows_at) = section.table("flows", "group.flows").map(read_flows).unwrap_or_default();
    let (deadlines, start) =
        section.table("deadlines", "group.deadlines").map(read_deadlines).unwrap_or_default();
    let mut settings = None;
    if let (false, Some(name), Some(workers)) = (section.is_wrong(), &name, workers) {
        let command = workers.command.as_ref().map(|words| words.get_ref().clone());
        let ready = workers.ready.as_ref().map(|ready| *ready.get_ref());
        let sockets = workers.sockets.as_ref().map(|sockets| *sockets.get_ref());
        let addresses: Vec<ListenAddress> = listen.iter().map(|address| *address.get_ref()).collect();
        let default = || Mode::default_for(command.is_none(), ready, &addresses);
        let mode = if adopt.is_some() { Mode::Adopt } else { workers.mode.unwrap_or_else(default) };
        let hold = deadlines.hold.or(Deadlines::of_adopted().hold.filter(|_| adopt.is_some()));
        let has_tcp = listen.iter().any(|address| address.get_ref().protocol == Protocol::Tcp);
        let mut complete = GroupSettings {
            name: name.get_ref().clone(),
            listen: addresses,
            workers: workers.count.as_ref().map_or(0, |count| *count.get_ref()),
            weights: workers.weights,
            policy: policy.as_ref().map_or(Policy::default(), |policy| *policy.get_ref()),
            mode,
            sockets,
            restart: workers.restart,
            ready: ready.unwrap_or_else(|| Readiness::default_for(mode, command.is_none(), has_tcp)),
            when_empty: when_empty.map_or(WhenEmpty::Hold, Spanned::into_inner),
            adopt: adopt.flatten(),
            command,
            user: workers.user,
            directory: workers.directory,
            environment: workers.environment,
            limits: workers.limits,
            stop_signal: workers.stop_signal,
            seed,
            flows,
            deadlines: Deadlines { hold, ..deadlines },
        };
        let place = |setting| match setting {
            Setting::Listen(place) => listen.get(place).map(Spanned::span),
            Setting::Workers => workers.count.as_ref().map(Spanned::span),
            Setting::Policy => policy.as_ref().map(Spanned::span),
            Setting::Weights => workers.weights_at.clone(),
            Setting::Ready => workers.ready.as_ref().map(Spanned::span),
            Setting::Sockets => workers.sockets.as_ref().map(Spanned::span),
            Setting::Flows => flows_at.max.clone(),
            Setting::FlowIdle => flows_at.idle.clone(),
            Setting::Start => start.clone(),
            Setting::Command => workers.command.as_ref().map(Spanned::span),
        };
        for error in checks::check(&complete) {
            let span = place(error.setting()).unwrap_or_else(|| section.span());
            section.error(error.message(Written::Keys), span, error.hint(Written::Keys));
        }
        // Only now: of a worker that there is not, any weight is wrong.
        complete.weights.retain(|_, weight| *weight != WEIGHT_DEFAULT);
        settings = Some(complete);
    }
    FoundGroup { source: section.source().clone(), name, listen, settings }
}

fn read_workers(mut section: Section<'_>) -> Workers {
    section.require("count");
    let weights = section.pairs("weights", value::index, value::weight);
    let mut limits = section.pairs("limits", value::resource, value::limit);
    limits.sort_by_key(|(resource, _)| resource.name());
    Workers {
        count: section.get("count", value::number),
        weights: weights.into_iter().collect(),
        weights_at: section.place_of("weights"),
        limits,
        command: section.list("command", value::text).map(words),
        user: section.get("user", value::word).map(Spanned::into_inner),
        directory: section.get("directory", value::absolute).map(Spanned::into_inner),
        environment: section.pairs("environment", value::variable, value::text),
        mode: section.get("mode", one_of(&MODES)).map(Spanned::into_inner),
        sockets: section.get("sockets", value::number),
        ready: section.get("ready", one_of(&READINESSES)),
        restart: section.get("restart", one_of(&RESTARTS)).map_or(RestartKind::Surge, Spanned::into_inner),
        stop_signal: section.get("stop_signal", value::signal).map_or(libc::SIGTERM, Spanned::into_inner),
    }
}

/// The server; nothing where it is not said which, which is an error.
fn read_adopt(mut section: Section<'_>) -> Option<AdoptSettings> {
    let unit = section.get("unit", value::word).map(|it| Server::Unit(full_name(it.get_ref())));
    let cgroup = section.get("cgroup", value::word).map(|it| Server::Cgroup(it.into_inner()));
    let container = section.get("container", value::word).map(|it| Server::Container(it.into_inner()));
    let user = section.get("user", value::user).map(|it| Server::User(it.into_inner()));
    let restart = section.list("restart", value::text).map(|list| words(list).into_inner());
    let servers: Vec<Server> = [unit, cgroup, container, user].into_iter().flatten().collect();
    match <[Server; 1]>::try_from(servers) {
        Ok([server]) => Some(AdoptSettings { restart, ..AdoptSettings::of(server) }),
        Err(servers) => {
            let message = match servers.len() {
                0 => "it does not say which server",
                _ => "it says more than once which server",
            };
            section.error(
                message.to_owned(),
                section.span(),
                "write one of unit, cgroup, container and user".to_owned(),
            );
            None
        }
    }
}

/// `nginx` is `nginx.service`, as for systemctl.
fn full_name(name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { format!("{name}.service") }
}

impl Workers {
    /// Of a server that somebody else starts: as many as it has listeners.
    fn of_adopted() -> Self {
        Self {
            count: Some(Spanned::new(0..0, 1)),
            weights: BTreeMap::new(),
            weights_at: None,
            command: None,
            user: None,
            directory: None,
            environment: Vec::new(),
            limits: Vec::new(),
            mode: None,
            sockets: None,
            ready: None,
            restart: RestartKind::Surge,
            stop_signal: libc::SIGTERM,
        }
    }
}

fn words(list: Spanned<Vec<Spanned<String>>>) -> Spanned<Vec<String>> {
    Spanned::new(list.span(), list.into_inner().into_iter().map(Spanned::into_inner).collect())
}

/// Where the keys of `[group.flows]` are written.
#[derive(Default)]
struct FlowPlaces {
    max: Option<Range<usize>>,
    idle: Option<Range<usize>>,
}

fn read_flows(mut section: Section<'_>) -> (FlowSettings, FlowPlaces) {
    let standard = FlowSettings::default();
    let max = section.get("max", value::number);
    let idle = section.get("idle", value::duration);
    let flows = FlowSettings {
        max: max.as_ref().map_or(standard.max, |max| *max.get_ref()),
        idle: idle.as_ref().map_or(standard.idle, |idle| *idle.get_ref()),
    };
    (flows, FlowPlaces { max: max.map(|max| max.span()), idle: idle.map(|idle| idle.span()) })
}

/// The deadlines, and where the first is written.
fn read_deadlines(mut section: Section<'_>) -> (Deadlines, Option<Range<usize>>) {
    let standard = Deadlines::default();
    let start = section.get("start", value::duration);
    let mut or =
        |key, standard: Duration| section.get(key, value::duration).map_or(standard, Spanned::into_inner);
    let deadlines = Deadlines {
        start: start.as_ref().map_or(standard.start, |start| *start.get_ref()),
        drain: or("drain", standard.drain),
        settle: or("settle", standard.settle),
        stop: or("stop", standard.stop),
        hold: section.get("hold", value::duration).map(Spanned::into_inner),
    };
    (deadlines, start.map(|start| start.span()))
}
