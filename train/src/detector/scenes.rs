//! Photos with every face marked: the pack `scenes.tar` + `scenes.csv`.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result, ensure};
use mien::{
    attributes::Mask,
    frame::Picture,
    geometry::{Landmarks, Rect},
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::archive::read_tar;

/// A photo and the faces marked in it.
#[derive(Debug, Clone)]
pub struct Scene {
    pub file: String,
    pub picture: Picture,
    pub faces: Vec<Mark>,
}

/// A marked face, in pixels of its photo.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mark {
    pub rect: Rect,
    /// Too small or too unclear to ask for, but not background either.
    pub ignore: bool,
    /// How a mask is worn, where somebody said so.
    pub mask: Option<Mask>,
    pub landmarks: Option<Landmarks>,
}

/// Which photos are trained on and which are kept for measuring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    pub train: Vec<String>,
    pub validation: Vec<String>,
}

/// Photos of WIDER FACE's own validation part that are kept for measuring.
const WIDER_VALIDATION: usize = 560;
/// Of the other photos with masks, one in this many.
const ILC_VALIDATION: usize = 10;

impl Split {
    /// Of the photos from WIDER's validation part 560, of those from ILC a tenth: those whose names hash lowest, so
    /// that every run with the same `seed` keeps the same ones. WIDER's training part is all trained on.
    pub fn of<'a>(files: impl IntoIterator<Item = &'a str>, seed: u64) -> Self {
        let mut split = Self { train: Vec::new(), validation: Vec::new() };
        let (mut wider, mut ilc) = (Vec::new(), Vec::new());
        for file in files {
            match file {
                _ if file.starts_with("wv_") => wider.push(file),
                _ if file.starts_with("ilc_") => ilc.push(file),
                _ => split.train.push(file.to_owned()),
            }
        }
        let kept = ilc.len() / ILC_VALIDATION;
        for (mut files, kept) in [(wider, WIDER_VALIDATION), (ilc, kept)] {
            files.sort_by_key(|file| <[u8; 32]>::from(Sha256::digest(format!("{seed}:{file}"))));
            let (validation, train) = files.split_at(kept.min(files.len()));
            split.validation.extend(validation.iter().map(|&file| file.to_owned()));
            split.train.extend(train.iter().map(|&file| file.to_owned()));
        }
        split.train.sort();
        split.validation.sort();
        split
    }

    /// Tells splits apart: the first half of the SHA-256 of what is kept for measuring.
    pub fn hash(&self) -> String {
        let digest = Sha256::digest(self.validation.join("\n"));
        digest.iter().take(16).map(|b| format!("{b:02x}")).collect()
    }
}

/// The faces marked in each photo of `folder/scenes.csv`, by file name.
pub fn read_marks(folder: &Path) -> Result<BTreeMap<String, Vec<Mark>>> {
    let path = folder.join("scenes.csv");
    let mut table = csv::Reader::from_path(&path)
        .with_context(|| format!("opening {}; --data must name the folder that holds it", path.display()))?;
    let mut marks: BTreeMap<String, Vec<Mark>> = BTreeMap::new();
    for row in table.deserialize() {
        let row: Row = row.with_context(|| format!("reading {}", path.display()))?;
        marks.entry(row.file.clone()).or_default().push(row.mark());
    }
    Ok(marks)
}

/// The photos named in `files`, decoded, with the faces marked in them, in the order of `files`.
pub fn read_scenes(
    folder: &Path,
    files: &[String],
    marks: &BTreeMap<String, Vec<Mark>>,
) -> Result<Vec<Scene>> {
    let archive = folder.join("scenes.tar");
    let photos = read_tar(&archive)?;
    let progress = indicatif::ProgressBar::new(files.len() as u64).with_message("decoding photos");
    let scenes = files.iter().map(|file| {
        progress.inc(1);
        let bytes = photos.get(file).with_context(|| format!("{} holds no {file}", archive.display()))?;
        let picture = image::load_from_memory(bytes)
            .with_context(|| format!("decoding {file} of {}", archive.display()))?
            .into_rgb8();
        ensure!(picture.width() > 0 && picture.height() > 0, "{file} of {} is empty", archive.display());
        let faces = marks.get(file).cloned().unwrap_or_default();
        Ok(Scene { file: file.clone(), picture, faces })
    });
    scenes.collect()
}

#[derive(Deserialize)]
struct Row {
    file: String,
    x: f32,
    y: f32,
    w: f32,
    h: f32,
    ignore: u8,
    mask: String,
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
    fn mark(&self) -> Mark {
        let point = |x: Option<f32>, y: Option<f32>| Some([x?, y?]);
        let landmarks = || {
            Some([
                point(self.lm_x0, self.lm_y0)?,
                point(self.lm_x1, self.lm_y1)?,
                point(self.lm_x2, self.lm_y2)?,
                point(self.lm_x3, self.lm_y3)?,
                point(self.lm_x4, self.lm_y4)?,
            ])
        };
        let rect = Rect::new(self.x, self.y, self.w, self.h);
        let mask = Mask::ALL.into_iter().find(|mask| mask.name() == self.mask);
        Mark { rect, ignore: self.ignore != 0, mask, landmarks: landmarks() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_split_is_disjoint_whole_and_repeatable() {
        let files: Vec<String> = (0..700)
            .map(|n| format!("wv_{n}.webp"))
            .chain((0..200).map(|n| format!("ilc_{n}.webp")))
            .chain((0..50).map(|n| format!("wt_{n}.webp")))
            .collect();
        let split = Split::of(files.iter().map(String::as_str), 0);
        assert_eq!(split.validation.len(), 560 + 20);
        assert_eq!(split.train.len(), files.len() - 580);
        assert!(split.train.iter().all(|file| !split.validation.contains(file)));
        assert!(!split.validation.iter().any(|file| file.starts_with("wt_")));
        assert_eq!(split, Split::of(files.iter().rev().map(String::as_str), 0));
        let other = Split::of(files.iter().map(String::as_str), 1);
        assert_ne!(split, other);
        assert_ne!(split.hash(), other.hash());
    }

    #[test]
    fn rows_without_landmarks_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let head =
            "file,dataset,x,y,w,h,ignore,mask,lm_x0,lm_y0,lm_x1,lm_y1,lm_x2,lm_y2,lm_x3,lm_y3,lm_x4,lm_y4";
        let rows =
            "a.webp,ilc,1.5,2,30,40,0,worn,1,2,3,4,5,6,7,8,9,10\na.webp,ilc,5,5,3,3,1,unknown,,,,,,,,,,";
        std::fs::write(folder.path().join("scenes.csv"), format!("{head}\n{rows}\n")).unwrap();
        let marks = read_marks(folder.path()).unwrap();
        let faces = &marks["a.webp"];
        assert_eq!(faces[0].rect, Rect::new(1.5, 2.0, 30.0, 40.0));
        assert_eq!(faces[0].landmarks, Some([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 10.0]]));
        assert!(!faces[0].ignore && faces[1].ignore);
        assert_eq!((faces[0].mask, faces[1].mask), (Some(Mask::Worn), None));
        assert_eq!(faces[1].landmarks, None);
    }

    #[test]
    fn a_wrong_folder_is_named() {
        let error = read_marks(Path::new("/nowhere")).unwrap_err();
        assert!(format!("{error:#}").contains("/nowhere/scenes.csv"));
    }
}
