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
use serde::{Deserialize, Serialize};

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

/// Where a mask sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Wear {
    Worn,
    /// Over the mouth, the nose uncovered.
    BelowNose,
    /// Pulled down, mouth and nose uncovered.
    Chin,
    /// Hanging beside the face.
    OneEar,
}

impl Wear {
    pub fn name(self) -> &'static str {
        match self {
            Wear::Worn => "worn",
            Wear::BelowNose => "below_nose",
            Wear::Chin => "chin",
            Wear::OneEar => "one_ear",
        }
    }

    /// What the mask head is taught.
    pub fn label(self) -> Mask {
        match self {
            Wear::Worn => Mask::Worn,
            Wear::BelowNose | Wear::Chin | Wear::OneEar => Mask::Wrong,
        }
    }
}

/// How often each kind of mask is painted, and each way to wear one: shares, of any sum above 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Wardrobe {
    pub surgical: f64,
    pub cloth: f64,
    pub ffp2: f64,
    pub dark: f64,
    pub worn: f64,
    pub below_nose: f64,
    pub chin: f64,
    pub one_ear: f64,
}

impl Default for Wardrobe {
    /// Styles as often as each is seen in the street; two masks in three are worn right.
    fn default() -> Self {
        Self {
            surgical: 0.5,
            cloth: 0.2,
            ffp2: 0.15,
            dark: 0.15,
            worn: 8.0,
            below_nose: 2.0,
            chin: 1.5,
            one_ear: 0.5,
        }
    }
}

impl Wardrobe {
    /// The part of the masks that is worn right.
    pub fn worn_right(&self) -> f64 {
        self.worn / (self.worn + self.below_nose + self.chin + self.one_ear)
    }

    pub fn style(&self, rng: &mut impl Rng) -> Style {
        let Wardrobe { surgical, cloth, ffp2, dark, .. } = *self;
        draw(
            [(surgical, Style::Surgical), (cloth, Style::Cloth), (ffp2, Style::Ffp2), (dark, Style::Dark)],
            rng,
        )
    }

    pub fn wear(&self, rng: &mut impl Rng) -> Wear {
        let Wardrobe { worn, below_nose, chin, one_ear, .. } = *self;
        let wears =
            [(worn, Wear::Worn), (below_nose, Wear::BelowNose), (chin, Wear::Chin), (one_ear, Wear::OneEar)];
        draw(wears, rng)
    }
}

/// One of four by their shares.
fn draw<T: Copy>(choices: [(f64, T); 4], rng: &mut impl Rng) -> T {
    let mut left = rng.random::<f64>() * choices.iter().map(|(share, _)| share.max(0.0)).sum::<f64>();
    for (share, choice) in choices {
        left -= share.max(0.0);
        if left < 0.0 {
            return choice;
        }
    }
    choices[0].1
}

/// The blur of a mask that suits a 128-pixel picture made from `source_side` pixels.
pub fn softness(source_side: f32) -> f32 {
    (0.45 * 128.0 / source_side.max(16.0)).clamp(0.3, 2.5)
}

/// Paints a mask drawn by lot on a bare face, and says how it is worn. `softness` as for [`put_on`].
pub fn put_on_any(
    picture: &mut Picture,
    landmarks: &Landmarks,
    wardrobe: &Wardrobe,
    softness: f32,
    rng: &mut impl Rng,
) -> Wear {
    let (style, wear) = (wardrobe.style(rng), wardrobe.wear(rng));
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
    let mesh = Mesh::sample(style, wear, &camera, rng);
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
    let lit = (wear == Wear::OneEar).then(|| face(&camera, picture, fine)).flatten();
    composite(picture, &layer, lit.as_ref(), &fabric, scale, softness, rng);
}

/// The part of a face that a worn mask would cover.
fn face(camera: &Camera, picture: &Picture, fine: usize) -> Option<Layer> {
    const TOWARDS: [f32; 3] = [0.0, 0.0, 1.0];
    let triangles = Mesh::plain(camera).triangles(camera, TOWARDS);
    let mut layer = Layer::around(triangles.iter().flatten().map(|v| v.at), 1.0, picture, fine)?;
    triangles.into_iter().for_each(|triangle| layer.triangle(triangle));
    Some(layer)
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
        let style = Wardrobe::default().style(&mut rng);
        put_on(&mut picture, &FRONTAL, style, wear, 0.5, &mut rng);
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
    fn off_one_ear_the_mask_hangs_beside_a_bare_mouth() {
        let [right_eye, left_eye, nose, right_mouth, left_mouth] = FRONTAL;
        let mut sides = [0; 2];
        for seed in 0..40 {
            let picture = painted(Wear::OneEar, seed);
            for bare in [right_eye, left_eye, nose, right_mouth, left_mouth] {
                assert!(change(&picture, bare, 1) < 30, "seed {seed}: only a shadow may fall on the face");
            }
            // Below the ears.
            let hangs = [12.0, 116.0].map(|x| change(&picture, [x, 96.0], 6) > 20);
            assert_ne!(hangs[0], hangs[1], "seed {seed}: on one side alone");
            sides[usize::from(hangs[1])] += 1;
        }
        assert!(sides.iter().all(|&side| side > 8), "{sides:?}: either side, as often");
    }

    #[test]
    fn a_turned_face_shows_the_mask_on_its_near_side() {
        // The nose points to the picture's right, so that the ear on the left is seen.
        let turned = FRONTAL.map(|[x, y]| [x * 0.8 + 18.0, y]);
        let turned = [turned[0], turned[1], [turned[2][0] + 16.0, turned[2][1]], turned[3], turned[4]];
        for seed in 0..10 {
            let mut picture = Picture::from_pixel(128, 160, Rgb([150, 118, 98]));
            let mut rng = StdRng::seed_from_u64(seed);
            put_on(&mut picture, &turned, Style::Surgical, Wear::OneEar, 0.5, &mut rng);
            let painted = |columns: std::ops::Range<u32>| {
                columns
                    .flat_map(|x| (0..160).map(move |y| (x, y)))
                    .any(|(x, y)| picture.get_pixel(x, y).0[2].abs_diff(98) > 20)
            };
            assert!(painted(0..64) && !painted(72..128), "seed {seed}");
        }
    }

    #[test]
    fn a_wardrobe_is_drawn_from_by_its_shares() {
        let mut rng = StdRng::seed_from_u64(1);
        let wardrobe: Wardrobe =
            serde_json::from_str(r#"{"surgical": 0, "cloth": 3, "ffp2": 0, "dark": 1, "worn": 0}"#).unwrap();
        let cloth = (0..400).filter(|_| wardrobe.style(&mut rng) == Style::Cloth).count();
        assert!((260..340).contains(&cloth), "{cloth} of 400, not 300");
        assert!((0..100).all(|_| wardrobe.wear(&mut rng) != Wear::Worn));
        assert!(serde_json::from_str::<Wardrobe>(r#"{"silk": 1}"#).is_err());
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
