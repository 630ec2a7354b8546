//! The shipped files, measured through the runtime on photos kept from training.

use std::path::PathBuf;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressIterator};
use mien::{
    classify::Classifier,
    detect::{Detector, Face},
    engine::EngineKind,
    frame::Picture,
    models::Model,
};
use serde_json::{Value, json};
use tch::Device;

use crate::{
    classifier::evaluate::Validation,
    detector::{self, Scene, Yunet},
    export::card,
    shipped::{Files, Kept},
};

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    files: Files,
    /// The longer side of a photo as the detector sees it, in pixels
    #[arg(long, default_value_t = 320)]
    detect_size: u32,
    /// YuNet's ONNX file, to be measured beside ours on the same photos
    #[arg(long, value_name = "FILE")]
    beside: Option<PathBuf>,
    /// Chooses the scenes: the seed of the detector's training run
    #[arg(long, default_value_t = 0)]
    detector_seed: u64,
    #[command(flatten)]
    kept: Kept,
}

/// What a shipped file must reach at least: what a CPU reaches by scripts/models.
const FLOORS: [(&str, f64); 7] = [
    ("/detector/wider/recall", 0.80),
    ("/classifier/masks/macro_f1", 0.87),
    ("/classifier/utkface/gender_accuracy", 0.93),
    ("/classifier/utkface/age_group_accuracy", 0.78),
    ("/classifier/fairface/gender_accuracy", 0.90),
    ("/classifier/painted/gender_accuracy", 0.92),
    ("/classifier/painted/age_group_accuracy", 0.73),
];

/// Prints the figures as one JSON object, and fails if one is below its floor.
pub fn measure(options: &Options) -> Result<()> {
    let figures = json!({ "detector": scenes(options)?, "classifier": faces(options)? });
    println!("{figures:#}");
    check(&figures)
}

/// Measures the files, writes what it finds into their cards, and fails if a figure is below its floor.
pub fn card(options: &Options) -> Result<()> {
    let figures = json!({ "detector": scenes(options)?, "classifier": faces(options)? });
    card::add_measured(&options.files.models, "face", figures["detector"].clone())?;
    card::add_measured(&options.files.models, "attributes", figures["classifier"].clone())?;
    check(&figures)
}

fn check(figures: &Value) -> Result<()> {
    let mut missed = Vec::new();
    for (figure, floor) in FLOORS {
        let found = figures.pointer(figure).and_then(|value| value.as_f64()).unwrap_or(f64::NAN);
        let verdict = if found >= floor { "passed" } else { "missed" };
        eprintln!("{verdict}: {figure} {found:.4}, at least {floor:.2} wanted");
        if found < floor || found.is_nan() {
            missed.push(figure);
        }
    }
    if !missed.is_empty() {
        bail!("below the floor: {}; retrain, or do not ship these files", missed.join(", "));
    }
    Ok(())
}

fn scenes(options: &Options) -> Result<Value> {
    let model = Model::face(Some(&options.files.models))?;
    let engine = EngineKind::default();
    let mut detector = Detector::new(&model, engine, options.detect_size, Some(detector::LEAST_SCORE))?;
    let marks = detector::read_marks(&options.files.data)?;
    let split = detector::Split::of(marks.keys().map(String::as_str), options.detector_seed);
    let scenes = detector::read_scenes(&options.files.data, &split.validation, &marks)?;

    let min_score = model.card.settings.min_score;
    let ours = Found::by(&scenes, "mien", |picture| Ok(detector.detect(picture)?))?;
    let mut figures = ours.figures(&scenes, min_score)?;
    if let Some(path) = &options.beside {
        let yunet = Yunet::load(path)?;
        let found = Found::by(&scenes, "YuNet", |picture| yunet.detect(picture))?;
        // Both may be wrong equally often.
        let wrong = figures["wider"]["false_per_photo"].as_f64().unwrap_or_default();
        let min_score = detector::score_at(&scenes, &found.photos, wrong as f32);
        figures["yunet"] = found.figures(&scenes, min_score)?;
    }
    Ok(figures)
}

/// What a detector found, down to very low scores.
struct Found {
    /// In each photo.
    photos: Vec<Vec<Face>>,
    trials: detector::Answers,
}

impl Found {
    fn by(
        scenes: &[Scene],
        name: &'static str,
        mut detect: impl FnMut(&Picture) -> Result<Vec<Face>>,
    ) -> Result<Found> {
        let progress = ProgressBar::new(scenes.len() as u64).with_message(format!("finding faces: {name}"));
        let photos = scenes
            .iter()
            .progress_with(progress)
            .map(|scene| detect(&scene.picture))
            .collect::<Result<_>>()?;
        Ok(Found { photos, trials: detector::Answers::of(scenes, detect)? })
    }

    fn figures(&self, scenes: &[Scene], min_score: f32) -> Result<Value> {
        let mut figures = serde_json::to_value(detector::reports(scenes, &self.photos, min_score))?;
        figures["trials"] = serde_json::to_value(self.trials.at(min_score))?;
        Ok(figures)
    }
}

fn faces(options: &Options) -> Result<Value> {
    let model = Model::attributes(Some(&options.files.models))?;
    let mut classifier = Classifier::new(&model, EngineKind::default())?;
    let faces = options.files.faces(&options.kept)?;
    let validation = Validation::load(&options.files.data, faces, Device::Cpu)?;
    let crops = validation.crops()?;
    let progress = ProgressBar::new(crops.len() as u64).with_message("classifying faces");
    let answers: Vec<_> = crops
        .iter()
        .progress_with(progress)
        .map(|crop| classifier.attributes(crop))
        .collect::<Result<_, _>>()?;
    Ok(serde_json::to_value(validation.report(&answers))?)
}
