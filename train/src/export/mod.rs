//! Checkpoint → ONNX file and model card, and back.

mod calibrate;
pub mod card;
mod classifier;
mod detector;
mod equalize;
mod finetune;
mod graph;
mod learnt;
mod lower;
mod onnx;
mod quantize;
pub mod recover;
mod temperature;
#[cfg(test)]
mod tests;
mod threshold;

use std::path::PathBuf;

use anyhow::{Context, Result};
use log::info;
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use serde::{Serialize, de::DeserializeOwned};
use tch::Tensor;

use finetune::Finetuning;
use graph::Graph;
use lower::Variables;
use quantize::{Quantized, quantize};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Which network the weights are of
    #[arg(long)]
    kind: Kind,
    /// The trained weights (safetensors); split.json is read from the same folder
    #[arg(long)]
    weights: PathBuf,
    /// The folder that holds the data packs
    #[arg(long)]
    data: PathBuf,
    /// Where the file and its card are written
    #[arg(long, default_value = "models")]
    out: PathBuf,
    /// Write f32 in place of int8
    #[arg(long)]
    float: bool,
    /// Training pictures from which int8 ranges are chosen
    #[arg(long, default_value_t = 512)]
    calibration: usize,
    #[command(flatten)]
    finetuning: Finetuning,
    /// Classifier: measure every step from f32 to int8 on the held-out faces, for the card
    #[arg(long)]
    steps: bool,
    /// Held-out pictures on which the file is measured
    #[arg(long, default_value_t = 2000)]
    check: usize,
    /// Classifier: labels less certain than needed for this accuracy, 0–1, are "unsure"
    #[arg(long, default_value_t = 0.95)]
    accuracy: f64,
    /// Classifier: least probability at which a mask label is given, in place of what the accuracy asks for
    #[arg(long)]
    mask_threshold: Option<f32>,
    /// Classifier: the same for gender
    #[arg(long)]
    gender_threshold: Option<f32>,
    /// Classifier: the same for the age group
    #[arg(long)]
    age_threshold: Option<f32>,
    /// Detector: least score of a face that is shown
    #[arg(long, default_value_t = 0.5)]
    min_score: f32,
    /// Detector: IoU above which the weaker of two boxes is dropped
    #[arg(long, default_value_t = 0.45)]
    nms_iou: f32,
    /// CPU threads of libtorch
    #[arg(long, default_value_t = 1)]
    threads: i32,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Kind {
    Classifier,
    Detector,
}

/// Pictures that go through a network together.
const BATCH: usize = 16;

/// Writes a network as ONNX with its card, and prints what it measured of it as JSON.
pub fn export(options: &Options) -> Result<()> {
    tch::set_num_threads(options.threads);
    // The values from which ranges are chosen are drawn by lot: the same weights are to give the same file.
    tch::manual_seed(0);
    let variables: Variables = Tensor::read_safetensors(&options.weights)
        .with_context(|| format!("reading the weights {}", options.weights.display()))?
        .into_iter()
        .collect();
    let measured = tch::no_grad(|| match options.kind {
        Kind::Classifier => classifier::export(options, &variables),
        Kind::Detector => detector::export(options, &variables),
    })?;
    println!("{measured:#}");
    Ok(())
}

impl Options {
    fn format(&self) -> &'static str {
        if self.float { "f32" } else { "int8 (QDQ: weights per channel, activations uint8 per tensor)" }
    }

    fn quantize(&self, graph: &mut Graph, batches: &[Tensor]) -> Result<Option<Quantized>> {
        if self.float {
            return Ok(None);
        }
        info!("calibrating on {} batches", batches.len());
        quantize(graph, batches).map(Some)
    }

    fn split<Split: DeserializeOwned>(&self) -> Result<Split> {
        let path = self.weights.with_file_name("split.json");
        let text = std::fs::read_to_string(&path).with_context(|| {
            format!("reading {}, which the training run writes beside its weights", path.display())
        })?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }
}

/// At most `n` of `items`, drawn the same way every time.
fn draw<T>(mut items: Vec<T>, n: usize) -> Vec<T> {
    items.shuffle(&mut StdRng::seed_from_u64(0));
    items.truncate(n);
    items
}

/// How far the file's outputs are from the trained network's.
#[derive(Debug, Clone, Copy, Serialize)]
struct Difference {
    mean: f64,
    largest: f64,
    /// The squared difference over the outputs' variance.
    relative: f64,
}

impl Difference {
    fn between(exact: &Tensor, found: &Tensor) -> Difference {
        let difference = (exact - found).abs();
        Difference {
            mean: difference.mean(None).double_value(&[]),
            largest: difference.max().double_value(&[]),
            relative: difference.square().mean(None).double_value(&[]) / exact.var(false).double_value(&[]),
        }
    }
}
