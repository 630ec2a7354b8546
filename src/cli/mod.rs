//! The command line: one module per subcommand.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use clap::{Parser, Subcommand};
use log::{Level, LevelFilter};
use mien::{
    classify::Classifier,
    detect::Detector,
    engine::EngineKind,
    models::Model,
    pipeline::{Analyser, PipelineError, Stop},
    sink::SinkError,
};

mod bench;
mod config;
mod devices;
mod doctor;
mod generate;
mod model;
#[cfg(feature = "window")]
mod preview;
mod run;
mod save;
mod still;

const EXIT_CODES: &str = "Exit codes: 0 done, 1 nothing could be processed, \
                          2 wrong usage or a broken environment.";

/// Says of every face in a camera's picture whether a mask is worn, and tells gender and age group.
/// Pictures stay on this machine and in memory, unless you ask for them to be saved.
#[derive(Parser)]
#[command(version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(run::Args),
    Still(still::Args),
    Devices(devices::Args),
    Model(model::Args),
    Bench(bench::Args),
    Config(config::Args),
    Doctor(doctor::Args),
    #[command(hide = true)]
    Generate(generate::Args),
}

/// What standard output is called in messages.
const STDOUT: &str = "standard output";

/// How a subcommand that did not fail ended.
enum Outcome {
    Done,
    /// There was input, but none of it could be processed.
    NothingProcessed,
}

/// Runs the program; the exit code is as [`EXIT_CODES`] says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log();
    match dispatch(cli) {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::NothingProcessed) => ExitCode::from(1),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(mut cli: Cli) -> anyhow::Result<Outcome> {
    if matches!(cli.command, Command::Run(_) | Command::Still(_)) {
        (cli, _) = config::parse(std::env::args_os())?;
    }
    match cli.command {
        Command::Run(args) => run::run(args),
        Command::Still(args) => still::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Model(args) => model::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Config(args) => config::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Generate(args) => generate::run(args),
    }
}

/// Messages of this program from `info` up on standard error, others from `warn`; `RUST_LOG` changes that.
fn start_log() {
    env_logger::Builder::new()
        .filter_level(LevelFilter::Warn)
        .filter_module("mien", LevelFilter::Info)
        .parse_default_env()
        .format(|out, record| match record.level() {
            Level::Info => writeln!(out, "mien: {}", record.args()),
            Level::Warn => writeln!(out, "mien: warning: {}", record.args()),
            level => writeln!(out, "mien: {}: {}", level.as_str().to_lowercase(), record.args()),
        })
        .init();
}

/// Whether whoever read standard output has closed it, which is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(PipelineError::is_broken_pipe)
        || error.downcast_ref().is_some_and(SinkError::is_broken_pipe)
        || error.downcast_ref().is_some_and(|error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Which networks look at the pictures, and how.
#[derive(clap::Args)]
struct AnalyserArgs {
    /// Longer side, in pixels, of the small copy in which faces are looked for: larger finds smaller faces
    #[arg(long, value_name = "PIXELS", default_value_t = 320)]
    #[arg(value_parser = clap::value_parser!(u32).range(32..=4096))]
    detect_size: u32,
    /// Least score of a face, 0 to 1 [default: the model card's]
    #[arg(long, value_name = "SCORE", value_parser = score)]
    min_score: Option<f32>,
    /// What runs the networks
    #[arg(long, value_enum, default_value_t = EngineKind::default())]
    engine: EngineKind,
    /// Folder with face.json, face.onnx, attributes.json and attributes.onnx [default: the built-in ones]
    #[arg(long, value_name = "DIR")]
    models: Option<PathBuf>,
}

impl AnalyserArgs {
    fn load(&self) -> anyhow::Result<Analyser> {
        let face = Model::face(self.models.as_deref())?;
        let detector = Detector::new(&face, self.engine, self.detect_size, self.min_score)?;
        let attributes = Model::attributes(self.models.as_deref())?;
        let classifier = Classifier::new(&attributes, self.engine)?;
        Ok(Analyser::new(detector, classifier))
    }
}

fn score(text: &str) -> Result<f32, String> {
    match text.parse() {
        Ok(score) if (0.0..=1.0).contains(&score) => Ok(score),
        _ => Err("give a number from 0 to 1".into()),
    }
}

/// Ctrl-C and requests to terminate.
struct Interrupt {
    stop: Stop,
    happened: Arc<AtomicBool>,
}

impl Interrupt {
    /// From now on the first signal requests `stop`; a second ends the program at once.
    fn listen() -> anyhow::Result<Self> {
        let interrupt = Self { stop: Stop::default(), happened: Arc::default() };
        let (stop, happened) = (interrupt.stop.clone(), interrupt.happened.clone());
        ctrlc::set_handler(move || {
            if happened.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            stop.request();
        })
        .context("cannot listen for Ctrl-C")?;
        Ok(interrupt)
    }

    fn happened(&self) -> bool {
        self.happened.load(Ordering::SeqCst)
    }
}
