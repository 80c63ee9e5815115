//! The command line: nouns read, verbs change.
//!
//! stdout is data, stderr is messages. Errors travel up as values and are printed once, here. No runtime is
//! started before the command is known: the demo changes what only a process with one thread can change of
//! itself, so each command starts its own.

pub mod arguments;
mod ask;
pub mod check;
pub mod exit;
mod output;
mod pages;
mod question;
mod refusals;
pub mod render;
mod run;
mod usage;
pub mod values;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::Parser;

pub(crate) use self::output::colour_wanted;
use self::{
    arguments::{Arguments, Command, Reporting},
    exit::Exit,
};
use crate::{
    config::{self, Config},
    control::DEFAULT_SOCKET,
    daemon::{
        self,
        setup::{Purpose, Setup},
    },
    demo::{self, DemoOptions},
    keeper, log,
    values::LogFormat,
    workers::sample,
};

/// Runs the command that `arguments`, with the program's name first, ask for, and says how it went.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = arguments.collect();
    match Arguments::try_parse_from(&words) {
        Ok(arguments) => {
            let exit = carry_out(arguments).unwrap_or_else(|error| exit::report(&error).into());
            log::finish();
            exit
        }
        Err(error) => usage::report(&error, &words).into(),
    }
}

fn carry_out(Arguments { socket, command }: Arguments) -> anyhow::Result<ExitCode> {
    let or_default = |socket: Option<PathBuf>| socket.unwrap_or_else(|| DEFAULT_SOCKET.into());
    let exit = match command {
        Command::Run(arguments) => {
            let Reporting { metrics, log_format } = arguments.reporting.clone();
            let leeway = run::leeway(&arguments.listen);
            let settings = run::settings(*arguments)?;
            let log_format = log_format.map_or(LogFormat::default(), LogFormat::from);
            log::start_in_daemon("info", log_format);
            let setup = Setup {
                socket: or_default(socket),
                access: Vec::new(),
                metrics,
                log_format,
                purpose: Purpose::Foreground { leeway },
            };
            run::run(settings, setup)?;
            Exit::Ok
        }
        Command::Daemon(arguments) => {
            let Config { daemon, groups, .. } = config::load(&arguments.config)?;
            let log_format = arguments.reporting.log_format.map_or(daemon.log_format, LogFormat::from);
            log::start_in_daemon("info", log_format);
            let setup = Setup {
                socket: or_default(socket.or(daemon.socket.clone())),
                access: daemon.access.clone(),
                metrics: arguments.reporting.metrics.or(daemon.metrics.clone()),
                log_format,
                purpose: Purpose::Service { config: arguments.config, pins: arguments.pins, loaded: daemon },
            };
            daemon::run(groups, setup)?;
            Exit::Ok
        }
        Command::Demo(arguments) => {
            log::start_in_command("warn");
            return demo::run(DemoOptions {
                json: arguments.output.json,
                seconds_per_phase: arguments.seconds,
                workers: arguments.workers,
            });
        }
        Command::Worker(options) => {
            sample::run_with(options)?;
            Exit::Ok
        }
        Command::Keep => {
            keeper::keep()?;
            Exit::Ok
        }
        Command::Check(arguments) => check::check(&arguments)?,
        Command::Completions { shell } => pages::completions(shell)?,
        Command::Man { dir } => pages::man(dir.as_deref())?,
        Command::Ask(question) => {
            log::start_in_command("warn");
            ask::ask(&or_default(socket), question)?
        }
    };
    Ok(Exit::into(exit))
}
