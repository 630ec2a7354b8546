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

use std::{
    convert::Infallible,
    panic,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crossbeam::{
    channel::{self, Receiver, RecvTimeoutError, Sender, TryRecvError, TrySendError},
    select,
};

use crate::{
    classify::Classifier,
    detect::Detector,
    engine::EngineError,
    frame::Frame,
    sink::{Outcome, Seen, Shot, Sink, SinkError},
    source::{Item, Pace, Source, SourceError},
    stats::{Histogram, Rate, Stage, Stats},
    track::{Person, Tracker},
};

/// How often a window without new frames answers to its keys.
const POLL: Duration = Duration::from_millis(15);
/// How long the capture thread may take to notice the end, besides closing the source; one blocked in a read is then
/// left behind.
const CAPTURE_GRACE: Duration = Duration::from_millis(500);
/// How long a window shows each of several unrelated pictures.
const SLIDE: Duration = Duration::from_secs(1);

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
}

impl Analyser {
    pub fn new(detector: Detector, classifier: Classifier) -> Self {
        let tracker = Tracker::new(classifier.thresholds(), detector.min_score());
        Self { detector, classifier, tracker }
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

        let attributes = self.classifier.classify(&frame.picture, &faces)?;
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

/// Asks all threads to end. Clones share one state.
#[derive(Debug, Clone)]
pub struct Stop {
    /// Nothing is ever sent: dropping the sender wakes everyone who waits on `signal`.
    held: Arc<Mutex<Option<Sender<Infallible>>>>,
    signal: Receiver<Infallible>,
}

impl Default for Stop {
    fn default() -> Self {
        let (sender, signal) = channel::bounded(0);
        Self { held: Arc::new(Mutex::new(Some(sender))), signal }
    }
}

impl Stop {
    pub fn request(&self) {
        lock(&self.held).take();
    }

    pub fn requested(&self) -> bool {
        self.signal.try_recv() == Err(TryRecvError::Disconnected)
    }

    /// Requests the stop when dropped, also by a panic.
    fn at_end_of_scope(&self) -> impl Drop + '_ {
        struct Guard<'a>(&'a Stop);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.request();
            }
        }
        Guard(self)
    }

    /// Waits until the stop is requested.
    fn wait(&self) {
        // Always an error: nothing is ever sent.
        let _ = self.signal.recv();
    }

    /// Sleeps until `due`; false if asked to stop before.
    fn sleep_until(&self, due: Instant) -> bool {
        self.signal.recv_deadline(due) != Err(RecvTimeoutError::Disconnected)
    }
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

/// How the time of a stream relates to the clock on the wall.
#[derive(Debug, Clone, Copy)]
struct Clock {
    start: Instant,
    pace: Pace,
}

impl Clock {
    fn is_stream(&self) -> bool {
        self.pace != Pace::Stills
    }

    /// Whether a newer frame replaces one that was not looked at.
    fn newest_wins(&self, windowed: bool) -> bool {
        match self.pace {
            Pace::Live => true,
            Pace::Recorded(_) => windowed,
            Pace::Stills => false,
        }
    }

    /// When frame `sequence`, taken at `captured` by the source's clock, is due in a window.
    fn due(&self, sequence: u64, captured: Instant) -> Instant {
        match self.pace {
            Pace::Live | Pace::Recorded(_) => captured,
            Pace::Stills => self.start + SLIDE * u32::try_from(sequence).unwrap_or(u32::MAX),
        }
    }
}

/// The writing end of a one-item hand-over.
///
/// There is only one writer. So once the unread item is out, taken by the reader or by
/// [`SlotWriter::replace`], the slot is empty until this writer fills it.
struct SlotWriter<T> {
    sender: Sender<T>,
    unread: Receiver<T>,
}

fn slot<T>() -> (SlotWriter<T>, Receiver<T>) {
    let (sender, receiver) = channel::bounded(1);
    (SlotWriter { sender, unread: receiver.clone() }, receiver)
}

impl<T> SlotWriter<T> {
    /// Puts `item` in, in place of an unread one, which is returned. Never blocks.
    fn replace(&self, item: T) -> Option<T> {
        let Err(TrySendError::Full(item)) = self.sender.try_send(item) else { return None };
        let unread = self.unread.try_recv().ok();
        // Cannot be full: see above. Cannot be disconnected: `self.unread` is a receiver.
        let _ = self.sender.try_send(item);
        unread
    }

    /// Waits until the slot is empty, then puts `item` in; false if asked to stop before.
    fn wait(&self, item: T, stop: &Stop) -> bool {
        select! {
            send(self.sender, item) -> sent => sent.is_ok(),
            recv(stop.signal) -> _ => false,
        }
    }
}

/// What the capture thread hands to inference.
enum Taken {
    Shot(Shot),
    /// What is passed on to the sinks as it is.
    Other(Outcome),
}

/// What the capture thread hands to the screen.
enum View {
    Shot(Shot),
    /// No more frames, for this reason, until the next one.
    Lost(String),
}

/// What the capture thread needs.
struct Capture {
    source: Box<dyn Source>,
    clock: Clock,
    newest_wins: bool,
    frames: SlotWriter<Taken>,
    /// Where a window shows the pictures at their time.
    preview: Option<SlotWriter<View>>,
    /// What `frames` holds must reach the sinks, and no newer frame may replace it.
    told: bool,
    stats: Arc<Mutex<Stats>>,
    stop: Stop,
}

/// Runs the capture on a thread that nobody joins, because a read from a pipe or a device may never return.
/// How it ended comes through the channel.
fn spawn_capture(capture: Capture) -> Receiver<Result<(), SourceError>> {
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
        let shot = Shot { frame, time };
        if let Some(preview) = &self.preview {
            preview.replace(View::Shot(shot.clone()));
        }
        if std::mem::take(&mut self.told) || !self.newest_wins {
            return self.frames.wait(Taken::Shot(shot), &self.stop);
        }
        if self.frames.replace(Taken::Shot(shot)).is_some() {
            lock(&self.stats).skipped += 1;
        }
        true
    }
}

/// Reports unreadable pictures; of a stream, once a second at first and, if there are ever more, once a minute.
#[derive(Default)]
struct Complaints {
    last: Option<Instant>,
    /// How long after the last report the next may come.
    pause: Duration,
    held_back: u64,
}

impl Complaints {
    const FIRST_PAUSE: Duration = Duration::from_secs(1);
    const LONGEST_PAUSE: Duration = Duration::from_secs(60);

    fn unreadable(&mut self, name: &str, reason: &str, is_stream: bool) {
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
            Some(Taken::Shot(shot)) => {
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

/// Locks a mutex whose data stays valid even if a thread panicked while it held the lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{frame::Picture, source::Extent};
    use std::io;

    const TICK: Duration = Duration::from_millis(2);

    /// Gives `left` frames, one every `interval`, and then ends as `end` says.
    struct Script {
        pace: Pace,
        left: u64,
        interval: Duration,
        next: u64,
        unreadable: Option<u64>,
        /// Is lost before this frame, and back.
        lost: Option<u64>,
        end: End,
        start: Option<Instant>,
        back: bool,
    }

    enum End {
        Plain,
        Error,
        Panic,
        /// Never returns, as a read from a silent pipe.
        Hang,
    }

    impl Script {
        fn new(pace: Pace, left: u64) -> Self {
            Self {
                pace,
                left,
                interval: Duration::ZERO,
                next: 0,
                unreadable: None,
                lost: None,
                end: End::Plain,
                start: None,
                back: false,
            }
        }
    }

    impl Source for Script {
        fn describe(&self) -> String {
            "script".into()
        }

        fn extent(&self) -> Extent {
            Extent::Ends
        }

        fn pace(&self) -> Pace {
            self.pace
        }

        fn next(&mut self) -> Result<Option<Item>, SourceError> {
            thread::sleep(self.interval);
            if self.left == 0 {
                return match self.end {
                    End::Plain => Ok(None),
                    End::Error => Err(SourceError {
                        what: "script".into(),
                        reason: "torn".into(),
                        advice: "glue it".into(),
                    }),
                    End::Panic => panic!("as the test asks"),
                    End::Hang => loop {
                        thread::park();
                    },
                };
            }
            if self.lost == Some(self.next) {
                self.lost = None;
                self.back = true;
                return Ok(Some(Item::Lost { name: "script".into(), reason: "unplugged".into() }));
            }
            if std::mem::take(&mut self.back) {
                let away = Duration::from_secs(3);
                return Ok(Some(Item::Back { name: "script".into(), away, description: "as before".into() }));
            }
            self.left -= 1;
            let sequence = self.next;
            self.next += 1;
            if self.unreadable == Some(sequence) {
                return Ok(Some(Item::Unreadable { name: "bad".into(), reason: "broken".into() }));
            }
            let start = *self.start.get_or_insert_with(Instant::now);
            let captured = match self.pace {
                Pace::Recorded(rate) => start + Duration::from_secs_f64(sequence as f64 / f64::from(rate)),
                _ => Instant::now(),
            };
            Ok(Some(Item::Frame(Frame {
                picture: Arc::new(Picture::new(1, 1)),
                captured,
                sequence,
                name: "script".into(),
            })))
        }
    }

    /// Takes `pause` over each frame, finds nobody, and notes the moments it was given.
    #[derive(Default)]
    struct Slow {
        pause: Duration,
        moments: Vec<Option<Instant>>,
    }

    impl Analyse for Slow {
        fn analyse(
            &mut self,
            _: &Frame,
            moment: Option<Instant>,
            _: &mut Stats,
        ) -> Result<Vec<Person>, EngineError> {
            thread::sleep(self.pause);
            self.moments.push(moment);
            Ok(Vec::new())
        }
    }

    /// Notes frame numbers; an unreadable picture is `None`.
    #[derive(Default)]
    struct Notes {
        sequences: Vec<Option<u64>>,
        fail_at: Option<usize>,
    }

    impl Sink for Notes {
        fn accept(&mut self, outcome: &Outcome) -> Result<(), SinkError> {
            if self.fail_at == Some(self.sequences.len()) {
                return Err(SinkError::Stream {
                    what: "notes".into(),
                    source: io::ErrorKind::BrokenPipe.into(),
                });
            }
            self.sequences.push(match outcome {
                Outcome::Seen(seen) => Some(seen.shot.frame.sequence),
                _ => None,
            });
            Ok(())
        }
    }

    #[derive(Default)]
    struct Watcher {
        /// Closes itself when so many frames were shown.
        close_after: Option<u32>,
        shown: u32,
        losses: Vec<String>,
    }

    impl Screen for Watcher {
        fn show(&mut self, _: &Frame, _: &[Person], _: &str) -> Result<bool, SinkError> {
            self.shown += 1;
            Ok(self.close_after != Some(self.shown))
        }

        fn lost(&mut self, reason: &str) -> Result<bool, SinkError> {
            self.losses.push(reason.to_owned());
            Ok(true)
        }

        fn idle(&mut self) -> Result<bool, SinkError> {
            Ok(true)
        }
    }

    fn run_headless(script: Script, analyser: &mut Slow, notes: &mut Notes, limit: Option<u64>) -> Report {
        run(Box::new(script), analyser, &mut [Box::new(notes)], None, limit, &Stop::default())
    }

    #[test]
    fn a_newer_item_replaces_an_unread_one() {
        let (writer, reader) = slot();
        assert_eq!(writer.replace(1), None);
        assert_eq!(writer.replace(2), Some(1));
        assert_eq!(reader.try_recv(), Ok(2));
        assert_eq!(writer.replace(3), None);
        drop(writer);
        assert_eq!(reader.recv(), Ok(3));
        assert!(reader.recv().is_err());
    }

    #[test]
    fn with_a_slow_analyser_live_frames_stay_young() {
        let script = Script { interval: TICK, ..Script::new(Pace::Live, 200) };
        let mut slow = Slow { pause: Duration::from_millis(20), ..Slow::default() };
        let mut notes = Notes::default();
        let report = run_headless(script, &mut slow, &mut notes, None);
        let stats = report.stats;
        assert!(report.error.is_none());
        assert_eq!(stats.captured, 200);
        assert_eq!(stats.processed + stats.skipped, 200);
        assert!(stats.skipped > 100, "{} skipped", stats.skipped);
        assert_eq!(notes.sequences.last(), Some(&Some(199)), "the newest frame is the one that is looked at");
        // A queue would have let the age grow to 200 × 18 ms.
        let age = stats.age.quantile(0.95).unwrap();
        assert!(age < Duration::from_millis(200), "{age:?}");
    }

    #[test]
    fn no_frame_of_a_recording_is_skipped_and_its_own_clock_counts() {
        let mut slow = Slow { pause: TICK, ..Slow::default() };
        let mut notes = Notes::default();
        let report = run_headless(Script::new(Pace::Recorded(10.0), 50), &mut slow, &mut notes, None);
        assert_eq!(notes.sequences, (0..50).map(Some).collect::<Vec<_>>());
        assert_eq!((report.stats.processed, report.stats.skipped), (50, 0));
        let span = slow.moments[49].unwrap() - slow.moments[0].unwrap();
        assert!((span.as_secs_f64() - 4.9).abs() < 1e-6, "{span:?}");
    }

    #[test]
    fn stills_have_no_moment_and_unreadable_ones_keep_their_place() {
        let script = Script { unreadable: Some(1), ..Script::new(Pace::Stills, 3) };
        let (mut slow, mut notes) = (Slow::default(), Notes::default());
        let report = run_headless(script, &mut slow, &mut notes, None);
        assert_eq!(notes.sequences, [Some(0), None, Some(2)]);
        assert_eq!(slow.moments, [None, None]);
        assert_eq!((report.stats.captured, report.stats.unreadable), (2, 1));
    }

    #[test]
    fn complaints_become_rarer_while_they_go_on() {
        let (mut complaints, start) = (Complaints::default(), Instant::now());
        let second = |n| start + Duration::from_secs(n);
        let said: Vec<u64> = (0..300).filter(|&n| complaints.is_due(second(n))).collect();
        assert_eq!(said, [0, 1, 3, 7, 15, 31, 63, 123, 183, 243]);
        assert!(complaints.is_due(second(1000)));
        assert!(complaints.is_due(second(1001)), "after a good time it begins anew");
    }

    #[test]
    fn the_limit_is_exact() {
        let (mut slow, mut notes) = (Slow::default(), Notes::default());
        let report = run_headless(Script::new(Pace::Recorded(30.0), 1000), &mut slow, &mut notes, Some(7));
        assert_eq!((report.stats.processed, notes.sequences.len()), (7, 7));
    }

    #[test]
    fn what_came_before_a_source_error_is_kept() {
        let script = Script { end: End::Error, ..Script::new(Pace::Stills, 3) };
        let (mut slow, mut notes) = (Slow::default(), Notes::default());
        let report = run_headless(script, &mut slow, &mut notes, None);
        assert_eq!(notes.sequences.len(), 3);
        assert!(matches!(report.error, Some(PipelineError::Source(_))), "{:?}", report.error);
    }

    #[test]
    fn a_failing_sink_ends_the_run() {
        let script = Script { interval: TICK, ..Script::new(Pace::Live, u64::MAX) };
        let mut notes = Notes { fail_at: Some(2), ..Notes::default() };
        let report = run_headless(script, &mut Slow::default(), &mut notes, None);
        assert!(matches!(&report.error, Some(PipelineError::Sink(e)) if e.is_broken_pipe()));
    }

    #[test]
    fn a_source_that_never_answers_does_not_hold_up_the_end() {
        let script = Script { end: End::Hang, ..Script::new(Pace::Live, 3) };
        let stop = Stop::default();
        let begun = Instant::now();
        let report = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(100));
                stop.request();
            });
            run(Box::new(script), &mut Slow::default(), &mut [], None, None, &stop)
        });
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert_eq!(report.stats.captured, 3);
        assert!(report.error.is_none());
    }

    #[test]
    fn showing_does_not_wait_for_the_analyser() {
        let script = Script { interval: Duration::from_millis(5), ..Script::new(Pace::Live, 100) };
        let mut slow = Slow { pause: Duration::from_millis(150), ..Slow::default() };
        let mut screen = Watcher::default();
        let report = run(Box::new(script), &mut slow, &mut [], Some(&mut screen), None, &Stop::default());
        let stats = report.stats;
        assert!(stats.shown > 3 * stats.processed, "{} shown, {} processed", stats.shown, stats.processed);
        let age = stats.age.quantile(0.5).unwrap();
        assert!(age < Duration::from_millis(100), "{age:?}");
    }

    #[test]
    fn in_a_window_a_recording_plays_at_its_rate() {
        let mut screen = Watcher::default();
        let script = Script::new(Pace::Recorded(100.0), 30);
        let (mut slow, stop) = (Slow::default(), Stop::default());
        let report = run(Box::new(script), &mut slow, &mut [], Some(&mut screen), None, &stop);
        assert!(report.elapsed > Duration::from_millis(290), "{:?}", report.elapsed);
    }

    #[test]
    fn a_source_that_panics_is_an_error() {
        let script = Script { end: End::Panic, ..Script::new(Pace::Live, 1) };
        let report = run_headless(script, &mut Slow::default(), &mut Notes::default(), None);
        assert!(matches!(report.error, Some(PipelineError::Capture)), "{:?}", report.error);
    }

    #[test]
    fn the_last_slide_stays_until_the_window_is_closed() {
        /// Closes itself after a while in which nothing new was shown.
        struct Patient(Instant);
        impl Screen for Patient {
            fn show(&mut self, _: &Frame, _: &[Person], _: &str) -> Result<bool, SinkError> {
                self.0 = Instant::now();
                Ok(true)
            }

            fn lost(&mut self, _: &str) -> Result<bool, SinkError> {
                unreachable!("slides are never lost")
            }

            fn idle(&mut self) -> Result<bool, SinkError> {
                Ok(self.0.elapsed() < Duration::from_millis(300))
            }
        }
        let (mut slow, stop) = (Slow::default(), Stop::default());
        let mut screen = Patient(Instant::now());
        let script = Script::new(Pace::Stills, 1);
        let report = run(Box::new(script), &mut slow, &mut [], Some(&mut screen), None, &stop);
        assert!(report.elapsed >= Duration::from_millis(300), "{:?}", report.elapsed);
        assert_eq!((report.stats.shown, report.stats.processed), (1, 1));
    }

    #[test]
    fn a_loss_and_a_return_reach_every_sink_and_the_screen() {
        /// Notes what it is told besides frames, with the number of the last frame before.
        #[derive(Default)]
        struct Turns(Option<u64>, Vec<(&'static str, Option<u64>)>);
        impl Sink for Turns {
            fn accept(&mut self, outcome: &Outcome) -> Result<(), SinkError> {
                match outcome {
                    Outcome::Seen(seen) => self.0 = Some(seen.shot.frame.sequence),
                    Outcome::Lost { .. } => self.1.push(("lost", self.0)),
                    Outcome::Back { .. } => self.1.push(("back", self.0)),
                    Outcome::Unreadable { .. } => {}
                }
                Ok(())
            }
        }
        let script = Script { lost: Some(20), interval: TICK, ..Script::new(Pace::Live, 60) };
        let mut slow = Slow { pause: Duration::from_millis(20), ..Slow::default() };
        let (mut turns, mut screen) = (Turns::default(), Watcher::default());
        let stop = Stop::default();
        let report =
            run(Box::new(script), &mut slow, &mut [Box::new(&mut turns)], Some(&mut screen), None, &stop);
        assert_eq!(turns.1, [("lost", Some(19)), ("back", Some(19))]);
        assert!(turns.0 > Some(19), "frames go on");
        assert_eq!(report.stats.lost, 1);
        assert!(screen.losses.len() <= 1 && screen.losses.iter().all(|reason| reason == "unplugged"));
    }

    #[test]
    fn closing_the_window_ends_an_endless_stream() {
        let script = Script { interval: TICK, ..Script::new(Pace::Live, u64::MAX) };
        let mut screen = Watcher { close_after: Some(20), ..Watcher::default() };
        let (mut slow, stop) = (Slow::default(), Stop::default());
        let report = run(Box::new(script), &mut slow, &mut [], Some(&mut screen), None, &stop);
        assert!(report.error.is_none() && stop.requested());
        assert_eq!(screen.shown, 20);
    }
}
