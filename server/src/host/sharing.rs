//! Tries the bind hook: a process in a cgroup of its own binds an address that is in use, and knows nothing of SO_REUSEPORT.

use std::{error::Error, os::fd::AsFd as _};

use super::{Probe, describe};
use crate::{
    dataplane::bind_hook::{BindHook, BindHookError},
    sockets::{address::ListenAddress, listener::make_listener, options},
    workers::cgroup::{CgroupError, WorkersCgroup, proof::prove},
};

const NAME: &str = "bind hook";

/// What programs have to do where there is no hook.
const WITHOUT: &str = "programs that bind their address themselves have to set SO_REUSEPORT";

/// Tries it in the calling thread's network namespace, which has to be one of its own.
pub(super) fn probe() -> Probe {
    match trial() {
        Ok(()) => Probe::ok(NAME, "a program that knows nothing of SO_REUSEPORT shares an address"),
        Err(error) => {
            let hint = hint(&*error).unwrap_or("see the lines of the capabilities");
            Probe::warn(NAME, format!("{WITHOUT}: {}", describe(&*error)), hint)
        }
    }
}

fn trial() -> Result<(), Box<dyn Error>> {
    let mut address: ListenAddress = "tcp://127.0.0.1:0".parse()?;
    let listener = make_listener(address, None, 1)?;
    address.address = options::local_address(&listener)?;
    let cgroup = WorkersCgroup::make(&"check".parse()?, &std::process::id().to_string())?;
    let proved = BindHook::attach(&[address], cgroup.as_fd(), None)
        .map_err(Box::from)
        .and_then(|_hook| Ok(prove(&cgroup, address, None)?));
    // Nobody is in it any more.
    cgroup.remove()?;
    proved
}

fn hint(error: &(dyn Error + 'static)) -> Option<&'static str> {
    let of_cgroup = error.downcast_ref::<CgroupError>().map(CgroupError::hint);
    of_cgroup.or_else(|| Some(error.downcast_ref::<BindHookError>()?.hint()))
}
