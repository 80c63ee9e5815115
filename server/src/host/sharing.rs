//! Tries the bind hook: at a cgroup of its own, where a process binds an address that is in use and knows nothing of SO_REUSEPORT; and
//! above all programs.

use std::{
    error::Error,
    os::fd::{AsFd as _, OwnedFd},
};

use super::{Probe, describe};
use crate::{
    dataplane::bind_hook::{BindHook, BindHookError, ProofError, Scope},
    sockets::{address::ListenAddress, listener::make_listener, netns::Cookie, options},
    workers::cgroup::{CgroupError, TopCgroup, WorkersCgroup, proof::prove},
};

const NAME: &str = "bind hook";
const ABOVE: &str = "bind hook above all";

/// What programs have to do where there is no hook.
const WITHOUT: &str = "programs that bind their address themselves have to set SO_REUSEPORT";

/// What cannot be done where there is none above all programs.
const WITHOUT_ABOVE: &str = "a server that steer did not start has to set SO_REUSEPORT itself";

/// Tries it in the calling thread's network namespace, which has to be one of its own: above all programs, the hook is for that alone.
pub(super) fn probes() -> Vec<Probe> {
    let of_workers =
        at_workers().map(|()| "a program that knows nothing of SO_REUSEPORT shares an address".to_owned());
    let above = above_all().map(|path| format!("so does a server that steer did not start, below {path}"));
    vec![probe(NAME, WITHOUT, of_workers), probe(ABOVE, WITHOUT_ABOVE, above)]
}

fn probe(name: &str, without: &str, tried: Result<String, Box<dyn Error>>) -> Probe {
    match tried {
        Ok(detail) => Probe::ok(name, detail),
        Err(error) => {
            let hint = hint(&*error).unwrap_or("see the lines of the capabilities");
            Probe::warn(name, format!("{without}: {}", describe(&*error)), hint)
        }
    }
}

/// A listener that shares its address.
fn listener() -> Result<(OwnedFd, ListenAddress), Box<dyn Error>> {
    let mut address: ListenAddress = "tcp://127.0.0.1:0".parse()?;
    let listener = make_listener(address, None, 1)?;
    address.address = options::local_address(&listener)?;
    Ok((listener, address))
}

/// Returns where the hook was attached.
fn above_all() -> Result<String, Box<dyn Error>> {
    let (_listener, address) = listener()?;
    let scope = Scope::namespace([address], Cookie::here()?);
    let top = TopCgroup::open()?;
    let _hook = BindHook::attach(&scope, top.as_fd(), None)?;
    scope.prove(None)?;
    Ok(top.path().display().to_string())
}

fn at_workers() -> Result<(), Box<dyn Error>> {
    let (_listener, address) = listener()?;
    let cgroup = WorkersCgroup::make(&"check".parse()?, &std::process::id().to_string())?;
    let proved = BindHook::attach(&Scope::workers([address]), cgroup.as_fd(), None)
        .map_err(Box::from)
        .and_then(|_hook| Ok(prove(&cgroup, address, None)?));
    // Nobody is in it any more.
    cgroup.remove()?;
    proved
}

fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let of_cgroup = error.downcast_ref::<CgroupError>().map(CgroupError::hint);
    let of_hook = || error.downcast_ref::<BindHookError>().map(BindHookError::hint);
    let of_proof = || error.downcast_ref::<ProofError>().map(ProofError::hint);
    of_cgroup.or_else(of_hook).or_else(of_proof)
}
