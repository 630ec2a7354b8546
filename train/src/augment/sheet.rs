//! A picture that shows what each augmentation and each mask does.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use image::{Rgb, imageops};
use mien::{attributes::Mask, frame::Picture};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};
use tch::Tensor;

use super::{Augmentation, Equalisation, Input, Mix};
use crate::{
    classifier::{
        dataset::{PICTURE_SIDE, read_pictures, to_pictures, to_tensor},
        labels::{Face, read_all},
    },
    lettering::Pen,
    mask_synthesis::{Style, Wear, put_on, softness},
};

#[derive(Debug, clap::Args)]
pub struct ContactSheetOptions {
    /// Folder of the data packs
    #[arg(long)]
    data: PathBuf,
    /// The picture to write; its ending says the format
    #[arg(long)]
    out: PathBuf,
    /// Faces in a row
    #[arg(long, default_value_t = 6)]
    faces: usize,
    /// Side of a face in pixels
    #[arg(long, default_value_t = 112)]
    side: u32,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// A row of the sheet.
struct Row {
    name: String,
    pictures: Vec<Picture>,
}

/// Draws augmentations on the left and masks on the right, a row each, all on the same faces of the data packs.
pub fn contact_sheet(options: &ContactSheetOptions) -> Result<()> {
    ensure!(options.faces > 0 && options.side >= 32, "--faces must be at least 1 and --side at least 32");
    let mut faces = read_all(&options.data)?;
    // Faces cut from few pixels hide what is done to them.
    faces.retain(|face| face.mask == Mask::None && face.landmarks.is_some() && face.source_side >= 128.0);
    faces.shuffle(&mut StdRng::seed_from_u64(options.seed));
    faces.truncate(options.faces);
    ensure!(!faces.is_empty(), "{} has no bare face with landmarks", options.data.display());
    let pictures = read_pictures(&options.data, &faces)?;
    let input = Input { size: i64::from(options.side), ..Input::default() };
    tch::manual_seed(options.seed as i64);
    let columns = [augmented(&pictures, &faces, &input)?, masked(&pictures, &faces, &input, options.seed)?];
    let sheet = draw(&columns, options.side)?;
    sheet.save(&options.out).with_context(|| format!("writing the contact sheet {}", options.out.display()))
}

fn sides(faces: &[Face]) -> Tensor {
    Tensor::from_slice(&faces.iter().map(|face| face.side(PICTURE_SIDE)).collect::<Vec<_>>())
}

/// Each augmentation alone and strong, and all as training has them.
fn augmented(pictures: &[Picture], faces: &[Face], input: &Input) -> Result<Vec<Row>> {
    const NONE: Augmentation = Augmentation::NONE;
    let alone = [
        ("as evaluated", NONE),
        ("zoom", Augmentation { zoom: (0.7, 1.4), ..NONE }),
        ("shift, rotation", Augmentation { shift: 0.08, rotation: 0.3, ..NONE }),
        ("flip", Augmentation { flip: 1.0, ..NONE }),
        ("vertical flip", Augmentation { vertical_flip: 1.0, ..NONE }),
        ("brightness", Augmentation { brightness: 0.15, ..NONE }),
        ("contrast", Augmentation { contrast: 0.4, ..NONE }),
        ("gamma", Augmentation { gamma: 0.4, ..NONE }),
        ("white balance", Augmentation { white_balance: 0.15, ..NONE }),
        ("saturation", Augmentation { saturation: (0.2, 1.8), ..NONE }),
        ("hue", Augmentation { hue: 0.25, ..NONE }),
        ("grey", Augmentation { grey: 1.0, ..NONE }),
        ("equalised", Augmentation { equalise: 1.0, ..NONE }),
        ("CLAHE", Augmentation { clahe: 1.0, ..NONE }),
        ("small", Augmentation { small: 1.0, ..NONE }),
        ("blur", Augmentation { blur: 1.0, blur_sigma: (1.0, 2.0), ..NONE }),
        ("motion blur", Augmentation { motion: 1.0, motion_length: (6.0, 9.0), ..NONE }),
        ("noise", Augmentation { noisy: 1.0, noise: 0.1, ..NONE }),
        ("JPEG", Augmentation { jpeg: 1.0, jpeg_quality: (8.0, 30.0), ..NONE }),
        ("erased", Augmentation { erase: 1.0, ..NONE }),
    ];
    let whole = Input { centre_crop: false, ..*input };
    let equalised = Input { equalise: Equalisation::Clahe, ..*input };
    let (images, sides) = (to_tensor(pictures), sides(faces));
    let row = |name: &str, inputs: &Tensor| Ok(Row { name: name.to_owned(), pictures: to_pictures(inputs)? });
    let mut rows = alone
        .iter()
        .map(|(name, augmentation)| row(name, &augmentation.apply(&images, &sides, input)))
        .collect::<Result<Vec<_>>>()?;
    rows.push(row("no centre crop", &whole.prepare(&images, &sides))?);
    rows.push(row("input: CLAHE", &equalised.prepare(&images, &sides))?);
    let halves = Mix { alpha: 20.0, ..Mix::default() };
    for (name, mix) in [("mixup", Mix { mixup: 1.0, ..halves }), ("CutMix", Mix { cutmix: 1.0, ..halves })] {
        let mixed = mix.apply(&images).context("a batch that is always blended")?;
        rows.push(row(&format!("{name} {:.2}", mixed.share), &input.prepare(&mixed.images, &sides))?);
    }
    for i in 1..=2 {
        rows.push(row(&format!("training {i}"), &Augmentation::default().apply(&images, &sides, input))?);
    }
    Ok(rows)
}

/// Each style worn each way, and some augmented.
fn masked(pictures: &[Picture], faces: &[Face], input: &Input, seed: u64) -> Result<Vec<Row>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut rows = Vec::new();
    let mut mixed = Vec::new();
    for &wear in Wear::value_variants() {
        for &style in Style::value_variants() {
            let mut painted = pictures.to_vec();
            for (picture, face) in painted.iter_mut().zip(faces) {
                if let Some(landmarks) = &face.landmarks {
                    put_on(picture, landmarks, style, wear, softness(face.source_side), &mut rng);
                }
            }
            let name = [style.to_possible_value(), wear.to_possible_value()];
            let name = name.iter().flatten().map(|value| value.get_name()).collect::<Vec<_>>().join(", ");
            mixed =
                mixed.into_iter().chain(painted.iter().skip(rows.len() % 2).step_by(2).cloned()).collect();
            // The whole picture: what hangs off an ear is beside the face.
            let whole = Input { centre_crop: false, ..*input };
            rows.push(Row {
                name,
                pictures: to_pictures(&whole.prepare(&to_tensor(&painted), &sides(faces)))?,
            });
        }
    }
    mixed.shuffle(&mut rng);
    for (i, some) in mixed.chunks_exact(faces.len()).take(10).enumerate() {
        let inputs = Augmentation::default().apply(&to_tensor(some), &sides(faces), input);
        rows.push(Row { name: format!("training {}", i + 1), pictures: to_pictures(&inputs)? });
    }
    Ok(rows)
}

/// Width of a row's name in pixels.
const NAME: u32 = 150;
const GAP: u32 = 2;

fn draw(columns: &[Vec<Row>], side: u32) -> Result<Picture> {
    let pen = Pen::new()?;
    let rows = columns.iter().map(Vec::len).max().unwrap_or(0) as u32;
    let faces = columns.iter().flatten().map(|row| row.pictures.len()).max().unwrap_or(0) as u32;
    let wide = NAME + faces * (side + GAP);
    let mut sheet = Picture::from_pixel(columns.len() as u32 * wide, rows * (side + GAP), Rgb([255; 3]));
    for (c, column) in columns.iter().enumerate() {
        for (r, row) in column.iter().enumerate() {
            let (left, top) = (c as u32 * wide, r as u32 * (side + GAP));
            pen.write(&mut sheet, &row.name, (left + 4, top + side / 2));
            for (i, picture) in row.pictures.iter().enumerate() {
                let x = left + NAME + i as u32 * (side + GAP);
                imageops::replace(&mut sheet, picture, i64::from(x), i64::from(top));
            }
        }
    }
    Ok(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Data packs of `faces` grey squares with landmarks.
    fn packs(folder: &Path, faces: usize) {
        const HEADER: &str =
            "file,box_w,box_h,source_side,lm_x0,lm_y0,lm_x1,lm_y1,lm_x2,lm_y2,lm_x3,lm_y3,lm_x4,lm_y4";
        for set in ["utkface", "fairface", "masks"] {
            let mut table = HEADER.to_owned() + "\n";
            let mut tar =
                tar::Builder::new(std::fs::File::create(folder.join(format!("{set}.tar"))).unwrap());
            for i in (0..faces).filter(|_| set == "utkface") {
                table += &format!("{i}.png,90,98,200,42,50,86,50,64,78,47,98,81,98\n");
                let mut file = std::io::Cursor::new(Vec::new());
                let grey = Picture::from_pixel(128, 128, Rgb([150, 118, 98]));
                grey.write_to(&mut file, image::ImageFormat::Png).unwrap();
                let mut header = tar::Header::new_gnu();
                header.set_size(file.get_ref().len() as u64);
                tar.append_data(&mut header, format!("{i}.png"), file.get_ref().as_slice()).unwrap();
            }
            tar.finish().unwrap();
            std::fs::write(folder.join(format!("{set}.csv")), table).unwrap();
        }
    }

    #[test]
    fn a_sheet_has_a_named_row_for_each_augmentation_and_mask() {
        let folder = tempfile::tempdir().unwrap();
        packs(folder.path(), 3);
        let out = folder.path().join("sheet.png");
        let options = |faces| ContactSheetOptions {
            data: folder.path().to_owned(),
            out: out.clone(),
            faces,
            side: 32,
            seed: 1,
        };
        contact_sheet(&options(2)).unwrap();
        let sheet = image::open(&out).unwrap().into_rgb8();
        assert_eq!(sheet.width(), 2 * (NAME + 2 * (32 + GAP)));
        let row = |column: u32, row: u32| {
            let (left, top) = (column * sheet.width() / 2, row * (32 + GAP));
            let part = |x, width| imageops::crop_imm(&sheet, left + x, top, width, 32).to_image();
            (part(0, NAME), part(NAME, 32))
        };
        let (name, plain) = row(0, 0);
        assert!(name.pixels().any(|pixel| pixel.0[0] < 100), "the row has a name");
        assert!(plain.pixels().all(|pixel| pixel.0[0].abs_diff(150) < 3), "as evaluated is as it is");
        assert_ne!(row(0, 2).0, name);
        for mask in 0..16 {
            assert_ne!(row(1, mask).1, plain, "row {mask} shows a mask");
        }
        assert!(contact_sheet(&options(0)).is_err());
    }

    #[test]
    fn without_faces_the_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        packs(folder.path(), 0);
        let out = folder.path().join("sheet.png");
        let options =
            ContactSheetOptions { data: folder.path().to_owned(), out, faces: 2, side: 32, seed: 1 };
        let error = contact_sheet(&options).unwrap_err().to_string();
        assert!(error.contains("holds no labelled faces"), "{error}");
    }
}
