//! Networks that teach, and the command that writes down what they say.

use std::{path::PathBuf, thread};

use anyhow::{Context, Result, ensure};
use indicatif::ProgressBar;
use mien::{frame::Picture, models::sha256};
use tch::{Device, Kind, Tensor, no_grad};

use super::{
    COLUMNS, YEARS,
    file::{About, SoftLabels},
    head_log_p,
};
use crate::{
    augment::Input,
    classifier::{
        config::{Config, Flags, Head},
        dataset::{Dataset, paintable, to_tensor},
        ensemble::members,
        labels::Face,
        loader::{paint_view, picture},
        model::{Model, SPLIT, config_of},
        run::split,
        split::Split,
    },
    device::{parse_device, precision},
};

/// Networks whose heads are averaged.
#[derive(Debug)]
pub struct Teachers {
    models: Vec<(Model, Input)>,
    /// Files of weights and their SHA-256.
    files: Vec<(String, String)>,
    precision: Kind,
}

impl Teachers {
    /// Runs, ensembles or files of weights, for a student of the configuration `config` that learns from `faces` and is
    /// measured on what `split` holds out.
    pub fn load(
        paths: &[PathBuf],
        config: &Config,
        split: &Split,
        faces: &[Face],
        device: Device,
    ) -> Result<Teachers> {
        let (members, _) = members(paths)?;
        ensure!(!members.is_empty(), "there are no teachers; name their runs");
        let uncut = faces.iter().any(|face| face.size.is_none());
        let (mut models, mut files) = (Vec::new(), Vec::new());
        for weights in members {
            let name = weights.display();
            let own = config_of(&weights)?;
            ensure!(own.head == Head::Three, "{name}: a teacher has three heads, not {:?}", own.head);
            ensure!(
                !uncut || own.cut == config.cut,
                "{name} has learnt from photos cut by {:?}, and the student's are cut by {:?}",
                own.cut,
                config.cut
            );
            match split.is_that_of(&weights)? {
                Some(same) => ensure!(
                    same,
                    "{name} has learnt from photos that the student is measured on; give both the same --split, or \
                     --seed and --holdout"
                ),
                None => log::warn!("{name}: there is no {SPLIT} beside it to say what it has not seen"),
            }
            let bytes = std::fs::read(&weights).with_context(|| format!("reading {name}"))?;
            files.push((name.to_string(), sha256(&bytes)));
            let input = Input { size: own.size().into(), ..own.input };
            models.push((Model::load(&own, &weights, device)?, input));
        }
        Ok(Teachers { models, files, precision: precision(config.mixed_precision, device) })
    }

    pub fn count(&self) -> usize {
        self.models.len()
    }

    /// Logarithms of the mean of the `chosen` teachers' probabilities, by [`head_log_p`]'s columns, for bytes
    /// `[N, P, P, 3]` with faces in the middle of longer sides `[N]` in pixels; with `mirrored`, of each picture and its
    /// mirror image.
    pub fn say(&self, chosen: &[usize], images: &Tensor, sides: &Tensor, mirrored: bool) -> Tensor {
        /// Less than any probability that half precision tells from 0.
        const LEAST: f64 = 1e-8;
        no_grad(|| {
            let probabilities = chosen.iter().map(|&teacher| {
                let (model, input) = &self.models[teacher];
                let inputs = input.prepare(images, sides);
                let of = |inputs: &Tensor| {
                    head_log_p(&model.network.forward(&inputs.to_kind(self.precision), false)).exp()
                };
                if mirrored { (of(&inputs) + of(&inputs.flip([3]))) / 2.0 } else { of(&inputs) }
            });
            let sum = probabilities.reduce(|sum, p| sum + p);
            let sum =
                sum.unwrap_or_else(|| Tensor::zeros([0, COLUMNS as i64], (Kind::Float, sides.device())));
            (sum / chosen.len() as f64).clamp_min(LEAST).log()
        })
    }
}

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Networks with three heads that teach together: runs' folders (their best weights), ensembles' folders or files of
    /// weights; each is shown the faces at its own size and crop, and in the mirror
    #[arg(long, required = true, num_args = 1..)]
    pub(super) teachers: Vec<PathBuf>,
    /// Masks painted on each bare face, each with labels of its own; the student paints the same
    #[arg(long, default_value_t = 2)]
    pub(super) painted_views: u8,
    /// The file to write
    #[arg(long, default_value = "soft-labels.safetensors")]
    pub(super) out: PathBuf,
    /// The most that the file may take up, in MiB
    #[arg(long, default_value_t = 16.0)]
    pub(super) most_mib: f64,
    /// The student's configuration
    #[command(flatten)]
    pub(super) flags: Flags,
}

/// Photos that go through the teachers together.
const BATCH: usize = 128;

/// Writes what teachers say of a student's training photos, bare and with painted masks.
pub fn soft_labels(options: &Options) -> Result<()> {
    let config = options.flags.config()?;
    tch::set_num_threads(config.threads);
    let device = parse_device(&config.device)?;
    let (split, _, training) = split(&config)?;
    let teachers = Teachers::load(&options.teachers, &config, &split, &training, device)?;
    let framing = config.framing(&training);
    log::info!("decoding {} training faces", training.len());
    let dataset = Dataset::load(&config.data, training, framing, config.old_from, device)?;

    let painted_views = if config.painted > 0.0 { options.painted_views } else { 0 };
    let views = |face: &Face| if paintable(face) { 1 + painted_views } else { 1 };
    let views: Vec<u8> = dataset.faces.iter().map(views).collect();
    let rows = views.iter().map(|&views| usize::from(views)).sum();
    let mib = SoftLabels::bytes(views.len(), rows) as f64 / (1024.0 * 1024.0);
    ensure!(
        mib <= options.most_mib,
        "the file would take up {mib:.1} MiB; --most-mib is {}: lower --painted-views ({painted_views})",
        options.most_mib
    );
    let about = About {
        teachers: teachers.files.clone(),
        split: split.hash(),
        wardrobe: config.wardrobe,
        painted_views,
        years: YEARS,
    };
    let labels = say_of_all(&teachers, &dataset, &config, &views, rows);
    SoftLabels { about, photos: dataset.photos, views, labels }.write(&options.out)?;
    println!(
        "{}: {} photos, {rows} rows of {} teachers, {mib:.1} MiB",
        options.out.display(),
        dataset.faces.len(),
        teachers.models.len()
    );
    Ok(())
}

/// Labels `[rows, COLUMNS]` of every view of every face.
fn say_of_all(teachers: &Teachers, dataset: &Dataset, config: &Config, views: &[u8], rows: usize) -> Tensor {
    let device = dataset.sides.device();
    let labels = Tensor::zeros([rows as i64, COLUMNS as i64], (Kind::Half, Device::Cpu));
    let mut shown: Vec<(usize, u8)> = Vec::with_capacity(rows);
    for (face, &views) in views.iter().enumerate() {
        shown.extend((0..views).map(|view| (face, view)));
    }
    let all: Vec<usize> = (0..teachers.count()).collect();
    let bar = ProgressBar::new(rows as u64).with_message("asking the teachers");
    for (batch, shown) in shown.chunks(BATCH).enumerate() {
        let images = pictures(dataset, config, shown);
        let faces: Vec<i64> = shown.iter().map(|&(face, _)| face as i64).collect();
        let sides = dataset.sides.index_select(0, &Tensor::from_slice(&faces).to_device(device));
        let said = teachers.say(&all, &images.to_device(device), &sides, true).to_device(Device::Cpu);
        let mut home = labels.narrow(0, (batch * BATCH) as i64, shown.len() as i64);
        home.copy_(&said.to_kind(Kind::Half));
        bar.inc(shown.len() as u64);
    }
    bar.finish_and_clear();
    labels
}

/// Bytes `[N, P, P, 3]` of faces with the masks of their views.
fn pictures(dataset: &Dataset, config: &Config, shown: &[(usize, u8)]) -> Tensor {
    let faces: Vec<i64> = shown.iter().map(|&(face, _)| face as i64).collect();
    let images = dataset.images.index_select(0, &Tensor::from_slice(&faces));
    let mut painted: Vec<Picture> = (0..shown.len() as i64).map(|row| picture(&images.get(row))).collect();
    let (all, photos, wardrobe) = (&dataset.faces, &dataset.photos, &config.wardrobe);
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let share = shown.len().div_ceil(workers).max(1);
    thread::scope(|scope| {
        for (pictures, shown) in painted.chunks_mut(share).zip(shown.chunks(share)) {
            scope.spawn(move || {
                for (picture, &(face, view)) in
                    pictures.iter_mut().zip(shown).filter(|(_, (_, view))| *view > 0)
                {
                    paint_view(picture, &all[face], wardrobe, photos[face], view);
                }
            });
        }
    });
    to_tensor(&painted)
}
