use std::io;

use super::*;
use crate::{
    frame::Picture,
    source::{Extent, Item},
};

const TICK: Duration = Duration::from_millis(2);

/// Gives `left` frames, one every `interval`, and then ends as `end` says.
struct Script {
    pace: Pace,
    left: u64,
    interval: Duration,
    /// The time from when a frame is taken until it is given.
    held: Duration,
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
            held: Duration::ZERO,
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
        thread::sleep(self.held);
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
            return Err(SinkError::Stream { what: "notes".into(), source: io::ErrorKind::BrokenPipe.into() });
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
fn a_live_frame_that_has_waited_through_a_pause_is_not_looked_at() {
    let script = Script { interval: Duration::from_millis(200), ..Script::new(Pace::Live, 2) };
    let mut slow = Slow { pause: STALE + Duration::from_millis(500), ..Slow::default() };
    let mut notes = Notes::default();
    let report = run_headless(script, &mut slow, &mut notes, None);
    assert_eq!((report.stats.processed, report.stats.skipped), (1, 1));
    assert_eq!(notes.sequences, [Some(0)]);
}

#[test]
fn a_live_frame_whose_decoding_a_pause_has_held_up_is_not_looked_at() {
    let script = Script { held: STALE + Duration::from_millis(500), ..Script::new(Pace::Live, 1) };
    let mut notes = Notes::default();
    let report = run_headless(script, &mut Slow::default(), &mut notes, None);
    assert_eq!((report.stats.captured, report.stats.skipped), (1, 1));
    assert_eq!(notes.sequences, []);
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

#[test]
fn every_other_picture_of_a_video_is_looked_at_in_the_mirror() {
    use crate::{engine::EngineKind, models::Model, source::jpeg};
    let detector = || Detector::new(&Model::face(None).unwrap(), EngineKind::Tract, 320, None).unwrap();
    let classifier = || Classifier::new(&Model::attributes(None).unwrap(), EngineKind::Tract).unwrap();
    let picture = jpeg::decode(include_bytes!("../../assets/demo/worn.jpg")).unwrap();
    let faces = detector().detect(&picture).unwrap();
    let [plain, mirrored] = [false, true].map(|m| classifier().glance(&picture, &faces, m).unwrap()[0]);
    let both = classifier().classify(&picture, &faces).unwrap()[0];

    let start = Instant::now();
    let frame = Frame { picture: Arc::new(picture), captured: start, sequence: 0, name: "demo".into() };
    let mut analyser = Analyser::new(detector(), classifier());
    let mut male = |after: Option<u64>| {
        let moment = after.map(|ms| start + Duration::from_millis(ms));
        let people = analyser.analyse(&frame, moment, &mut Stats::default()).unwrap();
        f64::from(people[0].attributes.gender[0])
    };
    let between = |p: f64| {
        let [a, b] = [plain, mirrored].map(|said| f64::from(said.gender[0]));
        p > a.min(b) && p < a.max(b)
    };
    assert_eq!(male(Some(0)), f64::from(plain.gender[0]));
    assert!(between(male(Some(33))));
    // A photo among them is looked at twice, and the video goes on from where it was.
    assert_eq!(male(None), f64::from(both.gender[0]));
    let before = male(Some(66));
    assert!(between(before) && between(male(Some(99))));
}
