//! One instance under load, for as long as the soak goes on.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use steer_tests::{
    netns::Namespace,
    process,
    steer::{Steer, binary},
    traffic::counters_add_up,
    wait,
};

use crate::{
    clients::{Clients, Counted},
    configuration::Configuration,
    interrupt,
    operator::{Operator, is_as_wanted},
    sample::Sample,
    script::{Script, Step},
    verdict::{SAMPLES_MIN, Verdict, judge},
};

/// For the kernel to verify the programs of all groups, beside all else that a machine of developers does.
const START: Duration = Duration::from_secs(300);
const SOON: Duration = Duration::from_secs(90);
/// Steps between two looks at what is held.
const STEPS: usize = 5;

/// What is to be done.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) seed: u64,
    pub(crate) duration: Duration,
    /// Whether the daemon is among what is killed.
    pub(crate) kills_daemons: bool,
    /// Whether each step is printed.
    pub(crate) is_verbose: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Report {
    plan: Plan,
    took: Duration,
    steps: BTreeMap<&'static str, u64>,
    daemons: u64,
    refused: u64,
    counted: Counted,
    /// None where it was cut short before it could be told.
    verdict: Option<Verdict>,
}

/// Says, when a site ends as it should not, that the others need not go on.
struct TellOthers<'a>(&'a AtomicBool);

impl Drop for TellOthers<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.store(true, Relaxed);
        }
    }
}

/// Runs the soak on an instance of its own, until it is over, another's has failed or somebody interrupts it.
pub(crate) fn run(namespace: &Namespace, plan: Plan, has_failed: &AtomicBool) -> Report {
    let _tell_others = TellOthers(has_failed);
    let mut script = Script::new(plan.seed, plan.kills_daemons);
    let mut steer = Steer::service(namespace, &binary(), &Configuration::default().to_string());
    steer.start_daemon();
    steer.until("all is as it is wanted", START, |status| is_as_wanted(status, &script));
    let mut operator = Operator { steer, clients: Clients::start(), refused: 0 };
    let (began, mut steps, mut samples) = (Instant::now(), BTreeMap::new(), Vec::new());
    let (mut daemons, mut pid) = (1, operator.steer.pid());
    let mut carry_out = |operator: &mut Operator<'_>, step: Step, script: &Script| {
        if plan.is_verbose {
            eprintln!(
                "{} {:.1?}: {} {:?} {:?}",
                plan.name,
                began.elapsed(),
                step.kind,
                step.commands,
                step.fate
            );
        }
        operator.carry_out(&step, script);
        *steps.entry(step.kind).or_default() += 1;
        if operator.steer.pid() != pid {
            (daemons, pid) = (daemons + 1, operator.steer.pid());
        }
    };
    let mut has_baseline = false;
    let is_over = |samples: &[Sample]| began.elapsed() >= plan.duration && samples.len() >= SAMPLES_MIN;
    let is_cut_short = || has_failed.load(Relaxed) || interrupt::is_asked_for();
    while !is_over(&samples) && !is_cut_short() {
        for _ in 0..STEPS {
            if is_cut_short() {
                break;
            }
            let step = script.next();
            carry_out(&mut operator, step, &script);
        }
        let step = script.rest();
        carry_out(&mut operator, step, &script);
        until_at_rest(&operator.steer, &script);
        let is_baseline =
            !has_baseline && began.elapsed() >= plan.duration / 4 && samples.len() >= SAMPLES_MIN / 4;
        has_baseline |= is_baseline;
        let sample = Sample::take(&operator.steer, is_baseline);
        if plan.is_verbose {
            eprintln!("{} {:.1?}: {sample:?}", plan.name, began.elapsed());
        }
        samples.push(sample);
    }
    samples.push(Sample::take(&operator.steer, true));
    let took = began.elapsed();
    let Operator { mut steer, clients, refused } = operator;
    let counted = clients.end();
    for group in &steer.status().groups {
        counters_add_up(group);
    }
    steer.stop(SOON);
    let pins = steer.pins().expect("it has pins");
    assert!(!pins.join("web").exists(), "{} is left", pins.display());
    Report { plan, took, steps, daemons, refused, counted, verdict: judge(&samples) }
}

/// Waits until there are the daemon, its keeper, and one process for each worker: those that drained have ended.
fn until_at_rest(steer: &Steer<'_>, script: &Script) {
    let wanted = script.workers() as usize + 2;
    wait::until("each worker has one process", SOON, || {
        let processes = steer.processes();
        if processes.len() == wanted { Ok(()) } else { Err(process::describe(&processes)) }
    });
}

impl Report {
    /// Whether nothing was lost and nothing has grown.
    pub(crate) fn is_good(&self) -> bool {
        self.counted.lost == 0 && self.verdict.as_ref().is_some_and(Verdict::is_flat)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, took, steps, daemons, refused, counted, verdict } = self;
        let Counted { connections, killed, lost, failures } = counted;
        let all: u64 = steps.values().sum();
        let each: Vec<String> = steps.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
        writeln!(
            f,
            "{}: {:.0} s, daemons: {daemons}, steps: {all} ({})",
            plan.name,
            took.as_secs_f64(),
            each.join(", ")
        )?;
        writeln!(
            f,
            "  connections: {connections}, lost: {lost}, reset by a worker's SIGKILL: {killed}; commands given once more: {refused}"
        )?;
        if *lost > 0 {
            failures.iter().try_for_each(|failure| writeln!(f, "    {failure}"))?;
        }
        match verdict {
            Some(verdict) => {
                writeln!(f, "  looks at what is held, after the first quarter: {}", verdict.samples)?;
                write!(f, "{verdict}")
            }
            None => writeln!(f, "  NOT: ended before it could be told"),
        }
    }
}
