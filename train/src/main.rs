mod agree;
mod archive;
mod augment;
mod average;
mod checkpoint;
mod classifier;
mod detector;
mod device;
mod export;
mod gallery;
mod interrupt;
mod ledger;
mod lettering;
mod loss;
mod mask_synthesis;
mod measure;
mod metrics;
mod mistakes;
mod network;
mod optimizer;
mod output;
mod plot;
#[cfg(test)]
mod python;
mod revision;
mod schedule;
mod shipped;
mod tensorboard;
mod throughput;

use anyhow::Result;
use clap::Parser;

/// Trains, quantises and exports the networks that mien runs
#[derive(Debug, Parser)]
enum Command {
    /// Train the face detector
    Detector(detector::Options),
    /// Measure the face detector on the photos kept from its training
    EvaluateDetector(detector::EvaluateOptions),
    /// Count and draw what lies in a data folder
    Eda(classifier::eda::Options),
    /// Choose which persons are held out, stratified on gender and age group
    Split(classifier::split::Options),
    /// Print a recipe as a configuration that runs
    Recipe(classifier::config::RecipeOptions),
    /// Train the attribute classifier (mask, gender, age), or an ensemble
    Classifier(Box<classifier::Options>),
    /// Write what teachers say of the training faces, for a student to learn from
    SoftLabels(Box<classifier::distillation::Options>),
    /// Measure one or several classifiers, which vote, on the photos kept from training
    #[command(visible_alias = "vote")]
    EvaluateClassifier(classifier::ensemble::EvaluateOptions),
    /// Answer for photos without labels: a submission CSV
    Predict(classifier::ensemble::PredictOptions),
    /// List, compare and draw runs
    Ledger(ledger::LedgerOptions),
    /// Change one variable at a time and print what each change did
    Ablate(ledger::AblateOptions),
    /// Run experiments in order of expected gain per cost
    Queue(ledger::QueueOptions),
    /// Time training steps on random pictures: forth, back, and the optimiser's
    Throughput(throughput::Options),
    /// Write trained weights as an ONNX file with its model card
    Export(export::Options),
    /// Take the weights back out of an exported file, to train on from them
    Recover(export::recover::Options),
    /// Average the weights of a network and of what it became
    Average(average::Options),
    /// Measure the exported files through the runtime on photos kept from training
    Measure(measure::Options),
    /// Measure them and write the figures into their cards
    Card(measure::Options),
    /// Show what the shipped classifier gets wrong
    Mistakes(mistakes::Options),
    /// Show ten varied photos as the shipped files label them
    Gallery(gallery::Options),
    /// Compare mien's engine with onnxruntime on real faces
    Agree(agree::Options),
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
        Command::SoftLabels(options) => classifier::distillation::soft_labels(&options),
        Command::Eda(options) => classifier::eda::eda(&options),
        Command::Split(options) => classifier::split::split(&options),
        Command::Recipe(options) => classifier::config::recipe(&options),
        Command::EvaluateClassifier(options) => classifier::ensemble::evaluate(&options),
        Command::Predict(options) => classifier::ensemble::predict(&options),
        Command::Ledger(options) => ledger::ledger(&options),
        Command::Ablate(options) => ledger::ablate(&options),
        Command::Queue(options) => ledger::queue(&options),
        Command::Throughput(options) => throughput::throughput(&options),
        Command::Export(options) => export::export(&options),
        Command::Recover(options) => export::recover::recover(&options),
        Command::Average(options) => average::average(&options),
        Command::Measure(options) => measure::measure(&options),
        Command::Card(options) => measure::card(&options),
        Command::Mistakes(options) => mistakes::mistakes(&options),
        Command::Gallery(options) => gallery::gallery(&options),
        Command::Agree(options) => agree::agree(&options),
        Command::ContactSheet(options) => augment::contact_sheet(&options),
        Command::Masks(options) => mask_synthesis::sheet(&options),
        Command::MaskPhoto(options) => mask_synthesis::photo(&options),
    }
}
