//! Experiments in the order of what they promise.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use toml::Table;

use super::{Baseline, Entry, State, ablate::only_change, run_once};
use crate::{
    classifier::config::{Assignment, Config},
    interrupt, output,
};

#[derive(Debug, clap::Args)]
pub struct QueueOptions {
    /// The queue, TOML: `base` (a configuration), `out` (the folder of the runs), and for each `[[experiment]]` a `name`,
    /// a `change` of one key, the expected `gain` of the metric and the `cost` in hours
    queue: PathBuf,
    /// Print the order and what is done, and run nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Queue {
    /// As seen from the queue's folder.
    base: PathBuf,
    out: PathBuf,
    #[serde(rename = "experiment")]
    experiments: Vec<Experiment>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Experiment {
    name: String,
    change: Table,
    gain: f64,
    cost: f64,
}

impl Queue {
    /// Reads a queue and puts it in order: the largest gain per cost first, of equals the one that is written first.
    fn read(path: &Path) -> Result<Queue> {
        let named = || format!("reading the queue {}", path.display());
        let text = std::fs::read_to_string(path).with_context(named)?;
        let mut queue: Queue = toml::from_str(&text).with_context(named)?;
        for Experiment { name, cost, .. } in &queue.experiments {
            ensure!(*cost > 0.0, "{}: the cost of {name} is {cost}; it must be more than 0", named());
            let namesakes = queue.experiments.iter().filter(|other| other.name == *name).count();
            ensure!(namesakes == 1, "{}: {namesakes} experiments are called {name}", named());
        }
        queue.experiments.sort_by(|a, b| (b.gain / b.cost).total_cmp(&(a.gain / a.cost)));
        let folder = path.parent().unwrap_or(Path::new("."));
        queue.base = folder.join(&queue.base);
        queue.out = folder.join(&queue.out);
        Ok(queue)
    }
}

/// Runs what is not finished yet, in order, and prints what came of each.
pub fn queue(options: &QueueOptions) -> Result<()> {
    let queue = Queue::read(&options.queue)?;
    let base = Config::read(&queue.base)?;
    let baseline = Baseline { name: queue.base.display().to_string(), config: base.clone() };
    let mut runs = vec![("base", base.clone(), None)];
    for experiment in &queue.experiments {
        let named = || format!("the experiment {}", experiment.name);
        let changes: Vec<Assignment> =
            experiment.change.iter().map(|(key, value)| Assignment::new(key, value.clone())).collect();
        let config = base.with(&changes).with_context(named)?;
        let change = only_change(&base, &config).with_context(named)?;
        ensure!(change.is_some(), "{} changes nothing of the base", named());
        config.check().with_context(named)?;
        runs.push((experiment.name.as_str(), config, Some(experiment)));
    }
    interrupt::listen()?;
    let row = |cells: [&str; 6]| {
        let [name, gain, cost, ratio, found, state] = cells;
        output::print(&format!("{name:24} {gain:>8} {cost:>8} {ratio:>10} {found:>9} {state:>10}\n"))
    };
    row(["experiment", "gain", "hours", "gain/hour", "found", "state"])?;
    let mut base_score = None;
    for (name, config, experiment) in runs {
        let folder = queue.out.join(name);
        let entry = if options.dry_run {
            Entry::read(&folder).ok()
        } else {
            Some(run_once(&config, &baseline, &folder).with_context(|| name.to_owned())?)
        };
        let score = entry.as_ref().and_then(|entry| Some(entry.best?.score));
        let base_score = *base_score.get_or_insert(score);
        let found = match experiment {
            Some(_) => score.zip(base_score).map(|(score, base)| format!("{:+.4}", score - base)),
            None => score.map(|score| format!("{score:.4}")),
        };
        let expected =
            |of: fn(&Experiment) -> f64| experiment.map_or("-".into(), |e| format!("{:.4}", of(e)));
        let state = entry.map_or("waiting".into(), |entry: Entry| match entry.state {
            State::Failed(why) => format!("failed: {why}"),
            state => state.to_string(),
        });
        row([
            name,
            &expected(|e| e.gain),
            &expected(|e| e.cost),
            &expected(|e| e.gain / e.cost),
            found.as_deref().unwrap_or("-"),
            &state,
        ])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, experiments: &str) -> PathBuf {
        std::fs::write(folder.join("base.toml"), "data = \"d\"\n").unwrap();
        let path = folder.join("queue.toml");
        std::fs::write(&path, format!("base = \"base.toml\"\nout = \"runs\"\n{experiments}")).unwrap();
        path
    }

    fn experiment(name: &str, change: &str, gain: f64, cost: f64) -> String {
        format!("[[experiment]]\nname = \"{name}\"\nchange = {{ {change} }}\ngain = {gain}\ncost = {cost}\n")
    }

    #[test]
    fn the_largest_gain_per_cost_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        let experiments = experiment("slow", "size = 224", 0.02, 8.0)
            + &experiment("quick", "loss = \"focal\"", 0.01, 0.5)
            + &experiment("same", "batch = 32", 0.02, 1.0);
        let queue = Queue::read(&write(folder.path(), &experiments)).unwrap();
        let names: Vec<&str> = queue.experiments.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["quick", "same", "slow"]);
        let options = QueueOptions { queue: folder.path().join("queue.toml"), dry_run: true };
        super::queue(&options).unwrap();
        assert!(!folder.path().join("runs").exists());
    }

    #[test]
    fn bad_queues_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let read = |experiments: &str| {
            let options = QueueOptions { queue: write(folder.path(), experiments), dry_run: true };
            format!("{:#}", super::queue(&options).unwrap_err())
        };
        let two = read(&experiment("two", "batch = 32, size = 64", 0.1, 1.0));
        assert!(two.contains("the experiment two") && two.contains("alters 2 variables"), "{two}");
        assert!(read(&experiment("none", "batch = 64", 0.1, 1.0)).contains("changes nothing"));
        assert!(read(&experiment("free", "batch = 32", 0.1, 0.0)).contains("more than 0"));
        let twice = experiment("a", "batch = 32", 0.1, 1.0) + &experiment("a", "size = 64", 0.1, 1.0);
        assert!(read(&twice).contains("2 experiments are called a"));
        let unknown = read(&experiment("x", "batch = 32", 0.1, 1.0).replace("cost", "price"));
        assert!(unknown.contains("line 7") && unknown.contains("price"), "{unknown}");
    }
}
