//! One training run: faces in, weights and figures out.

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::Serialize;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::{
    config::{Config, Flags},
    dataset::Dataset,
    distillation::Teaching,
    ensemble,
    evaluate::Validation,
    figures::Summary,
    labels::{Face, read_all},
    loader::{Batch, Loader, Order, Painting},
    model::{BEST, CONFIG, Model, SPLIT, WEIGHTS},
    objective::{Loss, Objective},
    split::Split,
};
use crate::{
    augment::Input,
    checkpoint::{self, Ema, Position},
    device::{parse_device, precision},
    interrupt,
    ledger::{Baseline, Best, Entry, Faces, State},
    metrics::Log,
    optimizer::Optimizer,
    schedule::Extent,
    tensorboard::EventFile,
};

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    flags: Flags,
    /// Where to write; a run that stopped there goes on from its last checkpoint
    #[arg(long)]
    out: PathBuf,
    /// The run's folder or configuration with which the ledger compares this run
    /// [default: what the program does unasked]
    #[arg(long)]
    baseline: Option<PathBuf>,
}

const CHECKPOINT: &str = "checkpoint.safetensors";
const CHECKPOINT_EVERY: Duration = Duration::from_secs(240);
/// Steps between two lines of the log.
const LOG_EVERY: u64 = 50;

/// Trains a classifier, or the members of an ensemble.
pub fn train(options: &Options) -> Result<()> {
    let config = options.flags.config()?;
    let baseline = Baseline::read(options.baseline.as_deref())?;
    interrupt::listen()?;
    if !config.members.is_empty() {
        return ensemble::train(&config, &baseline, &options.out);
    }
    let entry = run(&config, &baseline, &options.out, &|_| interrupt::requested())?;
    entry.ensure_finished(&options.out)?;
    println!("{}", serde_json::to_string_pretty(&entry.validation)?);
    Ok(())
}

/// Trains one network. Writes into `out`, every few minutes and after every epoch:
///
/// - `weights.safetensors`, the averaged weights: what is measured and exported;
/// - `best.safetensors`, those after the epoch with the best `metric`;
/// - `checkpoint.safetensors`, all that the run needs to go on;
///
/// `metrics.jsonl`, losses every few steps and figures after every epoch; `split.json`, the photos that were kept
/// from training; `config.toml`; and `run.json`, the run's entry in the ledger. Stops, to go on when it is started
/// again, before the first step that `stop` says; without a time limit and on a CPU it comes to the same weights, bit
/// by bit, however often it stopped.
pub fn run(config: &Config, baseline: &Baseline, out: &Path, stop: &dyn Fn(u64) -> bool) -> Result<Entry> {
    config.check()?;
    std::fs::create_dir_all(out).with_context(|| format!("making the folder {}", out.display()))?;
    let mut entry = Entry::begin(config, baseline, out)?;
    let result =
        Trainer::new(config, out, &mut entry).and_then(|mut trainer| trainer.train(&mut entry, stop));
    if let Err(error) = &result {
        entry.state = State::Failed(format!("{error:#}"));
    }
    entry.write(out)?;
    result?;
    Ok(entry)
}

/// The configuration's split, the faces held out and those to train on.
pub fn split(config: &Config) -> Result<(Split, Vec<Face>, Vec<Face>)> {
    let mut faces = read_all(&config.data)?;
    let mut lot = StdRng::seed_from_u64(config.seed);
    let mut draw = |faces: &mut Vec<Face>, count| {
        faces.shuffle(&mut lot);
        faces.truncate(count);
    };
    let split = match &config.split {
        Some(path) => Split::read(path)?,
        None => {
            if let Some(limit) = config.limit {
                draw(&mut faces, limit);
            }
            Split::by_hash(&faces, config.seed, config.holdout)
        }
    };
    let (mut held_out, mut training) = split.partition(faces);
    if let (Some(_), Some(limit)) = (&config.split, config.limit) {
        // Of the few that are drawn some must be among the few that are held out.
        let kept = (limit as f64 * config.holdout).round() as usize;
        draw(&mut held_out, kept);
        draw(&mut training, limit.saturating_sub(kept));
    }
    ensure!(
        !training.is_empty() && !held_out.is_empty(),
        "the split leaves {} faces for training and {} for validation; change --holdout or --split",
        training.len(),
        held_out.len()
    );
    Ok((split, held_out, training))
}

/// The side of the pictures when the run has come as far as `progress`.
fn size_at(sizes: &[i64], progress: f64) -> i64 {
    sizes[((progress * sizes.len() as f64) as usize).min(sizes.len() - 1)]
}

struct Trainer<'a> {
    config: &'a Config,
    out: &'a Path,
    dataset: Dataset,
    validation: Validation,
    teaching: Option<Teaching>,
    order: Order,
    current: Model,
    /// The exponential moving average of the weights and of batch norm's statistics.
    average: Model,
    ema: Ema,
    optimizer: Box<dyn Optimizer>,
    objective: Objective,
    extent: Extent,
    position: Position,
    log: Log,
    board: EventFile,
}

impl<'a> Trainer<'a> {
    fn new(config: &'a Config, out: &'a Path, entry: &mut Entry) -> Result<Trainer<'a>> {
        tch::set_num_threads(config.threads);
        tch::manual_seed(config.seed as i64);
        let device = parse_device(&config.device)?;
        tch::Cuda::cudnn_set_benchmark(config.autotune);
        let (split, held_out, training) = split(config)?;
        split.write(&out.join(SPLIT))?;
        log::info!("decoding {} training and {} held-out faces", training.len(), held_out.len());
        let validation = Validation::of_run(config, &config.data, held_out, device)?;
        let framing = config.framing(&training);
        let dataset = Dataset::load(&config.data, training, framing, config.old_from, device)?;
        let teaching = Teaching::of(config, &split, &dataset, device)?;
        entry.split = split.hash();
        entry.faces = Faces {
            training: dataset.faces.len(),
            held_out: validation.len(),
            unreadable: dataset.unreadable + validation.unreadable,
        };
        let objective = Objective::new(config, &dataset.faces)?;

        let (mut current, mut average) = (Model::new(config, device)?, Model::new(config, device)?);
        if let Some(path) = &config.pretrained {
            let loaded = checkpoint::load_pretrained(path, &mut current.vs, &current.architecture)?;
            log::info!("{}: {loaded:?}", path.display());
            if split.is_that_of(path)? == Some(false) {
                log::warn!(
                    "{} may have learnt from photos that are held out here, whose figures then flatter; to hold out the \
                     same, give --split {}",
                    path.display(),
                    path.with_file_name(SPLIT).display()
                );
            }
        }
        let ema = Ema::new(&mut average.vs, &current.vs, config.average)?;
        let mut optimizer =
            config.optimizer.build(&current.vs, precision(config.mixed_precision, device) == Kind::Half);
        let mut position = Position::default();
        let path = out.join(CHECKPOINT);
        if path.exists() {
            position = checkpoint::load(&path, &mut current.vs, &mut average.vs, optimizer.as_mut())?;
            log::info!("going on from step {}", position.step);
        }
        let file = out.join(CONFIG);
        std::fs::write(&file, toml::to_string(config)?)
            .with_context(|| format!("writing {}", file.display()))?;
        let extent = Extent { epochs: config.epochs, seconds: config.minutes.map(|minutes| 60.0 * minutes) };
        let order = Order::new(&dataset.faces, config.batch, config.seed);
        let log = Log::open(&out.join("metrics.jsonl"))?;
        Ok(Trainer {
            config,
            out,
            dataset,
            validation,
            teaching,
            order,
            current,
            average,
            ema,
            optimizer,
            objective,
            extent,
            position,
            log,
            board: EventFile::create(out)?,
        })
    }

    fn train(&mut self, entry: &mut Entry, stop: &dyn Fn(u64) -> bool) -> Result<()> {
        let epoch_len = self.order.epoch_len() as u64;
        self.log.write(
            &json!({ "event": "start", "config": self.config, "step": self.position.step, "epoch_samples": epoch_len }),
        )?;
        entry.write(self.out)?;
        let painting = self.teaching.as_ref().map_or(Painting::Any, Teaching::painting);
        let mut batches =
            Loader::spawn(&self.dataset, self.order.clone(), self.position.step, self.config, painting);
        let bar = progress_bar();
        let clock = Instant::now();
        let before = self.position.seconds;
        let mut saved = Instant::now();
        let mut means = Means::new(self.device());
        entry.state = State::Finished;
        loop {
            let progress = self.progress(epoch_len);
            bar.set_position((progress * bar.length().unwrap_or(0) as f64) as u64);
            let epochs_before = self.position.samples / epoch_len;
            if progress >= 1.0 || self.is_hopeless(epochs_before) {
                break;
            }
            if stop(self.position.step) {
                entry.state = State::Stopped;
                break;
            }
            let batch = batches.recv().context("the loader of batches has stopped")?;
            let size = size_at(&self.config.sizes, progress);
            let rate = self.config.schedule.rate(progress, &self.extent);
            let loss = guarded(self.config, size, || self.step(&batch, size, rate, &mut means))?;
            self.position.samples += batch.index.len() as u64;
            self.position.seconds = before + clock.elapsed().as_secs_f64();
            if self.position.step.is_multiple_of(LOG_EVERY) {
                let line = Step::new(&self.position, progress, size, rate, &loss);
                self.finite(line.loss)?;
                self.log.write(&line)?;
                bar.set_message(format!("step {} at {size} px, loss {:.3}", line.step, line.loss));
            }
            let epoch = self.position.samples / epoch_len;
            if epoch > epochs_before {
                self.measure(epoch, &mut means, entry)?;
            }
            if epoch > epochs_before || saved.elapsed() >= CHECKPOINT_EVERY {
                self.save()?;
                entry.write(self.out)?;
                saved = Instant::now();
            }
        }
        bar.finish_and_clear();
        // A run that was finished before has its figures already.
        if entry.state == State::Finished && (means.batches > 0.0 || entry.last.is_none()) {
            self.measure(self.position.samples.div_ceil(epoch_len), &mut means, entry)?;
        }
        self.save()?;
        entry.seconds = self.position.seconds;
        self.log.write(&json!({
            "event": "end", "step": self.position.step, "seconds": self.position.seconds,
            "overall": entry.last, "validation": entry.validation,
        }))
    }

    fn device(&self) -> Device {
        self.current.vs.device()
    }

    fn progress(&self, epoch_len: u64) -> f64 {
        self.extent.progress(self.position.samples as f64 / epoch_len as f64, self.position.seconds)
    }

    /// Whether the last epochs were no better than an earlier one, as many as the configuration has patience for.
    fn is_hopeless(&self, epoch: u64) -> bool {
        let patience = self.config.patience;
        patience > 0 && self.position.best.is_some_and(|(_, best)| epoch >= best + patience)
    }

    fn finite(&self, loss: f64) -> Result<()> {
        ensure!(
            loss.is_finite(),
            "the loss is {loss} at step {}; lower the rate ({}) or clip gradients",
            self.position.step,
            self.config.schedule.rate
        );
        Ok(())
    }

    /// Learns from a batch, and says how far off the network was before.
    fn step(&mut self, batch: &Batch, size: i64, rate: f64, means: &mut Means) -> Loss {
        // Every random number of a step comes from its number, so that a resumed run draws the same.
        let seed = self.config.seed.wrapping_mul(1_000_003).wrapping_add(self.position.step);
        tch::manual_seed(seed as i64);
        let (images, mut labels, sides) = batch.gather(&self.dataset);
        let mixed = self.config.mix.apply(&images);
        let images = mixed.as_ref().map_or(&images, |mixed| &mixed.images);
        labels.soft = self.teaching.as_ref().map(|teaching| teaching.soft(batch, images, &sides, seed));
        let input = Input { size, ..self.config.input };
        let inputs = self.config.augment.apply(images, &sides, &input);
        let precision = precision(self.config.mixed_precision, self.device());
        let logits = self.current.network.forward(&inputs.to_kind(precision), true);
        let mut loss = self.objective.loss(&logits, &labels);
        if let Some(mixed) = &mixed {
            let others = match &self.teaching {
                Some(teaching) => teaching.partners(&labels, &mixed.partner),
                None => labels.select(&mixed.partner),
            };
            let other = self.objective.loss(&logits, &others);
            loss.total = mixed.loss(&loss.total, &other.total);
        }
        let (classes, known) = labels.classes();
        means.add(&loss, &self.config.head.classes(&logits.detach()), &classes, &known);
        self.position.step += 1;
        if self.optimizer.step(&loss.total, rate) {
            self.ema.update(self.position.step);
        }
        loss
    }

    /// Measures the averaged weights, writes the figures, and keeps the weights if they are the best.
    fn measure(&mut self, epoch: u64, means: &mut Means, entry: &mut Entry) -> Result<()> {
        let train = std::mem::replace(means, Means::new(self.device())).read();
        self.finite(train.loss)?;
        let predictions = guarded(self.config, i64::from(self.config.size()), || {
            self.average.predict(&self.validation, false)
        })??;
        let summary = self.validation.figures(&predictions).summary();
        let report = if self.validation.has_packs() {
            serde_json::to_value(self.validation.report_of(&predictions))?
        } else {
            serde_json::to_value(summary)?
        };
        let score = self.config.metric.score(&summary);
        if let Some(score) = score
            && self.position.best.is_none_or(|(best, _)| score > best)
        {
            self.position.best = Some((score, epoch));
            checkpoint::save_weights(&self.out.join(BEST), &self.average.vs)?;
            entry.best = Some(Best { score, epoch, step: self.position.step, figures: summary });
        }
        log::info!(
            "epoch {epoch}: loss {:.3}, training accuracy {:.3}; held out: accuracy {:.3}, macro F1 {:.3}, mask F1 {:.3}, \
             gender {:.3}, age F1 {:.3}{}",
            train.loss,
            train.accuracy,
            summary.accuracy,
            summary.macro_f1,
            summary.mask_f1,
            summary.gender_accuracy,
            summary.age_f1,
            summary.age_mae.map(|years| format!(", age off by {years:.2}")).unwrap_or_default(),
        );
        self.log.write(&EpochLine {
            event: "epoch",
            epoch,
            step: self.position.step,
            samples: self.position.samples,
            seconds: self.position.seconds,
            train,
            overall: summary,
            validation: &report,
        })?;
        let scalars = [("train/loss", train.loss), ("train/accuracy", train.accuracy)];
        self.board.scalars(self.position.step, scalars.into_iter().chain(summary.scalars()))?;
        entry.last = Some(summary);
        entry.validation = report;
        entry.seconds = self.position.seconds;
        Ok(())
    }

    fn save(&self) -> Result<()> {
        checkpoint::save(
            &self.out.join(CHECKPOINT),
            self.position,
            &self.current.vs,
            &self.average.vs,
            self.optimizer.as_ref(),
        )?;
        checkpoint::save_weights(&self.out.join(WEIGHTS), &self.average.vs)
    }
}

/// Does `work` on pictures of `size` pixels; libtorch's panic for want of memory becomes an error.
fn guarded<T>(config: &Config, size: i64, work: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work)).or_else(|panic| {
        let message = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        if message.contains("out of memory") || message.contains("can't allocate memory") {
            bail!(
                "out of memory on {} with --batch {} at {size} pixels; lower --batch and raise --accumulate as much, or \
                 lower --sizes",
                config.device,
                config.batch
            );
        }
        resume_unwind(panic)
    })
}

fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:40} {percent}% {elapsed} (left {eta}) {msg}");
    ProgressBar::new(1000).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Sums over the batches since the last look, on the training device.
struct Means {
    loss: Tensor,
    right: Tensor,
    known: Tensor,
    batches: f64,
}

/// Means over an epoch's batches, with their augmentation.
#[derive(Debug, Clone, Copy, Serialize)]
struct TrainFigures {
    loss: f64,
    /// Of the 18 classes, where they are known.
    accuracy: f64,
}

impl Means {
    fn new(device: Device) -> Means {
        let zero = || Tensor::zeros([], (Kind::Float, device));
        Means { loss: zero(), right: zero(), known: zero(), batches: 0.0 }
    }

    fn add(&mut self, loss: &Loss, scores: &Tensor, classes: &Tensor, known: &Tensor) {
        let right = scores.argmax(1, false).eq_tensor(classes).to_kind(Kind::Float) * known;
        self.loss += loss.total.detach();
        self.right += right.sum(Kind::Float);
        self.known += known.sum(Kind::Float);
        self.batches += 1.0;
    }

    fn read(&self) -> TrainFigures {
        let value = |t: &Tensor| t.double_value(&[]);
        TrainFigures {
            loss: value(&self.loss) / self.batches.max(1.0),
            accuracy: value(&self.right) / value(&self.known).max(1.0),
        }
    }
}

/// A line of the log after some steps.
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
    #[serde(flatten)]
    parts: std::collections::BTreeMap<&'static str, f64>,
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
            parts: loss.parts.iter().map(|(name, part)| (*name, value(part))).collect(),
        }
    }
}

/// A line of the log after an epoch.
#[derive(Debug, Serialize)]
struct EpochLine<'a> {
    event: &'static str,
    epoch: u64,
    step: u64,
    samples: u64,
    seconds: f64,
    train: TrainFigures,
    /// On all faces held out.
    overall: Summary,
    /// By data pack, where there are any.
    validation: &'a Value,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::{config::Head, dataset::Cut, labels::tests_support::tree};

    /// A run of seconds: 42 photos of 16 pixels, ten steps an epoch.
    fn small(data: &Path) -> Config {
        Config {
            data: data.to_owned(),
            holdout: 0.4,
            cut: Cut::Centre,
            network: "simple_cnn".into(),
            head: Head::Classes,
            sizes: vec![16],
            epochs: 2.0,
            batch: 4,
            ..Config::default()
        }
    }

    fn weights(folder: &Path) -> Vec<u8> {
        std::fs::read(folder.join(WEIGHTS)).unwrap()
    }

    /// Torch has one generator for all threads: where its numbers matter, a test needs a process of its own.
    #[test]
    fn a_stopped_run_comes_to_the_same_weights_bit_by_bit() {
        let test = "classifier::run::tests::stopped_and_straight_runs";
        let itself = std::env::current_exe().unwrap();
        let ran = std::process::Command::new(itself).args(["--exact", test, "--ignored"]).output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout);
        assert!(ran.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "run by the test above"]
    fn stopped_and_straight_runs() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 6);
        let mut config = small(folder.path());
        config.optimizer.accumulate = 2;
        let baseline = Baseline::default();
        let [straight, stopped] = ["straight", "stopped"].map(|name| folder.path().join(name));
        let entry = run(&config, &baseline, &straight, &|_| false).unwrap();
        assert_eq!(entry.state, State::Finished);
        let first = run(&config, &baseline, &stopped, &|step| step == 3).unwrap();
        assert_eq!(first.state, State::Stopped);
        assert!(weights(&stopped) != weights(&straight));
        let second = run(&config, &baseline, &stopped, &|_| false).unwrap();
        assert!(weights(&stopped) == weights(&straight));
        assert_eq!((second.last, second.best.map(|b| b.epoch)), (entry.last, entry.best.map(|b| b.epoch)));

        // A finished run that is started again adds nothing.
        let epochs = |folder: &Path| {
            let log = std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap();
            log.matches("\"event\":\"epoch\"").count()
        };
        run(&config, &baseline, &stopped, &|_| false).unwrap();
        assert_eq!((epochs(&stopped), epochs(&straight)), (2, 2));
        assert!(weights(&stopped) == weights(&straight));
    }

    #[test]
    fn a_run_leaves_figures_and_its_entry() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 6);
        let out = folder.path().join("run");
        let config = small(folder.path()).with(&["loss=ce+f1".parse().unwrap()]).unwrap();
        run(&config, &Baseline::default(), &out, &|_| false).unwrap();
        let entry = Entry::read(&out).unwrap();
        assert_eq!(entry.config, config);
        assert!(entry.changes.iter().any(|change| change.key == "loss.name"));
        assert_eq!(entry.faces.training + entry.faces.held_out, 42);
        assert!(entry.best.is_some() && entry.seconds > 0.0);
        let log = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let epochs: Vec<&Value> = lines.iter().filter(|line| line["event"] == "epoch").collect();
        assert_eq!(epochs.len(), 2);
        assert!(epochs[1]["train"]["loss"].as_f64().unwrap() > 0.0);
        assert!(epochs[1]["overall"]["macro_f1"].is_number());
        let events = std::fs::read_dir(&out).unwrap().filter(|entry| {
            entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("events.out.tfevents")
        });
        assert_eq!(events.count(), 1);
        for name in [WEIGHTS, BEST, CHECKPOINT, SPLIT, CONFIG] {
            assert!(out.join(name).exists(), "{name} is missing");
        }
    }

    #[test]
    fn patience_ends_a_run_that_gets_no_better() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 6);
        let mut config = small(folder.path());
        config.schedule.rate = 0.0;
        config.average = 0.0;
        (config.epochs, config.patience) = (50.0, 2);
        // Nothing is learnt but the statistics of batch norm, so the figures soon stay as they are.
        let entry =
            run(&config, &Baseline::default(), &folder.path().join("run"), &|step| step > 400).unwrap();
        assert_eq!(entry.state, State::Finished);
    }

    #[test]
    fn a_loss_that_is_no_number_ends_the_run_with_advice() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 6);
        let mut config = small(folder.path());
        config.schedule.rate = 1e30;
        config.optimizer.clip = 0.0;
        let out = folder.path().join("run");
        let error = run(&config, &Baseline::default(), &out, &|_| false).unwrap_err().to_string();
        assert!(error.contains("lower the rate"), "{error}");
        assert!(matches!(Entry::read(&out).unwrap().state, State::Failed(_)));
    }

    #[test]
    fn out_of_memory_says_what_to_lower() {
        let config = Config::default();
        let error = guarded(&config, 112, || -> () {
            panic!("{}", "Torch(\"CUDA out of memory. Tried to allocate 2 GiB\")")
        });
        assert!(error.unwrap_err().to_string().contains("lower --batch"));
    }

    #[test]
    fn sizes_share_the_run_equally() {
        let sizes = [80, 96, 112];
        assert_eq!([0.0, 0.34, 0.7, 1.0].map(|progress| size_at(&sizes, progress)), [80, 96, 112, 112]);
    }
}
