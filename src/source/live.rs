//! What live sources share: a thread that takes pictures as they come and keeps only the newest, and the way back to
//! a source that was lost.
//!
//! A [`Feed`] opens a camera, a child process or a connection and hands its pictures over until it fails. Then its
//! thread runs it again, after pauses that grow to 5 s.

use std::{
    any::Any,
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Extent, Item, Pace, PictureError, STALE, Source, SourceError};
use crate::frame::{Frame, Picture};

/// The longest wait before a look whether it is time to stop.
pub const SLICE: Duration = Duration::from_millis(100);
/// The pauses between tries to open a lost source double from the first to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// When a source that gave pictures for so long is lost, its pauses begin anew.
const STEADY: Duration = Duration::from_secs(2);
/// A feed that does not notice by itself that its pictures are overdue is given so much more time.
const MARGIN: Duration = Duration::from_secs(1);

/// How long a source may be silent before it counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// From the start of [`Feed::run`] to the first picture.
    pub first: Duration,
    /// From one picture to the next.
    pub next: Duration,
}

/// A live source, opened and read on a thread of its own.
pub trait Feed: Send + 'static {
    /// What messages and events call it, such as `/dev/video0`.
    fn name(&self) -> String;

    fn limits(&self) -> Limits;

    /// How long [`Feed::run`] may take to end when no more is wanted.
    fn closing_time(&self) -> Duration {
        Duration::from_millis(500)
    }

    /// Opens the source and hands its pictures to `outlet` until it is lost or no more are wanted. When it returns,
    /// it has let go of the source, so that it can be called again.
    fn run(&mut self, outlet: &Outlet) -> Result<(), SourceError>;
}

/// A picture as it came. It is decoded only if it is still the newest when there is time for it.
struct Undecoded {
    decode: Box<dyn FnOnce() -> Result<Picture, PictureError> + Send>,
    captured: Instant,
    sequence: u64,
}

/// What [`Live`] finds in its outlet.
enum News {
    Picture(Undecoded),
    Lost(SourceError),
    Back { away: Duration },
}

struct State {
    description: String,
    /// Losses and returns that were not told yet; unlike pictures, none replaces another.
    turns: VecDeque<News>,
    newest: Option<Undecoded>,
    /// Pictures handed over, since the start and since the last opening.
    count: u64,
    count_since_opened: u64,
    opened: Instant,
    last: Instant,
    lost: Option<Instant>,
    /// Why there was never a picture.
    failed: Option<SourceError>,
    closed: bool,
}

/// Where a [`Feed`] puts its pictures. Clones share one state.
#[derive(Clone)]
pub struct Outlet {
    shared: Arc<(Mutex<State>, Condvar)>,
    limits: Limits,
}

impl Outlet {
    fn new(limits: Limits) -> Self {
        let now = Instant::now();
        let state = State {
            description: String::new(),
            turns: VecDeque::new(),
            newest: None,
            count: 0,
            count_since_opened: 0,
            opened: now,
            last: now,
            lost: None,
            failed: None,
            closed: false,
        };
        Self { shared: Arc::new((Mutex::new(state), Condvar::new())), limits }
    }

    /// Says what was opened, for people: `camera /dev/video0 (Webcam), MJPG 640x480 at 30 fps`.
    pub fn describe(&self, description: String) {
        self.lock().description = description;
    }

    /// Hands over a picture taken at `captured`, in place of an unread one.
    pub fn put(
        &self,
        captured: Instant,
        decode: impl FnOnce() -> Result<Picture, PictureError> + Send + 'static,
    ) {
        let mut state = self.lock();
        let sequence = state.count;
        state.count += 1;
        state.count_since_opened += 1;
        state.last = Instant::now();
        if let Some(since) = state.lost.take() {
            state.turns.push_back(News::Back { away: since.elapsed() });
        }
        state.newest = Some(Undecoded { decode: Box::new(decode), captured, sequence });
        self.shared.1.notify_all();
    }

    /// Counts a picture that is older than the next one at hand.
    pub fn overtaken(&self) {
        self.lock().count += 1;
    }

    /// Whether to go on: false when no more is wanted.
    ///
    /// # Errors
    /// When the next picture is overdue, in words.
    pub fn goes_on(&self) -> Result<bool, String> {
        let state = self.lock();
        match state.overdue(self.limits) {
            _ if state.closed => Ok(false),
            Some(limit) => Err(format!("no picture for {} s", limit.as_secs_f32())),
            None => Ok(true),
        }
    }

    /// Sleeps; false if meanwhile no more is wanted.
    pub fn pause(&self, duration: Duration) -> bool {
        let (state, _) = self
            .shared
            .1
            .wait_timeout_while(self.lock(), duration, |state| !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        !state.closed
    }

    fn begin(&self) {
        let mut state = self.lock();
        state.opened = Instant::now();
        state.last = state.opened;
        state.count_since_opened = 0;
    }

    /// Notes why [`Feed::run`] ended; whether to try again, and if so, whether it had worked for long.
    fn end(&self, error: SourceError) -> Option<Ended> {
        let mut state = self.lock();
        if state.closed {
            return None;
        }
        let ended = match state.lost {
            _ if state.count == 0 => {
                state.failed = Some(error);
                None
            }
            Some(_) => Some(Ended::Still(error)),
            None => {
                let steady = state.count_since_opened > 0 && state.opened.elapsed() >= STEADY;
                state.lose(error);
                Some(Ended::Lost { steady })
            }
        };
        self.shared.1.notify_all();
        ended
    }

    fn close(&self) {
        self.lock().closed = true;
        self.shared.1.notify_all();
    }

    /// Waits until there is a picture, or it is clear that there will be none.
    fn wait_for_first(&self, interrupted: &AtomicBool) -> Result<(), Option<SourceError>> {
        let deadline = Instant::now() + self.limits.first + MARGIN;
        let waits = |state: &mut State| state.count == 0 && state.failed.is_none();
        loop {
            let (mut state, _) = self
                .shared
                .1
                .wait_timeout_while(self.lock(), SLICE, waits)
                .unwrap_or_else(PoisonError::into_inner);
            if state.count > 0 {
                return Ok(());
            }
            if state.failed.is_some() || interrupted.load(Ordering::Relaxed) || Instant::now() > deadline {
                return Err(state.failed.take());
            }
        }
    }

    /// Waits a moment for news.
    fn take(&self, name: &str) -> Option<News> {
        let nothing = |state: &mut State| state.turns.is_empty() && state.newest.is_none() && !state.closed;
        let (mut state, _) = self
            .shared
            .1
            .wait_timeout_while(self.lock(), SLICE, nothing)
            .unwrap_or_else(PoisonError::into_inner);
        let late = Limits { first: self.limits.first + MARGIN, next: self.limits.next + MARGIN };
        if let (None, Some(limit)) = (state.lost, state.overdue(late)) {
            let reason = format!("no picture for {} s, and the driver does not answer", limit.as_secs_f32());
            state.lose(SourceError::new(name, reason, "unplug the camera and plug it in again"));
        }
        // If there is a newest picture, it came at `last`. One that has waited for so long is from before a pause.
        if state.last.elapsed() > STALE {
            state.newest = None;
        }
        state.turns.pop_front().or_else(|| state.newest.take().map(News::Picture))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a run of a feed that had worked before ended.
enum Ended {
    Lost {
        /// It had given pictures for long.
        steady: bool,
    },
    /// It could not be opened again, or not for long enough to give a picture.
    Still(SourceError),
}

impl State {
    /// The limit that is exceeded.
    fn overdue(&self, limits: Limits) -> Option<Duration> {
        let limit = if self.count_since_opened == 0 { limits.first } else { limits.next };
        (self.last.elapsed() > limit).then_some(limit)
    }

    fn lose(&mut self, error: SourceError) {
        self.lost = Some(Instant::now());
        self.newest = None;
        self.turns.push_back(News::Lost(error));
    }
}

/// Runs a feed again and again until no more is wanted, or until it has failed at the first try.
fn keep(mut feed: impl Feed, outlet: Outlet) {
    let mut pause = FIRST_PAUSE;
    let mut last_said: Option<String> = None;
    loop {
        outlet.begin();
        let error = match catch_unwind(AssertUnwindSafe(|| feed.run(&outlet))) {
            Ok(Ok(())) => SourceError::new(feed.name(), "it ended", "start it again"),
            Ok(Err(error)) => error,
            Err(payload) => SourceError::new(
                feed.name(),
                format!("the library that reads it failed: {}", message(&*payload)),
                "please report this",
            ),
        };
        match outlet.end(error) {
            None => return,
            Some(Ended::Lost { steady }) => {
                last_said = None;
                if steady {
                    pause = FIRST_PAUSE;
                }
            }
            Some(Ended::Still(error)) => {
                let said = error.to_string();
                // The first failure after a loss, mostly "not plugged in", is no news.
                if last_said.as_ref().is_some_and(|last| *last != said) {
                    log::info!("{said}");
                } else {
                    log::debug!("{said}");
                }
                last_said = Some(said);
            }
        }
        if !outlet.pause(pause) {
            return;
        }
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// The words of a panic.
fn message(payload: &(dyn Any + Send)) -> &str {
    match payload.downcast_ref::<String>() {
        Some(text) => text,
        None => payload.downcast_ref::<&str>().unwrap_or(&"no message"),
    }
}

/// A live source that is opened again whenever it is lost.
pub struct Live {
    name: Arc<str>,
    outlet: Outlet,
    keeper: JoinHandle<()>,
    closing_time: Duration,
}

impl Live {
    /// Opens the source and waits for its first picture.
    ///
    /// # Errors
    /// When it cannot be opened, its first picture does not come in time, or `interrupted` is set meanwhile.
    pub fn open(feed: impl Feed, interrupted: &AtomicBool) -> Result<Self, SourceError> {
        let outlet = Outlet::new(feed.limits());
        let (name, closing_time) = (feed.name(), feed.closing_time());
        let keeper = {
            let outlet = outlet.clone();
            thread::spawn(move || keep(feed, outlet))
        };
        let live = Self { name: name.as_str().into(), outlet, keeper, closing_time };
        live.outlet.wait_for_first(interrupted).map_err(|error| {
            error.unwrap_or_else(|| {
                let limit = live.outlet.limits.first.as_secs_f32();
                SourceError::new(name, format!("no picture within {limit} s"), "try it with another program")
            })
        })?;
        Ok(live)
    }
}

impl Source for Live {
    fn describe(&self) -> String {
        self.outlet.lock().description.clone()
    }

    fn extent(&self) -> Extent {
        Extent::Endless
    }

    fn pace(&self) -> Pace {
        Pace::Live
    }

    fn closing_time(&self) -> Duration {
        self.closing_time
    }

    fn next(&mut self) -> Result<Option<Item>, SourceError> {
        Ok(Some(match self.outlet.take(&self.name) {
            None => Item::Waiting,
            Some(News::Lost(error)) => Item::Lost { name: self.name.to_string(), reason: error.reason },
            Some(News::Back { away }) => {
                Item::Back { name: self.name.to_string(), away, description: self.describe() }
            }
            Some(News::Picture(Undecoded { decode, captured, sequence })) => match decode() {
                Ok(picture) => {
                    let name = self.name.clone();
                    Item::Frame(Frame { picture: picture.into(), captured, sequence, name })
                }
                Err(error) => Item::Unreadable {
                    name: format!("{}, picture {sequence}", self.name),
                    reason: error.to_string(),
                },
            },
        }))
    }
}

impl Drop for Live {
    /// Waits a moment for the feed to let go of its source, so that it can be opened again at once.
    fn drop(&mut self) {
        self.outlet.close();
        let deadline = Instant::now() + self.closing_time;
        while !self.keeper.is_finished() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a run of a scripted feed does: so many pictures, then an end.
    #[derive(Clone, Copy)]
    enum Run {
        Fails,
        Panics,
        /// Pictures with this width, then a loss.
        Pictures(u32),
        /// The same, then silence until nothing is wanted or it is overdue.
        Silence(u32),
    }

    struct Script {
        runs: VecDeque<Run>,
        /// Taken while a run holds the source.
        held: Arc<Mutex<()>>,
    }

    impl Feed for Script {
        fn name(&self) -> String {
            "script".into()
        }

        fn limits(&self) -> Limits {
            Limits { first: Duration::from_secs(5), next: Duration::from_millis(300) }
        }

        fn run(&mut self, outlet: &Outlet) -> Result<(), SourceError> {
            let error = |reason: &str| Err(SourceError::new("script", reason, "no advice"));
            let run = self.runs.pop_front().unwrap_or(Run::Silence(0));
            // Before the lock is taken, which a panic would poison.
            assert!(!matches!(run, Run::Panics), "as the test asks");
            let _held = self.held.try_lock().expect("the run before has ended");
            let (count, silent) = match run {
                Run::Fails => return error("not there"),
                Run::Panics => unreachable!("it has panicked"),
                Run::Pictures(count) => (count, false),
                Run::Silence(count) => (count, true),
            };
            outlet.describe(format!("script of {count}"));
            for i in 0..count {
                outlet.put(Instant::now(), move || match i {
                    1 => Err(PictureError::Empty),
                    _ => Ok(Picture::new(10 + i, 1)),
                });
                thread::sleep(Duration::from_millis(20));
            }
            if !silent {
                return error("torn");
            }
            loop {
                match outlet.goes_on() {
                    Ok(true) => thread::sleep(Duration::from_millis(5)),
                    Ok(false) => return Ok(()),
                    Err(reason) => return error(&reason),
                }
            }
        }
    }

    fn opened(feed: impl Feed) -> Result<Live, SourceError> {
        Live::open(feed, &AtomicBool::new(false))
    }

    fn script(runs: &[Run]) -> Script {
        Script { runs: runs.iter().copied().collect(), held: Arc::default() }
    }

    /// What comes until there were so many returns, in words.
    fn told(live: &mut Live, returns: usize) -> Vec<String> {
        let mut told = Vec::new();
        let begun = Instant::now();
        while told.iter().filter(|word| *word == "back").count() < returns {
            assert!(begun.elapsed() < Duration::from_secs(60), "{told:?}");
            match live.next().unwrap().unwrap() {
                Item::Lost { reason, .. } => told.push(format!("lost: {reason}")),
                Item::Back { .. } => told.push("back".into()),
                _ => {}
            }
        }
        told
    }

    #[test]
    fn a_lost_source_is_told_once_and_comes_back() {
        let runs = [Run::Pictures(2), Run::Fails, Run::Fails, Run::Silence(1)];
        let mut live = opened(script(&runs)).unwrap();
        assert_eq!(live.describe(), "script of 2");
        assert_eq!(told(&mut live, 1), ["lost: torn", "back"]);
        assert_eq!(live.describe(), "script of 1");
    }

    #[test]
    fn silence_is_a_loss_and_so_is_a_panic() {
        let runs = [Run::Silence(2), Run::Panics, Run::Pictures(3), Run::Silence(1)];
        let mut live = opened(script(&runs)).unwrap();
        assert_eq!(told(&mut live, 2), ["lost: no picture for 0.3 s", "back", "lost: torn", "back"]);
    }

    #[test]
    fn numbers_go_on_and_a_picture_that_cannot_be_read_keeps_its_own() {
        let mut live = opened(script(&[Run::Pictures(3), Run::Silence(3)])).unwrap();
        let (mut sequences, mut unreadable) = (Vec::new(), Vec::new());
        while sequences.last() != Some(&5) {
            match live.next().unwrap().unwrap() {
                Item::Frame(frame) => sequences.push(frame.sequence),
                Item::Unreadable { name, .. } => unreadable.push(name),
                _ => {}
            }
        }
        assert!(sequences.is_sorted(), "{sequences:?}");
        let numbered =
            unreadable.iter().all(|name| ["script, picture 1", "script, picture 4"].contains(&&**name));
        assert!(numbered, "{unreadable:?}");
    }

    #[test]
    fn a_picture_that_has_waited_through_a_pause_is_not_given() {
        let outlet = Outlet::new(Limits { first: 10 * STALE, next: 10 * STALE });
        outlet.put(Instant::now(), || Ok(Picture::new(1, 1)));
        thread::sleep(STALE + Duration::from_millis(100));
        assert!(outlet.take("script").is_none());
        // However old the driver says that it is.
        outlet.put(Instant::now() - 2 * STALE, || Ok(Picture::new(1, 1)));
        assert!(matches!(outlet.take("script"), Some(News::Picture(_))));
    }

    #[test]
    fn a_source_that_never_gave_a_picture_is_an_error() {
        let error = opened(script(&[Run::Fails])).err().unwrap();
        assert_eq!(error.to_string(), "script: not there; no advice");
        let error = opened(script(&[Run::Panics])).err().unwrap();
        assert!(error.to_string().contains("as the test asks"), "{error}");
    }

    #[test]
    fn an_interrupt_ends_the_wait_for_the_first_picture() {
        let error = Live::open(script(&[Run::Silence(0)]), &AtomicBool::new(true)).err().unwrap();
        assert_eq!(error.what, "script");
    }

    #[test]
    fn a_feed_that_hangs_is_lost_too() {
        struct Hangs;
        impl Feed for Hangs {
            fn name(&self) -> String {
                "hangs".into()
            }

            fn limits(&self) -> Limits {
                Limits { first: Duration::from_secs(5), next: Duration::ZERO }
            }

            fn run(&mut self, outlet: &Outlet) -> Result<(), SourceError> {
                outlet.put(Instant::now(), || Ok(Picture::new(1, 1)));
                loop {
                    thread::park();
                }
            }
        }
        let mut live = opened(Hangs).unwrap();
        let begun = Instant::now();
        while !matches!(live.next().unwrap().unwrap(), Item::Lost { .. }) {
            assert!(begun.elapsed() < Duration::from_secs(60));
        }
        drop(live);
        assert!(begun.elapsed() < Duration::from_secs(60), "a hanging feed does not hold up the end");
    }

    #[test]
    fn dropping_it_ends_the_feed() {
        let script = script(&[Run::Silence(1)]);
        let held = script.held.clone();
        drop(opened(script).unwrap());
        let begun = Instant::now();
        while Arc::strong_count(&held) > 1 {
            assert!(begun.elapsed() < Duration::from_secs(60), "the feed lives on");
            thread::sleep(Duration::from_millis(2));
        }
    }
}
