mod adamw;
mod archive;
mod detector;

use anyhow::Result;
use clap::Parser;

/// Trains, quantises and exports the networks that mien runs
#[derive(Debug, Parser)]
enum Command {
    /// Train the face detector
    Detector(detector::Options),
    /// Measure the face detector on the photos kept from its training
    EvaluateDetector(detector::EvaluateOptions),
}

fn main() -> Result<()> {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    match Command::parse() {
        Command::Detector(options) => detector::train(&options),
        Command::EvaluateDetector(options) => detector::evaluate(&options),
    }
}
