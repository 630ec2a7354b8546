//! Contact sheets of what the shipped classifier gets wrong.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use image::{Rgb, imageops};
use log::info;
use mien::{
    attributes::{AgeGroup, Attributes, Mask},
    classify::Classifier,
    engine::EngineKind,
    frame::Picture,
    models::Model,
};
use tch::Device;

use crate::{
    classifier::{evaluate::Validation, labels::Face},
    lettering::Pen,
    shipped::{Files, Kept},
};

#[derive(Debug, clap::Args)]
pub struct Options {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    kept: Kept,
    /// Where mask.png, gender.png and age.png are written
    #[arg(long)]
    out: PathBuf,
    /// Mistakes on a sheet, the surest first
    #[arg(long, default_value_t = 100)]
    count: usize,
}

/// A wrong answer.
struct Mistake {
    crop: usize,
    truth: String,
    answer: String,
    probability: f32,
}

/// Shows, for each head, the surest wrong answers of the shipped file on faces kept from training.
pub fn mistakes(options: &Options) -> Result<()> {
    let model = Model::attributes(Some(&options.files.models))?;
    let mut classifier = Classifier::new(&model, EngineKind::default())?;
    let faces = options.files.faces(&options.kept)?;
    let validation = Validation::load(&options.files.data, faces, Device::Cpu)?;
    let crops = validation.crops()?;
    let answers: Vec<Attributes> =
        crops.iter().map(|crop| classifier.attributes(crop)).collect::<Result<_, _>>()?;
    let faces: Vec<(&Face, Mask)> = validation.faces().collect();

    std::fs::create_dir_all(&options.out)
        .with_context(|| format!("making the folder {}", options.out.display()))?;
    type Judge = fn(&Face, Mask, &Attributes) -> Option<(&'static str, &'static str, f32)>;
    let heads: [(&str, Judge); 3] = [
        ("mask", |_, mask, a| Some((mask.name(), a.best().0.name(), largest(&a.mask)))),
        ("gender", |face, _, a| Some((face.gender?.name(), a.best().1.name(), largest(&a.gender)))),
        ("age", |face, _, a| Some((group(face)?.name(), a.best().2.name(), largest(&a.age)))),
    ];
    for (head, judge) in heads {
        let judged = |(crop, ((face, mask), answer)): (usize, (&(&Face, Mask), &Attributes))| {
            let (truth, said, probability) = judge(face, *mask, answer)?;
            let years = face.age.as_ref().filter(|_| head == "age");
            let years = years.map(|age| format!(" ({})", age.start())).unwrap_or_default();
            (truth != said).then(|| Mistake {
                crop,
                truth: format!("{truth}{years}"),
                answer: said.into(),
                probability,
            })
        };
        let mut wrong: Vec<Mistake> = faces.iter().zip(&answers).enumerate().filter_map(judged).collect();
        wrong.sort_by(|a, b| b.probability.total_cmp(&a.probability));
        info!("{head}: {} of {} faces wrong", wrong.len(), faces.len());
        wrong.truncate(options.count);
        draw(&wrong, &crops, &options.out.join(format!("{head}.png")))?;
    }
    Ok(())
}

/// The age group, where a range of ages lies within one.
fn group(face: &Face) -> Option<AgeGroup> {
    let age = face.age.as_ref()?;
    let [low, high] = [age.start(), age.end()].map(|&years| AgeGroup::of_years(f32::from(years)));
    (low == high).then_some(low)
}

fn largest(probabilities: &[f32]) -> f32 {
    probabilities.iter().copied().fold(0.0, f32::max)
}

const COLUMNS: usize = 10;
/// Height of the two lines under a face, and the gap beside it, in pixels.
const WORDS: u32 = 34;
const GAP: u32 = 18;

fn draw(mistakes: &[Mistake], crops: &[Picture], path: &Path) -> Result<()> {
    let side = crops.first().map_or(0, |crop| crop.width());
    let (wide, high) = (side + GAP, side + WORDS);
    let rows = mistakes.len().div_ceil(COLUMNS).max(1) as u32;
    let mut sheet = Picture::from_pixel(COLUMNS as u32 * wide, rows * high, Rgb([255; 3]));
    let pen = Pen::new()?;
    for (n, mistake) in mistakes.iter().enumerate() {
        let (x, y) = ((n % COLUMNS) as u32 * wide, (n / COLUMNS) as u32 * high);
        imageops::replace(&mut sheet, &crops[mistake.crop], i64::from(x), i64::from(y));
        pen.write(&mut sheet, &format!("is {}", mistake.truth), (x + 2, y + side + 13));
        pen.write(
            &mut sheet,
            &format!("said {} {:.2}", mistake.answer, mistake.probability),
            (x + 2, y + side + 29),
        );
    }
    sheet.save(path).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_shows_face_and_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("gender.png");
        let mistake =
            |crop| Mistake { crop, truth: "male".into(), answer: "female".into(), probability: 0.9 };
        let crops = [
            Picture::from_pixel(112, 112, Rgb([200, 0, 0])),
            Picture::from_pixel(112, 112, Rgb([0, 200, 0])),
        ];
        draw(&[mistake(1), mistake(0)], &crops, &path).unwrap();
        let sheet = image::open(&path).unwrap().into_rgb8();
        assert_eq!(sheet.get_pixel(50, 50).0, [0, 200, 0]);
        assert_eq!(sheet.get_pixel(50 + 112 + GAP, 50).0, [200, 0, 0]);
        let words = imageops::crop_imm(&sheet, 0, 112, 112, WORDS).to_image();
        assert!(words.pixels().any(|pixel| pixel.0[0] < 100));
    }

    #[test]
    fn a_range_across_groups_has_none() {
        let face = |range| Face { age: Some(range), ..crate::classifier::labels::tests_support::face(0, 1) };
        assert_eq!(group(&face(20..=29)), Some(AgeGroup::Under30));
        assert_eq!(group(&face(25..=35)), None);
    }
}
