//! Validation on held-out photos, cut as the runtime cuts them and read as the runtime reads them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use mien::{
    attributes::{AgeGroup, Attributes, LOGITS, Mask, Temperatures},
    frame::Picture,
    geometry::{crop, crop_square},
};
use rand::{SeedableRng, rngs::StdRng};
use serde::Serialize;
use tch::{Device, Tensor, nn, no_grad};

use super::{
    dataset::{normalise, read_pictures, to_tensor},
    labels::{Face, Set, Split, read_all},
};
use crate::{
    device::parse_device,
    mask_synthesis::{Wardrobe, Wear, put_on_any, softness},
    metrics::{Confusion, Mean},
    network::{Architecture, Network, Regularisation},
};

#[derive(Debug, clap::Args)]
pub struct EvaluateOptions {
    /// Folder of the data packs
    #[arg(long)]
    data: PathBuf,
    /// The weights of a run
    #[arg(long)]
    weights: PathBuf,
    /// The run's --seed and --holdout, which say what is held out
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 0.1)]
    holdout: f64,
    /// cpu, or cuda:0
    #[arg(long, default_value = "cpu")]
    device: String,
}

/// Measures weights on held-out photos and prints a JSON object.
pub fn evaluate(options: &EvaluateOptions) -> Result<()> {
    let device = parse_device(&options.device)?;
    let split = Split { seed: options.seed, holdout: options.holdout };
    let mut faces = read_all(&options.data)?;
    faces.retain(|face| split.holds_out(&face.photo));
    let mut store = nn::VarStore::new(device);
    let net = Network::new(&store.root(), &Architecture::lite0(LOGITS as i64), Regularisation::default());
    store
        .load(&options.weights)
        .with_context(|| format!("reading the weights {}", options.weights.display()))?;
    let report = Validation::load(&options.data, faces, device)?.run(&net)?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    Ok(())
}

/// The crop's side over the longer side of the face box.
pub const CROP: f32 = 1.2;
/// Side of the network's input in pixels.
pub const INPUT_SIZE: u32 = 112;

/// What the runtime would show the network of a face.
pub fn runtime_crop(picture: &Picture, face: &Face) -> Picture {
    crop(picture, &crop_square(&face.rect(), CROP), INPUT_SIZE)
}

/// What logits of [`LOGITS`] each say.
pub fn answers(logits: &[f32], temperatures: Temperatures) -> Vec<Attributes> {
    logits.chunks_exact(LOGITS).map(|row| Attributes::from_logits(row, temperatures)).collect()
}

/// Faces that go through the network together.
const BATCH: i64 = 128;

/// Held-out faces, and the UTKFace ones once more with painted masks.
pub struct Validation {
    /// Bytes `[N, 112, 112, 3]`.
    crops: Tensor,
    faces: Vec<Face>,
    /// How the mask painted on each face is worn.
    painted: Vec<Option<Wear>>,
}

/// Figures of one set.
#[derive(Debug, Default, Serialize)]
pub struct FaceFigures {
    /// Mean absolute error of the expected age in years, of exact ages.
    pub age_mae: Option<f64>,
    pub gender_accuracy: f64,
    pub age_group_accuracy: f64,
    pub age_group_macro_f1: f64,
    pub mask_accuracy: f64,
    pub faces: u32,
    /// By the race that the set states.
    pub by_race: BTreeMap<String, GroupFigures>,
}

/// Figures of a part of a set.
#[derive(Debug, Default, Serialize)]
pub struct GroupFigures {
    pub gender_accuracy: f64,
    pub age_group_accuracy: f64,
    pub faces: u32,
}

/// Figures of mask photos.
#[derive(Debug, Default, Serialize)]
pub struct MaskFigures {
    pub macro_f1: f64,
    pub accuracy: f64,
    /// `[truth][answer]` in the order of `Mask::ALL`.
    pub confusion: Confusion<3>,
}

/// All figures of a validation.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub utkface: FaceFigures,
    pub fairface: FaceFigures,
    /// UTKFace with painted masks.
    pub painted: FaceFigures,
    /// Photos of real masks.
    pub masks: MaskFigures,
    /// Photos with masks pasted by the makers of the set.
    pub pasted: MaskFigures,
}

#[derive(Default)]
struct Tally {
    years: Mean,
    gender: Confusion<2>,
    age: Confusion<3>,
    mask: Confusion<3>,
    by_race: BTreeMap<String, (Confusion<2>, Confusion<3>)>,
}

impl Tally {
    fn add(&mut self, face: &Face, mask: Mask, answer: &Attributes) {
        let (answered_mask, gender, age) = answer.best();
        self.mask.add(mask as usize, answered_mask as usize);
        let race = self.by_race.entry(face.race.clone()).or_default();
        if let Some(truth) = face.gender {
            self.gender.add(truth as usize, gender as usize);
            race.0.add(truth as usize, gender as usize);
        }
        if let Some(range) = &face.age {
            let (low, high) = (f32::from(*range.start()), f32::from(*range.end()));
            let truth = AgeGroup::of_years(low);
            self.age.add(truth as usize, age as usize);
            race.1.add(truth as usize, age as usize);
            if low == high {
                self.years.add(f64::from((answer.years - low).abs()));
            }
        }
    }

    fn faces(self) -> FaceFigures {
        FaceFigures {
            age_mae: self.years.value(),
            gender_accuracy: self.gender.accuracy(),
            age_group_accuracy: self.age.accuracy(),
            age_group_macro_f1: self.age.macro_f1(),
            mask_accuracy: self.mask.accuracy(),
            faces: self.mask.total(),
            by_race: self
                .by_race
                .into_iter()
                .map(|(race, (gender, age))| {
                    (
                        race,
                        GroupFigures {
                            gender_accuracy: gender.accuracy(),
                            age_group_accuracy: age.accuracy(),
                            faces: gender.total(),
                        },
                    )
                })
                .collect(),
        }
    }

    fn masks(self) -> MaskFigures {
        MaskFigures { macro_f1: self.mask.macro_f1(), accuracy: self.mask.accuracy(), confusion: self.mask }
    }
}

impl Validation {
    /// Cuts `faces` out of their pictures in `folder`.
    pub fn load(folder: &Path, mut faces: Vec<Face>, device: Device) -> Result<Validation> {
        let pictures = read_pictures(folder, &faces)?;
        let mut crops: Vec<Picture> = pictures.iter().zip(&faces).map(|(p, f)| runtime_crop(p, f)).collect();
        let mut painted = vec![None; faces.len()];
        let mut rng = StdRng::seed_from_u64(0);
        for i in 0..faces.len() {
            let face = &faces[i];
            let Some(landmarks) = face.landmarks.filter(|_| face.set == Set::UtkFace) else {
                continue;
            };
            let mut picture = pictures[i].clone();
            let wear = put_on_any(
                &mut picture,
                &landmarks,
                &Wardrobe::default(),
                softness(face.source_side),
                &mut rng,
            );
            crops.push(runtime_crop(&picture, face));
            painted.push(Some(wear));
            faces.push(face.clone());
        }
        Ok(Validation { crops: to_tensor(&crops).to_device(device), faces, painted })
    }

    /// Applies the network to all faces.
    pub fn run(&self, net: &Network) -> Result<Report> {
        let logits = self.logits(|images| net.forward(images, false))?;
        Ok(self.report(&answers(&logits, Temperatures::default())))
    }

    /// The logits that a network gives for all faces, [`LOGITS`] each; the network takes `[N, 3, 112, 112]`,
    /// normalised.
    pub fn logits(&self, network: impl Fn(&Tensor) -> Tensor) -> Result<Vec<f32>> {
        let logits = no_grad(|| {
            let parts = self.crops.split(BATCH, 0);
            let parts: Vec<Tensor> = parts.iter().map(|part| network(&normalise(part))).collect();
            Tensor::cat(&parts, 0)
        });
        Ok(Vec::<f32>::try_from(logits.flatten(0, -1).to_device(Device::Cpu))?)
    }

    /// All faces with their masks, painted ones included, in the order of [`Validation::crops`].
    pub fn faces(&self) -> impl Iterator<Item = (&Face, Mask)> {
        self.faces.iter().zip(&self.painted).map(|(face, wear)| (face, wear.map_or(face.mask, Wear::label)))
    }

    /// What the network is shown of each face.
    pub fn crops(&self) -> Result<Vec<Picture>> {
        let bytes = Vec::<u8>::try_from(self.crops.flatten(0, -1).to_device(Device::Cpu))?;
        let crops = bytes.chunks_exact((3 * INPUT_SIZE * INPUT_SIZE) as usize);
        crops
            .map(|crop| Picture::from_raw(INPUT_SIZE, INPUT_SIZE, crop.to_vec()))
            .collect::<Option<_>>()
            .context("a crop has another size")
    }

    /// How good `answers` are, one for each of [`Validation::crops`].
    pub fn report(&self, answers: &[Attributes]) -> Report {
        let [mut utkface, mut fairface, mut painted, mut masks, mut pasted]: [Tally; 5] = Default::default();
        for (((face, mask), wear), answer) in self.faces().zip(&self.painted).zip(answers) {
            match (face.set, wear) {
                (Set::UtkFace, None) => &mut utkface,
                (Set::UtkFace, Some(_)) => &mut painted,
                (Set::FairFace, _) => &mut fairface,
                (Set::Masks, _) if face.synthetic => &mut pasted,
                (Set::Masks, _) => &mut masks,
            }
            .add(face, mask, answer);
        }
        Report {
            utkface: utkface.faces(),
            fairface: fairface.faces(),
            painted: painted.faces(),
            masks: masks.masks(),
            pasted: pasted.masks(),
        }
    }
}
