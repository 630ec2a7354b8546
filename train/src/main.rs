mod archive;
#[allow(dead_code, reason = "for the training commands of issue 3")]
mod augment;
mod checkpoint;
mod classifier;
mod detector;
mod device;
mod export;
#[allow(dead_code, reason = "for the training commands of issue 3")]
mod loss;
mod mask_synthesis;
mod measure;
mod metrics;
#[allow(dead_code, reason = "for the training commands of issue 3")]
mod network;
#[allow(dead_code, reason = "for the training commands of issue 3")]
mod optimizer;
#[cfg(test)]
mod python;
#[allow(dead_code, reason = "for the training commands of issue 3")]
mod schedule;
#[allow(dead_code, reason = "for the training commands of issue 3")]
mod tensorboard;

use anyhow::Result;
use clap::Parser;

/// Trains, quantises and exports the networks that mien runs
#[derive(Debug, Parser)]
enum Command {
    /// Train the face detector
    Detector(detector::Options),
    /// Measure the face detector on the photos kept from its training
    EvaluateDetector(detector::EvaluateOptions),
    /// Train the attribute classifier: mask, gender, age
    Classifier(classifier::Options),
    /// Measure the attribute classifier on the photos kept from its training
    EvaluateClassifier(classifier::EvaluateOptions),
    /// Write trained weights as an ONNX file with its model card
    Export(export::Options),
    /// Measure the exported files through the runtime on photos kept from training
    Measure(measure::Options),
    /// Show what each augmentation and each painted mask does to faces of the data packs
    ContactSheet(augment::ContactSheetOptions),
    /// Paint masks on faces of the data packs and show them side by side
    Masks(mask_synthesis::SheetOptions),
    /// Paint a mask on the face in a picture
    MaskPhoto(mask_synthesis::PhotoOptions),
}

fn main() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match Command::parse() {
        Command::Detector(options) => detector::train(&options),
        Command::EvaluateDetector(options) => detector::evaluate(&options),
        Command::Classifier(options) => classifier::train(&options),
        Command::EvaluateClassifier(options) => classifier::evaluate(&options),
        Command::Export(options) => export::export(&options),
        Command::Measure(options) => measure::measure(&options),
        Command::ContactSheet(options) => augment::contact_sheet(&options),
        Command::Masks(options) => mask_synthesis::sheet(&options),
        Command::MaskPhoto(options) => mask_synthesis::photo(&options),
    }
}
