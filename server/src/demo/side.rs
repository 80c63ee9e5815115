//! One of the three: load, restarts and scales; then load and SIGKILLs.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    error::DemoError,
    live::Live,
    report::{Done, KilledReport, SideReport},
    sandbox::Sandbox,
    schedule::{Action, Schedule},
    service::Service,
};
use crate::load::{LoadError, Plan, Probe, Running, Tally};

/// Load threads. The machine's processors are the workers' too: two keep two processors busy, and a third
/// only takes from the workers.
const LOAD_THREADS: usize = 2;
/// Connections open at once, over all load threads.
const CONCURRENCY: usize = 32;
/// From the begin of one kill to the begin of the next, if the worker is back by then.
const KILL_EVERY: Duration = Duration::from_millis(250);

/// How long the two phases last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Length {
    restarts: Duration,
    kills: Duration,
}

impl Length {
    /// The phase of restarts as given, the phase of kills a quarter of it.
    pub(super) fn of(restarts: Duration) -> Self {
        Self { restarts, kills: restarts / 4 }
    }
}

/// Runs one side to its end, and stops its service.
pub(super) async fn run(
    name: &str,
    mut service: impl Service,
    sandbox: &Sandbox,
    workers: u32,
    length: Length,
    live: &Live,
) -> Result<SideReport, DemoError> {
    let plan = Plan { concurrency: CONCURRENCY, ..Plan::new(sandbox.four_tuples()) };

    let load = Running::start(plan.split(LOAD_THREADS))?;
    live.begin(name.to_owned(), "restarts", load.probe());
    let began = Instant::now();
    let schedule = Schedule::new(length.restarts, workers);
    let done = carry_out(schedule, &mut service, &load, live).await?;
    let tally = end(load).await?;
    let took = began.elapsed();
    live.end();

    // A load of its own: what fails here cannot be mistaken for what fails above.
    let load = Running::start(plan.split(LOAD_THREADS))?;
    live.begin(format!("{name}, SIGKILL"), "kills", load.probe());
    let kills = kill_again_and_again(length.kills, &mut service, workers, &load, live).await?;
    let killed = KilledReport::new(&end(load).await?, kills);
    live.end();

    service.stop().await?;
    Ok(SideReport::new(&tally, done, took, killed))
}

async fn carry_out(
    mut schedule: Schedule,
    service: &mut impl Service,
    load: &Running,
    live: &Live,
) -> Result<Done, DemoError> {
    let began = Instant::now();
    let mut done = Done::default();
    while let Some((at, action)) = schedule.next(began.elapsed())
        && !load.is_finished()
    {
        sleep_until(began + at).await;
        match action {
            Action::Restart(worker) => {
                service.restart(worker).await?;
                done.restarts += 1;
                live.count();
            }
            Action::Scale(workers) => {
                scale(service, workers, load.probe()).await?;
                done.scales += 1;
            }
        }
    }
    Ok(done)
}

/// A scale is meant to move 4-tuples, with every service: what moves by it is no loss of stickiness.
async fn scale(service: &mut impl Service, workers: u32, probe: &Arc<Probe>) -> Result<(), DemoError> {
    probe.pause_stickiness();
    service.scale(workers).await?;
    probe.resume_stickiness();
    Ok(())
}

async fn kill_again_and_again(
    length: Duration,
    service: &mut impl Service,
    workers: u32,
    load: &Running,
    live: &Live,
) -> Result<u64, DemoError> {
    let began = Instant::now();
    let mut next = began;
    let mut kills = 0;
    for worker in (0..workers).cycle() {
        sleep_until(next).await;
        if began.elapsed() >= length || load.is_finished() {
            break;
        }
        next = Instant::now() + KILL_EVERY;
        service.kill(worker).await?;
        kills += 1;
        live.count();
    }
    Ok(kills)
}

/// Ends a load, and waits for the connections that are open.
async fn end(load: Running) -> Result<Tally, DemoError> {
    load.probe().stop();
    let joined = tokio::task::spawn_blocking(|| load.join()).await;
    Ok(joined.unwrap_or(Err(LoadError::Panicked))?)
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use super::*;
    use crate::load::four_tuples;

    /// Writes down what is asked of it, and whether stickiness was watched meanwhile.
    struct Recorder {
        asked: Rc<RefCell<Vec<String>>>,
    }

    impl Service for Recorder {
        async fn restart(&mut self, worker: u32) -> Result<(), DemoError> {
            self.asked.borrow_mut().push(format!("restart {worker}"));
            Ok(())
        }
        async fn scale(&mut self, workers: u32) -> Result<(), DemoError> {
            self.asked.borrow_mut().push(format!("scale {workers}"));
            Ok(())
        }
        async fn kill(&mut self, worker: u32) -> Result<(), DemoError> {
            self.asked.borrow_mut().push(format!("kill {worker}"));
            Ok(())
        }
        async fn stop(self) -> Result<(), DemoError> {
            Ok(())
        }
    }

    /// A load at a port that nobody listens on: all of it is refused.
    fn refused_load() -> Running {
        let target = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let tuples = four_tuples(&["127.0.0.1".parse().unwrap()], 0..1, &[target]);
        Running::start(Plan { rate: Some(200.0), ..Plan::new(tuples) }.split(1)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_restarts_scales_and_kills_while_the_load_goes_on() {
        let asked = Rc::new(RefCell::new(Vec::new()));
        let mut service = Recorder { asked: Rc::clone(&asked) };
        let (load, live) = (refused_load(), Live::new());
        let schedule = Schedule::new(Duration::from_secs(1), 4);
        let done = carry_out(schedule, &mut service, &load, &live).await.unwrap();
        assert_eq!(done, Done { restarts: 20, scales: 2 });
        let kills =
            kill_again_and_again(Duration::from_secs(1), &mut service, 4, &load, &live).await.unwrap();
        assert_eq!(kills, 4);
        let asked = asked.borrow().join(", ");
        assert!(asked.starts_with("restart 0, restart 1, restart 2, restart 3, restart 0"), "{asked}");
        assert!(asked.contains("scale 2, restart 0, restart 1, restart 0"), "{asked}");
        assert!(asked.ends_with("kill 0, kill 1, kill 2, kill 3"), "{asked}");
    }

    #[tokio::test]
    async fn a_load_that_breaks_ends_the_side_with_its_error() {
        let tuples = four_tuples(&["192.0.2.1".parse().unwrap()], 1..2, &["127.0.0.1:1".parse().unwrap()]);
        let load = Running::start(Plan::new(tuples).split(1)).unwrap();
        while !load.is_finished() {
            tokio::task::yield_now().await;
        }
        let mut service = Recorder { asked: Rc::default() };
        let schedule = Schedule::new(Duration::from_secs(60), 4);
        let done = carry_out(schedule, &mut service, &load, &Live::new()).await.unwrap();
        assert_eq!(done, Done::default());
        assert!(matches!(end(load).await, Err(DemoError::Load(_))));
    }
}
