//! The ledger: what every run was, what it had otherwise than its baseline, and what came of it.
//!
//! A run's folder holds its [`Entry`] as `run.json` beside its metrics. Experiments that change one variable at a
//! time ([`mod@ablate`]) and queues of them ([`mod@queue`]) are folders of runs.

mod ablate;
mod change;
mod queue;
mod show;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

pub use ablate::{AblateOptions, ablate};
pub use change::{Change, changes};
pub use queue::{QueueOptions, queue};
pub use show::{LedgerOptions, ledger};

use crate::{
    classifier::{config::Config, figures::Summary, run},
    device::parse_device,
    interrupt,
    revision::{Hardware, git_revision},
};

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs, or was killed.
    Running,
    /// It was asked to stop, and can go on.
    Stopped,
    Finished,
    Failed(String),
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            State::Running => "running",
            State::Stopped => "stopped",
            State::Finished => "finished",
            State::Failed(_) => "failed",
        })
    }
}

/// The best of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best<F = Summary> {
    /// Of the run's metric; more is better.
    pub score: f64,
    pub epoch: u64,
    pub step: u64,
    pub figures: F,
}

/// How many faces a run had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Faces {
    pub training: usize,
    /// Those with painted masks counted again.
    pub held_out: usize,
    pub unreadable: usize,
}

/// A classifier's run in the ledger.
pub type Entry = Record<Config, Summary>;

/// Any network's run, as the ledger shows it.
pub type AnyEntry = Record<Value, Value>;

/// A run in the ledger: of a configuration `C`, with figures `F`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record<C, F> {
    pub state: State,
    pub baseline: String,
    /// What the configuration has otherwise than the baseline.
    pub changes: Vec<Change>,
    pub config: C,
    pub seed: u64,
    /// Tells splits apart.
    pub split: String,
    pub faces: Faces,
    /// Of the sources.
    pub revision: String,
    pub hardware: Hardware,
    pub started: String,
    /// Spent training, over all starts.
    pub seconds: f64,
    pub best: Option<Best<F>>,
    pub last: Option<F>,
    /// The last figures by data pack.
    pub validation: Value,
}

const ENTRY: &str = "run.json";

impl Entry {
    /// The entry of a classifier's run that starts or goes on in `folder`.
    pub fn begin(config: &Config, baseline: &Baseline, folder: &Path) -> Result<Entry> {
        let entry = Record::start(config.clone(), config.changes_from(&baseline.config)?, folder);
        Ok(Entry {
            baseline: baseline.name.clone(),
            seed: config.seed,
            hardware: Hardware::of(&config.device, parse_device(&config.device)?),
            ..entry
        })
    }
}

impl<C: Serialize + DeserializeOwned, F: Serialize + DeserializeOwned> Record<C, F> {
    /// The entry of a run that starts or goes on in `folder`, with `changes` against the defaults.
    pub fn start(config: C, changes: Vec<Change>, folder: &Path) -> Self {
        let entry = Record {
            state: State::Running,
            baseline: Baseline::default().name,
            changes,
            config,
            seed: 0,
            split: String::new(),
            faces: Faces::default(),
            revision: git_revision(),
            hardware: Hardware::default(),
            started: jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
            seconds: 0.0,
            best: None,
            last: None,
            validation: Value::Null,
        };
        match Record::<C, F>::read(folder) {
            Ok(Record { started, seconds, best, last, validation, .. }) => {
                Record { started, seconds, best, last, validation, ..entry }
            }
            Err(_) => entry,
        }
    }

    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(ENTRY);
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}; is it the folder of a run?", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    pub fn write(&self, folder: &Path) -> Result<()> {
        let path = folder.join(ENTRY);
        std::fs::write(&path, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("writing {}", path.display()))
    }

    /// # Errors
    /// When the run can go on.
    pub fn ensure_finished(&self, folder: &Path) -> Result<()> {
        if self.state != State::Finished {
            bail!("stopped; the same command goes on with the run in {}", folder.display());
        }
        Ok(())
    }
}

/// What runs are compared with.
#[derive(Debug, Clone)]
pub struct Baseline {
    pub name: String,
    pub config: Config,
}

impl Default for Baseline {
    fn default() -> Self {
        Baseline { name: "defaults".into(), config: Config::default() }
    }
}

impl Baseline {
    /// A run's folder or a configuration file; without one, what the program does unasked.
    pub fn read(path: Option<&Path>) -> Result<Baseline> {
        let Some(path) = path else { return Ok(Baseline::default()) };
        let config = if path.is_dir() { Entry::read(path)?.config } else { Config::read(path)? };
        Ok(Baseline { name: path.display().to_string(), config })
    }
}

/// Runs `config` in `folder` unless it is finished there; an unfinished run goes on.
pub fn run_once(config: &Config, baseline: &Baseline, folder: &Path) -> Result<Entry> {
    if let Ok(entry) = Entry::read(folder) {
        let changes = config.changes_from(&entry.config)?;
        if !changes.is_empty() {
            let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
            bail!(
                "{} holds a run of another configuration ({}); remove it or choose another --out",
                folder.display(),
                changes.join("; ")
            );
        }
        if entry.state == State::Finished {
            return Ok(entry);
        }
    }
    let entry = run(config, baseline, folder, &|_| interrupt::requested())?;
    entry.ensure_finished(folder)?;
    Ok(entry)
}

/// The folders in and below `folder` that hold a file of this name, in order.
fn folders_with(file: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if folder.join(file).exists() {
        found.push(folder.to_owned());
    }
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("reading the folder {}", folder.display()))?;
    let mut below: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    below.sort();
    for path in below.into_iter().filter(|path| path.is_dir()) {
        found.extend(folders_with(file, &path)?);
    }
    Ok(found)
}
