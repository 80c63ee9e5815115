//! The commands that say where new flows go: `table`, `policy`, `weight` and `restart`, with its canary.

use std::{ffi::OsStr, net::SocketAddr, time::Duration};

use clap::{ArgMatches, Args, Command, FromArgMatches, builder::TypedValueParser};

use super::{
    Output, Wait,
    values::{self, Target},
};
use crate::{
    names::{GroupName, WorkerName},
    policy::Policy,
};

/// What `steer table` takes.
#[derive(Debug, Clone, Args)]
pub struct TableArguments {
    /// The group
    pub group: GroupName,
    /// Say which worker this client's connections go to, and why; may be given more than once
    #[arg(long = "where", value_name = "CLIENT:PORT", value_parser = values::client)]
    pub clients: Vec<SocketAddr>,
    /// Where the clients connect to [default: each of the group's addresses]
    #[arg(long, value_name = "ADDR:PORT", requires = "clients", value_parser = values::local)]
    pub to: Option<SocketAddr>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// What `steer policy` takes.
#[derive(Debug, Clone, Args)]
pub struct PolicyArguments {
    /// The group
    pub group: GroupName,
    /// The policy to change to.
    #[command(flatten)]
    pub policy: NewPolicy,
    /// Change nothing: say what would change, and how many buckets and open connections' 4-tuples would move
    #[arg(long, requires = "policy")]
    pub dry_run: bool,
    /// Say which worker this client's connections go to before and after; may be given more than once
    #[arg(long = "where", value_name = "CLIENT:PORT", requires = "policy", value_parser = values::client)]
    pub clients: Vec<SocketAddr>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// What `steer weight` takes.
#[derive(Debug, Clone, Args)]
pub struct WeightArguments {
    /// The worker: web/0
    #[arg(value_name = "GROUP/WORKER")]
    pub worker: WorkerName,
    /// Its new weight, 0 to 100, relative to the others'; with 0 it gets nothing new and keeps what it has, without a deadline
    // Without this, -1 would be an unknown option, and nobody would be told the range.
    #[arg(value_name = "W", value_parser = values::weight, allow_negative_numbers = true)]
    pub weight: u32,
    /// Go there step by step, over this time; the daemon goes on when this command is interrupted [default: at once]
    #[arg(long, value_name = "DURATION", value_parser = values::duration)]
    pub over: Option<Duration>,
    /// Change nothing: say what would change, and how many buckets and open connections' 4-tuples would move
    #[arg(long)]
    pub dry_run: bool,
    /// Say which worker this client's connections go to before and after; may be given more than once
    #[arg(long = "where", value_name = "CLIENT:PORT", value_parser = values::client)]
    pub clients: Vec<SocketAddr>,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// What `steer restart` takes.
#[derive(Debug, Clone, Args)]
pub struct RestartArguments {
    /// The group or the worker: web or web/0
    #[arg(value_name = "GROUP[/WORKER]")]
    pub target: Target,
    /// How to wait.
    #[command(flatten)]
    pub wait: Wait,
    /// Give the first new generation only this part of its worker's buckets at first, 0.1% to 99.9%; `steer status` counts it apart
    #[arg(long, value_name = "PART", value_parser = values::part)]
    pub canary: Option<u32>,
    /// How long it has only that part before it takes over by itself [default: 30s]
    #[arg(long, value_name = "DURATION", requires = "canary", value_parser = values::duration)]
    pub hold: Option<Duration>,
    /// Of the restart under way: let its canary take over now, and go on
    #[arg(long, conflicts_with_all = ["canary", "hold", "timeout"])]
    pub proceed: bool,
    /// Of the restart under way: drain its canary, give the old generation its buckets back, and end
    #[arg(long, conflicts_with_all = ["canary", "hold", "timeout", "proceed"])]
    pub abort: bool,
    /// How to print.
    #[command(flatten)]
    pub output: Output,
}

/// A policy in one word, `source:ipv4=24,ipv6=64`, or in several, `source ipv4=24 ipv6=64`; nothing where none is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewPolicy(pub Option<Policy>);

/// The words, before they are one policy.
#[derive(Debug, Args)]
struct PolicyWords {
    /// The policy to change to: hash, source, least-loaded, cpu or quic-cid [default: only show the policy]
    policy: Option<String>,
    /// Its options: ipv4 and ipv6 of source are how many of the address's first bits count, tie of least-loaded is how many
    /// connections more still count as even, config, host, nonce and also of quic-cid say how connection IDs are read; also in one
    /// word, as in source:ipv4=24,ipv6=64
    #[arg(value_name = "OPTION=VALUE")]
    options: Vec<String>,
}

impl PolicyWords {
    /// The one form.
    fn joined(&self) -> Option<String> {
        let policy = self.policy.as_ref()?;
        if self.options.is_empty() {
            return Some(policy.clone());
        }
        let separator = if policy.contains(':') { ',' } else { ':' };
        Some(format!("{policy}{separator}{}", self.options.join(",")))
    }
}

impl FromArgMatches for NewPolicy {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let Some(text) = PolicyWords::from_arg_matches(matches)?.joined() else { return Ok(Self(None)) };
        // clap makes the error of a value that it was given itself, and of no other: it is asked as for one word.
        let command = PolicyWords::augment_args(Command::new("policy"));
        let argument = command.get_arguments().find(|argument| argument.get_id() == "policy");
        let parser = |text: &str| text.parse::<Policy>();
        parser.parse_ref(&command, argument, OsStr::new(&text)).map(|policy| Self(Some(policy)))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for NewPolicy {
    fn augment_args(command: Command) -> Command {
        PolicyWords::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        PolicyWords::augment_args_for_update(command)
    }
}
