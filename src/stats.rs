//! Latency histograms, rates, and the summary of a run.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::{Duration, Instant},
};

use serde::Serialize;

/// Buckets per doubling: a bucket's middle is within 1.1 % (2^(1/64)) of every duration in it.
const PER_OCTAVE: f64 = 32.0;
/// From 1 µs to 2^36 µs (19 hours); what lies outside is counted at the nearer end.
const BUCKETS: usize = 36 * PER_OCTAVE as usize;

/// Durations counted in buckets of equal ratio, so that memory does not grow with their number.
/// Quantiles are within 1.1 % for durations of 1 µs and more; least and greatest are exact.
#[derive(Debug, Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    least: Duration,
    greatest: Duration,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, least: Duration::MAX, greatest: Duration::ZERO }
    }
}

impl Histogram {
    pub fn record(&mut self, duration: Duration) {
        let micros = duration.as_secs_f64() * 1e6;
        let bucket = (micros.max(1.0).log2() * PER_OCTAVE) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.count += 1;
        self.least = self.least.min(duration);
        self.greatest = self.greatest.max(duration);
    }

    /// How many durations were recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The smallest recorded duration that at least the share `q` (0–1) of all do not exceed
    /// (nearest rank); `None` when nothing was recorded.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let rank = ((q * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut below = 0;
        for (i, &n) in self.buckets.iter().enumerate() {
            below += n;
            if below >= rank {
                let micros = ((i as f64 + 0.5) / PER_OCTAVE).exp2();
                return Some(Duration::from_secs_f64(micros / 1e6).clamp(self.least, self.greatest));
            }
        }
        None
    }

    fn merge(&mut self, other: &Histogram) {
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.count += other.count;
        self.least = self.least.min(other.least);
        self.greatest = self.greatest.max(other.greatest);
    }

    /// Median and 95th percentile; `None` when nothing was recorded.
    pub fn quantiles(&self) -> Option<Quantiles> {
        let ms = |q| Some(round(self.quantile(q)?.as_secs_f64() * 1e3, 3));
        Some(Quantiles { p50: ms(0.50)?, p95: ms(0.95)? })
    }
}

/// Median and 95th percentile in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Quantiles {
    pub p50: f64,
    pub p95: f64,
}

/// Events per second over a sliding window.
#[derive(Debug, Clone)]
pub struct Rate {
    window: Duration,
    ticks: VecDeque<Instant>,
}

impl Rate {
    pub fn over(window: Duration) -> Self {
        Self { window, ticks: VecDeque::new() }
    }

    /// Counts an event. `now` must not go back.
    pub fn tick(&mut self, now: Instant) {
        self.ticks.push_back(now);
        while self.ticks.front().is_some_and(|&first| now - first > self.window) {
            self.ticks.pop_front();
        }
    }

    /// The rate between the first and the last event in the window; 0 while there are fewer than two.
    pub fn per_second(&self) -> f64 {
        match (self.ticks.front(), self.ticks.back()) {
            (Some(&first), Some(&last)) if last > first => {
                (self.ticks.len() - 1) as f64 / (last - first).as_secs_f64()
            }
            _ => 0.0,
        }
    }
}

/// A step of the work on one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the moment a picture was taken, or its reading began, to its pixels.
    Decode,
    Detect,
    Classify,
    Track,
    /// Drawing the overlay and handing the picture to the window.
    Draw,
    /// Writing events and pictures.
    Write,
}

impl Stage {
    pub const ALL: [Stage; 6] =
        [Stage::Decode, Stage::Detect, Stage::Classify, Stage::Track, Stage::Draw, Stage::Write];

    /// The word used in the summary.
    pub fn name(self) -> &'static str {
        ["decode", "detect", "classify", "track", "draw", "write"][self as usize]
    }
}

/// What a run counted and measured.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Pictures that the source gave.
    pub captured: u64,
    /// Pictures that were looked at.
    pub processed: u64,
    /// Pictures that a newer one replaced before they were looked at.
    pub skipped: u64,
    /// Pictures that could not be read.
    pub unreadable: u64,
    /// How often a live source was lost.
    pub lost: u64,
    /// Pictures shown in the window.
    pub shown: u64,
    /// Different people followed; for unrelated pictures, all faces.
    pub people: u64,
    /// Capture to shown, or to written where there is no window.
    pub age: Histogram,
    stages: [Histogram; Stage::ALL.len()],
}

impl Stats {
    pub fn record(&mut self, stage: Stage, took: Duration) {
        self.stages[stage as usize].record(took);
    }

    pub fn stage(&self, stage: Stage) -> &Histogram {
        &self.stages[stage as usize]
    }

    /// Adds what another thread counted.
    pub fn merge(&mut self, other: &Stats) {
        self.captured += other.captured;
        self.processed += other.processed;
        self.skipped += other.skipped;
        self.unreadable += other.unreadable;
        self.lost += other.lost;
        self.shown += other.shown;
        self.people += other.people;
        self.age.merge(&other.age);
        for (mine, theirs) in self.stages.iter_mut().zip(&other.stages) {
            mine.merge(theirs);
        }
    }

    /// The figures to report of a run that took `elapsed`.
    pub fn summary(&self, elapsed: Duration) -> Summary {
        let seconds = elapsed.as_secs_f64();
        let stages = Stage::ALL.into_iter();
        Summary {
            seconds: round(seconds, 3),
            captured: self.captured,
            processed: self.processed,
            skipped: self.skipped,
            unreadable: self.unreadable,
            lost: self.lost,
            shown: self.shown,
            people: self.people,
            fps: if seconds > 0.0 { round(self.processed as f64 / seconds, 2) } else { 0.0 },
            age_ms: self.age.quantiles(),
            stages_ms: stages.filter_map(|s| Some((s.name(), self.stage(s).quantiles()?))).collect(),
        }
    }
}

/// The figures of a run, as printed at its end and as the last line of `run --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub seconds: f64,
    pub captured: u64,
    pub processed: u64,
    pub skipped: u64,
    pub unreadable: u64,
    pub lost: u64,
    pub shown: u64,
    pub people: u64,
    /// Processed pictures a second, over the whole run.
    pub fps: f64,
    pub age_ms: Option<Quantiles>,
    /// By name of [`Stage`]; stages that never ran are left out.
    pub stages_ms: BTreeMap<&'static str, Quantiles>,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} captured, {} processed, {} skipped, {} unreadable in {:.1} s: {:.1} fps, people: {}",
            self.captured, self.processed, self.skipped, self.unreadable, self.seconds, self.fps, self.people
        )?;
        match self.lost {
            0 => {}
            1 => writeln!(f, "the source was lost once")?,
            n => writeln!(f, "the source was lost {n} times")?,
        }
        write!(f, "{:<10} {:>9} {:>9}", "ms", "p50", "p95")?;
        let stages = Stage::ALL.iter().filter_map(|s| Some((s.name(), self.stages_ms.get(s.name())?)));
        for (name, q) in self.age_ms.as_ref().map(|age| ("frame age", age)).into_iter().chain(stages) {
            write!(f, "\n{name:<10} {:>9.2} {:>9.2}", q.p50, q.p95)?;
        }
        Ok(())
    }
}

/// Rounds to so many decimals, for output that people read and disks store.
pub fn round(value: f64, decimals: i32) -> f64 {
    let k = 10f64.powi(decimals);
    (value * k).round() / k
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_within_the_documented_error(
            mut micros in prop::collection::vec(1u64..10_000_000, 1..300),
            q in 0.0f64..=1.0,
        ) {
            let mut histogram = Histogram::default();
            micros.iter().for_each(|&us| histogram.record(Duration::from_micros(us)));
            micros.sort_unstable();
            let rank = ((q * micros.len() as f64).ceil() as usize).max(1);
            let exact = micros[rank - 1] as f64;
            let found = histogram.quantile(q).unwrap().as_secs_f64() * 1e6;
            prop_assert!((found / exact - 1.0).abs() < 0.011, "{found} for {exact}");
        }
    }

    #[test]
    fn an_empty_histogram_has_no_quantiles() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(Histogram::default().quantiles(), None);
    }

    #[test]
    fn extremes_are_counted_at_the_ends() {
        let mut histogram = Histogram::default();
        histogram.record(Duration::ZERO);
        histogram.record(Duration::from_secs(1_000_000));
        assert_eq!(histogram.count(), 2);
        assert!(histogram.quantile(0.5).unwrap() < Duration::from_micros(2));
        assert!(histogram.quantile(1.0).unwrap() > Duration::from_secs(60_000));
    }

    #[test]
    fn rate_forgets_what_left_the_window() {
        let start = Instant::now();
        let mut rate = Rate::over(Duration::from_secs(1));
        assert_eq!(rate.per_second(), 0.0);
        for i in 0..10 {
            rate.tick(start + Duration::from_millis(100 * i));
        }
        assert!((rate.per_second() - 10.0).abs() < 1e-6);
        for i in 0..100 {
            rate.tick(start + Duration::from_millis(5000 + 20 * i));
        }
        assert!((rate.per_second() - 50.0).abs() < 1e-6);
    }

    #[test]
    fn merging_adds_counts_and_times() {
        let mut a = Stats { captured: 3, ..Stats::default() };
        a.record(Stage::Detect, Duration::from_millis(10));
        let mut b = Stats { captured: 4, unreadable: 1, ..Stats::default() };
        b.record(Stage::Detect, Duration::from_millis(20));
        a.merge(&b);
        assert_eq!((a.captured, a.unreadable), (7, 1));
        assert_eq!(a.stage(Stage::Detect).count(), 2);
        assert_eq!(a.stage(Stage::Detect).quantile(1.0), Some(Duration::from_millis(20)));
    }

    #[test]
    fn the_summary_leaves_out_stages_that_never_ran() {
        let mut stats = Stats { processed: 50, ..Stats::default() };
        stats.record(Stage::Detect, Duration::from_millis(4));
        let summary = stats.summary(Duration::from_secs(2));
        assert_eq!(summary.fps, 25.0);
        let text = summary.to_string();
        assert!(text.contains("detect") && !text.contains("classify"), "{text}");
    }
}
