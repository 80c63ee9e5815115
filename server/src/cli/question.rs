//! From a question to the request that it is. Pure.

use std::time::Duration;

use super::{
    arguments::{
        AdoptArguments, FlowsArguments, Output, PolicyArguments, Question, RestartArguments, TableArguments,
        Wait, WeightArguments,
    },
    values::{Drained, Target},
};
use crate::control::api::{Canary, Decision, Fault, FaultKind, INTERFACE, Request};

/// How long a canary has its part only, unless the user says otherwise.
const HOLD_DEFAULT: Duration = Duration::from_secs(30);

/// What is asked of the daemon, and how the answer is printed.
#[derive(Debug)]
pub(super) enum Asked {
    /// A request, with answers of known types.
    Request(Request, Output),
    /// A method by its full name, with answers as they come.
    Call(String, serde_json::Value, Output),
}

/// What the question asks. Fails where its words, each good by itself, do not go together.
pub(super) fn understand(question: Question) -> Result<Asked, Fault> {
    let milliseconds = |Wait { timeout }: Wait| timeout.map(whole_milliseconds);
    let (request, output) = match question {
        Question::Status { group, output } => (Request::Status { group }, output),
        Question::Metrics { output } => (Request::Metrics {}, output),
        Question::Table(TableArguments { group, clients, to, output }) => {
            (Request::Table { group, clients, to }, output)
        }
        Question::Flows(FlowsArguments { of, client, count, limit, output }) => {
            let Target { group, worker } = of;
            (Request::Flows { group, worker, client, limit: if count { 0 } else { limit } }, output)
        }
        Question::Policy(PolicyArguments { group, policy, dry_run, clients, output }) => {
            let request = match policy.0 {
                None => Request::Policy { group },
                Some(policy) => Request::SetPolicy { group, policy, dry_run, clients },
            };
            (request, output)
        }
        Question::Weight(WeightArguments { worker, weight, over, dry_run, clients, output }) => {
            let over_ms = over.map(whole_milliseconds).filter(|over_ms| *over_ms > 0);
            (Request::SetWeight { worker, weight, over_ms, dry_run, clients }, output)
        }
        Question::Events { group, follow, since, output } => {
            (Request::Events { group, since, follow }, output)
        }
        Question::Restart(arguments) => {
            let output = arguments.output;
            (restart(arguments)?, output)
        }
        Question::Drain { worker, until_replaced, unit, wait, output } => {
            let timeout_ms = milliseconds(wait);
            let request = match worker {
                Drained::One(worker) if unit.is_some() => {
                    let hint = format!("write {}/* with --unit, or {worker} without it", worker.group);
                    let message = format!("--unit says which workers of a group, and {worker} is one worker");
                    return Err(Fault::new(FaultKind::Usage, message).with_hint(hint));
                }
                Drained::One(worker) => Request::Drain { worker, timeout_ms, until_replaced },
                Drained::All(group) if until_replaced => Request::DrainAll { group, unit, timeout_ms },
                Drained::All(group) => {
                    let message =
                        format!("{group}/* is all workers, and nobody would take what comes to {group}");
                    let hint = "drain them one by one; those of an adopted server that is about to be stopped, with --until-replaced";
                    return Err(Fault::new(FaultKind::Usage, message).with_hint(hint));
                }
            };
            (request, output)
        }
        Question::Undrain { worker, output } => (Request::Undrain { worker }, output),
        Question::Scale { group, workers, wait, output } => {
            (Request::Scale { group, workers, timeout_ms: milliseconds(wait) }, output)
        }
        Question::Adopt(arguments) => {
            // One of them is there: clap sees to it.
            let usage = || Fault::new(FaultKind::Usage, "which server is to be adopted?");
            let target = arguments.server().ok_or_else(usage)?;
            let AdoptArguments { name, dry_run, keep, output, .. } = arguments;
            (Request::Adopt { target, name, dry_run, keep }, output)
        }
        Question::Release { group, output, .. } => (Request::Release { group }, output),
        Question::Reload { wait, output } => (Request::Reload { timeout_ms: milliseconds(wait) }, output),
        Question::Stop { wait, output } => (Request::Stop { timeout_ms: milliseconds(wait) }, output),
        Question::Call { method, parameters, output } => {
            return Ok(Asked::Call(full_name(&method), parameters, output));
        }
    };
    Ok(Asked::Request(request, output))
}

/// `Status` for `io.steer.Control.Status`; other names have their interface already.
fn full_name(method: &str) -> String {
    if method.contains('.') { method.to_owned() } else { format!("{INTERFACE}.{method}") }
}

/// A restart, or what becomes of the canary of the one under way.
fn restart(arguments: RestartArguments) -> Result<Request, Fault> {
    let RestartArguments { target: Target { group, worker }, wait, canary, hold, proceed, abort, .. } =
        arguments;
    let decision = match (proceed, abort) {
        (false, false) => {
            let canary = canary.map(|permille| Canary {
                permille,
                hold_ms: Some(whole_milliseconds(hold.unwrap_or(HOLD_DEFAULT))),
            });
            let timeout_ms = wait.timeout.map(whole_milliseconds);
            return Ok(Request::Restart { group, worker, timeout_ms, canary });
        }
        (true, _) => Decision::Proceed,
        (_, true) => Decision::Abort,
    };
    match worker {
        None => Ok(Request::Decide { group, decision }),
        Some(index) => {
            let flag = if proceed { "--proceed" } else { "--abort" };
            let message = format!("{flag} is for the restart of a group, and {group}/{index} is a worker");
            let hint = format!("write steer restart {group} {flag}: a group has one canary at a time");
            Err(Fault::new(FaultKind::Usage, message).with_hint(hint))
        }
    }
}

fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::arguments::{Arguments, Command};

    fn asked(line: &str) -> Request {
        let Command::Ask(question) = Arguments::try_parse_from(line.split(' ')).unwrap().command else {
            panic!("{line}")
        };
        let Asked::Request(request, _) = understand(question).unwrap() else { panic!("{line}") };
        request
    }

    #[test]
    fn each_command_asks_for_what_it_says() {
        let group: crate::names::GroupName = "web".parse().unwrap();
        let worker = group.worker(2);
        assert_eq!(asked("steer status"), Request::Status { group: None });
        assert_eq!(asked("steer status web --json"), Request::Status { group: Some(group.clone()) });
        assert_eq!(asked("steer metrics --json"), Request::Metrics {});
        assert_eq!(
            asked("steer table web"),
            Request::Table { group: group.clone(), clients: vec![], to: None }
        );
        let flows = |worker, client: Option<&str>, limit| Request::Flows {
            group: group.clone(),
            worker,
            client: client.map(|block| block.parse().unwrap()),
            limit,
        };
        assert_eq!(asked("steer flows web"), flows(None, None, 100));
        assert_eq!(asked("steer flows web/2 --client ::/8 --limit 7"), flows(Some(2), Some("::/8"), 7));
        assert_eq!(asked("steer flows web --count"), flows(None, None, 0));
        assert_eq!(
            asked("steer events web --follow --since 7"),
            Request::Events { group: Some(group.clone()), since: 7, follow: true }
        );
        assert_eq!(
            asked("steer restart web"),
            Request::Restart { group: group.clone(), worker: None, timeout_ms: None, canary: None }
        );
        assert_eq!(
            asked("steer restart web/2 --timeout 500ms"),
            Request::Restart { group: group.clone(), worker: Some(2), timeout_ms: Some(500), canary: None }
        );
        let restart =
            |canary| Request::Restart { group: group.clone(), worker: None, timeout_ms: None, canary };
        let canary = |permille, hold_ms| restart(Some(Canary { permille, hold_ms: Some(hold_ms) }));
        assert_eq!(asked("steer restart web --canary 5%"), canary(50, 30_000));
        assert_eq!(asked("steer restart web --canary 0.5% --hold 2h"), canary(5, 7_200_000));
        let decide = |decision| Request::Decide { group: group.clone(), decision };
        assert_eq!(asked("steer restart web --abort"), decide(Decision::Abort));
        assert_eq!(asked("steer restart web --proceed"), decide(Decision::Proceed));
        assert_eq!(
            asked("steer drain web/2 --timeout 3s"),
            Request::Drain { worker: worker.clone(), timeout_ms: Some(3000), until_replaced: false }
        );
        assert_eq!(asked("steer undrain web/2"), Request::Undrain { worker });
        assert_eq!(asked("steer scale web 8"), Request::Scale { group, workers: 8, timeout_ms: None });
        assert_eq!(asked("steer reload --timeout 5s"), Request::Reload { timeout_ms: Some(5000) });
        assert_eq!(asked("steer --socket /x stop"), Request::Stop { timeout_ms: None });
    }

    #[test]
    fn a_policy_is_asked_for_or_changed_and_its_words_are_one() {
        let group: crate::names::GroupName = "web".parse().unwrap();
        let set = |policy: &str, dry_run, clients: &[&str]| Request::SetPolicy {
            group: group.clone(),
            policy: policy.parse().unwrap(),
            dry_run,
            clients: clients.iter().map(|client| client.parse().unwrap()).collect(),
        };
        assert_eq!(asked("steer policy web"), Request::Policy { group: group.clone() });
        assert_eq!(asked("steer policy web cpu"), set("cpu", false, &[]));
        for words in ["source:ipv4=24,ipv6=64", "source ipv4=24 ipv6=64", "source:ipv4=24 ipv6=64"] {
            assert_eq!(
                asked(&format!("steer policy web {words}")),
                set("source:ipv4=24,ipv6=64", false, &[])
            );
        }
        assert_eq!(
            asked("steer policy web least-loaded --dry-run tie=4 --where 1.2.3.4:5 --where [::1]:6"),
            set("least-loaded:tie=4", true, &["1.2.3.4:5", "[::1]:6"])
        );
    }

    #[test]
    fn a_weight_is_given_at_once_or_over_a_time() {
        let worker: crate::names::WorkerName = "web/1".parse().unwrap();
        let set = |weight, over_ms, dry_run, clients| Request::SetWeight {
            worker: worker.clone(),
            weight,
            over_ms,
            dry_run,
            clients,
        };
        assert_eq!(asked("steer weight web/1 3"), set(3, None, false, vec![]));
        assert_eq!(asked("steer weight web/1 0 --over 60s"), set(0, Some(60_000), false, vec![]));
        // A ramp over no time is none.
        assert_eq!(asked("steer weight web/1 0 --over 0s"), set(0, None, false, vec![]));
        let clients = vec!["1.2.3.4:5".parse().unwrap()];
        assert_eq!(
            asked("steer weight web/1 3 --dry-run --where 1.2.3.4:5"),
            set(3, None, true, clients.clone())
        );
        assert_eq!(
            asked("steer table web --where 1.2.3.4:5 --to 10.0.0.1:443"),
            Request::Table {
                group: worker.group.clone(),
                clients,
                to: Some("10.0.0.1:443".parse().unwrap())
            }
        );
    }

    #[test]
    fn what_becomes_of_a_canary_is_said_of_a_group() {
        let words = "steer restart web/1 --abort".split(' ');
        let Command::Ask(question) = Arguments::try_parse_from(words).unwrap().command else { panic!() };
        let fault = understand(question).unwrap_err();
        assert_eq!(fault.kind, FaultKind::Usage);
        assert_eq!(fault.message, "--abort is for the restart of a group, and web/1 is a worker");
        assert_eq!(
            fault.hint.as_deref(),
            Some("write steer restart web --abort: a group has one canary at a time")
        );
    }

    #[test]
    fn a_method_without_an_interface_is_ours() {
        assert_eq!(full_name("Status"), "io.steer.Control.Status");
        assert_eq!(full_name("org.varlink.service.GetInfo"), "org.varlink.service.GetInfo");
    }
}
