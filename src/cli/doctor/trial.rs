//! Three seconds of the real thing.

use std::{sync::Arc, thread, time::Duration};

use mien::{
    pipeline::{self, Report, Stop},
    source::{Pace, Source},
};

use super::{Line, run};

const CHECK: &str = "trial";
const LENGTH: Duration = Duration::from_secs(3);
/// A picture older than this when its people are known is no longer live.
const STALE_MS: f64 = 300.0;
/// Slower than this, people who walk past are missed.
const SLOW: f64 = 5.0;

/// Runs the source that `mien run` would open, and reports on it.
pub fn check(settings: run::Args) -> Line {
    let open = |analyser| Ok((analyser, run::open_source(&settings, &Arc::default())?));
    let opened = settings.analyser.load().and_then(open);
    let (mut analyser, (source, is_demo)) = match opened {
        Ok(opened) => opened,
        Err(error) => return Line::fail(CHECK, format!("{error:#}"), "see the lines above"),
    };
    let name = match is_demo && settings.source.is_empty() {
        true => "the demo, for want of a camera".to_owned(),
        false => source.describe(),
    };
    let is_live = source.pace() == Pace::Live;
    let report = watch(source, &mut analyser);
    verdict(&name, is_live, &report)
}

fn watch(source: Box<dyn Source>, analyser: &mut pipeline::Analyser) -> Report {
    let stop = Stop::default();
    thread::scope(|scope| {
        let report = scope.spawn(|| pipeline::run(source, analyser, &mut [], None, None, &stop));
        let end = std::time::Instant::now() + LENGTH;
        while !report.is_finished() && std::time::Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        stop.request();
        report.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn verdict(name: &str, is_live: bool, report: &Report) -> Line {
    let summary = report.stats.summary(report.elapsed);
    if let Some(error) = &report.error {
        return Line::fail(CHECK, format!("{name}: {error}"), "see docs/cameras.md and the lines above");
    }
    let Some(age) = summary.age_ms else {
        let found = format!("{name}: no picture in {:.1} s", summary.seconds);
        return Line::fail(CHECK, found, "check the cable, and that no other program holds the camera");
    };
    let found = format!(
        "{name}: {} pictures in {:.1} s, {:.1} a second; frame age {:.0} ms, 95 in 100 below {:.0} ms; people: {}",
        summary.processed, summary.seconds, summary.fps, age.p50, age.p95, summary.people
    );
    if summary.fps < SLOW {
        Line::warn(CHECK, found, "that is slow: try a smaller --detect-size, and see mien bench")
    } else if is_live && age.p95 > STALE_MS {
        Line::warn(CHECK, found, "that is late: try a smaller --size or --detect-size, and see mien bench")
    } else {
        Line::ok(CHECK, found)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::State, *};
    use mien::stats::Stats;

    fn report(processed: u64, age_ms: u64) -> Report {
        let mut stats = Stats::default();
        stats.processed = processed;
        (0..processed).for_each(|_| stats.age.record(Duration::from_millis(age_ms)));
        Report { stats, elapsed: LENGTH, error: None }
    }

    #[test]
    fn slow_late_and_dead_cameras_are_told_apart() {
        let state = |processed, age_ms| verdict("camera", true, &report(processed, age_ms)).state;
        assert_eq!(state(90, 40), State::Ok);
        assert_eq!(state(90, 900), State::Warn);
        assert_eq!(state(6, 40), State::Warn);
        assert_eq!(state(0, 0), State::Fail);
        assert_eq!(verdict("recording", false, &report(90, 900)).state, State::Ok);
        assert!(verdict("camera", true, &report(90, 40)).found.contains("30.0 a second; frame age 40 ms"));
    }
}
