//! Ten varied photos that training never saw, as the shipped files label them, on one sheet.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use image::{Rgb, imageops};
use mien::{
    attributes::Mask,
    classify::Classifier,
    detect::Detector,
    engine::EngineKind,
    frame::Picture,
    geometry::{Rect, resample},
    models::Model,
    overlay::Overlay,
    track::Person,
};
use sha2::{Digest, Sha256};

use crate::{
    detector::{Mark, Scene, Split, read_marks, read_scenes},
    shipped::Files,
};

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    files: Files,
    /// The sheet: a .jpg or .png
    #[arg(long)]
    out: PathBuf,
    /// Chooses other photos
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The seed of the detector's training run, which says what it never saw
    #[arg(long, default_value_t = 0)]
    detector_seed: u64,
}

const COLUMNS: u32 = 5;
/// A photo's room on the sheet, in pixels.
const CELL: [u32; 2] = [480, 400];
const GAP: u32 = 8;

/// What a photo shows, by its marks and its longer side.
type Kind = fn(&[&Mark], f32) -> bool;

/// One photo of each kind is shown.
const KINDS: [(&str, Kind); 10] = [
    ("one face close up", |faces, side| faces.len() == 1 && longer(faces[0]) > 0.45 * side),
    ("one face at a usual distance", |faces, side| {
        faces.len() == 1 && (0.15..0.3).contains(&(longer(faces[0]) / side))
    }),
    ("one small face", |faces, side| faces.len() == 1 && longer(faces[0]) < 0.1 * side),
    ("a few people", |faces, _| no_masks(faces) && (2..=4).contains(&faces.len())),
    ("a group", |faces, _| no_masks(faces) && (6..=12).contains(&faces.len())),
    ("a crowd", |faces, _| no_masks(faces) && faces.len() > 25),
    ("somebody with a mask", |faces, side| with(faces, Mask::Worn) == 1 && longer(faces[0]) > 0.15 * side),
    ("several people with masks", |faces, _| with(faces, Mask::Worn) > 2),
    ("a mask worn wrongly", |faces, _| with(faces, Mask::Wrong) > 0),
    ("people with and without masks", |faces, _| with(faces, Mask::Worn) > 0 && with(faces, Mask::None) > 0),
];

fn longer(mark: &Mark) -> f32 {
    mark.rect.w.max(mark.rect.h)
}

fn with(faces: &[&Mark], mask: Mask) -> usize {
    faces.iter().filter(|face| face.mask == Some(mask)).count()
}

/// Nobody said whether there are any.
fn no_masks(faces: &[&Mark]) -> bool {
    faces.iter().all(|face| face.mask.is_none())
}

/// Writes the sheet.
pub fn gallery(options: &Options) -> Result<()> {
    let marks = read_marks(&options.files.data)?;
    let mut files = Split::of(marks.keys().map(String::as_str), options.detector_seed).validation;
    files.sort_by_key(|file| <[u8; 32]>::from(Sha256::digest(format!("gallery {}:{file}", options.seed))));
    let scenes = read_scenes(&options.files.data, &files, &marks)?;
    let chosen = choose(&scenes);
    if chosen.is_empty() {
        bail!("{} holds none of the photos that are kept from training", options.files.data.display());
    }

    let (face, attributes) =
        (Model::face(Some(&options.files.models))?, Model::attributes(Some(&options.files.models))?);
    let engine = EngineKind::default();
    let mut detector = Detector::new(&face, engine, 320, None)?;
    let mut classifier = Classifier::new(&attributes, engine)?;
    let overlay = Overlay::new();
    let rows = (chosen.len() as u32).div_ceil(COLUMNS);
    let [width, height] = CELL;
    let mut sheet =
        Picture::from_pixel(COLUMNS * (width + GAP) - GAP, rows * (height + GAP) - GAP, Rgb([255; 3]));
    for (n, (kind, scene)) in (0..).zip(chosen) {
        let mut picture = fitted(&scene.picture);
        let faces = detector.detect(&picture)?;
        let attributes = classifier.classify(&picture, &faces)?;
        let person = |(face, said)| Person::new(face, said, classifier.thresholds());
        let people: Vec<Person> = faces.into_iter().zip(attributes).map(person).collect();
        overlay.draw(&mut picture, &people, None);
        let marked = scene.faces.iter().filter(|mark| !mark.ignore).count();
        println!("{}: {kind}; {marked} faces marked, {} found", scene.file, people.len());
        let (column, row) = (n % COLUMNS, n / COLUMNS);
        let x = column * (width + GAP) + (width - picture.width()) / 2;
        let y = row * (height + GAP) + (height - picture.height()) / 2;
        imageops::replace(&mut sheet, &picture, x.into(), y.into());
    }
    sheet.save(&options.out).with_context(|| format!("writing {}", options.out.display()))
}

/// For each kind the first photo of it that no kind before it has taken.
fn choose(scenes: &[Scene]) -> Vec<(&'static str, &Scene)> {
    let mut taken = vec![false; scenes.len()];
    let mut chosen = Vec::new();
    for (name, is) in KINDS {
        let found = scenes.iter().enumerate().find(|(n, scene)| {
            let faces: Vec<&Mark> = scene.faces.iter().filter(|mark| !mark.ignore).collect();
            let side = scene.picture.width().max(scene.picture.height());
            !taken[*n] && is(&faces, side as f32)
        });
        if let Some((n, scene)) = found {
            taken[n] = true;
            chosen.push((name, scene));
        }
    }
    chosen
}

/// As large as the cell allows.
fn fitted(photo: &Picture) -> Picture {
    let (w, h) = (photo.width() as f32, photo.height() as f32);
    let scale = (CELL[0] as f32 / w).min(CELL[1] as f32 / h);
    let side = |length: f32| ((length * scale).round() as u32).max(1);
    resample(photo, &Rect::new(0.0, 0.0, w, h), side(w).min(CELL[0]), side(h).min(CELL[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scene(file: &str, faces: &[(f32, Option<Mask>)]) -> Scene {
        let mark = |&(side, mask): &(f32, Option<Mask>)| Mark {
            rect: Rect::new(5.0, 5.0, side, side),
            ignore: false,
            mask,
            landmarks: None,
        };
        Scene { file: file.into(), picture: Picture::new(200, 100), faces: faces.iter().map(mark).collect() }
    }

    #[test]
    fn each_kind_gets_a_photo_of_its_own() {
        let bare = Some(Mask::None);
        let scenes = [
            scene("far", &[(12.0, None)]),
            scene("close", &[(95.0, None)]),
            scene("closer", &[(99.0, None)]),
            scene("crowd", &[(5.0, None); 30]),
            scene("both", &[(40.0, Some(Mask::Worn)), (40.0, bare)]),
            scene("mask", &[(60.0, Some(Mask::Worn)), (20.0, bare)]),
            scene("nobody", &[]),
        ];
        let chosen: Vec<(&str, &str)> =
            choose(&scenes).into_iter().map(|(kind, scene)| (kind, scene.file.as_str())).collect();
        let expected = [
            ("one face close up", "close"),
            ("one small face", "far"),
            ("a crowd", "crowd"),
            ("somebody with a mask", "both"),
            ("people with and without masks", "mask"),
        ];
        assert_eq!(chosen, expected);
    }

    #[test]
    fn photos_fit_their_cells() {
        assert_eq!(fitted(&Picture::new(416, 277)).dimensions(), (480, 320));
        assert_eq!(fitted(&Picture::new(10, 100)).dimensions(), (40, 400));
        assert_eq!(fitted(&Picture::new(1000, 1)).dimensions(), (480, 1));
    }
}
