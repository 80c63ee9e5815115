//! The command line: nouns read, verbs change.
//!
//! stdout is data, stderr is messages. Errors travel up as values and are printed once, here. No runtime is
//! started before the command is known: the demo and the shim change what only a process with one thread can
//! change of itself, so each command starts its own.

pub mod arguments;
mod ask;
pub mod check;
pub mod exit;
mod log;
mod output;
mod pages;
mod refusals;
pub mod render;
mod run;
mod seams;
mod usage;
pub mod values;

use std::{ffi::OsString, process::ExitCode};

use clap::Parser;

use self::{
    arguments::{Arguments, Command},
    exit::Exit,
};
use crate::host;

/// Runs the command that `arguments`, with the program's name first, ask for, and says how it went.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = arguments.collect();
    match Arguments::try_parse_from(&words) {
        Ok(arguments) => carry_out(arguments).unwrap_or_else(|error| exit::report(&error).into()),
        Err(error) => usage::report(&error, &words).into(),
    }
}

fn carry_out(Arguments { socket, command }: Arguments) -> anyhow::Result<ExitCode> {
    let exit = match command {
        Command::Run(arguments) => {
            let settings = run::settings(arguments)?;
            log::start("info");
            return seams::run(vec![settings], socket);
        }
        Command::Demo(arguments) => {
            log::start("warn");
            return seams::demo(&arguments);
        }
        Command::Worker(options) => return seams::worker(options),
        Command::Check(output) => check::report(&host::probes(), output.json)?,
        Command::Completions { shell } => pages::completions(shell)?,
        Command::Man { dir } => pages::man(dir.as_deref())?,
        Command::Ask(question) => {
            log::start("warn");
            ask::ask(&socket, question)?
        }
    };
    Ok(Exit::into(exit))
}
