//! Label tables of single-face pictures (UTKFace, FairFace, masks) and the split into training and validation.

use std::{collections::HashMap, ops::RangeInclusive, path::Path};

use anyhow::{Context, Result, bail};
use mien::{
    attributes::{Gender, Mask},
    geometry::{Landmarks, Rect},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Side of every picture of the single-face sets, in pixels.
pub const PICTURE_SIDE: u32 = 128;

/// Where a face comes from. Each is `{name}.tar` of pictures and `{name}.csv` of labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Set {
    UtkFace,
    FairFace,
    Masks,
}

impl Set {
    pub const ALL: [Set; 3] = [Set::UtkFace, Set::FairFace, Set::Masks];

    /// The files' name without its ending.
    pub fn name(self) -> &'static str {
        ["utkface", "fairface", "masks"][self as usize]
    }
}

/// One labelled face.
#[derive(Debug, Clone, PartialEq)]
pub struct Face {
    pub set: Set,
    /// The picture's name in the archive.
    pub file: String,
    /// Faces of one photo are never split; equal to `file` where each photo has one face.
    pub photo: String,
    pub mask: Mask,
    /// The mask was pasted by the makers of the set.
    pub synthetic: bool,
    pub gender: Option<Gender>,
    /// Years, both ends included; equal ends for an exact age.
    pub age: Option<RangeInclusive<u8>>,
    /// For fairness figures, never predicted; empty where unknown.
    pub race: String,
    /// Width and height of the face box, which lies at the middle of the picture.
    pub size: [f32; 2],
    /// The picture's side in the photo it was cut from; small values are blurry.
    pub source_side: f32,
    pub landmarks: Option<Landmarks>,
}

impl Face {
    /// The longer side of the face box, in pixels.
    pub fn side(&self) -> f32 {
        self.size[0].max(self.size[1])
    }

    /// The face box in the picture.
    pub fn rect(&self) -> Rect {
        let [w, h] = self.size;
        let middle = PICTURE_SIDE as f32 / 2.0;
        Rect::new(middle - w / 2.0, middle - h / 2.0, w, h)
    }
}

/// A row of any of the tables; the columns that a table lacks are empty.
#[derive(Deserialize)]
struct Row {
    file: String,
    #[serde(default)]
    photo: String,
    mask: Option<String>,
    synthetic: Option<u8>,
    age_low: Option<u8>,
    age_high: Option<u8>,
    gender: Option<String>,
    #[serde(default)]
    race: String,
    box_w: f32,
    box_h: f32,
    source_side: f32,
    lm_x0: Option<f32>,
    lm_y0: Option<f32>,
    lm_x1: Option<f32>,
    lm_y1: Option<f32>,
    lm_x2: Option<f32>,
    lm_y2: Option<f32>,
    lm_x3: Option<f32>,
    lm_y3: Option<f32>,
    lm_x4: Option<f32>,
    lm_y4: Option<f32>,
}

impl Row {
    fn landmarks(&self) -> Option<Landmarks> {
        Some([
            [self.lm_x0?, self.lm_y0?],
            [self.lm_x1?, self.lm_y1?],
            [self.lm_x2?, self.lm_y2?],
            [self.lm_x3?, self.lm_y3?],
            [self.lm_x4?, self.lm_y4?],
        ])
    }

    fn face(self, set: Set) -> Result<Face> {
        let mask = match self.mask.as_deref() {
            None => Mask::None,
            Some(word) => match Mask::ALL.into_iter().find(|m| m.name() == word) {
                Some(mask) => mask,
                None => bail!("mask is {word:?}; it must be worn, wrong or none"),
            },
        };
        let gender = match self.gender.as_deref() {
            None => None,
            Some(word) => match Gender::ALL.into_iter().find(|g| g.name() == word) {
                Some(gender) => Some(gender),
                None => bail!("gender is {word:?}; it must be male or female"),
            },
        };
        let age = match (self.age_low, self.age_high) {
            (Some(low), Some(high)) if low <= high => Some(low..=high),
            (None, None) => None,
            (low, high) => bail!("the age goes from {low:?} to {high:?}; give both ends, the lower first"),
        };
        Ok(Face {
            set,
            mask,
            gender,
            age,
            synthetic: self.synthetic == Some(1),
            landmarks: self.landmarks(),
            photo: if self.photo.is_empty() { self.file.clone() } else { self.photo },
            file: self.file,
            race: self.race,
            size: [self.box_w, self.box_h],
            source_side: self.source_side,
        })
    }
}

/// All faces of `{folder}/{set}.csv`, in the table's order, but those whose file name another row has too: an
/// archive's name then does not say which picture is meant.
pub fn read(folder: &Path, set: Set) -> Result<Vec<Face>> {
    let path = folder.join(format!("{}.csv", set.name()));
    let file = std::fs::File::open(&path).with_context(|| {
        format!("opening the label table {}; --data names the folder of the data packs", path.display())
    })?;
    parse(file, set).with_context(|| format!("reading {}", path.display()))
}

/// All faces of all sets.
pub fn read_all(folder: &Path) -> Result<Vec<Face>> {
    let sets = Set::ALL.map(|set| read(folder, set));
    sets.into_iter().collect::<Result<Vec<_>>>().map(|sets| sets.concat())
}

fn parse(table: impl std::io::Read, set: Set) -> Result<Vec<Face>> {
    let mut faces = Vec::new();
    for (i, row) in csv::Reader::from_reader(table).deserialize::<Row>().enumerate() {
        let face = row.map_err(anyhow::Error::from).and_then(|row| row.face(set));
        faces.push(face.with_context(|| format!("face {}", i + 1))?);
    }
    let mut seen: HashMap<String, u32> = HashMap::new();
    for face in &faces {
        *seen.entry(face.file.clone()).or_default() += 1;
    }
    faces.retain(|face| seen[&face.file] == 1);
    Ok(faces)
}

/// Which faces are held out. A face's side depends on its photo and the seed alone, so it stays the same when
/// tables grow.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Split {
    pub seed: u64,
    /// The part that is held out, 0–1.
    pub holdout: f64,
}

impl Split {
    /// Whether all faces of a photo are held out for validation.
    pub fn holds_out(&self, photo: &str) -> bool {
        let digest = Sha256::new().chain_update(self.seed.to_le_bytes()).chain_update(photo).finalize();
        let first = u64::from_le_bytes(std::array::from_fn(|i| digest[i]));
        (first as f64) < self.holdout * u64::MAX as f64
    }
}

/// The held-out pictures of each set: what evaluation through the runtime may use.
#[derive(Debug, Serialize, Deserialize)]
pub struct SplitFile {
    #[serde(flatten)]
    pub split: Split,
    pub utkface: Vec<String>,
    pub fairface: Vec<String>,
    pub masks: Vec<String>,
}

impl SplitFile {
    /// The held-out ones of `faces`.
    pub fn new(split: Split, faces: &[Face]) -> SplitFile {
        let files = |set: Set| {
            faces
                .iter()
                .filter(|f| f.set == set && split.holds_out(&f.photo))
                .map(|f| f.file.clone())
                .collect()
        };
        SplitFile {
            split,
            utkface: files(Set::UtkFace),
            fairface: files(Set::FairFace),
            masks: files(Set::Masks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    const FACES: &str = "file,age_low,age_high,gender,race,box_w,box_h,source_side,lm_x0,lm_y0,lm_x1,lm_y1,lm_x2,lm_y2,lm_x3,lm_y3,lm_x4,lm_y4,score
ff_1.webp,50,59,male,East_Asian,71.6,98.5,291,45.9,52.0,81.7,50.7,62.8,70.3,50.2,85.6,82.3,84.0,0.916
";
    const MASKS: &str = "file,dataset,photo,mask,synthetic,box_w,box_h,source_side,lm_x0,lm_y0,lm_x1,lm_y1,lm_x2,lm_y2,lm_x3,lm_y3,lm_x4,lm_y4
a_1.webp,ilc,a,wrong,0,76.6,98.5,102,41.2,53.7,73.0,52.4,56.1,70.5,49.2,85.4,74.9,87.3
a_2.webp,mfn,a,worn,1,76.6,98.5,102,,,,,,,,,,
";

    #[test]
    fn face_table() {
        let faces = parse(FACES.as_bytes(), Set::FairFace).unwrap();
        let face = &faces[0];
        assert_eq!(
            (face.mask, face.gender, face.age.clone()),
            (Mask::None, Some(Gender::Male), Some(50..=59))
        );
        assert_eq!(face.photo, "ff_1.webp");
        assert_eq!(face.landmarks.unwrap()[2], [62.8, 70.3]);
        assert!((face.rect().centre()[0] - 64.0).abs() < 1e-4);
    }

    #[test]
    fn mask_table() {
        let faces = parse(MASKS.as_bytes(), Set::Masks).unwrap();
        assert_eq!((faces[0].mask, faces[0].synthetic, faces[0].gender), (Mask::Wrong, false, None));
        assert_eq!((faces[1].mask, faces[1].synthetic, faces[1].landmarks), (Mask::Worn, true, None));
        assert_eq!(faces[1].photo, "a");
    }

    #[test]
    fn rows_that_share_a_name_are_left_out() {
        let faces = parse(MASKS.replace("a_2.webp", "a_1.webp").as_bytes(), Set::Masks).unwrap();
        assert!(faces.is_empty());
    }

    #[test]
    fn bad_labels_are_named() {
        let error = parse(FACES.replace("male", "man").as_bytes(), Set::FairFace).unwrap_err();
        assert!(format!("{error:#}").contains("face 1: gender is \"man\""), "{error:#}");
        let error = parse(FACES.replace("50,59", "59,50").as_bytes(), Set::FairFace).unwrap_err();
        assert!(format!("{error:#}").contains("lower first"), "{error:#}");
    }

    #[test]
    fn no_photo_lies_on_two_sides() {
        let template = parse(MASKS.as_bytes(), Set::Masks).unwrap().remove(0);
        let faces: Vec<Face> = (0..6000)
            .map(|i| Face {
                file: format!("{i}.webp"),
                photo: format!("photo {}", i / 3),
                ..template.clone()
            })
            .collect();
        let split = Split { seed: 7, holdout: 0.1 };
        let held: HashSet<String> = SplitFile::new(split, &faces).masks.into_iter().collect();
        let (out, kept): (Vec<&Face>, Vec<&Face>) = faces.iter().partition(|f| held.contains(&f.file));
        let photos = |side: &[&Face]| side.iter().map(|f| f.photo.clone()).collect::<HashSet<_>>();
        assert!(photos(&out).is_disjoint(&photos(&kept)));
        let part = out.len() as f64 / faces.len() as f64;
        assert!((0.08..0.12).contains(&part), "{part}");
        let other = Split { seed: 8, ..split };
        assert!(faces.iter().any(|f| split.holds_out(&f.photo) != other.holds_out(&f.photo)));
    }
}
