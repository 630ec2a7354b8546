//! One training run: faces in, weights and figures out.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use mien::attributes::LOGITS;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::Serialize;
use serde_json::json;
use tch::{Device, Tensor, nn};

use super::{
    dataset::Dataset,
    evaluate::Validation,
    labels::{Face, Split, SplitFile, read_all},
    loader::{Loader, Order},
    loss::{Loss, Weights, loss},
};
use crate::{
    augment::{Augmentation, Input},
    checkpoint::{self, Ema, Position},
    device::parse_device,
    metrics::Log,
    network::{Architecture, Network, Regularisation},
    optimizer::{AdamW, Optimizer},
};

#[derive(Debug, Serialize, clap::Args)]
pub struct Options {
    /// The folder that holds {utkface,fairface,masks}.{tar,csv}
    #[arg(long)]
    data: PathBuf,
    /// Where to write; a run that stopped there goes on from its last checkpoint
    #[arg(long)]
    out: PathBuf,
    /// ImageNet weights, as train/scripts/pretrained_lite0.py writes them
    #[arg(long)]
    pretrained: Option<PathBuf>,
    /// Passes over the training faces
    #[arg(long, default_value_t = 8.0)]
    epochs: f64,
    /// Finish after this many minutes, with fewer epochs if need be
    #[arg(long)]
    minutes: Option<f64>,
    /// Faces to a step
    #[arg(long, default_value_t = 64)]
    batch: usize,
    /// The largest learning rate
    #[arg(long, default_value_t = 8e-4)]
    rate: f64,
    #[arg(long, default_value_t = 0.02)]
    weight_decay: f64,
    /// Sides of the training pictures, each for an equal part of the run (progressive resizing)
    #[arg(long, value_delimiter = ',', default_value = "80,96,112,112")]
    sizes: Vec<i64>,
    /// Blocks, the stem first, that keep their ImageNet weights; 4 make a CPU 1.6 times as fast
    #[arg(long, default_value_t = 0)]
    frozen_blocks: usize,
    /// Part of the bare faces that get a painted mask
    #[arg(long, default_value_t = 0.3)]
    painted: f64,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Part of the photos that is held out
    #[arg(long, default_value_t = 0.1)]
    holdout: f64,
    /// Use only this many faces, drawn by lot
    #[arg(long)]
    limit: Option<usize>,
    /// cpu, or cuda:0
    #[arg(long, default_value = "cpu")]
    device: String,
    /// CPU threads of libtorch
    #[arg(long, default_value_t = 1)]
    threads: i32,
}

const GRADIENT_NORM: f64 = 5.0;
/// How much of the averaged weights stays at each step.
const AVERAGE: f64 = 0.998;
const CHECKPOINT_EVERY: Duration = Duration::from_secs(240);
/// Steps between two lines of the log.
const LOG_EVERY: u64 = 50;

/// Trains a classifier. Writes into `--out`, every few minutes:
///
/// - `weights.safetensors`, the averaged weights: what is measured and exported;
/// - `checkpoint.safetensors`, all that the run needs to go on;
///
/// `metrics.jsonl`, losses every few steps and validation figures after every epoch; and `split.json`, the photos
/// that were kept from training.
pub fn train(options: &Options) -> Result<()> {
    ensure!(options.batch > 0 && !options.sizes.is_empty(), "--batch and --sizes must not be empty");
    tch::set_num_threads(options.threads);
    tch::manual_seed(options.seed as i64);
    let device = parse_device(&options.device)?;
    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("making the folder {}", options.out.display()))?;

    let (training, held_out) = split(options)?;
    log::info!("decoding {} training and {} held-out faces", training.len(), held_out.len());
    let dataset = Dataset::load(&options.data, training, device)?;
    let validation = Validation::load(&options.data, held_out, device)?;
    let order = Order::new(&dataset.faces, options.batch, options.seed);
    let epoch_len = order.epoch_len() as u64;

    let mut run = Run::new(options, device)?;
    run.resume(&options.out)?;
    let schedule = Schedule {
        samples: options.epochs * epoch_len as f64,
        seconds: options.minutes.map(|minutes| 60.0 * minutes),
        largest_rate: options.rate,
    };
    let mut log = Log::open(&options.out.join("metrics.jsonl"))?;
    log.write(&json!({ "event": "start", "options": options, "step": run.position.step, "epoch_samples": epoch_len }))?;

    let batches = Loader::spawn(&dataset, order, run.position.step, options.painted, options.seed);
    let bar = progress_bar();
    let clock = Instant::now();
    let before = run.position.seconds;
    let mut saved = Instant::now();
    loop {
        let progress = schedule.progress(&run.position);
        bar.set_position((progress * bar.length().unwrap_or(0) as f64) as u64);
        if progress >= 1.0 {
            break;
        }
        let batch = batches.recv().context("the loader of batches has stopped")?;
        let (images, labels, sides) = batch.gather(&dataset);
        let size = size_at(&options.sizes, progress);
        let rate = schedule.rate(progress);
        let input = Input { size, ..Input::default() };
        let loss = run.step(&Augmentation::default().apply(&images, &sides, &input), &labels, rate);
        let epochs_before = run.position.samples / epoch_len;
        run.position.samples += batch.index.len() as u64;
        run.position.seconds = before + clock.elapsed().as_secs_f64();

        if run.position.step % LOG_EVERY == 0 {
            let line = Step::new(&run.position, progress, size, rate, &loss);
            ensure!(line.loss.is_finite(), "the loss is not finite at step {}; lower --rate", line.step);
            log.write(&line)?;
            bar.set_message(format!("step {} at {size} px, loss {:.3}", line.step, line.loss));
        }
        if saved.elapsed() >= CHECKPOINT_EVERY {
            run.save(&options.out)?;
            saved = Instant::now();
        }
        let epoch = run.position.samples / epoch_len;
        if epoch > epochs_before {
            let report = validation.run(&run.average.network)?;
            log.write(
                &json!({ "event": "epoch", "epoch": epoch, "step": run.position.step, "validation": report }),
            )?;
        }
    }
    bar.finish_and_clear();
    run.save(&options.out)?;
    let report = validation.run(&run.average.network)?;
    log.write(&json!({ "event": "end", "step": run.position.step, "seconds": run.position.seconds, "validation": report }))?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// Reads all tables, writes which photos are held out, and gives the faces for training and the ones held out.
fn split(options: &Options) -> Result<(Vec<Face>, Vec<Face>)> {
    let mut faces = read_all(&options.data)?;
    if let Some(limit) = options.limit {
        faces.shuffle(&mut StdRng::seed_from_u64(options.seed));
        faces.truncate(limit);
    }
    let split = Split { seed: options.seed, holdout: options.holdout };
    let path = options.out.join("split.json");
    let file = serde_json::to_vec_pretty(&SplitFile::new(split, &faces))?;
    std::fs::write(&path, file).with_context(|| format!("writing {}", path.display()))?;
    let (held_out, training): (Vec<Face>, Vec<Face>) =
        faces.into_iter().partition(|face| split.holds_out(&face.photo));
    ensure!(
        !training.is_empty() && !held_out.is_empty(),
        "--holdout {} leaves {} faces for training and {} for validation",
        options.holdout,
        training.len(),
        held_out.len()
    );
    Ok((training, held_out))
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {percent}% {elapsed} (left {eta}) {msg}");
    ProgressBar::new(1000).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The side of the pictures when the run has come as far as `progress`.
fn size_at(sizes: &[i64], progress: f64) -> i64 {
    sizes[((progress * sizes.len() as f64) as usize).min(sizes.len() - 1)]
}

/// A line of the log.
#[derive(Debug, Serialize)]
struct Step {
    event: &'static str,
    step: u64,
    samples: u64,
    seconds: f64,
    progress: f64,
    size: i64,
    rate: f64,
    loss: f64,
    mask: f64,
    gender: f64,
    age: f64,
    years: f64,
}

impl Step {
    fn new(at: &Position, progress: f64, size: i64, rate: f64, loss: &Loss) -> Step {
        let value = |part: &Tensor| part.double_value(&[]);
        Step {
            event: "step",
            step: at.step,
            samples: at.samples,
            seconds: at.seconds,
            progress,
            size,
            rate,
            loss: value(&loss.total),
            mask: value(&loss.mask),
            gender: value(&loss.gender),
            age: value(&loss.age),
            years: value(&loss.years),
        }
    }
}

/// Warm-up and cosine decay over the epochs or the time, whichever ends first.
#[derive(Debug, Clone, Copy)]
struct Schedule {
    samples: f64,
    seconds: Option<f64>,
    largest_rate: f64,
}

/// The part of a run over which the learning rate rises.
const WARM_UP: f64 = 0.03;
/// The last learning rate over the largest.
const LAST_RATE: f64 = 0.01;

impl Schedule {
    /// 0 at the start, 1 or more at the end.
    fn progress(&self, at: &Position) -> f64 {
        let timed = self.seconds.map_or(0.0, |seconds| at.seconds / seconds);
        timed.max(at.samples as f64 / self.samples)
    }

    fn rate(&self, progress: f64) -> f64 {
        if progress < WARM_UP {
            return self.largest_rate * (progress / WARM_UP).max(LAST_RATE);
        }
        let done = ((progress - WARM_UP) / (1.0 - WARM_UP)).min(1.0);
        let left = 0.5 + 0.5 * (std::f64::consts::PI * done).cos();
        self.largest_rate * (LAST_RATE + (1.0 - LAST_RATE) * left)
    }
}

/// A network and its variables.
struct Weighted {
    vs: nn::VarStore,
    network: Network,
}

struct Run {
    current: Weighted,
    /// The exponential moving average of the weights and of batch norm's statistics.
    average: Weighted,
    ema: Ema,
    adam: AdamW,
    position: Position,
}

impl Run {
    fn new(options: &Options, device: Device) -> Result<Run> {
        let architecture = Architecture::lite0(LOGITS as i64);
        let regularisation = Regularisation { frozen_blocks: options.frozen_blocks, ..Default::default() };
        let weighted = || {
            let vs = nn::VarStore::new(device);
            let network = Network::new(&vs.root(), &architecture, regularisation);
            Weighted { vs, network }
        };
        let (mut current, mut average) = (weighted(), weighted());
        if let Some(path) = &options.pretrained {
            let loaded = checkpoint::load_pretrained(path, &mut current.vs, &architecture.classifier)?;
            log::info!("{}: {loaded:?}", path.display());
        }
        let ema = Ema::new(&mut average.vs, &current.vs, AVERAGE)?;
        let adam = AdamW::new(&current.vs, options.weight_decay).clipped(GRADIENT_NORM);
        Ok(Run { current, average, ema, adam, position: Position::default() })
    }

    /// Learns from a batch, and says how far off the network was before.
    fn step(&mut self, inputs: &Tensor, labels: &super::loss::Labels, rate: f64) -> Loss {
        let loss = loss(&self.current.network.forward(inputs, true), labels, Weights::default());
        self.adam.step(&loss.total, rate);
        self.position.step += 1;
        self.ema.update(self.position.step);
        loss
    }

    fn resume(&mut self, folder: &Path) -> Result<()> {
        let path = folder.join("checkpoint.safetensors");
        if path.exists() {
            let (current, average) = (&mut self.current.vs, &mut self.average.vs);
            self.position = checkpoint::load(&path, current, average, &mut self.adam)?;
            log::info!("going on from step {}", self.position.step);
        }
        Ok(())
    }

    fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join("checkpoint.safetensors");
        checkpoint::save(&path, self.position, &self.current.vs, &self.average.vs, &self.adam)?;
        checkpoint::save_weights(&folder.join("weights.safetensors"), &self.average.vs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_rises_and_falls() {
        let schedule = Schedule { samples: 1000.0, seconds: None, largest_rate: 1.0 };
        let rate = |samples| schedule.rate(schedule.progress(&Position { samples, ..Position::default() }));
        assert!(rate(10) < rate(20) && (rate(30) - 1.0).abs() < 1e-9);
        assert!(rate(500) < 0.6 && (rate(1000) - LAST_RATE).abs() < 1e-9);
    }

    #[test]
    fn time_shortens_the_schedule() {
        let schedule = Schedule { samples: 1000.0, seconds: Some(60.0), largest_rate: 1.0 };
        let at = Position { step: 1, samples: 100, seconds: 45.0 };
        assert_eq!(schedule.progress(&at), 0.75);
    }

    #[test]
    fn sizes_share_the_run_equally() {
        let sizes = [80, 96, 112];
        assert_eq!([0.0, 0.34, 0.7, 1.0].map(|progress| size_at(&sizes, progress)), [80, 96, 112, 112]);
    }
}
