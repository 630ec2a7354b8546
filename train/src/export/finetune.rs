//! Quantisation-aware fine-tuning of the classifier: the network in int8 learns to make good for its rounding, from the
//! labels and from what the float network says of the same pictures.

use std::{path::Path, time::Instant};

use anyhow::{Context, Result, ensure};
use log::info;
use tch::no_grad;

use super::{draw, graph::Graph, learnt::Learnt, quantize::Quantized};
use crate::{
    augment::Input,
    classifier::{
        config::Config,
        dataset::Dataset,
        distillation::head_log_p,
        labels::Face,
        loader::{Loader, Order, Painting},
        objective::Objective,
    },
    device::parse_device,
    optimizer::{AdamW, Optimizer},
    schedule::{Extent, Schedule},
};

#[derive(Debug, clap::Args)]
pub struct Finetuning {
    /// Classifier: after calibration, train the int8 network for this many passes over the training faces
    /// (quantisation-aware fine-tuning)
    #[arg(long)]
    qat_epochs: Option<f64>,
    /// Classifier: fine-tune for this many minutes, with fewer passes if need be
    #[arg(long)]
    qat_minutes: Option<f64>,
    /// The largest step of the fine-tuning, as a part of a channel's largest weight
    #[arg(long, default_value_t = 1e-4)]
    qat_rate: f64,
    /// Faces that go through the network together
    #[arg(long, default_value_t = 32)]
    qat_batch: usize,
    /// Fine-tune on this many training faces, drawn by lot [default: all]
    #[arg(long)]
    qat_faces: Option<usize>,
    /// Where to fine-tune: cpu, or cuda:0
    #[arg(long, default_value = "cpu")]
    qat_device: String,
}

/// Steps between two lines of the log.
const LOG_EVERY: u64 = 25;

impl Finetuning {
    pub fn is_wanted(&self) -> bool {
        self.qat_epochs.is_some() || self.qat_minutes.is_some()
    }

    /// Refuses what would fail only after calibration.
    pub fn check(&self) -> Result<()> {
        ensure!(self.qat_batch > 0, "--qat-batch is 0; it must be at least 1");
        parse_device(&self.qat_device).map(drop).context("--qat-device")
    }

    /// Fine-tunes `quantized`, made of `graph`, on faces of `training` as the run of `config` augmented and painted
    /// them; gradients must be on. By epochs alone the outcome is the same every time.
    pub fn run(
        &self,
        data: &Path,
        config: &Config,
        training: Vec<Face>,
        graph: &Graph,
        quantized: Quantized,
    ) -> Result<Quantized> {
        let device = parse_device(&self.qat_device)?;
        let config = Config { batch: self.qat_batch, ..config.clone() };
        let extent = Extent {
            epochs: self.qat_epochs.unwrap_or(f64::INFINITY),
            seconds: self.qat_minutes.map(|minutes| 60.0 * minutes),
        };
        let count = self.qat_faces.unwrap_or(training.len());
        let framing = config.framing(&training);
        let dataset = Dataset::load(data, draw(training, count), framing, config.old_from, device)?;
        let objective = Objective::new(&config, &dataset.faces)?;
        let order = Order::new(&dataset.faces, config.batch, config.seed);
        let epoch_len = order.epoch_len() as f64;
        let mut batches = Loader::spawn(&dataset, order, 0, &config, Painting::Any);

        let graph = graph.to_device(device);
        let learnt = Learnt::new(&graph, &quantized, device)?;
        let mut optimizer = AdamW::new(learnt.variables(), 0.0).clipped(config.optimizer.clip);
        let schedule = Schedule { rate: self.qat_rate, ..Schedule::default() };
        let input = Input { size: graph.size[0], ..config.input };
        info!("fine-tuning on {} faces, {} together", dataset.faces.len(), config.batch);
        let clock = Instant::now();
        let (mut samples, mut sum) = (0.0, 0.0);
        for step in 1u64.. {
            let progress = extent.progress(samples / epoch_len, clock.elapsed().as_secs_f64());
            if progress >= 1.0 {
                break;
            }
            let batch = batches.recv().context("the loader of batches has stopped")?;
            tch::manual_seed(config.seed.wrapping_mul(1_000_003).wrapping_add(step) as i64);
            let (images, mut labels, sides) = batch.gather(&dataset);
            let inputs = config.augment.apply(&images, &sides, &input);
            labels.soft = Some(no_grad(|| head_log_p(&graph.run(&inputs)[0])));
            let loss = objective.loss(&learnt.run(&inputs)?[0], &labels).total;
            optimizer.step(&loss, schedule.rate(progress, &extent));
            let loss = loss.double_value(&[]);
            ensure!(
                loss.is_finite(),
                "the loss is {loss} at step {step}; lower --qat-rate ({})",
                self.qat_rate
            );
            samples += batch.index.len() as f64;
            sum += loss;
            if step.is_multiple_of(LOG_EVERY) {
                info!("fine-tuning: step {step}, {samples} faces, loss {:.4}", sum / LOG_EVERY as f64);
                sum = 0.0;
            }
        }
        learnt.quantized(quantized)
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;
    use crate::{
        classifier::{
            dataset::Cut,
            labels::{read_all, tests_support::tree},
        },
        detector::network::normalise,
        export::{
            quantize::quantize,
            tests::{classifier, flat, noise, pictures},
        },
    };

    #[test]
    fn faces_move_the_network_a_little() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 2);
        let (mut graph, _) = classifier();
        let batches = [(); 3].map(|()| normalise(&pictures(4, graph.size)));
        let quantized = no_grad(|| quantize(&mut graph, &batches)).unwrap();
        let finetuning = Finetuning {
            qat_epochs: Some(1.0),
            qat_minutes: None,
            qat_rate: 1e-4,
            qat_batch: 4,
            qat_faces: Some(12),
            qat_device: "cpu".into(),
        };
        finetuning.check().unwrap();
        assert!(finetuning.is_wanted());
        // As of weights with no configuration beside them.
        let config = Config { cut: Cut::Centre, ..Config::default() };
        let says = |quantized: &Quantized| no_grad(|| flat(&quantized.run(&graph, &batches[0])));
        let before = says(&quantized);
        let faces = read_all(folder.path()).unwrap();
        let tuned = finetuning.run(folder.path(), &config, faces, &graph, quantized).unwrap();
        let moved = noise(&before, &says(&tuned));
        assert!((1e-9..0.02).contains(&moved), "{moved}");
        assert!(says(&tuned).device() == Device::Cpu);

        let error = Finetuning { qat_device: "gpu".into(), ..finetuning }.check().unwrap_err();
        assert!(format!("{error:#}").contains("--qat-device"), "{error:#}");
    }
}
