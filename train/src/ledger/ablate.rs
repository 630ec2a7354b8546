//! One variable at a time: a base and runs that each change one key of it.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};

use super::{Baseline, Change, Entry, run_once};
use crate::{
    classifier::config::{Assignment, Config},
    interrupt, output,
};

#[derive(Debug, clap::Args)]
pub struct AblateOptions {
    /// The base's configuration
    base: PathBuf,
    /// A key and the values to try, as --vary loss=ce,focal,ce+f1; each makes a run that changes this key alone.
    /// Give it again for another key
    #[arg(long, required_unless_present = "variant", value_name = "KEY=VALUE,…")]
    vary: Vec<String>,
    /// A configuration to try; it must differ from the base by one key
    #[arg(long)]
    variant: Vec<PathBuf>,
    /// Every run is made once with each
    #[arg(long, value_delimiter = ',', default_value = "1,2,3")]
    seeds: Vec<u64>,
    /// The folder of the runs and of table.md; what is finished there is not run again
    #[arg(long)]
    out: PathBuf,
}

/// A run to make.
#[derive(Debug, Clone)]
struct Variant {
    /// `None` for the base.
    change: Option<Change>,
    config: Config,
}

impl Variant {
    fn name(&self) -> String {
        self.change.as_ref().map_or("base".to_owned(), |change| {
            let key = change.key.strip_suffix(".name").unwrap_or(&change.key);
            format!("{key}={}", change.to.trim_matches('"'))
        })
    }
}

/// The one change that makes `config` of `base`.
///
/// # Errors
/// When there is more than one: nobody could say which made the difference.
pub fn only_change(base: &Config, config: &Config) -> Result<Option<Change>> {
    let mut changes = config.changes_from(base)?;
    if changes.len() > 1 {
        let keys: Vec<String> = changes.iter().map(ToString::to_string).collect();
        bail!("alters {} variables at once ({}); change one at a time", keys.len(), keys.join("; "));
    }
    ensure!(
        changes.iter().all(|change| change.key != "seed"),
        "the seed is no variable; give --seeds, and every variant is run with each"
    );
    Ok(changes.pop())
}

/// The values of `--vary KEY=VALUE,VALUE`.
fn values(vary: &str) -> Result<Vec<Assignment>> {
    let (key, values) = vary
        .split_once('=')
        .with_context(|| format!("--vary {vary}: must be KEY=VALUE,VALUE, as loss=ce,focal"))?;
    values
        .split(',')
        .map(|value| {
            ensure!(
                !value.contains('='),
                "--vary {vary}: alters two variables at once; give --vary for each, and they are tried one at a time"
            );
            Ok(Assignment::parse(key.trim(), value.trim()))
        })
        .collect()
}

/// The base, then one variant for each value that is not the base's.
fn variants(base: &Config, vary: &[String], files: &[PathBuf]) -> Result<Vec<Variant>> {
    let mut variants = vec![Variant { change: None, config: base.clone() }];
    let mut add = |config: Config, named: String| -> Result<()> {
        if let Some(change) = only_change(base, &config).with_context(|| named)? {
            variants.push(Variant { change: Some(change), config });
        }
        Ok(())
    };
    for vary in vary {
        for assignment in values(vary)? {
            add(base.with(&[assignment])?, format!("--vary {vary}"))?;
        }
    }
    for path in files {
        add(Config::read(path)?, format!("--variant {}", path.display()))?;
    }
    Ok(variants)
}

/// Makes the base and its variants with every seed, and prints what each change made of the base.
pub fn ablate(options: &AblateOptions) -> Result<()> {
    let base = Config::read(&options.base)?;
    base.check()?;
    ensure!(base.members.is_empty(), "{} is of an ensemble; ablate one member", options.base.display());
    let baseline = Baseline { name: options.base.display().to_string(), config: base.clone() };
    let variants = variants(&base, &options.vary, &options.variant)?;
    for variant in &variants {
        variant.config.check().with_context(|| variant.name())?;
    }
    interrupt::listen()?;
    let mut results = Vec::new();
    for (i, variant) in variants.iter().enumerate() {
        let mut entries = Vec::new();
        for &seed in &options.seeds {
            log::info!("{} ({} of {}), seed {seed}", variant.name(), i + 1, variants.len());
            let folder = options.out.join(folder_name(&variant.name())).join(format!("seed-{seed}"));
            let config = Config { seed, ..variant.config.clone() };
            entries.push(run_once(&config, &baseline, &folder)?);
        }
        results.push((variant.name(), entries));
    }
    let table = table(&results);
    output::print(&table)?;
    let path = options.out.join("table.md");
    std::fs::write(&path, table).with_context(|| format!("writing {}", path.display()))
}

fn folder_name(name: &str) -> PathBuf {
    Path::new(&name.replace(['/', '\\', ' '], "_")).to_owned()
}

/// Mean and sample standard deviation.
fn spread(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (mean, (squares / (n - 1.0).max(1.0)).sqrt())
}

/// Figures of the best epochs: mean ± standard deviation over the seeds; of the score also the difference from the
/// base, seed by seed.
fn table(results: &[(String, Vec<Entry>)]) -> String {
    type Figure = fn(&super::Best) -> f64;
    const FIGURES: [(&str, Figure); 5] = [
        ("accuracy", |best| best.figures.accuracy),
        ("macro F1", |best| best.figures.macro_f1),
        ("mask F1", |best| best.figures.mask_f1),
        ("gender", |best| best.figures.gender_accuracy),
        ("age F1", |best| best.figures.age_f1),
    ];
    let Some((_, base)) = results.first() else { return String::new() };
    let metric = base.first().map_or(String::new(), |entry| {
        serde_json::to_value(entry.config.metric)
            .map_or(String::new(), |m| m.as_str().unwrap_or("").to_owned())
    });
    // The metric has its column already.
    let others: Vec<&(&str, Figure)> =
        FIGURES.iter().filter(|(name, _)| name.to_lowercase().replace(' ', "_") != metric).collect();
    let mut text = format!("| change | {metric} | difference from base |");
    others.iter().for_each(|(name, _)| text += &format!(" {name} |"));
    text += &format!("\n|---|---|---|{}\n", "---|".repeat(others.len()));
    let pair = |values: &[f64]| {
        let (mean, deviation) = spread(values);
        format!("{mean:.4} ± {deviation:.4}")
    };
    for (name, entries) in results {
        let of = |figure: Figure, entries: &[Entry]| -> Vec<f64> {
            entries.iter().map(|entry| entry.best.as_ref().map_or(f64::NAN, figure)).collect()
        };
        let (scores, base) = (of(|best| best.score, entries), of(|best| best.score, base));
        let differences: Vec<f64> = scores.iter().zip(&base).map(|(score, base)| score - base).collect();
        let (mean, deviation) = spread(&differences);
        let difference =
            if name == "base" { "—".to_owned() } else { format!("{mean:+.4} ± {deviation:.4}") };
        let _ = write!(text, "| {name} | {} | {difference} |", pair(&scores));
        others.iter().for_each(|(_, figure)| text += &format!(" {} |", pair(&of(*figure, entries))));
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::{config::Head, dataset::Cut, labels::tests_support::tree};

    fn names(vary: &[&str]) -> Result<Vec<String>> {
        let vary: Vec<String> = vary.iter().map(|&vary| vary.to_owned()).collect();
        Ok(variants(&Config::default(), &vary, &[])?.iter().map(Variant::name).collect())
    }

    #[test]
    fn every_variant_changes_one_key() {
        assert_eq!(
            names(&["loss=ce,focal,ce+f1", "size=112,96"]).unwrap(),
            ["base", "loss=focal", "loss=ce+f1", "sizes=[112]", "sizes=[96]"]
        );
    }

    #[test]
    fn two_changes_at_once_are_refused() {
        let error = names(&["loss=focal,size=96"]).unwrap_err().to_string();
        assert!(error.contains("two variables"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("two.toml");
        std::fs::write(&path, "batch = 32\nepochs = 2.0\n").unwrap();
        let error = format!("{:#}", variants(&Config::default(), &[], &[path]).unwrap_err());
        assert!(error.contains("alters 2 variables") && error.contains("batch: 64 → 32"), "{error}");
        let error = format!("{:#}", names(&["seed=2,3"]).unwrap_err());
        assert!(error.contains("--seeds"), "{error}");
    }

    #[test]
    fn an_ablation_runs_once_and_ends_with_a_table() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 6);
        let base = Config {
            data: folder.path().to_owned(),
            holdout: 0.4,
            cut: Cut::Centre,
            network: "simple_cnn".into(),
            head: Head::Classes,
            sizes: vec![16],
            epochs: 1.0,
            batch: 8,
            ..Config::default()
        };
        let path = folder.path().join("base.toml");
        std::fs::write(&path, toml::to_string(&base).unwrap()).unwrap();
        let options = AblateOptions {
            base: path,
            vary: vec!["loss=ce,focal".into()],
            variant: Vec::new(),
            seeds: vec![1, 2],
            out: folder.path().join("ablation"),
        };
        ablate(&options).unwrap();
        let table = std::fs::read_to_string(options.out.join("table.md")).unwrap();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(lines[2].starts_with("| base |") && lines[3].starts_with("| loss=focal |"), "{table}");
        let log = options.out.join("loss=focal/seed-2/metrics.jsonl");
        let before = std::fs::read(&log).unwrap();
        ablate(&options).unwrap();
        assert_eq!(std::fs::read(&log).unwrap(), before, "a finished run is not run again");
        assert_eq!(Entry::read(&options.out.join("loss=focal/seed-2")).unwrap().changes.len(), 2);
    }

    #[test]
    fn spread_by_hand() {
        let (mean, deviation) = spread(&[1.0, 3.0]);
        assert!((mean - 2.0).abs() < 1e-12 && (deviation - 2f64.sqrt()).abs() < 1e-12);
        assert_eq!(spread(&[5.0]), (5.0, 0.0));
    }
}
