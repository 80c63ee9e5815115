//! `steer run`: from its arguments to the settings of a group. Pure.

use std::time::Duration;

use thiserror::Error;

use super::arguments::{ModeName, ReadyName, RestartName, RunArguments, WhenEmptyName};
use crate::{
    daemon::settings::{Deadlines, GroupSettings, Mode, Readiness, RestartKind, WhenEmpty},
    sockets::address::{ListenAddress, Protocol},
};

/// Each worker needs two slots while it is handed over, so does the holding listener, and slot 0 holds none.
const WORKERS_MAX: u32 = (server_common::limits::SLOTS_DEFAULT - 3) / 2;

/// Arguments that are well-formed, each by itself, but do not go together.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub(super) enum SettingsError {
    /// One address is given twice.
    #[error("--listen {0} is given twice")]
    ListenTwice(ListenAddress),
    /// The kernel would give each worker a port of its own.
    #[error("--listen {0} has port 0, and in mode own every worker would get another port")]
    OwnPortZero(ListenAddress),
    /// The sockarray has no room for them.
    #[error("--workers {0} is too many: a group has 1 to {WORKERS_MAX}")]
    TooManyWorkers(u32),
    /// There is no listener of the worker's own to look at.
    #[error("--ready listener is for --mode own, and the mode is inherit")]
    ListenerInherited,
    /// Datagrams want their flows tracked through a drain, which this version does not.
    #[error("--listen {0} is udp, and this version steers tcp only")]
    Udp(ListenAddress),
    /// No worker can be ready in no time.
    #[error("--start-timeout is 0, so no worker can become ready")]
    NoTimeToStart,
    /// An empty word where the program's name belongs.
    #[error("the command after -- is empty")]
    EmptyCommand,
}

impl SettingsError {
    /// The way out.
    pub(super) fn hint(&self) -> &'static str {
        match self {
            Self::ListenTwice(_) => "give each address once",
            Self::OwnPortZero(_) => "choose a port, or leave the listeners to the daemon with --mode inherit",
            Self::TooManyWorkers(_) => "a worker for each processor is plenty; run two groups for more",
            Self::ListenerInherited => "use --ready notify or --ready probe, or --mode own",
            Self::Udp(_) => "give tcp:// addresses, or IP:PORT, which is tcp",
            Self::NoTimeToStart => "leave it out for 30s, or give the time that a worker takes",
            Self::EmptyCommand => {
                "write the program's name after --, or leave both out for the sample worker"
            }
        }
    }
}

/// The settings that the arguments ask for, with every default filled in.
pub(super) fn settings(arguments: RunArguments) -> Result<GroupSettings, SettingsError> {
    let RunArguments { listen, workers, name, policy, user, .. } = &arguments;
    let mode = match arguments.mode {
        ModeName::Inherit => Mode::Inherit,
        ModeName::Own => Mode::Own,
    };
    if let Some(twice) = listen.iter().enumerate().find_map(|(i, a)| listen[..i].contains(a).then_some(a)) {
        return Err(SettingsError::ListenTwice(*twice));
    }
    if let Some(address) = listen.iter().find(|address| address.protocol == Protocol::Udp) {
        return Err(SettingsError::Udp(*address));
    }
    if *workers > WORKERS_MAX {
        return Err(SettingsError::TooManyWorkers(*workers));
    }
    if mode == Mode::Own
        && let Some(address) = listen.iter().find(|address| address.address.port() == 0)
    {
        return Err(SettingsError::OwnPortZero(*address));
    }
    if arguments.start_timeout == Duration::ZERO {
        return Err(SettingsError::NoTimeToStart);
    }
    if arguments.command.first().is_some_and(String::is_empty) {
        return Err(SettingsError::EmptyCommand);
    }
    Ok(GroupSettings {
        name: name.clone(),
        listen: listen.clone(),
        workers: *workers,
        policy: *policy,
        mode,
        restart: match arguments.restart {
            RestartName::Surge => RestartKind::Surge,
            RestartName::Replace => RestartKind::Replace,
        },
        ready: readiness(arguments.ready, mode, arguments.command.is_empty())?,
        when_empty: match arguments.when_empty {
            WhenEmptyName::Hold => WhenEmpty::Hold,
            WhenEmptyName::Refuse => WhenEmpty::Refuse,
        },
        user: user.clone(),
        directory: None,
        environment: Vec::new(),
        stop_signal: arguments.stop_signal.0,
        seed: arguments.seed.map(|seed| seed.0),
        deadlines: Deadlines {
            start: arguments.start_timeout,
            drain: arguments.drain_timeout,
            settle: arguments.settle,
            stop: arguments.stop_timeout,
        },
        command: (!arguments.command.is_empty()).then_some(arguments.command),
    })
}

fn readiness(wanted: Option<ReadyName>, mode: Mode, sample: bool) -> Result<Readiness, SettingsError> {
    match (wanted, mode) {
        (Some(ReadyName::Notify), _) => Ok(Readiness::Notify),
        (Some(ReadyName::Probe), _) => Ok(Readiness::Probe),
        (Some(ReadyName::Listener), Mode::Inherit) => Err(SettingsError::ListenerInherited),
        (Some(ReadyName::Listener) | None, Mode::Own) => Ok(Readiness::Listener),
        (None, Mode::Inherit) if sample => Ok(Readiness::Notify),
        // Most programs that take an inherited listener say nothing; to wait for READY=1 of one that never says
        // it would make its every start fail.
        (None, Mode::Inherit) => Ok(Readiness::Probe),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::arguments::{Arguments, Command};

    fn parse(line: &str) -> Result<GroupSettings, SettingsError> {
        let words = ["steer", "run", "--workers", "4"].into_iter().chain(line.split_whitespace());
        let Command::Run(arguments) = Arguments::try_parse_from(words).unwrap().command else { panic!() };
        settings(arguments)
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
    fn readiness_follows_mode_and_command() {
        let ready = |line: &str| parse(&format!("--listen 127.0.0.1:8080 {line}")).map(|s| s.ready);
        assert_eq!(ready(""), Ok(Readiness::Notify));
        assert_eq!(ready("-- app"), Ok(Readiness::Probe));
        assert_eq!(ready("--mode own"), Ok(Readiness::Listener));
        assert_eq!(ready("--mode own -- app"), Ok(Readiness::Listener));
        assert_eq!(ready("--ready notify -- app"), Ok(Readiness::Notify));
        assert_eq!(ready("--ready probe"), Ok(Readiness::Probe));
        assert_eq!(ready("--ready notify --mode own"), Ok(Readiness::Notify));
        assert_eq!(ready("--ready listener"), Err(SettingsError::ListenerInherited));
    }

    #[test]
    fn udp_is_refused() {
        let udp = "udp://[::]:80".parse().unwrap();
        assert_eq!(parse("--listen udp://[::]:80"), Err(SettingsError::Udp(udp)));
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
        let Deadlines { start, drain, settle, stop } = settings.deadlines;
        assert_eq!([start, drain, settle, stop].map(|d| d.as_millis()), [1000, 2000, 300, 240_000]);
        assert_eq!(settings.stop_signal, libc::SIGQUIT);
        assert_eq!(settings.command.unwrap(), ["python3", "-m", "app", "--listen", "x"]);
    }

    #[test]
    fn what_does_not_go_together_is_refused_with_a_hint() {
        let address = "tcp://127.0.0.1:0".parse().unwrap();
        let refused = [
            ("--listen 127.0.0.1:0 tcp://127.0.0.1:0", SettingsError::ListenTwice(address)),
            ("--listen 127.0.0.1:0 --mode own", SettingsError::OwnPortZero(address)),
            ("--listen 127.0.0.1:80 --start-timeout 0s", SettingsError::NoTimeToStart),
        ];
        for (line, error) in refused {
            assert!(!error.hint().is_empty());
            assert_eq!(parse(line), Err(error), "{line}");
        }
    }
}
