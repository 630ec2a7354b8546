//! The thread that reads the source.

use std::{
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crossbeam::channel::{self, Receiver};

use super::handover::{SlotWriter, Stop, lock};
use crate::{
    frame::Frame,
    sink::{Outcome, Shot},
    source::{Item, Pace, Source, SourceError},
    stats::{Stage, Stats},
};

/// How long a window shows each of several unrelated pictures.
const SLIDE: Duration = Duration::from_secs(1);

/// How the time of a stream relates to the clock on the wall.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) start: Instant,
    pub(super) pace: Pace,
}

impl Clock {
    pub(super) fn is_stream(&self) -> bool {
        self.pace != Pace::Stills
    }

    /// Whether a newer frame replaces one that was not looked at.
    pub(super) fn newest_wins(&self, windowed: bool) -> bool {
        match self.pace {
            Pace::Live => true,
            Pace::Recorded(_) => windowed,
            Pace::Stills => false,
        }
    }

    /// When frame `sequence`, taken at `captured` by the source's clock, is due in a window.
    pub(super) fn due(&self, sequence: u64, captured: Instant) -> Instant {
        match self.pace {
            Pace::Live | Pace::Recorded(_) => captured,
            Pace::Stills => self.start + SLIDE * u32::try_from(sequence).unwrap_or(u32::MAX),
        }
    }
}

/// What the capture thread hands to inference.
pub(super) enum Taken {
    /// A picture, and since when it waits: when it was taken, or when the capture thread began to ask for it, if that was
    /// later, as it is where the driver's clock is off.
    Shot(Shot, Instant),
    /// What is passed on to the sinks as it is.
    Other(Outcome),
}

/// What the capture thread hands to the screen.
pub(super) enum View {
    Shot(Shot),
    /// No more frames, for this reason, until the next one.
    Lost(String),
}

/// What the capture thread needs.
pub(super) struct Capture {
    pub(super) source: Box<dyn Source>,
    pub(super) clock: Clock,
    pub(super) newest_wins: bool,
    pub(super) frames: SlotWriter<Taken>,
    /// Where a window shows the pictures at their time.
    pub(super) preview: Option<SlotWriter<View>>,
    /// What `frames` holds must reach the sinks, and no newer frame may replace it.
    pub(super) told: bool,
    pub(super) stats: Arc<Mutex<Stats>>,
    pub(super) stop: Stop,
}

/// Runs the capture on a thread that nobody joins, because a read from a pipe or a device may never return.
/// How it ended comes through the channel.
pub(super) fn spawn_capture(capture: Capture) -> Receiver<Result<(), SourceError>> {
    let (ended, receiver) = channel::bounded(1);
    thread::spawn(move || {
        let result = capture.run();
        // Nobody listens after CAPTURE_GRACE.
        let _ = ended.send(result);
    });
    receiver
}

impl Capture {
    fn run(mut self) -> Result<(), SourceError> {
        let mut complaints = Complaints::default();
        while !self.stop.requested() {
            let begun = Instant::now();
            let handed_over = match self.source.next()? {
                None => {
                    // The last of several slides stays until the window is closed.
                    if self.preview.is_some() && !self.clock.is_stream() {
                        self.stop.wait();
                    }
                    break;
                }
                Some(Item::Frame(frame)) => self.frame(frame, begun),
                Some(Item::Unreadable { name, reason }) => {
                    lock(&self.stats).unreadable += 1;
                    complaints.unreadable(&name, &reason, self.clock.is_stream());
                    self.newest_wins || self.tell(Outcome::Unreadable { name, reason })
                }
                Some(Item::Lost { name, reason }) => {
                    lock(&self.stats).lost += 1;
                    log::warn!("{name} is lost: {reason}; waiting for it to come back");
                    if let Some(preview) = &self.preview {
                        preview.replace(View::Lost(reason.clone()));
                    }
                    self.tell(Outcome::Lost { name, reason, time: self.clock.start.elapsed() })
                }
                Some(Item::Back { name, away, description }) => {
                    log::info!("{name} is back after {:.1} s: {description}", away.as_secs_f32());
                    self.tell(Outcome::Back { name, away, time: self.clock.start.elapsed() })
                }
                Some(Item::Waiting) => true,
            };
            if !handed_over {
                break;
            }
        }
        Ok(())
    }

    /// Hands on what every sink must hear of; false if asked to stop.
    fn tell(&mut self, outcome: Outcome) -> bool {
        self.told = true;
        self.frames.wait(Taken::Other(outcome), &self.stop)
    }

    /// Hands on a frame whose reading began at `begun`; false if asked to stop.
    fn frame(&mut self, mut frame: Frame, begun: Instant) -> bool {
        let time = frame.captured.saturating_duration_since(self.clock.start);
        let is_live = self.clock.pace == Pace::Live;
        let decoded = if is_live { frame.captured.elapsed() } else { begun.elapsed() };
        let mut stats = lock(&self.stats);
        stats.captured += 1;
        stats.record(Stage::Decode, decoded);
        drop(stats);

        if !is_live {
            let due = self.preview.as_ref().map(|_| self.clock.due(frame.sequence, frame.captured));
            if due.is_some_and(|due| !self.stop.sleep_until(due)) {
                return false;
            }
            frame.captured = due.unwrap_or(begun).max(begun);
        }
        let since = frame.captured.max(begun);
        let shot = Shot { frame, time };
        if let Some(preview) = &self.preview {
            preview.replace(View::Shot(shot.clone()));
        }
        if std::mem::take(&mut self.told) || !self.newest_wins {
            return self.frames.wait(Taken::Shot(shot, since), &self.stop);
        }
        if self.frames.replace(Taken::Shot(shot, since)).is_some() {
            lock(&self.stats).skipped += 1;
        }
        true
    }
}

/// Reports unreadable pictures; of a stream, once a second at first and, if there are ever more, once a minute.
#[derive(Default)]
pub(super) struct Complaints {
    last: Option<Instant>,
    /// How long after the last report the next may come.
    pause: Duration,
    held_back: u64,
}

impl Complaints {
    const FIRST_PAUSE: Duration = Duration::from_secs(1);
    const LONGEST_PAUSE: Duration = Duration::from_secs(60);

    pub(super) fn unreadable(&mut self, name: &str, reason: &str, is_stream: bool) {
        if is_stream && !self.is_due(Instant::now()) {
            self.held_back += 1;
            return;
        }
        match std::mem::take(&mut self.held_back) {
            0 => log::warn!("{name}: {reason}; skipped"),
            n => log::warn!("{name}: {reason}; skipped, like {n} more since the last such message"),
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let quiet = self.last.map(|last| now - last);
        if quiet.is_some_and(|quiet| quiet < self.pause) {
            return false;
        }
        self.pause = match quiet {
            Some(quiet) if quiet < 2 * self.pause => (2 * self.pause).min(Self::LONGEST_PAUSE),
            _ => Self::FIRST_PAUSE,
        };
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_become_rarer_while_they_go_on() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let second = |n| start + Duration::from_secs(n);
        let said: Vec<u64> = (0..300).filter(|&n| complaints.is_due(second(n))).collect();
        assert_eq!(said, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        assert!(complaints.is_due(second(1000)));
        assert!(complaints.is_due(second(1001)), "after a good time it begins anew");
    }
}
