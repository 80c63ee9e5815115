//! What the command line looks like.

mod adopt;
mod flows;
mod reporting;
mod run;
mod tune;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

pub use self::{
    adopt::AdoptArguments,
    flows::FlowsArguments,
    reporting::{LogFormatName, Reporting},
    run::{ModeName, ReadyName, RestartName, RunArguments, WhenEmptyName},
    tune::{PolicyArguments, RestartArguments, TableArguments, WeightArguments},
};
use super::values;
use crate::{
    config, daemon,
    names::{GroupName, WorkerName},
    workers::sample::SampleOptions,
};

const EXIT_CODES: &str = "\
Exit codes: 0 ok, 1 failure, 2 usage, 3 daemon unreachable or silent, 4 no such thing, 5 refused, 6 timed out \
(a drain at its deadline), 78 bad config.

Addresses are tcp://127.0.0.1:8080 or IP:PORT alone, :8080 (all) or localhost:8080. Durations are 30s, 500ms, 2m.";

const RELOAD: &str = "\
What is read is compared with what was read before, not with what is: a policy, weight or number of workers that was set by hand \
stays where the file says of it what it said.

At once: groups (new ones are opened, missing ones drained and stopped), policy, weights, count, when_empty, restart, \
stop_signal, deadlines, access. From each worker's next generation on: command, user, directory, environment, limits, ready; the \
answer names the command that makes it so now. What a group has for life is refused, and nothing changes: listen, mode, seed, and \
in mode own user.

SIGHUP does the same, and has the daemon's log say how it went.";

/// Steers connections to the workers of SO_REUSEPORT groups, and takes workers in and out without losing any
#[derive(Debug, Parser)]
#[command(name = "steer", version, after_help = EXIT_CODES, arg_required_else_help = true, max_term_width = 110)]
pub struct Arguments {
    /// The daemon's control socket [default: /run/steer/steer.sock]
    #[arg(long, global = true, value_name = "PATH", env = "STEER_SOCKET", hide_env_values = true)]
    pub socket: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon and one group in the foreground
    Run(Box<RunArguments>),
    /// Run the daemon and all groups of its configuration in the foreground
    Daemon(DaemonArguments),
    /// Show the product: the same load and restarts, steered and with the kernel alone, side by side
    Demo(DemoArguments),
    /// Check the configuration, kernel features, capabilities and limits; each line is ok, warn or fail, with the remedy
    Check(CheckArguments),
    /// What asks the daemon.
    #[command(flatten)]
    Ask(Question),
    /// Print a completion script for a shell
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Print the manual page
    Man {
        /// Write a page for each command into this directory instead.
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
    /// The sample worker; the daemon starts it.
    #[command(hide = true)]
    Worker(SampleOptions),
    /// Keeps sockets while there is no daemon; the daemon starts it.
    #[command(hide = true)]
    Keep,
}

/// The commands that ask the daemon.
#[derive(Debug, Subcommand)]
pub enum Question {
    /// Show groups, workers, their states, shares and counters
    Status {
        /// Only this group.
        group: Option<GroupName>,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Print the metrics of the daemon and of all groups, in the text format that Prometheus reads
    Metrics {
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Show the published steering table of a group, by worker; or where a client's connections go, and why
    Table(TableArguments),
    /// Show the UDP flows that a group, or one of its workers, has: how many, and which
    Flows(FlowsArguments),
    /// Show a group's policy and why each worker has the share it has; or change the policy, in one swap
    Policy(PolicyArguments),
    /// Give a worker another weight, in one swap or step by step
    Weight(WeightArguments),
    /// Show the events that the daemon remembers
    Events {
        /// Only this group's.
        group: Option<GroupName>,
        /// Stay, and show each new event as it happens.
        #[arg(long, short)]
        follow: bool,
        /// Begin with this sequence number.
        #[arg(long, value_name = "NUMBER", default_value_t = 0)]
        since: u64,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Hand over one worker or, one after another, all of a group; wait, and print a receipt for each
    Restart(RestartArguments),
    /// Take a worker out of the table, to the proven end of what it holds; print the receipt
    Drain {
        /// The worker, web/0; or web/*, all of an adopted group, with --until-replaced.
        #[arg(value_name = "GROUP/WORKER")]
        worker: values::Drained,
        /// Of an adopted group: until another listener of the server's takes its place, which is back at work
        #[arg(long)]
        until_replaced: bool,
        /// With web/*, only the workers of this unit of systemd: an instance of the template that is adopted
        #[arg(long, value_name = "UNIT", requires = "until_replaced")]
        unit: Option<String>,
        /// How to wait.
        #[command(flatten)]
        wait: Wait,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Put a drained worker back to work
    Undrain {
        /// The worker: web/0.
        #[arg(value_name = "GROUP/WORKER")]
        worker: WorkerName,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Change the number of workers; those that go are drained, and each has a receipt
    Scale {
        /// The group.
        group: GroupName,
        /// The number of workers wanted.
        #[arg(value_name = "N")]
        workers: u32,
        /// How to wait.
        #[command(flatten)]
        wait: Wait,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Take a server that runs already under management: a unit of systemd, or whoever listens at an address
    Adopt(AdoptArguments),
    /// Give a group back to the kernel's own hash; its workers go on, unmanaged
    Release {
        /// The group.
        #[arg(required_unless_present = "all")]
        group: Option<GroupName>,
        /// Every group.
        #[arg(long, conflicts_with = "group")]
        all: bool,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Read the daemon's configuration again, and make its groups what it says: all of it, or nothing where any of it is wrong
    #[command(after_help = RELOAD)]
    Reload {
        /// How to wait.
        #[command(flatten)]
        wait: Wait,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Drain every worker, end the groups and the daemon
    Stop {
        /// How to wait.
        #[command(flatten)]
        wait: Wait,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
    /// Call a method of the control protocol and print its answers as JSON
    Call {
        /// The method: Status, or with its interface as in org.varlink.service.GetInfo.
        method: String,
        /// Its parameters, a JSON object.
        #[arg(value_name = "JSON", default_value = "{}", value_parser = values::json_object)]
        parameters: serde_json::Value,
        /// How to print.
        #[command(flatten)]
        output: Output,
    },
}

/// How to print.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// Print JSON: one object, or one object per line for what comes bit by bit.
    #[arg(long)]
    pub json: bool,
}

/// How long to wait.
#[derive(Debug, Clone, Copy, Args)]
pub struct Wait {
    /// How long each drain may take [default: the group's own]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub timeout: Option<Duration>,
}

/// What `steer daemon` takes.
#[derive(Debug, Clone, Args)]
pub struct DaemonArguments {
    /// The configuration; the files of conf.d beside it belong to it, and options go before its own
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
    /// The directory, in a bpffs, of the pins by which the next daemon finds program and maps again
    #[arg(long, value_name = "DIR", default_value = daemon::DEFAULT_PINS)]
    pub pins: PathBuf,
    /// How it tells of itself.
    #[command(flatten)]
    pub reporting: Reporting,
}

/// What `steer check` takes.
#[derive(Debug, Clone, Args)]
pub struct CheckArguments {
    /// The configuration, which is checked first [default: /etc/steer/steer.toml, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// What `steer demo` takes.
#[derive(Debug, Clone, Copy, Args)]
pub struct DemoArguments {
    /// How long the workers of each of the three are restarted, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 12, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// The number of workers.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    pub workers: u32,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}
