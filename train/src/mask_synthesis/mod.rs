//! Masks painted on bare faces, from five landmarks: the only masked faces whose gender and age are known.
//!
//! A mask is a small mesh draped over a generic head, in millimetres (x to the picture's right, y down, z towards
//! the camera, origin between the eyes). An affine camera fitted to the landmarks projects it, so that it turns
//! with the face. It is lit by the brightness of the skin that it covers.

mod fabric;
mod head;
mod mesh;
mod paint;
mod show;
mod vector;

use clap::ValueEnum;
use mien::{attributes::Mask, frame::Picture, geometry::Landmarks};
use rand::Rng;

use fabric::Fabric;
use head::Camera;
use mesh::Mesh;
use paint::{Layer, composite};
pub use show::{PhotoOptions, SheetOptions, photo, sheet};
use vector::unit;

/// Kinds of mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Style {
    Surgical,
    Cloth,
    Ffp2,
    Dark,
}

impl Style {
    /// A style, as often as each is seen in the street.
    pub fn sample(rng: &mut impl Rng) -> Style {
        match rng.random_range(0..100) {
            0..50 => Style::Surgical,
            50..70 => Style::Cloth,
            70..85 => Style::Ffp2,
            _ => Style::Dark,
        }
    }
}

/// Where a mask sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wear {
    Worn,
    /// Over the mouth, the nose uncovered.
    BelowNose,
    /// Pulled down, mouth and nose uncovered.
    Chin,
}

impl Wear {
    /// A way to wear a mask: two in three right.
    pub fn sample(rng: &mut impl Rng) -> Wear {
        match rng.random_range(0..12) {
            0..8 => Wear::Worn,
            8..10 => Wear::BelowNose,
            _ => Wear::Chin,
        }
    }

    /// What the mask head is taught.
    pub fn label(self) -> Mask {
        match self {
            Wear::Worn => Mask::Worn,
            Wear::BelowNose | Wear::Chin => Mask::Wrong,
        }
    }
}

/// The blur of a mask that suits a 128-pixel picture made from `source_side` pixels.
pub fn softness(source_side: f32) -> f32 {
    (0.45 * 128.0 / source_side.max(16.0)).clamp(0.3, 2.5)
}

/// Paints a mask drawn by lot on a bare face, and says how it is worn. `softness` as for [`put_on`].
pub fn put_on_any(picture: &mut Picture, landmarks: &Landmarks, softness: f32, rng: &mut impl Rng) -> Wear {
    let (style, wear) = (Style::sample(rng), Wear::sample(rng));
    put_on(picture, landmarks, style, wear, softness, rng);
    wear
}

/// Paints a mask on a bare face. `softness` is the blur of its edges and texture in pixels, 0 for a sharp picture;
/// where the landmarks lie outside the picture, only what is inside is painted.
pub fn put_on(
    picture: &mut Picture,
    landmarks: &Landmarks,
    style: Style,
    wear: Wear,
    softness: f32,
    rng: &mut impl Rng,
) {
    let camera = Camera::fit(landmarks);
    let scale = camera.scale();
    if !scale.is_finite() || scale <= 0.0 {
        return;
    }
    let fabric = Fabric::sample(style, rng);
    let mesh = Mesh::sample(style, wear, camera.smile(), rng);
    let lamp = unit([rng.random_range(-0.5..0.5), rng.random_range(-0.8..-0.2), 1.0]);
    let triangles = mesh.triangles(&camera, lamp);
    let straps = mesh.straps(&camera);
    let ends = triangles.iter().flatten().map(|v| v.at).chain(straps.iter().flatten().copied());
    let margin = 6.0 * scale + 2.0 * softness + 2.0;
    let fine = if scale < 1.2 { 2 } else { 3 };
    let Some(mut layer) = Layer::around(ends, margin, picture, fine) else {
        return;
    };
    for triangle in triangles {
        layer.triangle(triangle);
    }
    let thickness = if style == Style::Surgical || style == Style::Ffp2 { 2.2 } else { 3.6 };
    for strap in straps {
        layer.strap(strap, (thickness * scale).max(0.7));
    }
    composite(picture, &layer, &fabric, scale, softness, rng);
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Rgb;
    use mien::geometry::Point;
    use rand::{SeedableRng, rngs::StdRng};

    const FRONTAL: Landmarks = [[42.0, 50.0], [86.0, 50.0], [64.0, 78.0], [47.0, 98.0], [81.0, 98.0]];

    /// A mid-grey picture with a mask on, by wear and seed.
    fn painted(wear: Wear, seed: u64) -> Picture {
        let mut picture = Picture::from_pixel(128, 160, Rgb([150, 118, 98]));
        let mut rng = StdRng::seed_from_u64(seed);
        put_on(&mut picture, &FRONTAL, Style::sample(&mut rng), wear, 0.5, &mut rng);
        picture
    }

    /// Largest change of the skin within `radius` pixels of a point.
    fn change(picture: &Picture, [x, y]: Point, radius: i32) -> u8 {
        let near = (-radius..=radius).flat_map(|dy| (-radius..=radius).map(move |dx| (dx, dy)));
        near.map(|(dx, dy)| {
            let pixel = picture.get_pixel((x as i32 + dx) as u32, (y as i32 + dy) as u32).0;
            let skin = [150u8, 118, 98];
            (0..3).map(|k| pixel[k].abs_diff(skin[k])).max().unwrap_or(0)
        })
        .max()
        .unwrap_or(0)
    }

    #[test]
    fn a_worn_mask_covers_mouth_and_nose_but_no_eye() {
        let [right_eye, left_eye, nose, right_mouth, left_mouth] = FRONTAL;
        for seed in 0..40 {
            let picture = painted(Wear::Worn, seed);
            for eye in [right_eye, left_eye] {
                assert_eq!(change(&picture, eye, 3), 0, "seed {seed}");
            }
            for covered in [nose, right_mouth, left_mouth] {
                assert!(change(&picture, covered, 2) > 8, "seed {seed}");
            }
        }
    }

    #[test]
    fn below_the_nose_the_tip_stays_bare() {
        let [.., nose, right_mouth, left_mouth] = FRONTAL;
        for seed in 0..40 {
            let picture = painted(Wear::BelowNose, seed);
            assert!(change(&picture, nose, 1) < 30, "seed {seed}: only a shadow may fall on the nose");
            assert!(change(&picture, right_mouth, 2).max(change(&picture, left_mouth, 2)) > 8, "seed {seed}");
        }
    }

    #[test]
    fn on_the_chin_the_mouth_stays_bare() {
        let [.., nose, right_mouth, left_mouth] = FRONTAL;
        let middle = [(right_mouth[0] + left_mouth[0]) / 2.0, (right_mouth[1] + left_mouth[1]) / 2.0];
        for seed in 0..40 {
            let picture = painted(Wear::Chin, seed);
            assert_eq!(change(&picture, nose, 3), 0, "seed {seed}");
            assert!(change(&picture, middle, 1) < 30, "seed {seed}");
        }
    }

    #[test]
    fn landmarks_outside_the_picture_or_on_one_point_do_no_harm() {
        let mut rng = StdRng::seed_from_u64(1);
        let blank = Picture::from_pixel(40, 30, Rgb([9, 9, 9]));
        for landmarks in [FRONTAL.map(|[x, y]| [x + 900.0, y - 900.0]), [[5.0, 5.0]; 5]] {
            let mut picture = blank.clone();
            put_on(&mut picture, &landmarks, Style::Cloth, Wear::Worn, 1.0, &mut rng);
            assert_eq!(picture, blank);
        }
    }
}
