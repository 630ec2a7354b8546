//! Commands that show painted masks.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use image::imageops;
use mien::{
    attributes::Mask,
    frame::Picture,
    geometry::{Landmarks, Rect, resample},
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tch::Tensor;

use super::{Style, Wardrobe, Wear, put_on, softness};
use crate::{
    augment::{Augmentation, Input},
    classifier::{
        dataset::{PICTURE_SIDE, read_pictures, to_pictures, to_tensor},
        evaluate::INPUT_SIZE,
        labels::read_all,
    },
};

#[derive(Debug, clap::Args)]
pub struct SheetOptions {
    /// Folder of the data packs
    #[arg(long)]
    data: PathBuf,
    /// Faces in the sheet
    #[arg(long, default_value_t = 48)]
    faces: usize,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Shows only this way to wear a mask
    #[arg(long)]
    wear: Option<Wear>,
    /// Side of a face in the sheet, in pixels
    #[arg(long, default_value_t = 160)]
    side: u32,
    /// Shows what training sees: augmented, some without a mask
    #[arg(long)]
    augmented: bool,
    /// The sheet to write
    #[arg(long)]
    out: PathBuf,
}

const COLUMNS: usize = 10;

/// Paints masks on faces of the data packs and writes them side by side.
pub fn sheet(options: &SheetOptions) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut faces = read_all(&options.data)?;
    faces.retain(|face| face.mask == Mask::None && face.landmarks.is_some());
    faces.shuffle(&mut rng);
    faces.truncate(options.faces);
    let rows = faces.len().div_ceil(COLUMNS) as u32;
    let mut sheet = Picture::new(COLUMNS as u32 * options.side, rows * options.side);
    let mut pictures = read_pictures(&options.data, &faces)?;
    let wardrobe = Wardrobe::default();
    for (picture, face) in pictures.iter_mut().zip(&faces) {
        let Some(landmarks) = &face.landmarks else { continue };
        if options.augmented && rng.random_bool(0.5) {
            continue;
        }
        let wear = options.wear.unwrap_or_else(|| wardrobe.wear(&mut rng));
        put_on(picture, landmarks, wardrobe.style(&mut rng), wear, softness(face.source_side), &mut rng);
    }
    if options.augmented {
        tch::manual_seed(options.seed as i64);
        let sides: Vec<f32> = faces.iter().map(|face| face.side(PICTURE_SIDE)).collect();
        let input = Input { size: i64::from(INPUT_SIZE), ..Input::default() };
        let inputs =
            Augmentation::default().apply(&to_tensor(&pictures), &Tensor::from_slice(&sides), &input);
        pictures = to_pictures(&inputs)?;
    }
    for (i, picture) in pictures.iter().enumerate() {
        let whole = Rect::new(0.0, 0.0, picture.width() as f32, picture.height() as f32);
        let tile = resample(picture, &whole, options.side, options.side);
        let (x, y) = ((i % COLUMNS) as i64, (i / COLUMNS) as i64);
        imageops::replace(&mut sheet, &tile, x * i64::from(options.side), y * i64::from(options.side));
    }
    sheet.save(&options.out).with_context(|| format!("writing the sheet {}", options.out.display()))
}

#[derive(Debug, clap::Args)]
pub struct PhotoOptions {
    /// The picture
    picture: PathBuf,
    /// Right eye, left eye, nose tip, right and left mouth corner of the person, in pixels: x0,y0,…,x4,y4
    #[arg(long, value_delimiter = ',', required = true, allow_hyphen_values = true)]
    landmarks: Vec<f32>,
    #[arg(long, default_value = "surgical")]
    style: Style,
    #[arg(long, default_value = "worn")]
    wear: Wear,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Blur of the mask in pixels
    #[arg(long, default_value_t = 0.4)]
    softness: f32,
    /// The picture to write; its ending says the format
    #[arg(long)]
    out: PathBuf,
}

/// Paints a mask on the face in a picture.
pub fn photo(options: &PhotoOptions) -> Result<()> {
    ensure!(
        options.landmarks.len() == 10,
        "--landmarks has {} numbers; give ten, x and y of five points",
        options.landmarks.len()
    );
    let landmarks: Landmarks =
        std::array::from_fn(|i| [options.landmarks[2 * i], options.landmarks[2 * i + 1]]);
    let picture =
        image::open(&options.picture).with_context(|| format!("reading {}", options.picture.display()))?;
    let mut picture = picture.into_rgb8();
    let mut rng = StdRng::seed_from_u64(options.seed);
    put_on(&mut picture, &landmarks, options.style, options.wear, options.softness, &mut rng);
    picture.save(&options.out).with_context(|| format!("writing {}", options.out.display()))
}
