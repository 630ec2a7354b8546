//! One training run: photos in, weights and figures out.

use std::{
    collections::HashMap,
    fs::{self, File},
    path::{Path, PathBuf},
    sync::mpsc::sync_channel,
    time::Instant,
};

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, FromArgMatches};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor, nn};

use super::{
    augment::{Sample, sample},
    cells::{cells, flatten},
    evaluate::{MIN_SCORE, Report, Reports, find, reports, stack},
    loss::{Loss, loss},
    network::{Network, normalise},
    scenes::{Scene, Split, read_marks, read_scenes},
};
use crate::{
    checkpoint::{self, Ema},
    interrupt,
    ledger::{Best, Faces, Record, State, changes},
    metrics::Log,
    optimizer::{AdamW, Optimizer},
    revision::Hardware,
};

#[derive(Debug, Clone, PartialEq, Args, Serialize, Deserialize)]
pub struct Options {
    /// The folder that holds scenes.tar and scenes.csv
    #[arg(long)]
    data: PathBuf,
    /// Where to write; a run that stopped there goes on from its last whole epoch
    #[arg(long)]
    #[serde(skip)]
    out: PathBuf,
    /// Weights to start from, as `mien-train recover` writes them
    #[arg(long)]
    warm_start: Option<PathBuf>,
    /// Passes over the training photos
    #[arg(long, default_value_t = 40)]
    epochs: u32,
    /// Finish after this many minutes, those before a stop counted, with fewer epochs if need be
    #[arg(long)]
    minutes: Option<f64>,
    /// Samples to a step
    #[arg(long, default_value_t = 32)]
    batch: usize,
    /// The side of a sample in pixels; a multiple of 32
    #[arg(long, default_value_t = 256)]
    side: u32,
    /// The largest learning rate
    #[arg(long, default_value_t = 3e-3)]
    rate: f64,
    #[arg(long, default_value_t = 0.02)]
    weight_decay: f64,
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// CPU threads of libtorch
    #[arg(long, default_value_t = 1)]
    threads: i32,
}

/// The long side at which the network is measured, in pixels.
const MEASURED_SIDE: u32 = 320;
/// Steps over which the learning rate rises at the start.
const WARM_UP: usize = 300;
/// The last learning rate over the largest.
const LAST_RATE: f64 = 0.01;
/// How much of the averaged weights stays at each step.
const AVERAGE: f64 = 0.998;
/// Batches that may wait for the network.
const READY: usize = 3;

/// A line of `metrics.jsonl`.
#[derive(Debug, Serialize)]
struct Metrics<'a> {
    epoch: u32,
    epochs: u32,
    seconds: f64,
    samples_per_second: f64,
    rate: f64,
    loss: Means,
    validation: &'a Reports,
}

/// Means over the steps of an epoch.
#[derive(Debug, Default, Serialize)]
struct Means {
    total: f64,
    score: f64,
    boxes: f64,
    landmarks: f64,
    steps: usize,
    /// The last step's learning rate.
    #[serde(skip)]
    rate: f64,
}

impl Means {
    fn add(&mut self, loss: &Loss) {
        self.steps += 1;
        let part = 1.0 / self.steps as f64;
        let follow = |mean: &mut f64, value: &Tensor| *mean += (value.double_value(&[]) - *mean) * part;
        follow(&mut self.total, &loss.total);
        follow(&mut self.score, &loss.score);
        follow(&mut self.boxes, &loss.boxes);
        follow(&mut self.landmarks, &loss.landmarks);
    }
}

/// A detector's run in the ledger: the best is that of the highest average precision on WIDER's photos.
type Entry = Record<Options, Report>;

/// Trains a detector. Writes into `--out`, after every epoch:
///
/// - `face.safetensors`, the averaged weights: what is measured and exported;
/// - `checkpoint.safetensors`, all that the run needs to go on;
/// - `metrics.jsonl`, a line of losses and validation figures;
/// - `run.json`, the run's entry in the ledger;
///
/// and `split.json`, which photos were trained on and which were kept. Ctrl-C ends the run before its next step; it goes
/// on from its last whole epoch.
pub fn train(options: &Options) -> Result<()> {
    if options.side == 0 || !options.side.is_multiple_of(32) {
        bail!("--side {}: must be a positive multiple of 32", options.side);
    }
    interrupt::listen()?;
    fs::create_dir_all(&options.out)
        .with_context(|| format!("making the folder {}", options.out.display()))?;
    let mut entry = begin(options)?;
    let result = train_into(options, &mut entry);
    if let Err(error) = &result {
        entry.state = State::Failed(format!("{error:#}"));
    }
    entry.write(&options.out)?;
    result?;
    entry.ensure_finished(&options.out)
}

fn begin(options: &Options) -> Result<Entry> {
    let defaults = unasked(options)?;
    let changes = changes(&serde_json::to_value(defaults)?, &serde_json::to_value(options)?);
    let device = Device::cuda_if_available();
    let name = if device.is_cuda() { "cuda:0" } else { "cpu" };
    let entry = Record::start(options.clone(), changes, &options.out);
    Ok(Entry { seed: options.seed, hardware: Hardware::of(name, device), ..entry })
}

/// What the program does without flags, on the same data.
fn unasked(options: &Options) -> Result<Options> {
    let command = Options::augment_args(clap::Command::new("detector"));
    let arguments = [
        "detector".as_ref(),
        "--data".as_ref(),
        options.data.as_os_str(),
        "--out".as_ref(),
        options.out.as_os_str(),
    ];
    Ok(Options::from_arg_matches(&command.try_get_matches_from(arguments)?)?)
}

fn train_into(options: &Options, entry: &mut Entry) -> Result<()> {
    tch::set_num_threads(options.threads);
    tch::manual_seed(options.seed as i64);
    let marks = read_marks(&options.data)?;
    let split = Split::of(marks.keys().map(String::as_str), options.seed);
    serde_json::to_writer_pretty(create(&options.out.join("split.json"))?, &split)?;
    let training = read_scenes(&options.data, &split.train, &marks)?;
    let validation = read_scenes(&options.data, &split.validation, &marks)?;
    let steps = training.len() / options.batch.max(1);
    ensure!(steps > 0, "--batch {}: there are only {} photos to train on", options.batch, training.len());
    let faces =
        |scenes: &[Scene]| scenes.iter().flat_map(|scene| &scene.faces).filter(|face| !face.ignore).count();
    entry.split = split.hash();
    entry.faces = Faces { training: faces(&training), held_out: faces(&validation), unreadable: 0 };
    entry.write(&options.out)?;

    let mut run = Run::new(options)?;
    if let Some(path) = &options.warm_start {
        run.warm_start(path)?;
    }
    let first = run.resume(&options.out)?;
    // Without a checkpoint a run begins anew, whatever an entry says of one before.
    let schedule = Schedule::new(options, if first > 0 { entry.seconds } else { 0.0 });
    let mut log = Log::open(&options.out.join("metrics.jsonl"))?;
    for epoch in first..options.epochs {
        let started = Instant::now();
        let Some(means) = run.epoch(options, &schedule, &training, epoch, steps)? else { break };
        let seconds = started.elapsed().as_secs_f64();
        run.save(&options.out, epoch + 1)?;
        let average = &run.average;
        let found = find(
            |image| average.network.forward(image, false),
            average.vs.device(),
            &validation,
            MEASURED_SIDE,
        );
        let reports = reports(&validation, &found, MIN_SCORE);
        let wider = &reports.wider;
        log::info!(
            "epoch {} of {}: loss {:.3}; WIDER AP {:.3}, recall {:.3}, false {:.2} a photo; {seconds:.0} s",
            epoch + 1,
            options.epochs,
            means.total,
            wider.average_precision,
            wider.recall,
            wider.false_per_photo,
        );
        let line = Metrics {
            epoch: epoch + 1,
            epochs: options.epochs,
            seconds,
            samples_per_second: means.steps as f64 * options.batch as f64 / seconds,
            rate: means.rate,
            loss: means,
            validation: &reports,
        };
        log.write(&line)?;
        entry.seconds = schedule.seconds();
        let score = f64::from(wider.average_precision);
        if entry.best.as_ref().is_none_or(|best| score > best.score) {
            let (epoch, step) = (u64::from(epoch + 1), run.steps as u64);
            entry.best = Some(Best { score, epoch, step, figures: wider.clone() });
        }
        entry.last = Some(wider.clone());
        entry.validation = serde_json::to_value(&reports)?;
        entry.write(&options.out)?;
    }
    entry.state = if interrupt::requested() { State::Stopped } else { State::Finished };
    Ok(())
}

/// How far a run has come, and the learning rate there.
struct Schedule {
    epochs: f64,
    largest_rate: f64,
    started: Instant,
    /// Seconds spent before a run went on.
    spent: f64,
    /// The seconds that the whole run may take.
    limit: Option<f64>,
}

impl Schedule {
    fn new(options: &Options, spent: f64) -> Self {
        let limit = options.minutes.map(|minutes| 60.0 * minutes);
        let epochs = f64::from(options.epochs);
        Self { epochs, largest_rate: options.rate, started: Instant::now(), spent, limit }
    }

    /// Seconds that the run has taken, measuring included.
    fn seconds(&self) -> f64 {
        self.spent + self.started.elapsed().as_secs_f64()
    }

    /// 0 at the start, 1 at the end; `epoch` counts whole epochs and parts of one.
    fn progress(&self, epoch: f64) -> f64 {
        let timed = self.limit.map_or(0.0, |seconds| self.seconds() / seconds);
        timed.max(epoch / self.epochs).min(1.0)
    }

    /// A linear rise over the first steps, then half a cosine over the progress.
    fn rate(&self, progress: f64, step: usize) -> f64 {
        let warm = (step as f64 / WARM_UP as f64).min(1.0);
        let left = 0.5 + 0.5 * (std::f64::consts::PI * progress).cos();
        self.largest_rate * warm * (LAST_RATE + (1.0 - LAST_RATE) * left)
    }
}

/// A network and its variables.
struct Weighted {
    vs: nn::VarStore,
    network: Network,
}

impl Weighted {
    fn new() -> Self {
        let vs = nn::VarStore::new(Device::cuda_if_available());
        let network = Network::new(&vs.root());
        Self { vs, network }
    }
}

struct Run {
    current: Weighted,
    /// The exponential moving average of the weights and of batch norm's statistics.
    average: Weighted,
    ema: Ema,
    adam: AdamW,
    steps: usize,
}

impl Run {
    fn new(options: &Options) -> Result<Self> {
        let (current, mut average) = (Weighted::new(), Weighted::new());
        let ema = Ema::new(&mut average.vs, &current.vs, AVERAGE)?;
        let adam = AdamW::new(&current.vs, options.weight_decay);
        Ok(Self { current, average, ema, adam, steps: 0 })
    }

    fn warm_start(&mut self, path: &Path) -> Result<()> {
        for weighted in [&mut self.current, &mut self.average] {
            weighted.vs.load(path).with_context(|| {
                format!(
                    "{} does not hold the detector's weights; `mien-train recover` makes them",
                    path.display()
                )
            })?;
        }
        Ok(())
    }

    /// One pass over `scenes`, or what the schedule leaves of it; nothing if that is nothing, or somebody asked to stop.
    fn epoch(
        &mut self,
        options: &Options,
        schedule: &Schedule,
        scenes: &[Scene],
        epoch: u32,
        steps: usize,
    ) -> Result<Option<Means>> {
        let cells = cells(options.side, options.side);
        let mut means = Means::default();
        std::thread::scope(|scope| {
            let (sender, ready) = sync_channel::<Vec<Sample>>(READY);
            scope.spawn(move || {
                let mut order: Vec<usize> = (0..scenes.len()).collect();
                let mut random = StdRng::seed_from_u64(options.seed << 32 | u64::from(epoch));
                order.shuffle(&mut random);
                for batch in order.chunks_exact(options.batch) {
                    let samples = batch.iter().map(|&index| sample(scenes, index, options.side, &mut random));
                    if sender.send(samples.collect()).is_err() {
                        return;
                    }
                }
            });
            for (step, samples) in ready.iter().enumerate() {
                let progress = schedule.progress(f64::from(epoch) + step as f64 / steps as f64);
                if interrupt::requested() {
                    return Ok(None);
                }
                if progress >= 1.0 {
                    break;
                }
                means.rate = schedule.rate(progress, self.steps);
                let loss = self.step(&samples, &cells, means.rate);
                means.add(&loss);
                log::debug!("epoch {}, step {step} of {steps}: loss {:.3}", epoch + 1, means.total);
                ensure!(
                    means.total.is_finite(),
                    "the loss is no number any more; try a --rate below {}",
                    options.rate
                );
            }
            Ok((means.steps > 0).then_some(means))
        })
    }

    fn step(&mut self, samples: &[Sample], cells: &[super::cells::Cell], rate: f64) -> Loss {
        let pictures: Vec<_> = samples.iter().map(|sample| &sample.picture).collect();
        let input = normalise(&stack(&pictures).to_device(self.current.vs.device()));
        let rows = flatten(&self.current.network.forward(&input, true));
        let loss = loss(&rows, cells, samples);
        self.adam.step(&loss.total, rate);
        self.steps += 1;
        self.ema.update(self.steps as u64);
        loss
    }

    /// Writes the averaged weights and the checkpoint after `epochs` whole epochs.
    fn save(&self, folder: &Path, epochs: u32) -> Result<()> {
        let averaged: Vec<_> = self.average.vs.variables().into_iter().collect();
        checkpoint::write(&folder.join("face.safetensors"), &averaged)?;
        let progress = Tensor::from_slice(&[i64::from(epochs), self.steps as i64]);
        let mut state = vec![("progress".to_owned(), progress)];
        let prefixed =
            |prefix: &'static str| move |(name, value): (String, Tensor)| (format!("{prefix}.{name}"), value);
        state.extend(averaged.into_iter().map(prefixed("average")));
        state.extend(self.current.vs.variables().into_iter().map(prefixed("current")));
        state.extend(self.adam.state().into_iter().map(prefixed("adam")));
        checkpoint::write(&folder.join(CHECKPOINT), &state)
    }

    /// Goes on from the checkpoint in `folder`, if there is one; gives the number of epochs that are done.
    fn resume(&mut self, folder: &Path) -> Result<u32> {
        let path = folder.join(CHECKPOINT);
        if !path.exists() {
            return Ok(0);
        }
        let saved = Tensor::read_safetensors(&path).with_context(|| format!("reading {}", path.display()))?;
        let saved: HashMap<String, Tensor> = saved.into_iter().collect();
        let foreign =
            || format!("{} is not of this network; choose another --out or remove it", path.display());
        let part = |prefix: &str| -> HashMap<String, Tensor> {
            let strip = |(name, value): (&String, &Tensor)| {
                Some((name.strip_prefix(prefix)?.to_owned(), value.shallow_clone()))
            };
            saved.iter().filter_map(strip).collect()
        };
        let progress = saved.get("progress").with_context(foreign)?;
        ensure!(self.adam.restore(&part("adam.")), foreign());
        for (weighted, prefix) in [(&self.current, "current."), (&self.average, "average.")] {
            let saved = part(prefix);
            for (name, mut value) in weighted.vs.variables() {
                let saved =
                    saved.get(&name).filter(|saved| saved.size() == value.size()).with_context(foreign)?;
                tch::no_grad(|| value.copy_(saved));
            }
        }
        self.steps = progress.int64_value(&[1]) as usize;
        let epochs = progress.int64_value(&[0]) as u32;
        log::info!("going on from {} after {epochs} epochs", path.display());
        Ok(epochs)
    }
}

const CHECKPOINT: &str = "checkpoint.safetensors";

fn create(path: &Path) -> Result<File> {
    File::create(path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use mien::{frame::Picture, geometry::Rect};

    use super::{super::scenes::Mark, *};
    use crate::ledger::AnyEntry;

    fn options(out: &Path) -> Options {
        Options {
            data: PathBuf::new(),
            out: out.to_owned(),
            warm_start: None,
            epochs: 4,
            minutes: None,
            batch: 2,
            side: 64,
            rate: 1e-3,
            weight_decay: 0.01,
            seed: 7,
            threads: 1,
        }
    }

    fn scenes() -> Vec<Scene> {
        let scene = |n: u32| {
            let mark =
                Mark { rect: Rect::new(20.0, 30.0, 40.0, 50.0), ignore: false, mask: None, landmarks: None };
            let picture =
                Picture::from_fn(128, 96, |x, y| image::Rgb([(x * n) as u8, (y * 3) as u8, (x ^ y) as u8]));
            Scene { file: format!("{n}.webp"), picture, faces: vec![mark] }
        };
        (1..5).map(scene).collect()
    }

    #[test]
    fn the_rate_rises_then_falls() {
        let schedule = Schedule::new(&options(Path::new("")), 0.0);
        let rate = |epoch: f64| schedule.rate(schedule.progress(epoch), (epoch * WARM_UP as f64) as usize);
        assert_eq!(rate(0.0), 0.0);
        assert!(rate(0.5) < rate(1.0) && rate(1.0) > rate(2.0) && rate(2.0) > rate(4.0));
        assert!((rate(4.0) - LAST_RATE * schedule.largest_rate).abs() < 1e-12);
    }

    #[test]
    fn a_run_ends_with_its_time() {
        let options = Options { minutes: Some(0.0), ..options(Path::new("")) };
        let schedule = Schedule::new(&options, 0.0);
        assert_eq!(schedule.progress(1.0), 1.0);
        let none = Run::new(&options).unwrap().epoch(&options, &schedule, &scenes(), 1, 2).unwrap();
        assert!(none.is_none());

        let options = Options { minutes: Some(1e6), ..options };
        let schedule = Schedule::new(&options, 0.0);
        assert!((schedule.progress(1.0) - 0.25).abs() < 1e-3);
        assert_eq!(schedule.progress(3.0), 0.75);

        // One that is started again has no more time than it was given.
        let half = Schedule::new(&options, 3e7);
        assert!((half.progress(0.0) - 0.5).abs() < 1e-3 && half.seconds() >= 3e7);
        let over = Schedule::new(&options, 6e7);
        let none = Run::new(&options).unwrap().epoch(&options, &over, &scenes(), 1, 2).unwrap();
        assert!(none.is_none());
    }

    #[test]
    fn a_stopped_run_goes_on_as_if_it_had_not_stopped() {
        tch::set_num_threads(1);
        let folder = tempfile::tempdir().unwrap();
        let (options, scenes) = (options(folder.path()), scenes());
        tch::manual_seed(1);
        let schedule = Schedule::new(&options, 0.0);
        let mut run = Run::new(&options).unwrap();
        run.epoch(&options, &schedule, &scenes, 0, 2).unwrap();
        run.save(folder.path(), 1).unwrap();
        let expected = run.epoch(&options, &schedule, &scenes, 1, 2).unwrap().unwrap();

        let mut resumed = Run::new(&options).unwrap();
        assert_eq!(resumed.resume(folder.path()).unwrap(), 1);
        let means = resumed.epoch(&options, &schedule, &scenes, 1, 2).unwrap().unwrap();
        assert!((means.total - expected.total).abs() < 1e-4, "{means:?}, not {expected:?}");
        let (after, wanted) = (resumed.average.vs.variables(), run.average.vs.variables());
        for (name, value) in &wanted {
            assert!(after[name].allclose(value, 1e-3, 1e-5, false), "{name}");
        }
    }

    #[test]
    fn the_ledger_tells_what_a_run_had_otherwise() {
        let folder = tempfile::tempdir().unwrap();
        let options = Options { data: "photos".into(), ..options(folder.path()) };
        let entry = begin(&options).unwrap();
        let changed: Vec<&str> = entry.changes.iter().map(|change| change.key.as_str()).collect();
        assert_eq!(changed, ["batch", "epochs", "rate", "seed", "side", "weight_decay"]);
        Entry { seconds: 9.0, ..entry.clone() }.write(folder.path()).unwrap();
        let again = begin(&options).unwrap();
        assert_eq!((again.seconds, &again.started), (9.0, &entry.started));
        let shown = AnyEntry::read(folder.path()).unwrap();
        assert_eq!((shown.config["side"].as_u64(), shown.seed), (Some(64), 7));
    }

    #[test]
    fn a_foreign_checkpoint_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(CHECKPOINT);
        Tensor::write_safetensors(&[("progress", Tensor::from_slice(&[1i64, 2]))], &path).unwrap();
        let error = Run::new(&options(folder.path())).unwrap().resume(folder.path()).unwrap_err();
        assert!(error.to_string().contains(CHECKPOINT), "{error:#}");
    }
}
