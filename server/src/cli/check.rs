//! `steer check`: each probe is a line, ok, warn or fail, with the remedy.

use serde::Serialize;

use super::{exit::Exit, output};
use crate::{
    control::api::SCHEMA,
    host::{Probe, Verdict},
};

/// Prints the probes; a failed one makes the command fail.
pub(super) fn report(probes: &[Probe], json: bool) -> anyhow::Result<Exit> {
    #[derive(Serialize)]
    struct Report<'a> {
        schema: u32,
        probes: &'a [Probe],
    }
    if json {
        output::print_pretty(&Report { schema: SCHEMA, probes })?;
    } else {
        output::print(&text(probes))?;
    }
    let failed = probes.iter().any(|probe| probe.verdict == Verdict::Fail);
    Ok(if failed { Exit::Failed } else { Exit::Ok })
}

fn text(probes: &[Probe]) -> String {
    let width = probes.iter().map(|probe| probe.name.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for Probe { name, verdict, detail, remedy } in probes {
        text += &format!("{:<4}  {name:<width$}  {detail}\n", verdict.as_str());
        if let Some(remedy) = remedy {
            text += &format!("      {:<width$}  remedy: {remedy}\n", "");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_probe_is_a_line_and_its_remedy_another() {
        let probe = |name: &str, verdict, detail: &str, remedy: Option<&str>| Probe {
            name: name.into(),
            verdict,
            detail: detail.into(),
            remedy: remedy.map(str::to_owned),
        };
        let probes = [
            probe("kernel", Verdict::Ok, "6.18.0, select-or-migrate loads", None),
            probe("bpffs", Verdict::Warn, "not mounted", Some("mount -t bpf bpf /sys/fs/bpf")),
            probe("capabilities", Verdict::Fail, "CAP_BPF is missing", Some("run it as root")),
        ];
        insta::assert_snapshot!(text(&probes), @r"
        ok    kernel        6.18.0, select-or-migrate loads
        warn  bpffs         not mounted
                            remedy: mount -t bpf bpf /sys/fs/bpf
        fail  capabilities  CAP_BPF is missing
                            remedy: run it as root
        ");
    }
}
