//! `mien bench --frames`: where the time of a whole frame goes.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use anyhow::ensure;
use mien::{
    classify::Classifier,
    detect::Detector,
    engine::EngineError,
    frame::Picture,
    source::{self, Item, SourceOptions},
    track::Tracker,
};
use serde::Serialize;

/// The steps of a frame, in their order.
const STAGES: [&str; 7] = ["decode", "letterbox", "detector", "boxes", "crops", "classifier", "track"];

/// The time that each step of a frame takes, on one thread.
#[derive(Serialize)]
pub struct Frames {
    source: String,
    frames: usize,
    faces_per_frame: f64,
    stages: Vec<StageLine>,
    /// Of whole frames.
    median_ms: f64,
    p95_ms: f64,
}

#[derive(Serialize)]
struct StageLine {
    stage: &'static str,
    median_ms: f64,
    /// Of the time of all frames, 0–1.
    share: f64,
}

impl Frames {
    /// Runs all pictures of `spec` through the networks, `limit` at the most, the first few untimed.
    pub fn new(
        spec: &str,
        limit: usize,
        mut detector: Detector,
        mut classifier: Classifier,
    ) -> anyhow::Result<Self> {
        const UNTIMED: usize = 10;
        let mut tracker = Tracker::new(classifier.thresholds(), detector.min_score());
        let mut times: Vec<[Duration; STAGES.len()]> = Vec::new();
        let (mut faces, mut seen) = (0, 0);
        let mut source = source::open(spec, &SourceOptions::default())?;
        while seen < limit + UNTIMED {
            let begun = Instant::now();
            let Some(item) = source.next()? else {
                if seen == 0 {
                    break;
                }
                source = source::open(spec, &SourceOptions::default())?;
                continue;
            };
            let Item::Frame(frame) = item else { continue };
            let decoded = begun.elapsed();
            let (mut stages, found) =
                analyse(&frame.picture, frame.captured, &mut detector, &mut classifier, &mut tracker)?;
            stages[0] = decoded;
            if seen >= UNTIMED {
                faces += found;
                times.push(stages);
            }
            seen += 1;
        }
        ensure!(!times.is_empty(), "{spec} holds no pictures");

        let frames = times.len();
        let all: Duration = times.iter().flatten().sum();
        let line = |(stage, name): (usize, &'static str)| {
            let mut of: Vec<Duration> = times.iter().map(|times| times[stage]).collect();
            let sum: Duration = of.iter().sum();
            StageLine {
                stage: name,
                median_ms: percentile(&mut of, 50),
                share: sum.as_secs_f64() / all.as_secs_f64(),
            }
        };
        let mut whole: Vec<Duration> = times.iter().map(|stages| stages.iter().sum()).collect();
        Ok(Self {
            source: source.describe(),
            frames,
            faces_per_frame: faces as f64 / frames as f64,
            stages: STAGES.into_iter().enumerate().map(line).collect(),
            median_ms: percentile(&mut whole, 50),
            p95_ms: percentile(&mut whole, 95),
        })
    }

    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let Self { source, frames, faces_per_frame, .. } = self;
        writeln!(out, "\nwhole frames ({source}; {frames} frames, {faces_per_frame:.1} faces each)")?;
        writeln!(out, "  {:<20} {:>8} {:>8}", "step", "median", "share")?;
        for StageLine { stage, median_ms, share } in &self.stages {
            writeln!(out, "  {stage:<20} {median_ms:>8.3} {:>7.1}%", 100.0 * share)?;
        }
        writeln!(out, "  {:<20} {:>8.3}, p95 {:.3}", "all", self.median_ms, self.p95_ms)
    }
}

/// The time of each step but the first, and the number of faces.
fn analyse(
    picture: &Picture,
    moment: Instant,
    detector: &mut Detector,
    classifier: &mut Classifier,
    tracker: &mut Tracker,
) -> Result<([Duration; STAGES.len()], usize), EngineError> {
    let mut last = Instant::now();
    let mut lap = || {
        let now = Instant::now();
        now - std::mem::replace(&mut last, now)
    };
    let mut times = [Duration::ZERO; STAGES.len()];
    let letterbox = detector.letterbox(picture);
    times[1] = lap();
    let outputs = detector.outputs(&letterbox)?;
    times[2] = lap();
    let faces = detector.faces(&letterbox, &outputs)?;
    times[3] = lap();
    let crops = classifier.crops(picture, &faces);
    times[4] = lap();
    let attributes = classifier.attributes_of(&crops)?;
    times[5] = lap();
    let found: Vec<_> = faces.into_iter().zip(attributes).collect();
    tracker.update(moment, &found);
    times[6] = lap();
    Ok((times, found.len()))
}

fn percentile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3
}
