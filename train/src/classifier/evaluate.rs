//! Validation on held-out photos, cut as the runtime cuts them and read as the runtime reads them.

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use anyhow::{Context, Result};
use mien::{
    attributes::{Attributes, LOGITS, Mask, Temperatures},
    frame::Picture,
    geometry::{Rect, crop, crop_square},
};
use rand::{SeedableRng, rngs::StdRng};
use serde::Serialize;
use tch::{Device, Tensor, no_grad};

use super::{
    config::Config,
    dataset::{Cut, Framing, Pictures, normalise, paintable, read, to_tensor},
    figures::{Figures, Tally},
    labels::{CROP, Face, Set},
    prediction::Prediction,
};
use crate::{
    mask_synthesis::{Wardrobe, Wear, put_on_any, softness},
    metrics::Confusion,
};

/// Side of the runtime network's input in pixels.
pub const INPUT_SIZE: u32 = 112;

/// The square of a face that a network is shown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct View {
    /// The crop's side over the longer side of the face box; `None` shows the whole picture.
    pub crop: Option<f32>,
    /// Side of the network's input in pixels.
    pub size: u32,
}

/// As the runtime shows faces.
const RUNTIME: View = View { crop: Some(CROP), size: INPUT_SIZE };

impl View {
    /// What the network is shown of a picture's face.
    pub fn of(&self, picture: &Picture, face: &Face) -> Picture {
        let side = picture.width();
        let shown = match self.crop {
            Some(k) => crop_square(&face.rect(side), k),
            None => Rect::new(0.0, 0.0, side as f32, side as f32),
        };
        crop(picture, &shown, self.size)
    }
}

/// What logits of [`LOGITS`] each say.
pub fn answers(logits: &[f32], temperatures: Temperatures) -> Vec<Attributes> {
    logits.chunks_exact(LOGITS).map(|row| Attributes::from_logits(row, temperatures)).collect()
}

/// Faces that go through the network together.
const BATCH: i64 = 128;

/// Held-out faces, and bare ones once more with painted masks.
pub struct Validation {
    /// Bytes `[N, size, size, 3]`, in the CPU's memory.
    crops: Tensor,
    faces: Vec<Face>,
    /// How the mask painted on each face is worn.
    painted: Vec<Option<Wear>>,
    /// Pictures that were left out because they could not be read.
    pub unreadable: usize,
    device: Device,
}

/// Figures of one of the data packs.
#[derive(Debug, Default, Serialize)]
pub struct FaceFigures {
    /// Mean absolute error of the expected age in years, of exact ages.
    pub age_mae: Option<f64>,
    pub gender_accuracy: f64,
    pub age_group_accuracy: f64,
    pub age_group_macro_f1: f64,
    pub mask_accuracy: f64,
    /// Expected calibration errors, 0–1.
    pub gender_calibration_error: f64,
    pub age_calibration_error: f64,
    pub faces: u32,
    /// By gender, age group and the race that the set states, then by value.
    pub by_group: BTreeMap<&'static str, BTreeMap<String, GroupFigures>>,
}

/// Figures of a part of a set.
#[derive(Debug, Default, Serialize)]
pub struct GroupFigures {
    pub gender_accuracy: f64,
    pub age_group_accuracy: f64,
    pub age_mae: Option<f64>,
    pub faces: u32,
}

/// Figures of mask photos.
#[derive(Debug, Default, Serialize)]
pub struct MaskFigures {
    pub macro_f1: f64,
    pub accuracy: f64,
    /// Expected calibration error, 0–1.
    pub calibration_error: f64,
    pub faces: u32,
    /// `[truth][answer]` in the order of `Mask::ALL`.
    pub confusion: Confusion<3>,
}

/// Figures of faces whose painted masks are worn alike.
#[derive(Debug, Default, Serialize)]
pub struct WearFigures {
    pub mask_accuracy: f64,
    pub faces: u32,
}

/// Figures of each data pack.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub utkface: FaceFigures,
    pub fairface: FaceFigures,
    /// UTKFace with painted masks.
    pub painted: FaceFigures,
    /// The same by how the mask is worn.
    pub painted_by_wear: BTreeMap<&'static str, WearFigures>,
    /// Photos of real masks.
    pub masks: MaskFigures,
    /// Photos with masks pasted by the makers of the set.
    pub pasted: MaskFigures,
}

/// Counts of one part of a report, and by group.
#[derive(Default)]
struct Part {
    all: Tally,
    groups: BTreeMap<&'static str, BTreeMap<String, Tally>>,
}

impl Part {
    fn add(&mut self, face: &Face, mask: Mask, prediction: &Prediction) {
        self.all.add(face, mask, prediction);
        for (by, value) in face.groups() {
            self.groups.entry(by).or_default().entry(value).or_default().add(face, mask, prediction);
        }
    }

    fn faces(self) -> FaceFigures {
        let group = |(value, tally): (String, Tally)| {
            let figures = GroupFigures {
                gender_accuracy: tally.gender.0.accuracy(),
                age_group_accuracy: tally.age.0.accuracy(),
                age_mae: tally.years.value(),
                faces: tally.mask.0.total(),
            };
            (value, figures)
        };
        let groups = |(by, tallies): (&'static str, BTreeMap<String, Tally>)| {
            (by, tallies.into_iter().map(group).collect())
        };
        FaceFigures {
            age_mae: self.all.years.value(),
            gender_accuracy: self.all.gender.0.accuracy(),
            age_group_accuracy: self.all.age.0.accuracy(),
            age_group_macro_f1: self.all.age.0.macro_f1(),
            mask_accuracy: self.all.mask.0.accuracy(),
            gender_calibration_error: self.all.gender.1.error(),
            age_calibration_error: self.all.age.1.error(),
            faces: self.all.mask.0.total(),
            by_group: self.groups.into_iter().map(groups).collect(),
        }
    }

    fn masks(self) -> MaskFigures {
        let (confusion, calibration) = self.all.mask;
        MaskFigures {
            macro_f1: confusion.macro_f1(),
            accuracy: confusion.accuracy(),
            calibration_error: calibration.error(),
            faces: confusion.total(),
            confusion,
        }
    }
}

impl WearFigures {
    fn of(tally: &Tally) -> WearFigures {
        WearFigures { mask_accuracy: tally.mask.0.accuracy(), faces: tally.mask.0.total() }
    }
}

impl Validation {
    /// Cuts `faces` out of the data packs' pictures as the runtime does, and paints UTKFace's once more.
    pub fn load(data: &Path, faces: Vec<Face>, device: Device) -> Result<Validation> {
        let framing = Framing::of(&faces, Cut::Face, INPUT_SIZE);
        Validation::of(data, faces, framing, RUNTIME, &|face| face.set == Set::UtkFace, device)
    }

    /// Cuts `faces` out of their pictures as `framing` and `view` say; the bare ones that `paint` chooses are there
    /// twice, the second time with a painted mask.
    pub fn of(
        data: &Path,
        faces: Vec<Face>,
        framing: Framing,
        view: View,
        paint: &dyn Fn(&Face) -> bool,
        device: Device,
    ) -> Result<Validation> {
        let Pictures { mut faces, pictures, unreadable, .. } = read(data, faces, framing)?;
        let mut crops: Vec<Picture> = pictures.iter().zip(&faces).map(|(p, f)| view.of(p, f)).collect();
        let mut painted = vec![None; faces.len()];
        for i in 0..faces.len() {
            let face = &faces[i];
            let Some(landmarks) = face.landmarks.filter(|_| paintable(face) && paint(face)) else {
                continue;
            };
            let mut picture = pictures[i].clone();
            // The same mask on the face whatever the size of the picture: members of a vote must be shown the same.
            let mut rng = StdRng::seed_from_u64(i as u64);
            let softness = softness(face.source_side);
            let wear = put_on_any(&mut picture, &landmarks, &Wardrobe::default(), softness, &mut rng);
            crops.push(view.of(&picture, face));
            painted.push(Some(wear));
            faces.push(face.clone());
        }
        Ok(Validation { crops: to_tensor(&crops), faces, painted, unreadable, device })
    }

    /// The held-out `faces` of a run, as its configuration has them cut and painted: masks are painted where a set has
    /// no photos of them.
    pub fn of_run(config: &Config, data: &Path, faces: Vec<Face>, device: Device) -> Result<Validation> {
        let masked: HashSet<Set> =
            faces.iter().filter(|face| face.mask != Mask::None).map(|face| face.set.clone()).collect();
        let framing = config.framing(&faces);
        let paint =
            |face: &Face| config.painted > 0.0 && face.set != Set::FairFace && !masked.contains(&face.set);
        Validation::of(data, faces, framing, config.view(), &paint, device)
    }

    /// Whether any face is of a data pack, so that [`Validation::report`] has something to say.
    pub fn has_packs(&self) -> bool {
        self.faces.iter().any(|face| !matches!(face.set, Set::Other(_)))
    }

    /// Faces, those with painted masks counted again.
    pub fn len(&self) -> usize {
        self.faces.len()
    }

    /// The logits that the runtime's network gives for all faces; it takes `[N, 3, size, size]`, normalised.
    pub fn logits(&self, network: impl Fn(&Tensor) -> Tensor) -> Result<Vec<f32>> {
        self.outputs(|crops| network(&normalise(crops)))
    }

    /// What a network that takes bytes `[N, size, size, 3]` gives for all faces, row after row.
    pub fn outputs(&self, network: impl Fn(&Tensor) -> Tensor) -> Result<Vec<f32>> {
        let logits = no_grad(|| {
            let parts = self.crops.split(BATCH, 0);
            let parts: Vec<Tensor> = parts
                .iter()
                .map(|part| network(&part.to_device(self.device)).to_device(Device::Cpu))
                .collect();
            Tensor::cat(&parts, 0)
        });
        Ok(Vec::<f32>::try_from(logits.flatten(0, -1))?)
    }

    /// All faces with their masks, painted ones included, in the order of [`Validation::crops`].
    pub fn faces(&self) -> impl Iterator<Item = (&Face, Mask)> {
        self.faces.iter().zip(&self.painted).map(|(face, wear)| (face, wear.map_or(face.mask, Wear::label)))
    }

    /// What the network is shown of each face.
    pub fn crops(&self) -> Result<Vec<Picture>> {
        let side = self.crops.size()[1] as u32;
        let bytes = Vec::<u8>::try_from(self.crops.flatten(0, -1))?;
        let crops = bytes.chunks_exact((3 * side * side) as usize);
        crops
            .map(|crop| Picture::from_raw(side, side, crop.to_vec()))
            .collect::<Option<_>>()
            .context("a crop has another size")
    }

    /// How good `answers` are, one for each of [`Validation::crops`].
    pub fn report(&self, answers: &[Attributes]) -> Report {
        let predictions: Vec<Prediction> = answers.iter().map(Prediction::from_heads).collect();
        self.report_of(&predictions)
    }

    /// How good `predictions` are on each data pack.
    pub fn report_of(&self, predictions: &[Prediction]) -> Report {
        let [mut utkface, mut fairface, mut painted, mut masks, mut pasted]: [Part; 5] = Default::default();
        let mut by_wear: BTreeMap<&'static str, Tally> = BTreeMap::new();
        for (((face, mask), wear), prediction) in self.faces().zip(&self.painted).zip(predictions) {
            if let (Set::UtkFace, Some(wear)) = (&face.set, wear) {
                by_wear.entry(wear.name()).or_default().add(face, mask, prediction);
            }
            match (&face.set, wear) {
                (Set::UtkFace, None) => &mut utkface,
                (Set::UtkFace, Some(_)) => &mut painted,
                (Set::FairFace, None) => &mut fairface,
                (Set::Masks, _) if face.synthetic => &mut pasted,
                (Set::Masks, _) => &mut masks,
                (Set::FairFace, Some(_)) | (Set::Other(_), _) => continue,
            }
            .add(face, mask, prediction);
        }
        Report {
            utkface: utkface.faces(),
            fairface: fairface.faces(),
            painted: painted.faces(),
            painted_by_wear: by_wear
                .into_iter()
                .map(|(wear, tally)| (wear, WearFigures::of(&tally)))
                .collect(),
            masks: masks.masks(),
            pasted: pasted.masks(),
        }
    }

    /// How good `predictions` are on all faces, and by group.
    pub fn figures(&self, predictions: &[Prediction]) -> Figures {
        Figures::of(self.faces().zip(predictions).map(|((face, mask), prediction)| (face, mask, prediction)))
    }
}
