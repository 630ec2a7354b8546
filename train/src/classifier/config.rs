//! All that decides how a run goes, as a TOML file and as flags.

use std::{
    path::{Path, PathBuf},
    str::FromStr,
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{
    dataset::{Cut, Framing},
    distillation,
    evaluate::View,
    figures::Summary,
    labels::Face,
    objective::Terms,
    prediction::Vote,
};
use crate::{
    augment::{Augmentation, Input, Mix},
    ledger::{Change, changes},
    loss,
    mask_synthesis::Wardrobe,
    network::Architecture,
    optimizer, output,
    schedule::Schedule,
};

/// What the network says of a face.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Head {
    /// Mask, gender, and age by year: what the camera runs
    Three,
    /// The competition's 18 classes
    Classes,
}

/// What the best checkpoint is best by, on the photos held out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Metric {
    Accuracy,
    MacroF1,
    MaskF1,
    GenderAccuracy,
    AgeF1,
    /// Mean absolute error of the age; the least is best
    AgeMae,
}

impl Metric {
    /// Its value, for which more is better; `None` where it was not measured.
    pub fn score(self, figures: &Summary) -> Option<f64> {
        match self {
            Metric::Accuracy => Some(figures.accuracy),
            Metric::MacroF1 => Some(figures.macro_f1),
            Metric::MaskF1 => Some(figures.mask_f1),
            Metric::GenderAccuracy => Some(figures.gender_accuracy),
            Metric::AgeF1 => Some(figures.age_f1),
            Metric::AgeMae => figures.age_mae.map(|years| -years),
        }
    }
}

/// A run's configuration. Paths are as seen from where the program is started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// A folder of photos with labels, or a label table.
    pub data: PathBuf,
    /// A file of `mien-train split`; without it the part `holdout` of the persons is held out, by a hash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<PathBuf>,
    pub holdout: f64,
    /// Use only this many faces, drawn by lot; with a split file, the part `holdout` of them from those held out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The age from which "60 and over" is taught.
    pub old_from: u8,
    pub cut: Cut,
    /// Part of the bare faces with landmarks that get a painted mask.
    pub painted: f64,

    pub network: String,
    pub head: Head,
    /// Weights to start from, in timm's naming.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pretrained: Option<PathBuf>,
    pub dropout: f64,
    /// Stochastic depth: the rate of the last block.
    pub drop_path: f64,
    /// Blocks, the stem first, that keep their weights.
    pub frozen_blocks: usize,
    /// Sides of the training pictures, each for an equal part of the run; the last is the network's input.
    pub sizes: Vec<i64>,

    pub epochs: f64,
    /// Finish after this many minutes, with fewer epochs if need be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minutes: Option<f64>,
    /// Faces that go through the network together.
    pub batch: usize,
    /// How much of the averaged weights stays at each step; 0 does not average.
    pub average: f64,
    /// Half precision where it is safe, on CUDA.
    pub mixed_precision: bool,
    pub metric: Metric,
    /// Epochs without a better one after which the run ends; 0 for none.
    pub patience: u64,
    pub seed: u64,
    /// `cpu` or `cuda:0`.
    pub device: String,
    /// Tries cuDNN's ways to convolve once for each size, which takes half a minute, and keeps the fastest, on CUDA.
    pub autotune: bool,
    /// CPU threads of libtorch.
    pub threads: i32,

    /// How the members vote.
    pub vote: Vote,
    pub input: Input,
    pub augment: Augmentation,
    pub mix: Mix,
    /// How often each kind of mask is painted, and each way to wear one.
    pub wardrobe: Wardrobe,
    pub optimizer: optimizer::Settings,
    pub schedule: Schedule,
    pub loss: loss::Settings,
    /// What each head counts, where there are three.
    pub terms: Terms,
    /// Teachers' word beside the labels.
    pub distillation: distillation::Settings,
    /// Networks of an ensemble, each by what it changes of the keys above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub members: Vec<Table>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::new(),
            split: None,
            holdout: 0.1,
            limit: None,
            old_from: 60,
            cut: Cut::Face,
            painted: 0.3,
            network: "tf_efficientnet_lite0".into(),
            head: Head::Three,
            pretrained: None,
            dropout: 0.2,
            drop_path: 0.05,
            frozen_blocks: 0,
            sizes: vec![80, 96, 112, 112],
            epochs: 8.0,
            minutes: None,
            batch: 64,
            average: 0.998,
            mixed_precision: false,
            metric: Metric::MacroF1,
            patience: 0,
            seed: 1,
            device: "cpu".into(),
            autotune: false,
            threads: 1,
            vote: Vote::Soft,
            input: Input::default(),
            augment: Augmentation::default(),
            mix: Mix::default(),
            wardrobe: Wardrobe::default(),
            optimizer: optimizer::Settings::default(),
            schedule: Schedule::default(),
            loss: loss::Settings::default(),
            terms: Terms::default(),
            distillation: distillation::Settings::default(),
            members: Vec::new(),
        }
    }
}

/// Short names of keys, for flags and changes.
const SHORT: [(&str, &str); 9] = [
    ("crop", "input.crop"),
    ("centre_crop", "input.centre_crop"),
    ("normalise", "input.normalise"),
    ("size", "sizes"),
    ("rate", "schedule.rate"),
    ("weight_decay", "optimizer.weight_decay"),
    ("accumulate", "optimizer.accumulate"),
    ("clip", "optimizer.clip"),
    ("warm_up", "schedule.warm_up"),
];

/// A key set to a value, `schedule.gamma=0.3`. The name of a table (`loss=focal`) means its key `name`.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    pub key: String,
    pub value: Value,
}

impl Assignment {
    pub fn new(key: &str, value: Value) -> Assignment {
        let long = SHORT.iter().find(|(short, _)| *short == key).map_or(key, |(_, long)| long);
        Assignment { key: long.to_owned(), value }
    }

    /// `value` as TOML has it; what is no TOML value is a word.
    pub fn parse(key: &str, value: &str) -> Assignment {
        let parsed = format!("v = {value}").parse::<Table>().ok().and_then(|mut table| table.remove("v"));
        Assignment::new(key, parsed.unwrap_or_else(|| Value::String(value.to_owned())))
    }
}

impl FromStr for Assignment {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Assignment> {
        let (key, value) =
            text.split_once('=').with_context(|| format!("{text:?} is not KEY=VALUE, as in rate=0.001"))?;
        Ok(Assignment::parse(key.trim(), value.trim()))
    }
}

impl Config {
    /// Reads a TOML file.
    pub fn read(path: &Path) -> Result<Config> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("reading the configuration {}", path.display()))?;
        Config::parse(&text).with_context(|| format!("reading the configuration {}", path.display()))
    }

    /// Errors say the line.
    pub fn parse(text: &str) -> Result<Config> {
        let config: Config = toml::from_str(text)?;
        for (i, member) in config.members.iter().enumerate() {
            config.member(member).with_context(|| format!("member {}", i + 1))?;
        }
        Ok(config)
    }

    /// With some keys set otherwise.
    pub fn with(&self, assignments: &[Assignment]) -> Result<Config> {
        let mut table = Table::try_from(self)?;
        for assignment in assignments {
            assign(&mut table, assignment)?;
        }
        table.try_into().with_context(|| {
            let keys: Vec<String> = assignments.iter().map(|a| format!("{}={}", a.key, a.value)).collect();
            format!("setting {}", keys.join(", "))
        })
    }

    /// The configuration of one member of the ensemble.
    pub fn member(&self, changes: &Table) -> Result<Config> {
        let assignments: Vec<Assignment> =
            changes.iter().map(|(key, value)| Assignment::new(key, value.clone())).collect();
        Config { members: Vec::new(), ..self.clone() }.with(&assignments)
    }

    /// What `self` has otherwise than `base`.
    pub fn changes_from(&self, base: &Config) -> Result<Vec<Change>> {
        Ok(changes(&serde_json::to_value(base)?, &serde_json::to_value(self)?))
    }

    /// Refuses what no run can be made of.
    pub fn check(&self) -> Result<()> {
        ensure!(self.data != Path::new(""), "data is not set; give --data FOLDER");
        ensure!(self.batch > 0, "batch is 0; it must be at least 1");
        ensure!(!self.sizes.is_empty(), "sizes is empty; give the side of the pictures, as --sizes 112");
        let least = Architecture::by_name(&self.network, self.head.outputs() as i64)?.least_side;
        ensure!(
            self.sizes.iter().all(|&side| side >= least),
            "sizes {:?}: the least for {} is {least} pixels",
            self.sizes,
            self.network
        );
        for (key, part) in [("holdout", self.holdout), ("dropout", self.dropout), ("painted", self.painted)] {
            ensure!((0.0..=1.0).contains(&part), "{key} is {part}; it must lie between 0 and 1");
        }
        ensure!(self.epochs > 0.0, "epochs is {}; it must be more than 0", self.epochs);
        self.distillation.check(self.head)
    }

    /// Side of the network's input.
    pub fn size(&self) -> u32 {
        self.sizes.last().map_or(0, |&size| size as u32)
    }

    /// What the network is shown of a face when it is measured.
    pub fn view(&self) -> View {
        View { crop: self.input.centre_crop.then_some(self.input.crop as f32), size: self.size() }
    }

    /// How pictures of `faces` are kept.
    pub fn framing(&self, faces: &[Face]) -> Framing {
        Framing::of(faces, self.cut, self.sizes.iter().copied().max().unwrap_or(0) as u32)
    }
}

fn assign(table: &mut Table, Assignment { key, value }: &Assignment) -> Result<()> {
    let (first, rest) = key.split_once('.').map_or((key.as_str(), None), |(first, rest)| (first, Some(rest)));
    match (table.get_mut(first), rest) {
        (Some(Value::Table(inner)), Some(rest)) => {
            return assign(inner, &Assignment { key: rest.to_owned(), value: value.clone() });
        }
        (Some(Value::Table(inner)), None) => match value {
            Value::Table(values) => inner.extend(values.clone()),
            word => {
                inner.insert("name".to_owned(), word.clone());
            }
        },
        (_, Some(_)) => bail!("there is no table {first} for the key {key}"),
        // A list of one may be given as the one.
        (Some(Value::Array(_)), None) if !value.is_array() => {
            table.insert(first.to_owned(), Value::Array(vec![value.clone()]));
        }
        (_, None) => {
            table.insert(first.to_owned(), value.clone());
        }
    }
    Ok(())
}

/// The commonest keys as flags; what is not given stays as the configuration has it.
#[derive(Debug, Default, Serialize, clap::Args)]
struct Keys {
    /// A folder of photos with labels, or a label table
    #[arg(long)]
    data: Option<PathBuf>,
    /// Which photos are held out: a file of `mien-train split`
    #[arg(long)]
    split: Option<PathBuf>,
    /// Part of the persons that is held out where there is no split file [default: 0.1]
    #[arg(long)]
    holdout: Option<f64>,
    /// Use only this many faces, drawn by lot; with --split, the part --holdout of them from those held out
    #[arg(long)]
    limit: Option<usize>,
    /// The age from which "60 and over" is taught, as 57; measuring keeps to 60
    #[arg(long)]
    old_from: Option<u8>,
    /// How photos without a face box become squares [default: face]
    #[arg(long)]
    cut: Option<Cut>,
    /// Part of the bare faces that get a painted mask [default: 0.3]
    #[arg(long)]
    painted: Option<f64>,
    /// efficientnet_b0 to _b7, efficientnet_lite0 to _lite4, simple_cnn, inception_resnet_v1 (FaceNet's, to teach); tf_
    /// before the name for TensorFlow's padding, _075 behind it for 75 % of the channels
    /// [default: tf_efficientnet_lite0]
    #[arg(long)]
    network: Option<String>,
    /// What the network says of a face [default: three]
    #[arg(long)]
    head: Option<Head>,
    /// Weights to start from, in timm's naming, as train/scripts/pretrained_lite.py writes them, or, for
    /// inception_resnet_v1, facenet-pytorch's, as pretrained_facenet.py does
    #[arg(long)]
    pretrained: Option<PathBuf>,
    /// Blocks, the stem first, that keep their weights [default: 0]; 4 make a CPU 1.6 times as fast
    #[arg(long)]
    frozen_blocks: Option<usize>,
    /// Sides of the training pictures, each for an equal part of the run (progressive resizing)
    /// [default: 80,96,112,112]
    #[arg(long, value_delimiter = ',')]
    sizes: Option<Vec<i64>>,
    /// Passes over the training faces [default: 8]
    #[arg(long)]
    epochs: Option<f64>,
    /// Finish after this many minutes, with fewer epochs if need be
    #[arg(long)]
    minutes: Option<f64>,
    /// Faces that go through the network together [default: 64]
    #[arg(long)]
    batch: Option<usize>,
    /// Batches whose gradients make one step [default: 1]
    #[arg(long)]
    accumulate: Option<u32>,
    /// The largest learning rate [default: 8e-4]
    #[arg(long)]
    rate: Option<f64>,
    /// [default: 0.02]
    #[arg(long)]
    weight_decay: Option<f64>,
    /// adamw, madgrad or sgd [default: adamw]
    #[arg(long)]
    optimizer: Option<String>,
    /// cosine, step or constant [default: cosine]
    #[arg(long)]
    schedule: Option<String>,
    /// ce, weighted-ce, effective-ce, focal, smooth, f1, or a sum as ce+f1 [default: ce]
    #[arg(long)]
    loss: Option<String>,
    /// Half precision where it is safe, on CUDA
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    mixed_precision: Option<bool>,
    /// What the best checkpoint is best by [default: macro_f1]
    #[arg(long)]
    metric: Option<Metric>,
    /// Stop after this many epochs without a better one [default: 0, never]
    #[arg(long)]
    patience: Option<u64>,
    /// [default: 1]
    #[arg(long)]
    seed: Option<u64>,
    /// cpu, or cuda:0 [default: cpu]
    #[arg(long)]
    device: Option<String>,
    /// CPU threads of libtorch [default: 1]
    #[arg(long)]
    threads: Option<i32>,
}

/// A configuration on the command line: a file, and what is set otherwise.
#[derive(Debug, Default, clap::Args)]
pub struct Flags {
    /// A configuration in TOML; other flags go before it. A finished run's folder has one, and so has
    /// `mien-train recipe`
    #[arg(long)]
    config: Option<PathBuf>,
    /// Set any key of the configuration, as --set schedule.gamma=0.3
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<Assignment>,
    #[command(flatten)]
    keys: Keys,
}

impl Flags {
    /// As if each assignment was given with `--set`.
    #[cfg(test)]
    pub fn of(set: &[Assignment]) -> Flags {
        Flags { set: set.to_vec(), ..Flags::default() }
    }

    pub fn config(&self) -> Result<Config> {
        let base = self.config.as_deref().map(Config::read).transpose()?.unwrap_or_default();
        let flags = Table::try_from(&self.keys)?;
        let flags = flags.into_iter().map(|(key, value)| Assignment::new(&key, value));
        let config = base.with(&flags.chain(self.set.iter().cloned()).collect::<Vec<_>>())?;
        config.check()?;
        Ok(config)
    }
}

/// The recipes that ship with the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Recipe {
    /// The competition team's: EfficientNet, MADGRAD, halved rates, no normalisation, CE + F1, dropout, six that vote
    #[value(name = "competition-2021")]
    Competition2021,
    /// The shipped network's: Lite0 with three heads
    Camera,
    /// What the shipped network goes through after `camera`
    Finish,
    /// Six networks with three heads, to teach the camera's, for a GPU
    Teachers,
    /// Two more, which begin with what FaceNet knows of faces, for a GPU
    Facenet,
    /// The shipped network's last two runs, taught by the six and then by those two, for a GPU
    Student,
}

impl Recipe {
    pub fn text(self) -> &'static str {
        match self {
            Recipe::Competition2021 => include_str!("../../recipes/competition-2021.toml"),
            Recipe::Camera => include_str!("../../recipes/camera.toml"),
            Recipe::Finish => include_str!("../../recipes/finish.toml"),
            Recipe::Teachers => include_str!("../../recipes/teachers.toml"),
            Recipe::Facenet => include_str!("../../recipes/facenet.toml"),
            Recipe::Student => include_str!("../../recipes/student.toml"),
        }
    }
}

#[derive(Debug, clap::Args)]
pub struct RecipeOptions {
    recipe: Recipe,
}

/// Prints a recipe as a configuration that runs.
pub fn recipe(options: &RecipeOptions) -> Result<()> {
    output::print(options.recipe.text())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(words: &str) -> Result<Config> {
        Cli::try_parse_from(["test"].into_iter().chain(words.split_whitespace()))?.flags.config()
    }

    #[test]
    fn flags_go_before_the_file_and_the_file_before_defaults() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("base.toml");
        std::fs::write(&path, "epochs = 3\nbatch = 16\n[schedule]\nname = \"step\"\ngamma = 0.5\n").unwrap();
        let words = format!(
            "--config {} --data d --batch 32 --rate 0.1 --loss ce+f1 --sizes 64,80 --set schedule.gamma=0.3",
            path.display()
        );
        let config = flags(&words).unwrap();
        assert_eq!((config.epochs, config.batch, config.sizes.clone()), (3.0, 32, vec![64, 80]));
        assert_eq!((config.schedule.gamma, config.schedule.rate), (0.3, 0.1));
        assert_eq!(String::from(config.loss.name), "ce+f1");
        assert_eq!(config.optimizer, Config::default().optimizer);
    }

    #[test]
    fn unknown_keys_are_errors_with_their_line() {
        let error = format!("{:#}", Config::parse("epochs = 3\nlerning_rate = 0.1\n").unwrap_err());
        assert!(error.contains("line 2") && error.contains("lerning_rate"), "{error}");
        let error = format!("{:#}", Config::parse("[loss]\nname = \"magic\"\n").unwrap_err());
        assert!(error.contains("line 2") && error.contains("magic"), "{error}");
        let error = format!("{:#}", flags("--data d --set lerning_rate=3").err().unwrap());
        assert!(error.contains("lerning_rate"), "{error}");
        let error = format!("{:#}", Config::parse("[[members]]\nnetwrk = \"x\"\n").unwrap_err());
        assert!(error.contains("member 1") && error.contains("netwrk"), "{error}");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        for (words, named) in [
            ("--epochs 3", "--data"),
            ("--data d --batch 0", "batch"),
            ("--data d --painted 1.5", "painted"),
            ("--data d --sizes 4", "the least for tf_efficientnet_lite0 is 8"),
            ("--data d --sizes 80,64 --network inception_resnet_v1", "is 75 pixels"),
            ("--data d --network resnet18", "inception_resnet_v1"),
        ] {
            let error = flags(words).unwrap_err().to_string();
            assert!(error.contains(named), "{words}: {error}");
        }
    }

    #[test]
    fn a_configuration_survives_its_file() {
        let config = Config::parse(Recipe::Competition2021.text()).unwrap();
        assert_eq!(Config::parse(&toml::to_string(&config).unwrap()).unwrap(), config);
        assert_eq!(config.members.len(), 6);
        for member in &config.members {
            config.member(member).unwrap();
        }
        assert_eq!(
            Config::parse(Recipe::Camera.text()).unwrap().changes_from(&Config::default()).unwrap(),
            [],
            "the camera's recipe is what the program does unasked"
        );
    }

    #[test]
    fn the_finish_and_the_student_are_of_the_cameras_network() {
        let camera = Config::default();
        let network = |config: &Config| (config.network.clone(), config.head, config.size(), config.input);
        for recipe in [Recipe::Finish, Recipe::Student] {
            let config = Config::parse(recipe.text()).unwrap();
            assert_eq!(network(&config), network(&camera));
            assert_eq!((config.seed, config.holdout), (camera.seed, camera.holdout));
        }
    }

    #[test]
    fn teachers_and_student_are_shown_the_same_pictures() {
        let [teachers, student] =
            [Recipe::Teachers, Recipe::Student].map(|recipe| Config::parse(recipe.text()).unwrap());
        assert_eq!((teachers.augment, teachers.wardrobe), (student.augment, student.wardrobe));
    }

    #[test]
    fn the_teachers_are_six_and_two_and_keep_the_cameras_photos_from_training() {
        let camera = Config::default();
        for (recipe, count) in [(Recipe::Teachers, 6), (Recipe::Facenet, 2)] {
            let config = Config::parse(recipe.text()).unwrap();
            assert_eq!((config.seed, config.holdout), (camera.seed, camera.holdout));
            assert_eq!(config.members.len(), count);
            for member in &config.members {
                let member = config.member(member).unwrap();
                Config { data: "d".into(), ..member.clone() }.check().unwrap();
                assert_eq!(member.head, camera.head);
            }
        }
    }

    #[test]
    fn nonsense_about_teachers_is_refused() {
        for (words, named) in [
            ("--set distillation.weight=2", "distillation.weight"),
            ("--set distillation.temperature=0", "distillation.temperature"),
            ("--set distillation.labels=a --set distillation.teachers=[\"b\"]", "one of them"),
            ("--set distillation.labels=a --head classes", "three heads"),
        ] {
            let error = flags(&format!("--data d {words}")).unwrap_err().to_string();
            assert!(error.contains(named), "{words}: {error}");
        }
    }

    #[test]
    fn changes_are_listed_by_key() {
        let base = Config::default();
        let other = base
            .with(&["loss=focal".parse().unwrap(), "size=96".parse().unwrap(), "minutes=5".parse().unwrap()])
            .unwrap();
        let changes: Vec<String> =
            other.changes_from(&base).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(
            changes,
            ["loss.name: \"ce\" → \"focal\"", "minutes:  → 5.0", "sizes: [80, 96, 112, 112] → [96]"]
        );
    }
}
