//! Labelled faces, from whatever form a data folder has: label tables, UTKFace file names, the competition's layout.

mod competition;
mod table;
mod utkface;

use std::{
    borrow::Cow,
    collections::HashMap,
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use mien::{
    attributes::{AgeGroup, Gender, Mask, class18},
    geometry::{Landmarks, Rect},
};

pub use competition::read_eval;

/// The crop's side over the longer side of the face box, as the runtime cuts faces.
pub const CROP: f32 = 1.2;

/// Which set of pictures a face is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Set {
    UtkFace,
    FairFace,
    Masks,
    /// Any other, by the name of its table.
    Other(Cow<'static, str>),
}

impl Set {
    /// The set of a table `{name}.csv`.
    pub fn named(name: &str) -> Set {
        match name {
            "utkface" => Set::UtkFace,
            "fairface" => Set::FairFace,
            "masks" => Set::Masks,
            other => Set::Other(other.to_owned().into()),
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Set::UtkFace => "utkface",
            Set::FairFace => "fairface",
            Set::Masks => "masks",
            Set::Other(name) => name,
        }
    }
}

/// One labelled face.
#[derive(Debug, Clone, PartialEq)]
pub struct Face {
    pub set: Set,
    /// The picture: its name in the set's archive, or its path in the data folder.
    pub file: String,
    /// Faces of one person are never split. Where persons are unknown it is the photo, or `file`.
    pub person: String,
    pub mask: Mask,
    /// The mask was pasted by the makers of the set.
    pub synthetic: bool,
    pub gender: Option<Gender>,
    /// Years, both ends included; equal ends for an exact age.
    pub age: Option<RangeInclusive<u8>>,
    /// For fairness figures, never predicted; empty where unknown.
    pub race: String,
    /// Width and height of the face box in pixels, at the middle of the picture; `None` where the picture is yet to
    /// be cut, or the whole of it is the face.
    pub size: Option<[f32; 2]>,
    /// The picture's side in the photo it was cut from; small values are blurry.
    pub source_side: f32,
    pub landmarks: Option<Landmarks>,
}

impl Face {
    /// The longer side of the face box in a picture of `picture_side` pixels.
    pub fn side(&self, picture_side: u32) -> f32 {
        self.size.map_or(picture_side as f32 / CROP, |[w, h]| w.max(h))
    }

    /// The face box in a square picture of `picture_side` pixels.
    pub fn rect(&self, picture_side: u32) -> Rect {
        let side = self.side(picture_side);
        let [w, h] = self.size.unwrap_or([side, side]);
        let middle = picture_side as f32 / 2.0;
        Rect::new(middle - w / 2.0, middle - h / 2.0, w, h)
    }

    /// The group of the age, or of a range's first year.
    pub fn age_group(&self) -> Option<AgeGroup> {
        self.age.as_ref().map(|age| AgeGroup::of_years(f32::from(*age.start())))
    }

    /// The groups of people that it belongs to: what the group is by, and its value.
    pub fn groups(&self) -> impl Iterator<Item = (&'static str, String)> {
        let gender = self.gender.map(|gender| gender.name().to_owned());
        let age = self.age_group().map(|age| age.name().to_owned());
        let race = Some(self.race.clone()).filter(|race| !race.is_empty());
        [("gender", gender), ("age", age), ("race", race)]
            .into_iter()
            .filter_map(|(by, value)| Some((by, value?)))
    }

    /// The 18-class code with the mask `mask`, where gender and age are known.
    pub fn class18(&self, mask: Mask) -> Option<u8> {
        Some(class18(mask, self.gender?, self.age_group()?))
    }
}

/// The age from which "60 and over" is taught: ages between it and 60 move to the other side, in what is taught and
/// never in what is measured.
pub fn taught_age(age: &RangeInclusive<u8>, old_from: u8) -> RangeInclusive<u8> {
    let (start, end) = (*age.start(), *age.end());
    if (old_from..60).contains(&start) {
        60..=end.max(60)
    } else if (60..old_from).contains(&start) {
        59..=59
    } else {
        start..=end
    }
}

/// All faces of a data folder, or of one label table:
///
/// - the competition's layout, `train/train.csv` beside `train/images/`;
/// - label tables `NAME.csv`, each with its pictures in `NAME.tar` or the folder `NAME/`;
/// - pictures under UTKFace's file names.
pub fn read_all(data: &Path) -> Result<Vec<Face>> {
    ensure!(
        data.exists(),
        "there is no {}; --data names a folder of photos or a label table",
        data.display()
    );
    let faces = if data.is_file() {
        table::read(data)?
    } else if data.join("train/train.csv").exists() {
        competition::read(data)?
    } else {
        let tables = table::find(data)?;
        if tables.is_empty() {
            utkface::read(data)?
        } else {
            tables.iter().map(|path| table::read(path)).collect::<Result<Vec<_>>>()?.concat()
        }
    };
    ensure!(
        !faces.is_empty(),
        "{} holds no labelled faces; it must hold train/train.csv (the competition's layout), label tables (*.csv) or \
         pictures under UTKFace's names",
        data.display()
    );
    Ok(unambiguous(faces))
}

/// `faces` without those whose file name another face of the set has too: which of their labels is right, nobody knows.
fn unambiguous(mut faces: Vec<Face>) -> Vec<Face> {
    let mut seen: HashMap<(Set, String), u32> = HashMap::new();
    for face in &faces {
        *seen.entry((face.set.clone(), face.file.clone())).or_default() += 1;
    }
    let rows = faces.len();
    faces.retain(|face| seen[&(face.set.clone(), face.file.clone())] == 1);
    if faces.len() < rows {
        log::warn!(
            "{} faces are left out: another one of their table has the same file name",
            rows - faces.len()
        );
    }
    faces
}

/// The pictures right in a folder, by name, in order; hidden files are left out.
pub fn pictures_in(folder: &Path) -> Result<Vec<PathBuf>> {
    const ENDINGS: [&str; 5] = ["jpg", "jpeg", "png", "webp", "bmp"];
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("reading the folder {}", folder.display()))?;
    let mut pictures = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("reading the folder {}", folder.display()))?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let ending = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
        if !hidden && ENDINGS.contains(&ending.as_str()) && path.is_file() {
            pictures.push(path);
        }
    }
    pictures.sort();
    Ok(pictures)
}

/// `path` as it is called within `folder`.
fn within(path: &Path, folder: &Path) -> String {
    path.strip_prefix(folder).unwrap_or(path).to_string_lossy().into_owned()
}

#[cfg(test)]
pub mod tests_support {
    use super::*;
    pub use competition::tests::tree;

    /// A bare face that is its own person.
    pub fn face(gender: usize, age: u8) -> Face {
        Face {
            set: Set::named("test"),
            file: "face.jpg".into(),
            person: "face".into(),
            mask: Mask::None,
            synthetic: false,
            gender: Some(Gender::ALL[gender]),
            age: Some(age..=age),
            race: String::new(),
            size: None,
            source_side: 128.0,
            landmarks: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_age_moves_in_what_is_taught() {
        assert_eq!(taught_age(&(57..=57), 57), 60..=60);
        assert_eq!(taught_age(&(56..=56), 57), 56..=56);
        assert_eq!(taught_age(&(59..=59), 60), 59..=59);
        assert_eq!(taught_age(&(61..=61), 62), 59..=59);
        assert_eq!(taught_age(&(50..=59), 57), 50..=59);
    }

    #[test]
    fn a_folder_without_labels_says_what_it_should_hold() {
        let folder = tempfile::tempdir().unwrap();
        let error = read_all(folder.path()).unwrap_err().to_string();
        assert!(error.contains("train/train.csv"), "{error}");
        let error = read_all(&folder.path().join("nowhere")).unwrap_err().to_string();
        assert!(error.contains("there is no"), "{error}");
    }

    #[test]
    fn the_class_needs_gender_and_age() {
        let mut face = utkface::face("61_1_2_20170109.jpg").unwrap();
        assert_eq!(face.class18(Mask::Wrong), Some(11));
        face.gender = None;
        assert_eq!(face.class18(Mask::Wrong), None);
    }
}
