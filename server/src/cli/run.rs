//! `steer run`: from its arguments to the settings of a group. Pure.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use thiserror::Error;

use super::arguments::{ModeName, ReadyName, RestartName, RunArguments, WhenEmptyName};
use crate::daemon::{
    self,
    checks::{self, SettingsError, Written},
    foreground::{Ending, Leeway},
    settings::{Deadlines, FlowSettings, GroupSettings, Mode, Readiness, RestartKind, WhenEmpty},
    setup::Setup,
};
use crate::sockets::address::{Listen, ListenAddress, Protocol};

/// Options that are well-formed, each by itself, but do not go together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{}", .0.message(Written::Options))]
pub(super) struct OptionsError(SettingsError);

impl OptionsError {
    /// The way out.
    pub(super) fn hint(&self) -> String {
        self.0.hint(Written::Options)
    }
}

/// Runs the group until it is stopped. Where the program turns out to listen at an alternative to an address, or not at all of those of
/// one name, the group is begun again there: nobody was served before.
pub(super) fn run(mut settings: GroupSettings, setup: Setup) -> anyhow::Result<()> {
    loop {
        match daemon::run(vec![settings.clone()], setup.clone())? {
            None => return Ok(()),
            Some(Ending::NeverReady(error)) => return Err(error.into()),
            Some(Ending::Follow((from, to))) => {
                tracing::info!("{}: the program listens at {to}, and so does the group", settings.name);
                settings.listen.iter_mut().filter(|address| **address == from).for_each(|it| *it = to);
            }
            Some(Ending::Without(missing)) => {
                let list = missing.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                tracing::info!(
                    "{}: the program does not listen at {list}, and nor does the group",
                    settings.name
                );
                settings.listen.retain(|address| !missing.contains(address));
            }
        }
    }
}

/// Where a program may listen that is told the same addresses, beside those that the group begins with.
pub(super) fn leeway(listen: &[Listen]) -> Leeway {
    let same_family = listen.iter().filter_map(|Listen { addresses, alternative }| match addresses[..] {
        [address] => Some((address, (*alternative)?)),
        _ => None,
    });
    // Java binds an IPv4 address by an IPv6 socket, which for the kernel is in another group.
    let mapped = listen.iter().flat_map(|listen| &listen.addresses).filter_map(|&address| {
        let IpAddr::V4(ip) = address.address.ip() else { return None };
        let address_mapped = SocketAddr::new(ip.to_ipv6_mapped().into(), address.address.port());
        Some((address, ListenAddress { address: address_mapped, ..address }))
    });
    let alternatives = same_family.chain(mapped).collect();
    let any_of = listen.iter().map(|listen| listen.addresses.clone()).filter(|addresses| addresses.len() > 1);
    Leeway { alternatives, any_of: any_of.collect() }
}

/// The settings that the arguments ask for, with every default filled in.
pub(super) fn settings(arguments: RunArguments) -> Result<GroupSettings, OptionsError> {
    let listen: Vec<ListenAddress> =
        arguments.listen.into_iter().flat_map(|listen| listen.addresses).collect();
    let ready = arguments.ready.map(|ready| match ready {
        ReadyName::Notify => Readiness::Notify,
        ReadyName::Listener => Readiness::Listener,
        ReadyName::Probe => Readiness::Probe,
    });
    let is_sample = arguments.command.is_empty();
    let mode = match arguments.mode {
        Some(ModeName::Auto) => Mode::Auto,
        Some(ModeName::Inherit) => Mode::Inherit,
        Some(ModeName::Own) => Mode::Own,
        None => Mode::default_for(is_sample, ready, &listen),
    };
    let has_tcp = listen.iter().any(|address| address.protocol == Protocol::Tcp);
    let ready = ready.unwrap_or_else(|| Readiness::default_for(mode, is_sample, has_tcp));
    let settings = GroupSettings {
        name: arguments.name,
        listen,
        workers: arguments.workers.unwrap_or_else(one_for_each_cpu),
        weights: BTreeMap::new(),
        policy: arguments.policy,
        mode,
        sockets: arguments.sockets,
        restart: match arguments.restart {
            RestartName::Surge => RestartKind::Surge,
            RestartName::Replace => RestartKind::Replace,
        },
        ready,
        when_empty: match arguments.when_empty {
            WhenEmptyName::Hold => WhenEmpty::Hold,
            WhenEmptyName::Refuse => WhenEmpty::Refuse,
        },
        adopt: None,
        user: arguments.user,
        directory: None,
        environment: Vec::new(),
        limits: Vec::new(),
        stop_signal: arguments.stop_signal.0,
        seed: arguments.seed.map(|seed| seed.0),
        flows: FlowSettings { max: arguments.flows, idle: arguments.flow_idle },
        deadlines: Deadlines {
            start: arguments.start_timeout,
            drain: arguments.drain_timeout,
            settle: arguments.settle,
            stop: arguments.stop_timeout,
            hold: None,
        },
        command: (!arguments.command.is_empty()).then_some(arguments.command),
    };
    match checks::check(&settings).into_iter().next() {
        Some(error) => Err(OptionsError(error)),
        None => Ok(settings),
    }
}

/// CPUs that this process may use, by its affinity and its cgroup's quota; one where that cannot be told.
fn one_for_each_cpu() -> u32 {
    std::thread::available_parallelism().map_or(1, |count| count.get() as u32)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;
    use crate::{
        cli::arguments::{Arguments, Command},
        daemon::checks::Setting,
    };

    fn parse(line: &str) -> Result<GroupSettings, OptionsError> {
        let words = ["steer", "run", "--workers", "4"].into_iter().chain(line.split_whitespace());
        let Command::Run(arguments) = Arguments::try_parse_from(words).unwrap().command else { panic!() };
        settings(*arguments)
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let settings = parse("--listen 127.0.0.1:8080").unwrap();
        assert_eq!(settings.name.as_str(), "web");
        assert_eq!(settings.listen, ["tcp://127.0.0.1:8080".parse().unwrap()]);
        assert_eq!(settings.workers, 4);
        assert_eq!(
            (settings.mode, settings.restart, settings.ready, settings.when_empty),
            (Mode::Inherit, RestartKind::Surge, Readiness::Notify, WhenEmpty::Hold)
        );
        assert_eq!((settings.command, settings.user, settings.seed), (None, None, None));
        assert_eq!(settings.stop_signal, libc::SIGTERM);
        assert_eq!(settings.deadlines, Deadlines::default());
    }

    #[test]
    fn a_file_says_the_same_and_has_the_same_defaults() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("steer.toml");
        let group = |workers: &str| {
            let text = "[[group]]\nname = 'web'\nlisten = ['127.0.0.1:80']\n[group.workers]\ncount = 4\n";
            std::fs::write(&file, text.to_owned() + workers).unwrap();
            crate::config::load(&file).unwrap().groups
        };
        for (option, key) in [
            ("", ""),
            ("--mode own", "mode = 'own'"),
            ("--mode own --sockets 256", "mode = 'own'\nsockets = 256"),
            ("--ready notify -- srv", "ready = 'notify'\ncommand = ['srv']"),
            ("-- srv -v", "command = ['srv', '-v']"),
            ("--stop-signal INT", "stop_signal = 'INT'"),
        ] {
            assert_eq!(group(key), [parse(&format!("--listen 127.0.0.1:80 {option}")).unwrap()], "{option}");
        }
    }

    #[test]
    fn readiness_follows_mode_and_command() {
        let ready = |line: &str| parse(&format!("--listen 127.0.0.1:8080 {line}")).map(|s| s.ready);
        assert_eq!(ready(""), Ok(Readiness::Notify));
        assert_eq!(ready("-- app"), Ok(Readiness::Any));
        assert_eq!(ready("--mode inherit -- app"), Ok(Readiness::Probe));
        assert_eq!(ready("--mode own"), Ok(Readiness::Listener));
        assert_eq!(ready("--mode own -- app"), Ok(Readiness::Listener));
        assert_eq!(ready("--ready notify -- app"), Ok(Readiness::Notify));
        assert_eq!(ready("--ready probe"), Ok(Readiness::Probe));
        assert_eq!(ready("--ready notify --mode own"), Ok(Readiness::Notify));
        assert_eq!(ready("--ready listener"), Err(OptionsError(SettingsError::ListenerInherited)));
        assert_eq!(ready("--ready listener -- app"), Ok(Readiness::Listener));
    }

    #[test]
    fn the_mode_follows_what_is_said_of_the_workers() {
        let mode = |line: &str| parse(line).map(|settings| settings.mode);
        for (line, expected) in [
            ("--listen 127.0.0.1:80", Mode::Inherit),
            ("--listen 127.0.0.1:80 -- app", Mode::Auto),
            ("--listen 127.0.0.1:80 --mode inherit -- app", Mode::Inherit),
            ("--listen 127.0.0.1:0 -- app", Mode::Inherit),
            ("--listen 127.0.0.1:80 --sockets 2 -- app", Mode::Auto),
            ("--listen 127.0.0.1:80 --ready listener -- app", Mode::Own),
        ] {
            assert_eq!(mode(line), Ok(expected), "{line}");
        }
    }

    #[test]
    fn nothing_connects_to_a_group_of_datagrams() {
        let udp = |line: &str| parse(&format!("--listen udp://127.0.0.1:53 {line}"));
        assert_eq!(udp("--mode inherit -- app").map(|settings| settings.ready), Ok(Readiness::Notify));
        assert_eq!(udp("--ready probe -- app"), Err(OptionsError(SettingsError::NothingToProbe)));
        let both = parse("--ready probe --listen udp://127.0.0.1:53 --listen 127.0.0.1:53 -- app");
        assert_eq!(both.map(|settings| settings.ready), Ok(Readiness::Probe));
        assert_eq!(udp("--flows 524289"), Err(OptionsError(SettingsError::Flows(524_289))));
        let none = Duration::ZERO;
        assert_eq!(udp("--flow-idle 0s"), Err(OptionsError(SettingsError::FlowIdle(none))));
        let settings = udp("--flows 0 --flow-idle 0s").unwrap();
        assert_eq!(settings.flows, FlowSettings::NONE);
    }

    #[test]
    fn everything_that_is_said_arrives() {
        let settings = parse(
            "--listen 127.0.0.1:80 [::1]:80 --listen 10.0.0.1:81 --name api --policy hash --mode own \
             --restart replace --user nobody --seed 00000000000000010000000000000002 --start-timeout 1s \
             --drain-timeout 2s --settle 300ms --stop-timeout 4m --stop-signal SIGQUIT -- python3 -m app --listen x",
        )
        .unwrap();
        assert_eq!(settings.listen.len(), 3);
        assert_eq!(settings.name.as_str(), "api");
        assert_eq!((settings.mode, settings.restart), (Mode::Own, RestartKind::Replace));
        assert_eq!(settings.user.as_deref(), Some("nobody"));
        assert_eq!(settings.seed, Some([1, 2]));
        let Deadlines { start, drain, settle, stop, hold: _ } = settings.deadlines;
        assert_eq!([start, drain, settle, stop].map(|d| d.as_millis()), [1000, 2000, 300, 240_000]);
        assert_eq!(settings.stop_signal, libc::SIGQUIT);
        assert_eq!(settings.command.unwrap(), ["python3", "-m", "app", "--listen", "x"]);
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_a_hint() {
        let address = "tcp://127.0.0.1:0".parse().unwrap();
        let refused = [
            ("--listen 127.0.0.1:0 tcp://127.0.0.1:0", SettingsError::ListenTwice { place: 1, address }),
            ("--listen 127.0.0.1:0 --mode own", SettingsError::OwnPortZero { place: 0, address }),
            ("--listen 127.0.0.1:80 --start-timeout 0s", SettingsError::NoTimeToStart),
            ("--listen 127.0.0.1:80 --flows 0", SettingsError::NothingWithFlows(Setting::Flows)),
            ("--listen 127.0.0.1:80 --flow-idle 0s", SettingsError::NothingWithFlows(Setting::FlowIdle)),
            ("--listen 127.0.0.1:80 --sockets 0", SettingsError::Sockets(0)),
            ("--listen 127.0.0.1:80 --mode own --sockets 257", SettingsError::Sockets(257)),
            ("--listen 127.0.0.1:80 --sockets 2", SettingsError::SocketsInherited(2)),
            (
                "--listen udp://127.0.0.1:80 --mode own --sockets 2 --policy quic-cid",
                SettingsError::SocketsById(2),
            ),
        ];
        for (line, error) in refused {
            let error = OptionsError(error);
            assert!(!error.hint().is_empty());
            assert_eq!(parse(line), Err(error), "{line}");
        }
    }
}
