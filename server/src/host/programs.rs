//! Whether the kernel takes the two programs, and compiles them.

use super::{Probe, describe};
use crate::dataplane::{
    error::DataplaneError,
    kernel_group::{KernelGroup, ProgramKind, Shape},
};

/// Enough to load; nothing is attached.
const SLOTS: u32 = 8;

/// Loads each program and lets it go.
pub(super) fn probes() -> Vec<Probe> {
    let [migrate, select] = [ProgramKind::SelectOrMigrate, ProgramKind::Select].map(load);
    let jit = jit(migrate.as_ref().ok().or(select.as_ref().ok()));
    vec![first_choice(migrate.map(drop), select.is_ok()), twin(select.map(drop)), jit]
}

fn load(kind: ProgramKind) -> Result<KernelGroup, DataplaneError> {
    KernelGroup::load_kind(Shape::without_flows(SLOTS), kind).map(|(group, _)| group)
}

fn first_choice(loaded: Result<(), DataplaneError>, has_twin: bool) -> Probe {
    let name = ProgramKind::SelectOrMigrate.as_str();
    match loaded {
        Ok(()) => {
            Probe::ok(name, "the program loads: it also chooses for connections whose listener has stopped")
        }
        Err(error) if has_twin => Probe::warn(
            name,
            describe(&error),
            "Linux 5.14 or later; without it what a stopped worker had not accepted is reset, and drains wait instead",
        ),
        Err(error) => Probe::fail(name, describe(&error), remedy(&error)),
    }
}

fn twin(loaded: Result<(), DataplaneError>) -> Probe {
    let name = ProgramKind::Select.as_str();
    match loaded {
        Ok(()) => Probe::ok(name, "its twin for kernels before 5.14 loads"),
        Err(error) => Probe::fail(name, describe(&error), remedy(&error)),
    }
}

fn remedy(error: &DataplaneError) -> String {
    error.hint().unwrap_or("Linux 5.10 or later, with CONFIG_BPF_SYSCALL and CONFIG_INET").to_owned()
}

/// Asked of a loaded program: the setting is hidden in network namespaces other than the first.
fn jit(loaded: Option<&KernelGroup>) -> Probe {
    const NAME: &str = "bpf jit";
    let Some(group) = loaded else {
        return Probe::warn(NAME, "not tried: no program loads", "see the programs above");
    };
    match group.info() {
        Ok(info) if info.size_jitted() > 0 => Probe::ok(NAME, "the program is compiled"),
        Ok(_) => Probe::warn(
            NAME,
            "the program is interpreted, which is slower by some times",
            "sysctl -w net.core.bpf_jit_enable=1",
        ),
        Err(error) => {
            Probe::warn(NAME, format!("cannot be told: {}", describe(&error)), "Linux 4.13 or later")
        }
    }
}
