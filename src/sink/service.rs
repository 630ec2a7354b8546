//! What systemd is told of a service: that it is ready, that it works, that it ends.

use std::time::{Duration, Instant};

use sd_notify::NotifyState::{self, Ready, Status, Stopping, Watchdog};

use crate::{
    sink::{Outcome, Sink, SinkError},
    stats::Rate,
};

/// How often a line of status is sent where systemd watches for no silence.
const STATUS_INTERVAL: Duration = Duration::from_secs(10);

/// Speaks systemd's notification protocol: `READY=1` after the first picture that went all the way, `WATCHDOG=1` with
/// later ones. There is no timer behind it: a program that gets no pictures, or hangs over one, falls silent and is
/// started anew.
pub struct Service {
    interval: Duration,
    rate: Rate,
    told: Option<Instant>,
    failed: bool,
}

impl Service {
    /// `None` where no service manager listens: the environment variable `NOTIFY_SOCKET` is not set.
    pub fn of_environment() -> Option<Self> {
        std::env::var_os("NOTIFY_SOCKET")?;
        // systemd wants to hear twice in its time limit; half as long again leaves room for a slow picture.
        let interval = sd_notify::watchdog_enabled().map_or(STATUS_INTERVAL, |limit| limit / 4);
        Some(Self { interval, rate: Rate::over(STATUS_INTERVAL), told: None, failed: false })
    }

    fn tell(&mut self, states: &[NotifyState]) {
        if let Err(error) = sd_notify::notify(states)
            && !std::mem::replace(&mut self.failed, true)
        {
            log::warn!("systemd cannot be told that the service works (NOTIFY_SOCKET): {error}");
        }
    }
}

impl Sink for Service {
    fn accept(&mut self, outcome: &Outcome) -> Result<(), SinkError> {
        let Outcome::Seen(seen) = outcome else { return Ok(()) };
        let now = Instant::now();
        self.rate.tick(now);
        if self.told.is_some_and(|told| now - told < self.interval) {
            return Ok(());
        }
        let status =
            format!("{:.1} pictures a second, {} in view", self.rate.per_second(), seen.people.len());
        let state = if self.told.is_none() { Ready } else { Watchdog };
        self.tell(&[state, Status(&status)]);
        self.told = Some(now);
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.tell(&[Stopping]);
    }
}
