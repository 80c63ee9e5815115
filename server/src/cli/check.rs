//! `steer check`: each probe is a line, ok, warn or fail, with the remedy.

use std::path::Path;

use serde::Serialize;

use super::{arguments::CheckArguments, exit::Exit, output};
use crate::{
    config::{self, Config},
    control::{Access, api::SCHEMA},
    host::{self, Probe, Verdict},
    workers::user::{ResolvedUser, UserError},
};

/// Checks the configuration, then the host. Nothing of the host is tried for a configuration that is wrong.
pub(super) fn check(arguments: &CheckArguments) -> anyhow::Result<Exit> {
    let standard = Path::new(config::DEFAULT_PATH);
    // What cannot be looked at is there, and its error says why.
    let path = match &arguments.config {
        Some(path) => Some(path.as_path()),
        None => standard.try_exists().unwrap_or(true).then_some(standard),
    };
    let mut probes = Vec::new();
    if let Some(path) = path {
        let config = config::load(path)?;
        probes.push(configuration(path, &config));
        let readers = Access::new(Vec::new())?.readers_gid;
        probes.extend(config.daemon.access.iter().filter_map(|user| {
            let user = ResolvedUser::resolve(user);
            access(user, readers)
        }));
    }
    probes.extend(host::probes());
    report(&probes, arguments.output.json)
}

/// The line of a configuration in which nothing is wrong.
fn configuration(path: &Path, Config { groups, files, .. }: &Config) -> Probe {
    let workers: u64 = groups.iter().map(|group| u64::from(group.workers)).sum();
    let addresses: usize = groups.iter().map(|group| group.listen.len()).sum();
    let mut detail = path.display().to_string();
    if let Some(more @ 1..) = files.len().checked_sub(1) {
        detail += &format!(" and {more} of conf.d");
    }
    detail += &format!(": groups {}, workers {workers}, addresses {addresses}", groups.len());
    Probe { name: "configuration".to_owned(), verdict: Verdict::Ok, detail, remedy: None }
}

/// The line of a user that may make changes and cannot: the socket is for root and the Unix group `steer`.
fn access(user: Result<ResolvedUser, UserError>, readers: Option<u32>) -> Option<Probe> {
    let probe = |verdict, detail, remedy| {
        Some(Probe { name: "access".to_owned(), verdict, detail, remedy: Some(remedy) })
    };
    let ResolvedUser { uid, name, groups, .. } = match user {
        Ok(user) => user,
        Err(error) => {
            let remedy = error.hint().unwrap_or_else(|| "see whether `id` finds the user".to_owned());
            return probe(Verdict::Fail, error.to_string(), remedy);
        }
    };
    if uid == 0 || readers.is_some_and(|gid| groups.contains(&gid)) {
        return None;
    }
    let join = format!("usermod --append --groups steer {name}");
    match readers {
        Some(gid) => probe(
            Verdict::Warn,
            format!(
                "{name} may make changes, but is not in the group steer (gid {gid}), which reaches the socket"
            ),
            join,
        ),
        None => probe(
            Verdict::Warn,
            format!("{name} may make changes, but there is no group steer, which would reach the socket"),
            format!("groupadd --system steer && {join}, and start the daemon again"),
        ),
    }
}

/// Prints the probes; a failed one makes the command fail.
fn report(probes: &[Probe], json: bool) -> anyhow::Result<Exit> {
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
    fn who_cannot_reach_the_socket_is_told_how() {
        let user = |uid, groups: &[u32]| {
            let (name, groups) = ("alice".to_owned(), groups.to_vec());
            Ok(ResolvedUser { uid, gid: uid, groups, name, home: None })
        };
        assert_eq!(access(user(0, &[0]), None), None);
        assert_eq!(access(user(1001, &[1001, 77]), Some(77)), None);
        let probes = [
            access(user(1001, &[1001]), Some(77)).unwrap(),
            access(user(1001, &[1001]), None).unwrap(),
            access(Err(UserError::Unknown("bob".into())), None).unwrap(),
        ];
        insta::assert_snapshot!(text(&probes), @r#"
        warn  access  alice may make changes, but is not in the group steer (gid 77), which reaches the socket
                      remedy: usermod --append --groups steer alice
        warn  access  alice may make changes, but there is no group steer, which would reach the socket
                      remedy: groupadd --system steer && usermod --append --groups steer alice, and start the daemon again
        fail  access  there is no user "bob" on this system
                      remedy: make it with `useradd --system bob`, or give a number instead of a name
        "#);
    }

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
