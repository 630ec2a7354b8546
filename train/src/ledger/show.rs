//! The ledger on the screen: a list, a comparison, curves.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{AnyEntry, ENTRY, change, folders_with};
use crate::{classifier::config::Assignment, output, plot};

#[derive(Debug, clap::Args)]
pub struct LedgerOptions {
    #[command(subcommand)]
    view: View,
}

#[derive(Debug, clap::Subcommand)]
enum View {
    /// One line for each run: state, best, and what it has otherwise than its baseline
    List {
        /// Folders of runs
        #[arg(required = true)]
        folders: Vec<PathBuf>,
        /// Only runs whose configuration has this, as --where loss=focal; `state`, `split` and `revision` work too
        #[arg(long = "where", value_name = "KEY=VALUE")]
        filters: Vec<Assignment>,
    },
    /// What two runs have differently, and what came of it
    Compare { first: PathBuf, second: PathBuf },
    /// Draw a figure of several runs, of the classifier or of the detector, epoch by epoch
    Curves {
        /// Folders of runs
        #[arg(required = true)]
        folders: Vec<PathBuf>,
        /// Which: a figure of the photos held out (macro_f1, accuracy, age_mae, …), or the path of any other in a line
        /// of metrics.jsonl: train.loss, or a detector's validation.wider.average_precision
        #[arg(long, default_value = "macro_f1")]
        figure: String,
        /// Draw what a classifier's run logs between its epochs instead: loss, or a part of it
        #[arg(long)]
        steps: bool,
        /// The SVG to write
        #[arg(long)]
        out: PathBuf,
    },
}

/// Lists, compares or draws runs.
pub fn ledger(options: &LedgerOptions) -> Result<()> {
    match &options.view {
        View::List { folders, filters } => output::print(&list(folders, filters)?)?,
        View::Compare { first, second } => output::print(&compare(first, second)?)?,
        View::Curves { folders, figure, steps, out } => {
            let svg = curves(folders, figure, *steps)?;
            std::fs::write(out, svg).with_context(|| format!("writing {}", out.display()))?;
        }
    }
    Ok(())
}

type Best = super::Best<Value>;

fn entries(folders: &[PathBuf]) -> Result<Vec<(PathBuf, AnyEntry)>> {
    let mut entries = Vec::new();
    for folder in folders {
        for run in folders_with(ENTRY, folder)? {
            entries.push((run.clone(), AnyEntry::read(&run)?));
        }
    }
    ensure!(!entries.is_empty(), "no run in {folders:?}; a run's folder holds run.json");
    Ok(entries)
}

fn list(folders: &[PathBuf], filters: &[Assignment]) -> Result<String> {
    let mut text = format!(
        "{:32} {:>9} {:>7} {:>9} {:>9} {:>7}  {}\n",
        "run", "state", "epoch", "best", "macro F1", "minutes", "otherwise than its baseline"
    );
    for (folder, entry) in entries(folders)? {
        if !filters.iter().all(|filter| matches(&entry, filter)) {
            continue;
        }
        let best = |of: fn(&Best) -> Option<String>| entry.best.as_ref().and_then(of).unwrap_or("-".into());
        let changes: Vec<String> =
            entry.changes.iter().map(|change| format!("{}={}", change.key, change.to)).collect();
        text += &format!(
            "{:32} {:>9} {:>7} {:>9} {:>9} {:>7.1}  {}: {}\n",
            folder.display().to_string(),
            entry.state,
            best(|best| Some(best.epoch.to_string())),
            best(|best| Some(format!("{:.4}", best.score))),
            best(|best| Some(format!("{:.4}", best.figures["macro_f1"].as_f64()?))),
            entry.seconds / 60.0,
            entry.baseline,
            changes.join(", "),
        );
    }
    Ok(text)
}

fn matches(entry: &AnyEntry, filter: &Assignment) -> bool {
    let wanted = filter.value.to_string();
    let bare = wanted.trim_matches('"');
    match filter.key.as_str() {
        "state" => entry.state.to_string() == bare,
        "split" => entry.split == bare,
        "revision" => entry.revision == bare,
        key => {
            let flat = change::flat(&entry.config);
            let found = flat.get(key).or_else(|| flat.get(&format!("{key}.name")));
            // A number may be written with or without its point, a list of one without its brackets.
            found.is_some_and(|found| {
                let number = |text: &str| text.parse::<f64>().ok();
                *found == wanted
                    || *found == format!("[{wanted}]")
                    || number(found).is_some_and(|value| Some(value) == number(&wanted))
            })
        }
    }
}

fn compare(first: &Path, second: &Path) -> Result<String> {
    let (a, b) = (AnyEntry::read(first)?, AnyEntry::read(second)?);
    let mut text = format!("{:28} {:>24} {:>24}\n", "", name(first), name(second));
    let mut row = |key: &str, a: String, b: String| text += &format!("{key:28} {a:>24} {b:>24}\n");
    for change in change::changes(&a.config, &b.config) {
        row(&change.key, change.from, change.to);
    }
    for (key, of) in [
        ("state", (|e| e.state.to_string()) as fn(&AnyEntry) -> String),
        ("split", |e| e.split[..e.split.len().min(12)].to_owned()),
        ("revision", |e| e.revision.clone()),
        ("machine", |e| e.hardware.name.chars().take(24).collect()),
        ("training faces", |e| e.faces.training.to_string()),
        ("minutes", |e| format!("{:.1}", e.seconds / 60.0)),
        ("best epoch", |e| e.best.as_ref().map_or("-".into(), |best| best.epoch.to_string())),
    ] {
        if of(&a) != of(&b) {
            row(key, of(&a), of(&b));
        }
    }
    let figures = |entry: AnyEntry| entry.best.map_or(Value::Null, |best| best.figures);
    let (a, b) = (figures(a), figures(b));
    let keys = a.as_object().into_iter().flat_map(|figures| figures.keys().cloned());
    for key in keys.collect::<Vec<_>>() {
        let (from, to) = (a[&key].as_f64(), b[&key].as_f64());
        let shown = |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.4}"));
        let difference = from.zip(to).map_or(String::new(), |(from, to)| format!(" ({:+.4})", to - from));
        row(&key, shown(from), shown(to) + &difference);
    }
    Ok(text)
}

fn name(folder: &Path) -> String {
    folder
        .file_name()
        .map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned())
}

fn curves(folders: &[PathBuf], figure: &str, steps: bool) -> Result<String> {
    const METRICS: &str = "metrics.jsonl";
    let (event, axis) = if steps { ("step", "step") } else { ("epoch", "epoch") };
    let pointer = match figure.contains('.') || steps {
        true => format!("/{}", figure.replace('.', "/")),
        false => format!("/overall/{figure}"),
    };
    let mut curves = Vec::new();
    for folder in folders {
        for run in folders_with(METRICS, folder)? {
            let path = run.join(METRICS);
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let mut points = Vec::new();
            for line in text.lines() {
                let line: Value =
                    serde_json::from_str(line).with_context(|| format!("reading {}", path.display()))?;
                let value = line.pointer(&pointer).and_then(Value::as_f64);
                // A detector's lines are epochs, all of them.
                if let (true, Some(at), Some(value)) =
                    (line["event"].as_str().unwrap_or("epoch") == event, line[axis].as_f64(), value)
                {
                    points.push((at, value));
                }
            }
            ensure!(!points.is_empty(), "{} has no figure {figure:?}", path.display());
            curves.push((run.display().to_string(), points));
        }
    }
    ensure!(!curves.is_empty(), "no run in {folders:?}; a run's folder holds {METRICS}");
    plot::curves(figure, axis, &curves)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        classifier::{config::Config, figures::Summary},
        ledger::{Baseline, Entry, State},
    };

    fn summary(macro_f1: f64) -> Summary {
        Summary {
            accuracy: 0.5,
            macro_f1,
            calibration_error: 0.1,
            mask_f1: 0.9,
            gender_accuracy: 0.8,
            age_f1: 0.7,
            age_mae: None,
        }
    }

    /// Two runs, of cross-entropy and of focal loss.
    fn runs(folder: &Path) -> [PathBuf; 2] {
        [("ce", 0.4), ("focal", 0.45)].map(|(loss, score)| {
            let config = Config::default().with(&[Assignment::parse("loss", loss)]).unwrap();
            let out = folder.join(loss);
            std::fs::create_dir_all(&out).unwrap();
            let entry = Entry::begin(&config, &Baseline::default(), &out).unwrap();
            let best = Some(crate::ledger::Best { score, epoch: 2, step: 20, figures: summary(score) });
            Entry { state: State::Finished, best, ..entry }.write(&out).unwrap();
            let lines: Vec<String> = (1..3)
                .map(|epoch| {
                    let overall = serde_json::to_value(summary(score * f64::from(epoch) / 2.0)).unwrap();
                    serde_json::json!({ "event": "epoch", "epoch": epoch, "overall": overall }).to_string()
                })
                .collect();
            std::fs::write(out.join("metrics.jsonl"), lines.join("\n")).unwrap();
            out
        })
    }

    #[test]
    fn runs_are_listed_and_filtered() {
        let folder = tempfile::tempdir().unwrap();
        runs(folder.path());
        let all = list(&[folder.path().to_owned()], &[]).unwrap();
        assert_eq!(all.lines().count(), 3);
        assert!(all.contains("loss.name=\"focal\"") && all.contains("0.4500"), "{all}");
        let lines = |filter: &str| {
            let filters = [filter.parse().unwrap()];
            list(&[folder.path().to_owned()], &filters).unwrap().lines().count() - 1
        };
        assert_eq!(["loss=focal", "batch=64", "state=finished", "epochs=8"].map(lines), [1, 2, 2, 2]);
        assert_eq!(["loss=f1", "state=stopped", "nothing=1"].map(lines), [0, 0, 0]);
    }

    #[test]
    fn two_runs_are_compared() {
        let folder = tempfile::tempdir().unwrap();
        let [first, second] = runs(folder.path());
        let text = compare(&first, &second).unwrap();
        let line = |key: &str| text.lines().find(|line| line.starts_with(key)).map(str::to_owned);
        assert!(line("loss.name").unwrap().contains("focal"));
        assert!(line("macro_f1").unwrap().contains("(+0.0500)"), "{text}");
        assert_eq!(line("batch"), None);
    }

    #[test]
    fn curves_are_drawn_by_run() {
        let folder = tempfile::tempdir().unwrap();
        runs(folder.path());
        let svg = curves(&[folder.path().to_owned()], "macro_f1", false).unwrap();
        assert!(svg.contains("focal") && svg.contains("<polyline"));
        let error = curves(&[folder.path().to_owned()], "beauty", false).unwrap_err().to_string();
        assert!(error.contains("beauty"), "{error}");
    }

    #[test]
    fn detectors_and_steps_have_curves_too() {
        let folder = tempfile::tempdir().unwrap();
        let draw = |name: &str, lines: &str, figure: &str, steps| {
            let run = folder.path().join(name);
            std::fs::create_dir_all(&run).unwrap();
            std::fs::write(run.join("metrics.jsonl"), lines).unwrap();
            curves(&[run], figure, steps)
        };
        let epochs = [1, 2].map(|epoch| {
            serde_json::json!({ "epoch": epoch, "validation": { "wider": { "recall": 0.5 } } }).to_string()
        });
        assert!(draw("face", &epochs.join("\n"), "validation.wider.recall", false).unwrap().contains("face"));
        let steps = [50, 100].map(|step| {
            serde_json::json!({ "event": "step", "step": step, "loss": 3.0 / f64::from(step) }).to_string()
        });
        assert!(draw("attributes", &steps.join("\n"), "loss", true).unwrap().contains("step"));
        assert!(draw("attributes", &steps.join("\n"), "loss", false).is_err());
    }
}
