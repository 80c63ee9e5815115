//! Everything of a reload that can be refused without asking a group: files, what they change, users, programs. It may block.

use std::path::Path;

use anyhow::Context as _;

use crate::{
    cli::exit::{Exit, classify},
    config::{self, Config},
    control::{
        Access,
        api::{Fault, FaultKind},
    },
    daemon::{resolve_access, settings::GroupSettings},
    workers::{spawn::require_program, user::ResolvedUser},
};

use super::plan::{GroupChange, Plan, Refusal, plan};

/// What a reload is carried out with.
#[derive(Debug)]
pub(super) struct Gathered {
    pub(super) config: Config,
    pub(super) plan: Plan,
    pub(super) access: Access,
    /// Whom the workers of each changed group run as.
    pub(super) users: Vec<Option<ResolvedUser>>,
}

/// Reads the configuration and finds out what it changes, and whether what it names is there.
pub(super) fn gather(path: &Path, old: &Config, socket: &Path) -> Result<Gathered, Fault> {
    let new =
        config::load(path).map_err(|errors| Fault::new(FaultKind::Misconfigured, errors.to_string()))?;
    require_groups(path, old, &new)?;
    let plan = plan(old, &new, socket).map_err(|refusals| refused(&refusals))?;
    let access = resolve_access(&new.daemon.access).map_err(|error| fault(&error))?;
    let users =
        plan.changed.iter().map(user).collect::<anyhow::Result<_>>().map_err(|error| fault(&error))?;
    Ok(Gathered { config: new, plan, access, users })
}

/// Refuses a file without groups where there are some: more likely than not it was cut off, and to follow it would stop all of them.
fn require_groups(path: &Path, old: &Config, new: &Config) -> Result<(), Fault> {
    if old.groups.is_empty() || !new.groups.is_empty() {
        return Ok(());
    }
    let (path, running) = (path.display(), old.groups.len());
    // As errors of a file are printed: nothing is put before or after.
    let message = format!(
        "error: cannot reload {path}: it names no group, and {running} run; nothing was changed\n\
         hint: if the last group is to go, `steer stop GROUP` stops it, or `steer release GROUP`"
    );
    Err(Fault::new(FaultKind::Misconfigured, message))
}

/// The user of a changed group's workers; its program is there, too.
fn user(change: &GroupChange) -> anyhow::Result<Option<ResolvedUser>> {
    let GroupSettings { name, user, command, directory, environment, .. } = &change.new;
    let whose = || format!("cannot change the group {name}");
    if let Some(command) = command {
        require_program(name.as_str(), command, directory.as_deref(), environment).with_context(whose)?;
    }
    user.as_deref().map(ResolvedUser::resolve).transpose().with_context(whose)
}

/// All that cannot be, with both values of each and the way out.
fn refused(refusals: &[Refusal]) -> Fault {
    let mut message = "cannot reload, and nothing was changed:".to_owned();
    for Refusal { whose, key, before, after, hint } in refusals {
        message += &format!("\n  {whose}: {key} is {before}, and the file has {after}; {hint}");
    }
    Fault::new(FaultKind::Refused, message)
        .with_hint("take this back in the file, or go the way that is named")
}

/// An error of what is done at a start as well, with the sort and the way out that it has there.
pub(super) fn fault(error: &anyhow::Error) -> Fault {
    let (exit, hint) = classify(error);
    let kind = match exit {
        Exit::Usage => FaultKind::Usage,
        Exit::NoSuch => FaultKind::NoSuch,
        Exit::Refused => FaultKind::Refused,
        Exit::TimedOut => FaultKind::TimedOut,
        Exit::Config => FaultKind::Misconfigured,
        Exit::Ok | Exit::Failed | Exit::Unreachable => FaultKind::Failed,
    };
    Fault { kind, message: format!("{error:#}; nothing was changed"), hint }
}
