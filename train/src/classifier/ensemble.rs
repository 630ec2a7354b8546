//! Trained networks that vote: measuring them, and answering for photos without labels.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use mien::attributes::Mask;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    config::Config,
    evaluate::Validation,
    figures::{Figures, class_name},
    labels::{Face, Set, read_all, read_eval},
    model::{Model, SPLIT, config_of, weights_of},
    prediction::{CLASSES, Prediction, Vote, vote},
    run::split,
    split::Split,
};
use crate::{
    device::parse_device,
    ledger::{Baseline, run_once},
    plot,
};

/// An ensemble's folder, as `ensemble.json` in it has it.
#[derive(Debug, Serialize, Deserialize)]
struct Ensemble {
    vote: Vote,
    /// Folders of runs, as seen from the ensemble's.
    members: Vec<PathBuf>,
}

const ENSEMBLE: &str = "ensemble.json";

impl Ensemble {
    fn read(folder: &Path) -> Result<Option<Ensemble>> {
        let path = folder.join(ENSEMBLE);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        serde_json::from_str(&text).map(Some).with_context(|| format!("reading {}", path.display()))
    }
}

/// Who votes, and how.
#[derive(Debug, clap::Args)]
pub struct Voters {
    /// Networks that answer together: a run's folder (its best weights), an ensemble's folder, or a file of weights;
    /// each is shown the faces as it was trained to see them
    #[arg(long, required = true, num_args = 1..)]
    weights: Vec<PathBuf>,
    /// How they agree [default: an ensemble's own way, or soft]
    #[arg(long)]
    vote: Option<Vote>,
    /// What each one's vote counts, as 2,1,1 [default: 1 each]
    #[arg(long, value_delimiter = ',')]
    shares: Vec<f32>,
    /// Show each network every face once more in the mirror
    #[arg(long)]
    flip: bool,
    /// cpu, or cuda:0
    #[arg(long, default_value = "cpu")]
    device: String,
    /// CPU threads of libtorch
    #[arg(long, default_value_t = 1)]
    threads: i32,
}

/// What was answered.
pub struct Answers {
    /// The faces that could be read, as the first member saw them.
    pub faces: Validation,
    pub predictions: Vec<Prediction>,
}

/// The files of weights of runs' folders, ensembles' folders and files, and how the first ensemble among them votes.
pub fn members(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, Option<Vote>)> {
    let (mut members, mut rule) = (Vec::new(), None);
    for path in paths {
        match Ensemble::read(path)? {
            Some(ensemble) => {
                rule = rule.or(Some(ensemble.vote));
                for member in ensemble.members {
                    members.push(weights_of(&path.join(member))?);
                }
            }
            None => members.push(weights_of(path)?),
        }
    }
    Ok((members, rule))
}

impl Voters {
    /// Files of weights, and how they vote.
    fn members(&self) -> Result<(Vec<PathBuf>, Vote)> {
        let (members, rule) = members(&self.weights)?;
        Ok((members, self.vote.or(rule).unwrap_or(Vote::Soft)))
    }

    /// The members' answers for `faces`, put to the vote. `painted` as the configuration of a run has it.
    fn answer(&self, data: &Path, faces: &[Face], painted: Option<f64>) -> Result<Answers> {
        tch::set_num_threads(self.threads);
        let device = parse_device(&self.device)?;
        let (members, rule) = self.members()?;
        let shares = if self.shares.is_empty() { vec![1.0; members.len()] } else { self.shares.clone() };
        ensure!(
            shares.len() == members.len() && shares.iter().all(|&share| share > 0.0),
            "--shares {:?}: give {} numbers above 0, one for each network",
            self.shares,
            members.len()
        );
        let mut seen: Option<Validation> = None;
        let mut said = Vec::new();
        for (i, weights) in members.iter().enumerate() {
            let mut config = config_of(weights)?;
            config.painted = painted.unwrap_or(config.painted);
            log::info!("{} ({} of {})", weights.display(), i + 1, members.len());
            let model = Model::load(&config, weights, device)?;
            let shown = Validation::of_run(&config, data, faces.to_vec(), device)?;
            said.push(model.predict(&shown, self.flip)?);
            match &seen {
                None => seen = Some(shown),
                Some(seen) => ensure!(
                    seen.len() == shown.len(),
                    "{} sees {} faces and the network before it {}: their runs paint masks differently",
                    weights.display(),
                    shown.len(),
                    seen.len()
                ),
            }
        }
        let faces = seen.context("nobody votes; give --weights")?;
        Ok(Answers { faces, predictions: vote(rule, &said, &shares) })
    }
}

#[derive(Debug, clap::Args)]
pub struct EvaluateOptions {
    /// A folder of photos with labels, or a label table
    #[arg(long)]
    data: PathBuf,
    #[command(flatten)]
    voters: Voters,
    /// Which photos are held out [default: split.json beside the first weights]
    #[arg(long)]
    split: Option<PathBuf>,
    /// Measure on all photos: a test set that no run has seen
    #[arg(long, conflicts_with = "split")]
    all: bool,
    /// Where there is no split file: the run's --seed and --holdout
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 0.1)]
    holdout: f64,
    /// A folder for all figures, by class and by group, and the plot of the confusion matrix
    #[arg(long)]
    out: Option<PathBuf>,
}

/// Measures networks on held-out photos and prints a JSON object.
pub fn evaluate(options: &EvaluateOptions) -> Result<()> {
    let all = read_all(&options.data)?;
    let faces = if options.all {
        all
    } else {
        let (members, _) = options.voters.members()?;
        let beside =
            members.first().map(|weights| weights.with_file_name(SPLIT)).filter(|path| path.exists());
        let split = match options.split.clone().or(beside) {
            Some(path) => Split::read(&path)?,
            None => Split::by_hash(&all, options.seed, options.holdout),
        };
        split.partition(all).0
    };
    ensure!(!faces.is_empty(), "no photo of {} is held out; --all measures on all", options.data.display());
    let answers = options.voters.answer(&options.data, &faces, None)?;
    println!("{:#}", answers.measure(options.out.as_deref())?);
    Ok(())
}

impl Answers {
    fn figures(&self) -> Figures {
        self.faces.figures(&self.predictions)
    }

    /// The figures in short; all of them go into the folder `out`.
    fn measure(&self, out: Option<&Path>) -> Result<Value> {
        let figures = self.figures();
        if let Some(out) = out {
            std::fs::create_dir_all(out).with_context(|| format!("making the folder {}", out.display()))?;
            let write = |name: &str, text: String| {
                let path = out.join(name);
                std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
            };
            write("figures.json", serde_json::to_string_pretty(&figures)?)?;
            let names: Vec<String> = (0..CLASSES).map(class_name).collect();
            let rows: Vec<&[u32]> = figures.confusion.0.iter().map(|row| row.as_slice()).collect();
            write("confusion.svg", plot::matrix("Truth (rows) and answer (columns)", &names, &rows)?)?;
        }
        let mut short = json!({ "faces": figures.faces, "overall": figures.summary() });
        if self.faces.has_packs() {
            short["validation"] = serde_json::to_value(self.faces.report_of(&self.predictions))?;
        }
        Ok(short)
    }
}

/// Trains the members of an ensemble one after another, each on the same split, and measures their vote.
pub fn train(config: &Config, baseline: &Baseline, out: &Path) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("making the folder {}", out.display()))?;
    let (split, held_out, _) = split(config)?;
    split.write(&out.join(SPLIT))?;
    let mut folders = Vec::new();
    for (i, member) in config.members.iter().enumerate() {
        let folder = PathBuf::from(format!("member-{}", i + 1));
        let member = Config { split: Some(out.join(SPLIT)), ..config.member(member)? };
        log::info!("member {} of {}: {}", i + 1, config.members.len(), member.network);
        run_once(&member, baseline, &out.join(&folder))?;
        folders.push(folder);
    }
    let path = out.join(ENSEMBLE);
    let ensemble = Ensemble { vote: config.vote, members: folders };
    std::fs::write(&path, serde_json::to_vec_pretty(&ensemble)?)
        .with_context(|| format!("writing {}", path.display()))?;
    let voters = Voters {
        weights: vec![out.to_owned()],
        vote: None,
        shares: Vec::new(),
        flip: false,
        device: config.device.clone(),
        threads: config.threads,
    };
    let answers = voters.answer(&config.data, &held_out, Some(config.painted))?;
    println!("{:#}", answers.measure(Some(out))?);
    Ok(())
}

#[derive(Debug, clap::Args)]
pub struct PredictOptions {
    /// Photos: a folder, an info.csv with a column ImageID beside a folder `images`, or a folder in the competition's
    /// layout
    input: PathBuf,
    #[command(flatten)]
    voters: Voters,
    /// The CSV to write, with columns ImageID and ans
    #[arg(long, default_value = "submission.csv")]
    out: PathBuf,
}

/// Answers for photos with their class, 0–17.
pub fn predict(options: &PredictOptions) -> Result<()> {
    let eval = read_eval(&options.input)?;
    // A set without a name: its files are paths as they stand.
    let face = |path: &PathBuf| Face {
        set: Set::Other("".into()),
        file: path.to_string_lossy().into_owned(),
        person: String::new(),
        mask: Mask::None,
        synthetic: false,
        gender: None,
        age: None,
        race: String::new(),
        size: None,
        source_side: 0.0,
        landmarks: None,
    };
    let faces: Vec<Face> = eval.paths.iter().map(face).collect();
    let answers = options.voters.answer(Path::new(""), &faces, Some(0.0))?;
    let ids: std::collections::HashMap<&str, &str> =
        faces.iter().zip(&eval.ids).map(|(face, id)| (face.file.as_str(), id.as_str())).collect();
    let named = || format!("writing {}", options.out.display());
    let mut csv = csv::Writer::from_path(&options.out).with_context(named)?;
    csv.write_record(["ImageID", "ans"])?;
    for ((face, _), prediction) in answers.faces.faces().zip(&answers.predictions) {
        csv.write_record([ids[face.file.as_str()], &prediction.class.to_string()]).with_context(named)?;
    }
    csv.flush().with_context(named)?;
    let missing = faces.len() - answers.predictions.len();
    println!("{}: {} answers", options.out.display(), answers.predictions.len());
    if missing > 0 {
        log::warn!("{missing} photos cannot be read and have no answer");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::{config::Head, dataset::Cut, labels::tests_support::tree};

    fn voters(weights: &Path) -> Voters {
        Voters {
            weights: vec![weights.to_owned()],
            vote: None,
            shares: Vec::new(),
            flip: true,
            device: "cpu".into(),
            threads: 1,
        }
    }

    #[test]
    fn from_photos_to_an_ensemble_and_a_submission() {
        let folder = tempfile::tempdir().unwrap();
        tree(folder.path(), 6);
        let member = |size: i64, cut: &str| {
            let mut table = toml::Table::new();
            table.insert("size".into(), size.into());
            table.insert("seed".into(), size.into());
            table.insert("cut".into(), cut.into());
            table
        };
        let config = Config {
            data: folder.path().to_owned(),
            holdout: 0.4,
            // Other faces for each member, but the same held out.
            limit: Some(30),
            cut: Cut::Centre,
            network: "simple_cnn".into(),
            head: Head::Classes,
            epochs: 1.0,
            batch: 8,
            vote: Vote::Hard,
            members: vec![member(16, "centre"), member(24, "whole")],
            ..Config::default()
        };
        let out = folder.path().join("run");
        train(&config, &Baseline::default(), &out).unwrap();
        let (members, rule) = voters(&out).members().unwrap();
        assert_eq!((members.len(), rule), (2, Vote::Hard));
        assert_eq!(config_of(&members[1]).unwrap().sizes, [24]);
        let entry = |i: usize| crate::ledger::Entry::read(members[i].parent().unwrap()).unwrap().faces;
        let [first, second] = [0, 1].map(entry);
        assert!(first.held_out > 0 && (first.held_out, first.training) == (second.held_out, second.training));
        assert!(out.join("confusion.svg").exists());
        let figures: Value =
            serde_json::from_slice(&std::fs::read(out.join("figures.json")).unwrap()).unwrap();
        assert!(figures["groups"]["race"]["Asian"]["accuracy"].is_number());

        let submission = folder.path().join("submission.csv");
        let options =
            PredictOptions { input: folder.path().to_owned(), voters: voters(&out), out: submission.clone() };
        predict(&options).unwrap();
        let text = std::fs::read_to_string(submission).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines[0], lines.len()), ("ImageID,ans", 5));
        for (line, id) in lines[1..].iter().zip(read_eval(folder.path()).unwrap().ids) {
            let (name, class) = line.split_once(',').unwrap();
            assert!(name == id && class.parse::<usize>().unwrap() < CLASSES, "{line}");
        }
        let evaluate_options = EvaluateOptions {
            data: folder.path().to_owned(),
            voters: Voters { shares: vec![2.0], ..voters(&out) },
            split: None,
            all: true,
            seed: 1,
            holdout: 0.1,
            out: None,
        };
        let error = evaluate(&evaluate_options).unwrap_err().to_string();
        assert!(error.contains("give 2 numbers"), "{error}");
    }
}
