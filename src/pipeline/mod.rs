//! The threads and what passes between them.
//!
//! ```text
//! capture ──▶ [newest frame] ──▶ infer ──▶ [people] ──▶ write ──▶ sinks
//!    │                             │
//!    └─▶ [newest frame] ──▶ show ◀─┘ [newest people]
//! ```
//!
//! No hand-over is longer than one item, so delay cannot build up. In a live stream a newer frame replaces
//! one that inference has not begun with; a recording or a set of pictures waits instead, and none is
//! skipped, unless a window plays the recording at its own rate. What was found always reaches the
//! sinks: inference waits for them. Showing waits for neither: it draws the newest frame as it comes, with the
//! newest people carried forward to that frame's time.

mod capture;
mod handover;
#[cfg(test)]
mod tests;

use std::{
    panic,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use crossbeam::{
    channel::{self, Receiver, RecvTimeoutError, Sender},
    select,
};

pub use self::handover::Stop;
use self::{
    capture::{Capture, Clock, Taken, View, spawn_capture},
    handover::{SlotWriter, lock, slot},
};
use crate::{
    classify::Classifier,
    detect::Detector,
    engine::EngineError,
    frame::Frame,
    sink::{Outcome, Seen, Shot, Sink, SinkError},
    source::{Pace, STALE, Source, SourceError},
    stats::{Histogram, Rate, Stage, Stats},
    track::{Person, Tracker},
};

/// How often a window without new frames answers to its keys.
const POLL: Duration = Duration::from_millis(15);
/// How long the capture thread may take to notice the end, besides closing the source; one blocked in a read is then
/// left behind.
const CAPTURE_GRACE: Duration = Duration::from_millis(500);

/// Finds people in pictures. Runs on the inference thread.
pub trait Analyse: Send {
    /// The people in a frame. `moment` is the frame's time in its stream; `None` says that the picture has
    /// nothing to do with the one before. Adds its times and the people to `stats`.
    fn analyse(
        &mut self,
        frame: &Frame,
        moment: Option<Instant>,
        stats: &mut Stats,
    ) -> Result<Vec<Person>, EngineError>;
}

/// The networks and the tracker.
pub struct Analyser {
    detector: Detector,
    classifier: Classifier,
    tracker: Tracker,
    /// Whether the last picture's faces were looked at in the mirror.
    mirrored: bool,
}

impl Analyser {
    pub fn new(detector: Detector, classifier: Classifier) -> Self {
        let tracker = Tracker::new(classifier.thresholds(), detector.min_score());
        Self { detector, classifier, tracker, mirrored: true }
    }
}

impl Analyse for Analyser {
    fn analyse(
        &mut self,
        frame: &Frame,
        moment: Option<Instant>,
        stats: &mut Stats,
    ) -> Result<Vec<Person>, EngineError> {
        let begun = Instant::now();
        let faces = self.detector.detect(&frame.picture)?;
        let detected = Instant::now();
        stats.record(Stage::Detect, detected - begun);

        let attributes = if moment.is_none() {
            self.classifier.classify(&frame.picture, &faces)?
        } else {
            self.mirrored = !self.mirrored;
            self.classifier.glance(&frame.picture, &faces, self.mirrored)?
        };
        let classified = Instant::now();
        if !faces.is_empty() {
            stats.record(Stage::Classify, classified - detected);
        }

        let found: Vec<_> = faces.into_iter().zip(attributes).collect();
        let Some(moment) = moment else {
            let thresholds = self.classifier.thresholds();
            stats.people += found.len() as u64;
            return Ok(found.into_iter().map(|(face, said)| Person::new(face, said, thresholds)).collect());
        };
        let people = self.tracker.update(moment, &found);
        stats.record(Stage::Track, classified.elapsed());
        stats.people = self.tracker.people_seen();
        Ok(people)
    }
}

/// Shows frames to a person. Runs on the thread that calls [`run`], as window systems require.
pub trait Screen {
    /// Shows a frame with people drawn over it and a line of status; false once the user has closed it.
    fn show(&mut self, frame: &Frame, people: &[Person], status: &str) -> Result<bool, SinkError>;

    /// Shows, over the last frame, that no more come and why; false once the user has closed it.
    fn lost(&mut self, reason: &str) -> Result<bool, SinkError>;

    /// Answers to keys and the window system while there is no new frame; false once the user has closed it.
    fn idle(&mut self) -> Result<bool, SinkError>;
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("reading the source crashed; please report this with the message above")]
    Capture,
}

impl PipelineError {
    /// Whether the reader of a pipe went away, which is no failure.
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Sink(error) if error.is_broken_pipe())
    }
}

/// How a run ended and what it measured until then.
#[derive(Debug)]
pub struct Report {
    pub stats: Stats,
    pub elapsed: Duration,
    /// Why it ended early, unless by `Stop`, the limit or the screen.
    pub error: Option<PipelineError>,
}

/// Runs `source` through `analyser` into `sinks` and onto `screen` until the source ends, `limit` frames were
/// analysed, the screen is closed, `stop` is requested, or something fails. Requests `stop` at the end.
pub fn run(
    source: Box<dyn Source>,
    analyser: &mut dyn Analyse,
    sinks: &mut [Box<dyn Sink + '_>],
    screen: Option<&mut dyn Screen>,
    limit: Option<u64>,
    stop: &Stop,
) -> Report {
    let clock = Clock { start: Instant::now(), pace: source.pace() };
    let capture_grace = CAPTURE_GRACE + source.closing_time();
    let (frames, frames_to_analyse) = slot();
    let (preview, frames_to_show) = slot();
    let (people, people_to_show) = slot();
    let (results, results_to_write) = channel::bounded(1);

    let windowed = screen.is_some();
    let intake = Arc::new(Mutex::new(Stats::default()));
    let capture = Capture {
        source,
        clock,
        newest_wins: clock.newest_wins(windowed),
        frames,
        preview: windowed.then_some(preview),
        told: false,
        stats: Arc::clone(&intake),
        stop: stop.clone(),
    };
    let captured = spawn_capture(capture);

    let (mut stats, mut error) = (Stats::default(), None);
    thread::scope(|scope| {
        let infer = scope.spawn(|| {
            let _stop = stop.at_end_of_scope();
            infer(analyser, clock, frames_to_analyse, people, results, limit, stop)
        });
        let write = scope.spawn(|| write(results_to_write, sinks));
        let shown = screen.map(|screen| {
            let _stop = stop.at_end_of_scope();
            show(screen, clock, frames_to_show, people_to_show, stop)
        });

        let (inferred, infer_error) = infer.join().unwrap_or_else(|payload| panic::resume_unwind(payload));
        let (mut written, write_error) = write.join().unwrap_or_else(|payload| panic::resume_unwind(payload));
        let mut show_error = None;
        if let Some((shown, ended)) = shown {
            written.age = Histogram::default();
            stats.merge(&shown);
            show_error = ended;
        }
        stats.merge(&inferred);
        stats.merge(&written);
        error = infer_error.map(PipelineError::from).or(write_error.or(show_error).map(PipelineError::from));
    });

    error = error.or(match captured.recv_timeout(capture_grace) {
        Ok(ended) => ended.err().map(PipelineError::from),
        Err(RecvTimeoutError::Timeout) => None,
        Err(RecvTimeoutError::Disconnected) => Some(PipelineError::Capture),
    });
    stats.merge(&lock(&intake));
    Report { stats, elapsed: clock.start.elapsed(), error }
}

fn infer(
    analyser: &mut dyn Analyse,
    clock: Clock,
    frames: Receiver<Taken>,
    people: SlotWriter<Seen>,
    results: Sender<Outcome>,
    limit: Option<u64>,
    stop: &Stop,
) -> (Stats, Option<EngineError>) {
    let mut stats = Stats::default();
    while limit.is_none_or(|limit| stats.processed < limit) {
        let item = select! {
            recv(frames) -> item => item.ok(),
            recv(stop.signal) -> _ => None,
        };
        let outcome = match item {
            None => break,
            Some(Taken::Other(outcome)) => outcome,
            Some(Taken::Shot(_, since)) if clock.pace == Pace::Live && since.elapsed() > STALE => {
                stats.skipped += 1;
                continue;
            }
            Some(Taken::Shot(shot, _)) => {
                let moment = clock.is_stream().then(|| clock.start + shot.time);
                let seen = match analyser.analyse(&shot.frame, moment, &mut stats) {
                    Ok(people) => Seen { shot, people },
                    Err(error) => return (stats, Some(error)),
                };
                stats.processed += 1;
                people.replace(seen.clone());
                Outcome::Seen(seen)
            }
        };
        if results.send(outcome).is_err() {
            break;
        }
    }
    (stats, None)
}

fn write(results: Receiver<Outcome>, sinks: &mut [Box<dyn Sink + '_>]) -> (Stats, Option<SinkError>) {
    let mut stats = Stats::default();
    for outcome in results {
        let begun = Instant::now();
        for sink in sinks.iter_mut() {
            if let Err(error) = sink.accept(&outcome) {
                return (stats, Some(error));
            }
        }
        if !sinks.is_empty() {
            stats.record(Stage::Write, begun.elapsed());
        }
        if let Outcome::Seen(seen) = outcome {
            stats.age.record(seen.shot.frame.captured.elapsed());
        }
    }
    (stats, None)
}

fn show(
    screen: &mut dyn Screen,
    clock: Clock,
    mut views: Receiver<View>,
    people: Receiver<Seen>,
    stop: &Stop,
) -> (Stats, Option<SinkError>) {
    let mut stats = Stats::default();
    let mut rate = Rate::over(Duration::from_secs(2));
    let mut status = String::new();
    let (mut newest, mut seen): (Option<Shot>, Option<Seen>) = (None, None);
    loop {
        let (mut is_new, mut is_stale, mut lost) = (false, false, None);
        select! {
            recv(views) -> view => match view {
                Ok(View::Shot(shot)) => {
                    if newest.is_none() {
                        // Whoever was there before a loss need not be there any more.
                        seen = None;
                    }
                    newest = Some(shot);
                    is_new = true;
                }
                Ok(View::Lost(reason)) => {
                    newest = None;
                    lost = Some(reason);
                }
                // The source has ended; what is under way still comes.
                Err(_) => views = channel::never(),
            },
            recv(people) -> found => match found {
                Ok(found) => {
                    seen = Some(found);
                    is_stale = !clock.is_stream();
                }
                Err(_) => break,
            },
            recv(stop.signal) -> _ => break,
            default(POLL) => {}
        }
        let begun = Instant::now();
        let shown = match (newest.as_ref().filter(|_| is_new || is_stale), lost) {
            (Some(shot), _) => screen.show(&shot.frame, &carried(clock, shot, seen.as_ref()), &status),
            (None, Some(reason)) => screen.lost(&reason),
            (None, None) => screen.idle(),
        };
        match shown {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => return (stats, Some(error)),
        }
        if let Some(shot) = newest.as_ref().filter(|_| is_new) {
            let (now, age) = (Instant::now(), shot.frame.captured.elapsed());
            stats.record(Stage::Draw, now - begun);
            stats.age.record(age);
            stats.shown += 1;
            rate.tick(now);
            status = format!("{:.0} fps  {:.0} ms", rate.per_second(), age.as_secs_f64() * 1e3);
        }
    }
    (stats, None)
}

/// The people last seen, moved to where they are in `shot`; of unrelated pictures, only the picture's own.
fn carried(clock: Clock, shot: &Shot, seen: Option<&Seen>) -> Vec<Person> {
    match seen {
        Some(seen) if clock.is_stream() => {
            let elapsed = shot.time.saturating_sub(seen.shot.time);
            seen.people.iter().map(|person| person.at(elapsed)).collect()
        }
        Some(seen) if seen.shot.frame.sequence == shot.frame.sequence => seen.people.clone(),
        _ => Vec::new(),
    }
}
