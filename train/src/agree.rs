//! The shipped classifier in mien's engine against onnxruntime, on real faces.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use mien::{
    attributes::{Attributes, LOGITS},
    classify,
    engine::{EngineKind, Network, kernels::InstructionSet},
    frame::Picture,
    models::{ClassifierSettings, Model},
};
use serde_json::json;
use tch::Device;

use crate::{
    classifier::evaluate::Validation,
    shipped::{Files, Kept},
};

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    kept: Kept,
    /// Faces whose labels are compared
    #[arg(long, default_value_t = 1000)]
    faces: usize,
    /// Faces of which every tensor of the network is compared
    #[arg(long, default_value_t = 8)]
    few: usize,
}

/// How many elements may be off by one step of their quantisation; none may be off by more.
const MOST_OFF: f64 = 0.01;
/// How far probabilities may be apart.
const MOST_APART: f32 = 0.01;

/// Prints the comparison as a JSON object, and fails if the engines disagree. Needs Python with onnxruntime.
pub fn agree(options: &Options) -> Result<()> {
    let model = Model::attributes(Some(&options.files.models))?;
    let crops = crops(options)?;
    let folder = tempfile::tempdir().context("making a temporary folder")?;
    reference(options, &model, &crops, folder.path())?;
    let read = |name: &str| -> Result<Vec<f32>> {
        let bytes = std::fs::read(folder.path().join(name)).with_context(|| format!("reading {name}"))?;
        Ok(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    };

    let tensors: Vec<(String, f32)> =
        serde_json::from_slice(&std::fs::read(folder.path().join("tensors.json"))?)?;
    let tapped = std::fs::read(folder.path().join("tapped.onnx"))?;
    let names: Vec<&str> = tensors.iter().map(|(name, _)| name.as_str()).collect();
    let set = InstructionSet::chosen()?;
    let mut network = Network::load_for(&tapped, "the tapped network", &names, EngineKind::Int8, set)?;
    let side = model.card.settings.input_size as usize;
    let (mut elements, mut off_by_one, mut off_by_more) = (0usize, 0usize, 0usize);
    let mut expected = read("tensors.f32")?.into_iter();
    for crop in crops.iter().take(options.few) {
        let outputs = network.run(crop.as_raw(), [1, side, side])?;
        for (output, (_, scale)) in outputs.iter().zip(&tensors) {
            for value in &output.values {
                let expected = expected.next().context("onnxruntime gave fewer values")?;
                match ((value - expected) / scale).round().abs() {
                    0.0 => {}
                    1.0 => off_by_one += 1,
                    _ => off_by_more += 1,
                }
                elements += 1;
            }
        }
    }

    let (apart, labels) = answers(&model, &crops, &read("logits.f32")?)?;
    let part = |count: usize| count as f64 / elements.max(1) as f64;
    let report = json!({
        "kernels": set.name(), "faces": crops.len(), "labels_that_differ": labels, "probabilities_apart": apart,
        "tensors": tensors.len(), "elements": elements,
        "off_by_one_step": part(off_by_one), "off_by_more": part(off_by_more),
    });
    println!("{report:#}");
    ensure!(elements > 0 && !crops.is_empty(), "there was nothing to compare");
    ensure!(
        part(off_by_one) + part(off_by_more) <= MOST_OFF && apart <= MOST_APART && labels == 0,
        "mien's engine and onnxruntime disagree"
    );
    Ok(())
}

fn crops(options: &Options) -> Result<Vec<Picture>> {
    let faces = options.files.faces(&options.kept)?;
    let step = (faces.len() / options.faces.max(1)).max(1);
    let faces = faces.into_iter().step_by(step).take(options.faces).collect();
    Validation::load(&options.files.data, faces, Device::Cpu)?.crops()
}

fn reference(
    options: &Options,
    model: &Model<ClassifierSettings>,
    crops: &[Picture],
    folder: &std::path::Path,
) -> Result<()> {
    let pictures: Vec<u8> = crops.iter().flat_map(|crop| crop.as_raw()).copied().collect();
    std::fs::write(folder.join("pictures"), pictures)?;
    let python =
        std::env::var("VIRTUAL_ENV").map_or("python3".to_owned(), |venv| format!("{venv}/bin/python3"));
    let ran = Command::new(&python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/onnx_reference.py"))
        .arg(options.files.models.join(&model.card.file))
        .args([&folder.join("pictures"), folder])
        .arg(options.few.to_string())
        .output()
        .with_context(|| format!("running {python}"))?;
    ensure!(ran.status.success(), "{python}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

/// The largest distance of probabilities, and how many labels differ.
fn answers(model: &Model<ClassifierSettings>, crops: &[Picture], expected: &[f32]) -> Result<(f32, usize)> {
    let mut network = Network::load(&model.onnx, &model.origin, &[classify::OUTPUT], EngineKind::Int8)?;
    let settings = model.card.settings;
    let side = settings.input_size as usize;
    let (mut apart, mut labels) = (0f32, 0);
    for (crop, expected) in crops.iter().zip(expected.chunks_exact(LOGITS)) {
        let logits = network.run(crop.as_raw(), [1, side, side])?.remove(0).values;
        let [mine, theirs] = [logits.as_slice(), expected]
            .map(|logits| Attributes::from_logits(logits, settings.temperatures));
        let pairs = probabilities(&mine).zip(probabilities(&theirs));
        apart = pairs.map(|(a, b)| (a - b).abs()).fold(apart, f32::max);
        labels += usize::from(mine.class18() != theirs.class18());
    }
    Ok((apart, labels))
}

fn probabilities(of: &Attributes) -> impl Iterator<Item = f32> {
    of.mask.into_iter().chain(of.gender).chain(of.age)
}
