//! Follows a unit: its state whenever it changes, also after systemd or the bus has been restarted.

use std::time::Duration;

use futures_util::{StreamExt, stream::SelectAll};
use tokio::{
    sync::watch::{self, Receiver, Sender},
    task::AbortHandle,
    time::{Instant, sleep, timeout},
};
use zbus::MessageStream;

use super::{
    Manager, UnitError, UnitState,
    connection::{Connection, SERVICE},
    manager::list,
    signals,
    unit::non_empty,
};

/// Between two tries to connect again, at first and at most.
const BACKOFF: [Duration; 2] = [Duration::from_millis(20), Duration::from_secs(5)];

/// How old a state may get that no signal has come for. One that is lost must not hold connections until `hold_max`.
const OLDEST: Duration = Duration::from_secs(20);

impl Manager {
    /// Follows the unit with this full name (as [`Unit::name`](super::Unit::name) has it). Each signal has the state read anew, so the
    /// receiver always has the newest one; a state that lasts less than such a read, a millisecond or two, may be left out.
    ///
    /// The watch ends when the receiver and its clones are dropped, and for no other reason. While systemd cannot be reached the last
    /// state stays, and the watch connects again until it can.
    pub async fn watch(&self, unit: &str) -> Result<Receiver<UnitState>, UnitError> {
        let subscription = Subscription::open(self, unit).await?;
        let (sender, receiver) = watch::channel(subscription.read().await?);
        let (manager, unit) = (self.clone(), unit.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = follow(&manager, &unit, &sender, subscription) => {}
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }
}

/// Never returns.
async fn follow(manager: &Manager, unit: &str, sender: &Sender<UnitState>, first: Subscription) {
    let mut subscription = Some(first);
    let mut pause = BACKOFF[0];
    loop {
        if let Some(mut subscription) = subscription.take() {
            let began = Instant::now();
            let error = subscription.tell(sender).await;
            tracing::debug!("following {unit} anew: {error:?}");
            // One that ends at once is no reason to hurry.
            if began.elapsed() > BACKOFF[1] {
                pause = BACKOFF[0];
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(BACKOFF[1]);
        match Subscription::open(manager, unit).await {
            Ok(opened) => subscription = Some(opened),
            Err(error) => tracing::debug!("cannot follow {unit}, tried again in {pause:?}: {error:?}"),
        }
    }
}

/// The signals that concern one unit, by one connection.
struct Subscription {
    connection: Connection,
    unit: String,
    /// Counts them; closed once the connection, or this systemd's process, has ended.
    signals: Receiver<u64>,
    counting: AbortHandle,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.counting.abort();
    }
}

impl Subscription {
    async fn open(manager: &Manager, unit: &str) -> Result<Self, UnitError> {
        let connection = manager.connection().await?;
        let mut signals = SelectAll::new();
        for rule in signals::of_unit(unit) {
            signals.push(connection.signals(rule?).await?);
        }
        // A systemd that has executed itself anew no longer knows who wants signals.
        connection.subscribe().await?;
        let (counter, receiver) = watch::channel(0);
        // In a task of its own: a signal that nobody takes holds up the answers behind it.
        let counting = tokio::spawn(count(signals, counter)).abort_handle();
        Ok(Self { connection, unit: unit.to_owned(), signals: receiver, counting })
    }

    /// Tells every state; returns why no more can come.
    async fn tell(&mut self, sender: &Sender<UnitState>) -> UnitError {
        loop {
            self.signals.mark_unchanged();
            let state = match self.read().await {
                Ok(state) => state,
                Err(error) => return error,
            };
            sender.send_if_modified(|last| {
                let is_new = *last != state;
                *last = state;
                is_new
            });
            if let Ok(Err(_)) = timeout(OLDEST, self.signals.changed()).await {
                return UnitError::Lost;
            }
        }
    }

    /// The state as it is now, whatever signals have said: they may be behind it.
    async fn read(&self) -> Result<UnitState, UnitError> {
        let listed = list(&self.connection, &self.unit).await?;
        let Some((_, _, _, active, sub_state, _, path, job, ..)) =
            listed.into_iter().find(|listed| listed.0 == self.unit)
        else {
            return Ok(UnitState::unloaded());
        };
        let mut state = UnitState {
            active: active.as_str().into(),
            sub_state,
            has_job: job != 0,
            ..UnitState::unloaded()
        };
        // A unit that is dead and that nobody needs may have been dropped by now; to ask it would load it again.
        if active != "inactive" || state.has_job {
            let path = path.as_str();
            let (control_group, main_pid) = tokio::try_join!(
                self.connection.property(path, SERVICE, "ControlGroup"),
                self.connection.property(path, SERVICE, "MainPID"),
            )?;
            state.control_group = non_empty(control_group);
            state.main_pid = main_pid;
        }
        Ok(state)
    }
}

async fn count(mut signals: SelectAll<MessageStream>, counter: Sender<u64>) {
    while let Some(Ok(signal)) = signals.next().await {
        if signal.header().member().is_some_and(|member| member == signals::OWNER_CHANGED) {
            return;
        }
        counter.send_modify(|count| *count += 1);
    }
}
