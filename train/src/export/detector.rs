//! The face detector: calibration and checking photos, card.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use mien::models::DetectorSettings;
use serde::Serialize;
use serde_json::Value;
use tch::{Device, Tensor};

use super::{
    BATCH, Difference, Options,
    card::{self, About},
    draw,
    lower::{self, Variables},
    onnx,
};
use crate::detector::{
    Reports, Scene, Split, find, letterbox, network::normalise, read_marks, read_scenes, reports, stack,
};

/// Height and width in the file; a program may choose others.
const SIDE: u32 = 320;

/// What was measured on held-out photos.
#[derive(Debug, Serialize)]
struct Measured {
    photos: usize,
    /// Of the trained network.
    trained: Reports,
    /// Of the file's.
    file: Reports,
    outputs: Difference,
    /// The error of the outputs by each rule for int8's ranges; the least was taken.
    error_by_range: BTreeMap<&'static str, f64>,
}

/// Writes `face.onnx` and its card; returns what was measured.
pub fn export(options: &Options, variables: &Variables) -> Result<Value> {
    let mut graph = lower::detector(variables, [i64::from(SIDE); 2])?;
    let marks = read_marks(&options.data)?;
    let split: Split = options.split()?;
    let held_out = draw(split.validation, options.check);
    ensure!(!held_out.is_empty(), "no photo is held out; --check must be at least 1");

    let calibration = read_scenes(&options.data, &draw(split.train, options.calibration), &marks)?;
    let quantized = options.quantize(&mut graph, &batches(&calibration))?;
    let scenes = read_scenes(&options.data, &held_out, &marks)?;
    let trained = |image: &Tensor| by_stride(graph.run(image));
    let file = |image: &Tensor| match &quantized {
        Some(quantized) => by_stride(quantized.run(&graph, image)),
        None => trained(image),
    };
    let few = &batches(&scenes[..scenes.len().min(BATCH)])[0];
    let measured = Measured {
        photos: scenes.len(),
        trained: reports(&scenes, &find(trained, Device::Cpu, &scenes, SIDE), options.min_score),
        file: reports(&scenes, &find(file, Device::Cpu, &scenes, SIDE), options.min_score),
        error_by_range: quantized.as_ref().map(|quantized| quantized.errors.clone()).unwrap_or_default(),
        outputs: Difference::between(&flat(&trained(few)), &flat(&file(few))),
    };
    let measured = serde_json::to_value(measured)?;
    let about = About { facts: card::detector(), format: options.format(), export: measured.clone() };
    let settings = DetectorSettings { min_score: options.min_score, nms_iou: options.nms_iou };
    card::write(&options.out, "face", &onnx::encode(&graph, quantized.as_ref()), settings, &about)?;
    Ok(measured)
}

/// The photos as the network sees them, normalised.
pub fn batches(scenes: &[Scene]) -> Vec<Tensor> {
    let pictures: Vec<_> = scenes.iter().map(|scene| letterbox(&scene.picture, SIDE).0).collect();
    pictures.chunks(BATCH).map(|pictures| normalise(&stack(&pictures.iter().collect::<Vec<_>>()))).collect()
}

fn by_stride(outputs: Vec<Tensor>) -> [Tensor; 3] {
    outputs.try_into().expect("`lower::detector` gives one output for each stride")
}

/// All outputs, one after the other.
fn flat(outputs: &[Tensor]) -> Tensor {
    Tensor::cat(&outputs.iter().map(|output| output.flatten(0, -1)).collect::<Vec<_>>(), 0)
}
