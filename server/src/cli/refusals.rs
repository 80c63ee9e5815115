//! The errors of what a command does by itself, `steer run` above all: their exit codes and ways out.

use std::error::Error;

use super::exit::Exit;
use crate::{
    daemon::foreground::NeverReady,
    dataplane::{error::DataplaneError, pins::PinsError},
    group::{AddressServed, PinsInUse, StateError},
    keeper::KeeperError,
    sockets::{diag::DiagError, listener::ListenerError, netns::NetnsError, pidfd::PidfdError},
    workers::{discover::Refusal, notify::NotifyError, spawn::SpawnError, user::UserError},
};

/// The exit code and the way out of one error in a chain of causes, where its type is known.
pub(super) fn classify(cause: &(dyn Error + 'static)) -> Option<(Exit, Option<String>)> {
    let owned = |hint: Option<&'static str>| hint.map(str::to_owned);
    if let Some(error) = cause.downcast_ref::<AddressServed>() {
        Some((Exit::Refused, Some(error.hint())))
    } else if let Some(error) = cause.downcast_ref::<ListenerError>() {
        Some((of_listener(error), error.hint()))
    } else if let Some(error) = cause.downcast_ref::<DataplaneError>() {
        let is_denied = error.errno() == Some(libc::EPERM);
        Some((if is_denied { Exit::Refused } else { Exit::Failed }, owned(error.hint())))
    } else if let Some(error) = cause.downcast_ref::<PinsInUse>() {
        Some((Exit::Refused, owned(Some(error.hint()))))
    } else if let Some(error) = cause.downcast_ref::<PinsError>() {
        let is_others = matches!(error, PinsError::NotOurs { .. });
        Some((if is_others { Exit::Refused } else { Exit::Failed }, owned(Some(error.hint()))))
    } else if let Some(error) = cause.downcast_ref::<StateError>() {
        let is_system = matches!(error, StateError::System { .. });
        Some((if is_system { Exit::Failed } else { Exit::Refused }, owned(Some(error.hint()))))
    } else if let Some(error) = cause.downcast_ref::<KeeperError>() {
        let exit = if error.is_conflict() { Exit::Refused } else { Exit::Failed };
        Some((exit, owned(Some(error.hint()))))
    } else if let Some(error) = cause.downcast_ref::<NotifyError>() {
        Some((if error.is_conflict() { Exit::Refused } else { Exit::Failed }, owned(Some(error.hint()))))
    } else if let Some(error) = cause.downcast_ref::<UserError>() {
        let is_unknown = matches!(error, UserError::Unknown(_));
        Some((if is_unknown { Exit::NoSuch } else { Exit::Failed }, error.hint()))
    } else if let Some(error) = cause.downcast_ref::<SpawnError>() {
        let is_missing = matches!(error, SpawnError::NoSuchProgram { .. });
        Some((if is_missing { Exit::NoSuch } else { Exit::Failed }, owned(error.hint())))
    } else if let Some(error) = cause.downcast_ref::<Refusal>() {
        Some((Exit::Refused, error.hint()))
    } else if let Some(error) = cause.downcast_ref::<NeverReady>() {
        Some((Exit::Failed, Some(error.hint().to_owned())))
    } else if let Some(error) = cause.downcast_ref::<NetnsError>() {
        Some((Exit::Failed, Some(error.hint().to_owned())))
    } else if let Some(error) = cause.downcast_ref::<DiagError>() {
        Some((Exit::Failed, owned(error.hint())))
    } else {
        cause.downcast_ref::<PidfdError>().map(|error| (Exit::Failed, owned(error.hint())))
    }
}

fn of_listener(error: &ListenerError) -> Exit {
    match error {
        // Another has it, or this process may not.
        ListenerError::AddressInUse { .. } | ListenerError::PermissionDenied { .. } => Exit::Refused,
        ListenerError::Owner { source, .. } if source.raw_os_error() == Some(libc::EPERM) => Exit::Refused,
        ListenerError::AddressNotAvailable { .. }
        | ListenerError::Owner { .. }
        | ListenerError::Other { .. } => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::cli::exit;

    fn code(error: impl Into<anyhow::Error>) -> (u8, bool) {
        let error = error.into().context("cannot open the group web");
        let (exit, hint) = exit::classify(&error);
        (exit as u8, hint.is_some())
    }

    #[test]
    fn what_another_has_or_the_process_may_not_is_refused() {
        let address: crate::sockets::address::ListenAddress = "127.0.0.1:80".parse().unwrap();
        assert_eq!(code(ListenerError::AddressInUse { address, uid: 0, holder: None }), (5, true));
        assert_eq!(code(ListenerError::PermissionDenied { address, first_free: 1024 }), (5, true));
        assert_eq!(code(ListenerError::AddressNotAvailable { address }), (1, true));
        let source = io::Error::from_raw_os_error(libc::EPERM);
        assert_eq!(code(ListenerError::Owner { address, uid: 7, source }), (5, true));
        let denied = io::Error::from_raw_os_error(libc::EPERM);
        assert_eq!(code(DataplaneError::Put { slot: 1, source: denied }), (5, false));
        let mptcp = io::Error::from_raw_os_error(524);
        assert_eq!(code(DataplaneError::Put { slot: 1, source: mptcp }), (1, true));
    }

    #[test]
    fn what_is_not_there_is_no_such_thing() {
        assert_eq!(code(UserError::Unknown("nobody-here".to_owned())), (4, true));
        let (worker, program) = ("web/0".to_owned(), "srv".to_owned());
        assert_eq!(code(SpawnError::NoSuchProgram { worker, program, interpreter: false }), (4, true));
    }

    #[test]
    fn the_ways_out_of_the_rest_are_told() {
        assert_eq!(code(NetnsError::Enter(io::Error::from_raw_os_error(libc::EPERM))), (1, true));
        assert_eq!(code(DiagError::Refused(io::Error::from_raw_os_error(libc::ENOENT))), (1, true));
    }
}
