//! Label tables: a CSV file with a row for each face, its pictures in a tar archive or a folder of the same name.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use mien::{
    attributes::{Gender, Mask},
    geometry::Landmarks,
};
use serde::Deserialize;

use super::{Face, Set};
use crate::archive::OwnNames;

/// A row of a table; only `file` must be there.
#[derive(Deserialize)]
struct Row {
    file: String,
    #[serde(default, alias = "person")]
    photo: String,
    mask: Option<String>,
    synthetic: Option<u8>,
    age: Option<u8>,
    age_low: Option<u8>,
    age_high: Option<u8>,
    gender: Option<String>,
    #[serde(default)]
    race: String,
    box_w: Option<f32>,
    box_h: Option<f32>,
    source_side: Option<f32>,
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

/// What `source_side` is taken to be where a table does not say it: sharp.
const SHARP: f32 = 256.0;

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
        let known = |word: &Option<String>| word.clone().filter(|word| !word.is_empty());
        let mask = match known(&self.mask) {
            None => Mask::None,
            Some(word) => match Mask::ALL.into_iter().find(|m| m.name() == word) {
                Some(mask) => mask,
                None => bail!("mask is {word:?}; it must be worn, wrong or none"),
            },
        };
        let gender = match known(&self.gender) {
            None => None,
            Some(word) => match Gender::ALL.into_iter().find(|g| g.name() == word) {
                Some(gender) => Some(gender),
                None => bail!("gender is {word:?}; it must be male or female"),
            },
        };
        let age = match (self.age_low.or(self.age), self.age_high.or(self.age)) {
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
            person: if self.photo.is_empty() { self.file.clone() } else { self.photo },
            file: self.file,
            race: self.race,
            size: self.box_w.zip(self.box_h).map(|(w, h)| [w, h]),
            source_side: self.source_side.unwrap_or(SHARP),
        })
    }
}

/// The label tables of single faces in a folder, the known sets first. Tables of scenes, which place many faces in
/// a photo with columns `x` and `y`, are the detector's.
pub fn find(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("reading the folder {}", folder.display()))?;
    let mut tables = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("reading the folder {}", folder.display()))?.path();
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        if hidden || path.extension().is_none_or(|e| e != "csv") {
            continue;
        }
        let mut reader =
            csv::Reader::from_path(&path).with_context(|| format!("opening {}", path.display()))?;
        let columns = reader.headers().with_context(|| format!("reading {}", path.display()))?;
        let has = |name: &str| columns.iter().any(|column| column == name);
        if has("file") && !(has("x") && has("y")) {
            tables.push(path);
        }
    }
    tables.sort_by_key(|path| (set(path), path.clone()));
    Ok(tables)
}

fn set(path: &Path) -> Set {
    Set::named(&path.file_stem().unwrap_or_default().to_string_lossy())
}

/// All faces of a table, in its order. Those whose pictures are in an archive have names of their own there.
pub fn read(path: &Path) -> Result<Vec<Face>> {
    let file =
        std::fs::File::open(path).with_context(|| format!("opening the label table {}", path.display()))?;
    let mut faces = parse(file, &set(path)).with_context(|| format!("reading {}", path.display()))?;
    if path.with_extension("tar").exists() {
        let mut names = OwnNames::default();
        faces.iter_mut().for_each(|face| face.file = names.next(&face.file));
    }
    Ok(faces)
}

fn parse(table: impl std::io::Read, set: &Set) -> Result<Vec<Face>> {
    let rows = csv::Reader::from_reader(table).into_deserialize::<Row>();
    let faces = rows.enumerate().map(|(i, row)| {
        let face = row.map_err(anyhow::Error::from).and_then(|row| row.face(set.clone()));
        face.with_context(|| format!("face {}", i + 1))
    });
    faces.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FACES: &str = "file,age_low,age_high,gender,race,box_w,box_h,source_side,lm_x0,lm_y0,lm_x1,lm_y1,lm_x2,lm_y2,lm_x3,lm_y3,lm_x4,lm_y4,score
ff_1.webp,50,59,male,East_Asian,71.6,98.5,291,45.9,52.0,81.7,50.7,62.8,70.3,50.2,85.6,82.3,84.0,0.916
";
    const MASKS: &str = "file,dataset,photo,mask,synthetic,box_w,box_h,source_side,lm_x0,lm_y0,lm_x1,lm_y1,lm_x2,lm_y2,lm_x3,lm_y3,lm_x4,lm_y4
a_1.webp,ilc,a,wrong,0,76.6,98.5,102,41.2,53.7,73.0,52.4,56.1,70.5,49.2,85.4,74.9,87.3
a_2.webp,mfn,a,worn,1,76.6,98.5,102,,,,,,,,,,
";

    #[test]
    fn face_table() {
        let faces = parse(FACES.as_bytes(), &Set::FairFace).unwrap();
        let face = &faces[0];
        assert_eq!(
            (face.mask, face.gender, face.age.clone()),
            (Mask::None, Some(Gender::Male), Some(50..=59))
        );
        assert_eq!(face.person, "ff_1.webp");
        assert_eq!(face.landmarks.unwrap()[2], [62.8, 70.3]);
        assert!((face.rect(128).centre()[0] - 64.0).abs() < 1e-4);
    }

    #[test]
    fn mask_table() {
        let faces = parse(MASKS.as_bytes(), &Set::Masks).unwrap();
        assert_eq!((faces[0].mask, faces[0].synthetic, faces[0].gender), (Mask::Wrong, false, None));
        assert_eq!((faces[1].mask, faces[1].synthetic, faces[1].landmarks), (Mask::Worn, true, None));
        assert_eq!(faces[1].person, "a");
    }

    #[test]
    fn a_table_of_ones_own_needs_only_names_and_labels() {
        let faces = parse("file,person,age,gender\nx.jpg,ann,63,female\n".as_bytes(), &Set::named("mine"));
        let face = &faces.unwrap()[0];
        assert_eq!((face.person.as_str(), face.age.clone(), face.size), ("ann", Some(63..=63), None));
        assert!((face.rect(120).w - 100.0).abs() < 1e-3);
    }

    #[test]
    fn rows_that_share_a_name_are_left_out() {
        let faces = parse(MASKS.replace("a_2.webp", "a_1.webp").as_bytes(), &Set::Masks).unwrap();
        assert!(super::super::unambiguous(faces).is_empty());
    }

    #[test]
    fn bad_labels_are_named() {
        let error = parse(FACES.replace("male", "man").as_bytes(), &Set::FairFace).unwrap_err();
        assert!(format!("{error:#}").contains("face 1: gender is \"man\""), "{error:#}");
        let error = parse(FACES.replace("50,59", "59,50").as_bytes(), &Set::FairFace).unwrap_err();
        assert!(format!("{error:#}").contains("lower first"), "{error:#}");
    }

    #[test]
    fn tables_of_scenes_are_not_taken_for_faces() {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [
            ("scenes.csv", "file,x,y,w,h\n"),
            ("mine.csv", "file,age\n"),
            ("masks.csv", MASKS),
            (".hidden.csv", FACES),
            ("notes.csv", "a,b\n"),
        ] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let found = find(folder.path()).unwrap();
        assert_eq!(found, ["masks.csv", "mine.csv"].map(|name| folder.path().join(name)));
    }
}
