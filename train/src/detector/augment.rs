//! Squares cut at random from photos, and disturbed: what the detector is trained on.

use mien::{
    frame::Picture,
    geometry::{Landmarks, Rect, resample},
};
use rand::{Rng, rngs::StdRng, seq::IteratorRandom};

use super::{assign::Truth, scenes::Scene};

/// A square picture to train on, and what is in it, in its own pixels.
#[derive(Debug, Clone)]
pub struct Sample {
    pub picture: Picture,
    pub faces: Vec<Truth>,
    /// Where a face may be that is not asked for: too small, too much cut off, or marked so.
    pub ignored: Vec<Rect>,
}

/// What a cut shows.
#[derive(Debug, Clone, Copy)]
enum View {
    /// No face: without them, a network meets what looks like a face a little only far away.
    Empty,
    /// A good part of the photo.
    Wide,
    /// A face at a random size, and what is around it.
    Face,
    /// The same, cut off by an edge.
    CutOff,
    /// A face that fills most of the cut.
    CloseUp,
}

/// How often each is sought. A photo that has no such part shows a [`View::Face`], and one without faces a
/// [`View::Wide`].
const VIEWS: [(View, f64); 5] =
    [(View::Empty, 0.16), (View::Wide, 0.3), (View::Face, 0.3), (View::CutOff, 0.12), (View::CloseUp, 0.12)];

/// The side of a [`View::Wide`] over the photo's longer side.
const WIDE_SIDE: (f32, f32) = (0.6, 1.3);
/// The face that a cut is made for gets a longer side in this range, as parts of the sample's side (8–220 of 256).
const FACE_SIDE: (f32, f32) = (0.03, 0.86);
/// The same in a [`View::CloseUp`].
const CLOSE_SIDE: (f32, f32) = (0.55, 1.05);
/// Faces with a longer side below this many pixels of the photo are not shown close up: they would be blur.
const LEAST_CLOSE: f32 = 32.0;
/// How much of a face's side an edge cuts off at most.
const MOST_CUT_OFF: f32 = 0.35;
/// The least side of other cuts in pixels of the photo: less would only blow up blur.
const LEAST_CUT: f32 = 96.0;
/// The largest side of a cut, over the photo's longer side.
const LARGEST_CUT: f32 = 1.6;
/// Faces with a longer side below this many pixels of the sample are not asked for.
const LEAST_FACE: f32 = 4.0;
/// Faces with less than this part of their box in the sample are not asked for.
const LEAST_VISIBLE: f32 = 0.5;

/// The side of a [`View::Empty`] over the photo's longer side.
const EMPTY_SIDE: (f32, f32) = (0.2, 0.8);
/// How often a place for one is sought in a photo.
const EMPTY_TRIES: usize = 12;

/// A disturbed cut of `side` pixels from `scenes[index]`; one in six is a mosaic with three other photos' cuts.
pub fn sample(scenes: &[Scene], index: usize, side: u32, random: &mut StdRng) -> Sample {
    let mut sample = if random.random_bool(1.0 / 6.0) {
        let half = side / 2;
        let mut whole = Sample { picture: Picture::new(side, side), faces: Vec::new(), ignored: Vec::new() };
        for (n, (x, y)) in [(0, 0), (half, 0), (0, half), (half, half)].into_iter().enumerate() {
            let scene = if n == 0 { index } else { random.random_range(0..scenes.len()) };
            whole.put(&cut(&scenes[scene], half, random), x, y);
        }
        whole
    } else {
        cut(&scenes[index], side, random)
    };
    disturb(&mut sample.picture, random);
    sample
}

fn cut(scene: &Scene, side: u32, random: &mut StdRng) -> Sample {
    let square = choose_square(scene, random);
    let mut sample = Sample::from_square(scene, &square, side, [random.random(); 3]);
    if random.random_bool(0.5) {
        sample.flip();
    }
    sample
}

/// Where to cut a photo for a view drawn by lot.
fn choose_square(scene: &Scene, random: &mut StdRng) -> Rect {
    let mut lot = random.random_range(0.0..VIEWS.iter().map(|(_, share)| share).sum());
    let drawn = VIEWS.into_iter().find(|(_, share)| {
        lot -= share;
        lot < 0.0
    });
    let square = match drawn.map_or(View::Face, |(view, _)| view) {
        View::Empty => empty_square(scene, random),
        View::Wide => Some(wide_square(scene, random)),
        View::Face => None,
        View::CutOff => cut_off_square(scene, random),
        View::CloseUp => close_square(scene, random),
    };
    square.or_else(|| Some(face_square(scene, random)?.0)).unwrap_or_else(|| wide_square(scene, random))
}

fn wide_square(scene: &Scene, random: &mut StdRng) -> Rect {
    let (w, h) = size(scene);
    let side = w.max(h) * random.random_range(WIDE_SIDE.0..WIDE_SIDE.1);
    Rect::new(slide(0.0, w, w, side, random), slide(0.0, h, h, side, random), side, side)
}

/// A square for a face, and the face.
fn face_square(scene: &Scene, random: &mut StdRng) -> Option<(Rect, Rect)> {
    let (w, h) = size(scene);
    let face = choose_face(scene, 0.0, random)?;
    let part = random.random_range(FACE_SIDE.0.ln()..FACE_SIDE.1.ln()).exp();
    let side = (face.w.max(face.h) / part).clamp(LEAST_CUT, LARGEST_CUT * w.max(h));
    Some((around(&face, scene, side, random), face))
}

/// The same, moved along one axis so that an edge goes through the face.
fn cut_off_square(scene: &Scene, random: &mut StdRng) -> Option<Rect> {
    let (mut square, face) = face_square(scene, random)?;
    let off = random.random_range(0.0..MOST_CUT_OFF);
    match random.random_range(0..4) {
        0 => square.x = face.x + off * face.w,
        1 => square.x = face.right() - off * face.w - square.w,
        2 => square.y = face.y + off * face.h,
        _ => square.y = face.bottom() - off * face.h - square.h,
    }
    Some(square)
}

fn close_square(scene: &Scene, random: &mut StdRng) -> Option<Rect> {
    let face = choose_face(scene, LEAST_CLOSE, random)?;
    let side = face.w.max(face.h) / random.random_range(CLOSE_SIDE.0..CLOSE_SIDE.1);
    Some(around(&face, scene, side, random))
}

/// One of the faces that are asked for and have at least this longer side.
fn choose_face(scene: &Scene, least: f32, random: &mut StdRng) -> Option<Rect> {
    let asked = scene.faces.iter().filter(|mark| !mark.ignore).map(|mark| mark.rect);
    asked.filter(|face| face.w.max(face.h) >= least).choose(random)
}

/// A square of `side` at random around a face, or within it if that is larger.
fn around(face: &Rect, scene: &Scene, side: f32, random: &mut StdRng) -> Rect {
    let (w, h) = size(scene);
    let x = slide(face.x, face.right(), w, side, random);
    let y = slide(face.y, face.bottom(), h, side, random);
    Rect::new(x, y, side, side)
}

fn size(scene: &Scene) -> (f32, f32) {
    (scene.picture.width() as f32, scene.picture.height() as f32)
}

/// A square within the photo that touches no face, if one is found by lot.
fn empty_square(scene: &Scene, random: &mut StdRng) -> Option<Rect> {
    let (w, h) = size(scene);
    let mut sought = (0..EMPTY_TRIES).map(|_| {
        let side = (w.max(h) * random.random_range(EMPTY_SIDE.0..EMPTY_SIDE.1))
            .clamp(LEAST_CUT.min(w.min(h)), w.min(h));
        Rect::new((w - side) * random.random::<f32>(), (h - side) * random.random::<f32>(), side, side)
    });
    sought.find(|square| scene.faces.iter().all(|mark| square.iou(&mark.rect) == 0.0))
}

/// Where a cut of `side` starts along one axis so that it holds `low..high`, and mostly not more of the outside of
/// `0..length` than it must.
fn slide(low: f32, high: f32, length: f32, side: f32, random: &mut StdRng) -> f32 {
    let (mut first, mut last) = ((high - side).min(low), low.max(high - side));
    if random.random_bool(0.8) {
        let (inner_first, inner_last) = (0f32.min(length - side), 0f32.max(length - side));
        let (a, b) = (first.max(inner_first), last.min(inner_last));
        if a <= b {
            (first, last) = (a, b);
        }
    }
    random.random_range(first..=last)
}

impl Sample {
    /// The part of a photo in `square`, resampled to `side` pixels; `fill` where the square leaves the photo.
    fn from_square(scene: &Scene, square: &Rect, side: u32, fill: [u8; 3]) -> Self {
        let scale = side as f32 / square.w;
        let photo = &scene.picture;
        let (w, h) = (photo.width() as f32, photo.height() as f32);
        let seen = intersection(square, &Rect::new(0.0, 0.0, w, h));
        let mut picture = Picture::from_pixel(side, side, image::Rgb(fill));
        if seen.w >= 1.0 && seen.h >= 1.0 {
            let pixels = |length: f32| ((length * scale).round() as u32).clamp(1, side);
            let (width, height) = (pixels(seen.w), pixels(seen.h));
            let part = resample(photo, &seen, width, height);
            let at = |offset: f32, length| i64::from(((offset * scale).round() as u32).min(side - length));
            image::imageops::replace(
                &mut picture,
                &part,
                at(seen.x - square.x, width),
                at(seen.y - square.y, height),
            );
        }

        let mut sample = Self { picture, faces: Vec::new(), ignored: Vec::new() };
        let frame = Rect::new(0.0, 0.0, side as f32, side as f32);
        for mark in &scene.faces {
            let whole = mark.rect.shifted(-square.x, -square.y).scaled(scale);
            let visible = intersection(&whole, &frame);
            if visible.area() <= 0.0 {
                continue;
            }
            let clear = visible.area() >= LEAST_VISIBLE * whole.area() && whole.w.max(whole.h) >= LEAST_FACE;
            if mark.ignore || !clear {
                sample.ignored.push(visible);
                continue;
            }
            let place = |[x, y]: [f32; 2]| [(x - square.x) * scale, (y - square.y) * scale];
            let inside = |&[x, y]: &[f32; 2]| x >= 0.0 && y >= 0.0 && x <= frame.w && y <= frame.h;
            let landmarks = mark.landmarks.map(|points| points.map(place));
            sample.faces.push(Truth {
                rect: visible,
                landmarks: landmarks.filter(|points| points.iter().all(inside)),
            });
        }
        sample
    }

    /// Mirrors left and right; a right eye becomes a left one.
    fn flip(&mut self) {
        image::imageops::flip_horizontal_in_place(&mut self.picture);
        let width = self.picture.width() as f32;
        let mirror = |rect: &mut Rect| rect.x = width - rect.right();
        self.ignored.iter_mut().for_each(mirror);
        for face in &mut self.faces {
            mirror(&mut face.rect);
            if let Some(points) = &mut face.landmarks {
                *points = mirrored(points, width);
            }
        }
    }

    /// Puts a smaller sample at (x, y).
    fn put(&mut self, part: &Sample, x: u32, y: u32) {
        image::imageops::replace(&mut self.picture, &part.picture, i64::from(x), i64::from(y));
        let (x, y) = (x as f32, y as f32);
        self.ignored.extend(part.ignored.iter().map(|rect| rect.shifted(x, y)));
        self.faces.extend(part.faces.iter().map(|face| Truth {
            rect: face.rect.shifted(x, y),
            landmarks: face.landmarks.map(|points| points.map(|[px, py]| [px + x, py + y])),
        }));
    }
}

/// Landmarks of the mirrored face in a picture of this width.
fn mirrored(points: &Landmarks, width: f32) -> Landmarks {
    let mirror = |[x, y]: [f32; 2]| [width - x, y];
    [points[1], points[0], points[2], points[4], points[3]].map(mirror)
}

fn intersection(a: &Rect, b: &Rect) -> Rect {
    let (x, y) = (a.x.max(b.x), a.y.max(b.y));
    Rect::new(x, y, (a.right().min(b.right()) - x).max(0.0), (a.bottom().min(b.bottom()) - y).max(0.0))
}

/// Other light, other camera: exposure, contrast, gamma and colour cast, less or no colour, blur, noise.
fn disturb(picture: &mut Picture, random: &mut StdRng) {
    if random.random_bool(0.7) {
        let gain = random.random_range(0.55..1.5f32);
        let gamma = random.random_range(0.7..1.4f32);
        let lift = random.random_range(-0.1..0.1f32);
        let curves: [[u8; 256]; 3] = std::array::from_fn(|_| {
            let cast = gain * random.random_range(0.9..1.1f32);
            std::array::from_fn(|level| {
                let light = (level as f32 / 255.0).powf(gamma) * cast + lift;
                (light * 255.0).round().clamp(0.0, 255.0) as u8
            })
        });
        for pixel in picture.pixels_mut() {
            for (value, curve) in pixel.0.iter_mut().zip(&curves) {
                *value = curve[usize::from(*value)];
            }
        }
    }
    if random.random_bool(0.3) {
        let colour = if random.random_bool(0.4) { 0 } else { random.random_range(64..400i32) };
        for pixel in picture.pixels_mut() {
            let [r, g, b] = pixel.0.map(i32::from);
            let grey = (77 * r + 150 * g + 29 * b) >> 8;
            pixel.0 = [r, g, b].map(|value| (grey + (((value - grey) * colour) >> 8)).clamp(0, 255) as u8);
        }
    }
    if random.random_bool(0.12) {
        let (side, coarse) = (picture.width(), random.random_range(0.4..0.8f32));
        let small = (side as f32 * coarse) as u32;
        let all = Rect::new(0.0, 0.0, side as f32, side as f32);
        let blurred = resample(picture, &all, small, small);
        *picture = resample(&blurred, &Rect::new(0.0, 0.0, small as f32, small as f32), side, side);
    }
    if random.random_bool(0.12) {
        let strength = random.random_range(3..16i16);
        for value in picture.iter_mut() {
            let noise = random.random_range(-strength..=strength);
            *value = (i16::from(*value) + noise).clamp(0, 255) as u8;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::{super::scenes::Mark, *};

    /// A black photo with one white face.
    fn scene() -> Scene {
        let rect = Rect::new(120.0, 60.0, 40.0, 50.0);
        let picture = Picture::from_fn(300, 200, |x, y| {
            let inside = (120..160).contains(&x) && (60..110).contains(&y);
            image::Rgb([if inside { 255 } else { 0 }; 3])
        });
        let landmarks = Some([[128.0, 75.0], [150.0, 75.0], [140.0, 85.0], [130.0, 98.0], [149.0, 98.0]]);
        Scene {
            file: "white.webp".into(),
            picture,
            faces: vec![Mark { rect, ignore: false, mask: None, landmarks }],
        }
    }

    #[test]
    fn some_cuts_show_no_face() {
        let scene = scene();
        let mut random = StdRng::seed_from_u64(2);
        let empty = (0..500).filter(|_| cut(&scene, 64, &mut random).faces.is_empty()).count();
        assert!((20..150).contains(&empty), "{empty} of 500");
        for _ in 0..100 {
            if let Some(square) = empty_square(&scene, &mut random) {
                assert_eq!(square.iou(&scene.faces[0].rect), 0.0);
                assert!(square.x >= 0.0 && square.right() <= 300.01 && square.bottom() <= 200.01);
            }
        }
    }

    #[test]
    fn close_ups_show_most_of_a_large_enough_face() {
        let (mut scene, mut random) = (scene(), StdRng::seed_from_u64(3));
        for _ in 0..200 {
            let square = close_square(&scene, &mut random).unwrap();
            let sample = Sample::from_square(&scene, &square, 128, [0; 3]);
            let [face] = sample.faces[..] else { panic!("{:?}", sample.faces) };
            assert!((0.54 * 128.0..=128.0).contains(&face.rect.h), "{face:?}");
            assert!(light(&sample.picture, face.rect.centre()[0], face.rect.centre()[1]) > 200.0);
        }
        scene.faces[0].rect.h = LEAST_CLOSE - 1.0;
        scene.faces[0].rect.w = LEAST_CLOSE - 1.0;
        assert_eq!(close_square(&scene, &mut random), None);
    }

    #[test]
    fn every_edge_cuts_faces_off() {
        let (scene, mut random) = (scene(), StdRng::seed_from_u64(4));
        let face = scene.faces[0].rect;
        let mut cut_by = [0; 4];
        for _ in 0..200 {
            let square = cut_off_square(&scene, &mut random).unwrap();
            let off = [
                (square.x - face.x) / face.w,
                (face.right() - square.right()) / face.w,
                (square.y - face.y) / face.h,
                (face.bottom() - square.bottom()) / face.h,
            ];
            assert!(off.iter().all(|off| *off < MOST_CUT_OFF + 1e-3), "{off:?}");
            for (count, off) in cut_by.iter_mut().zip(off) {
                *count += usize::from(off > 1e-3);
            }
            // Much of it is left, so it is asked for unless it is tiny.
            let sample = Sample::from_square(&scene, &square, 128, [0; 3]);
            assert_eq!(sample.faces.len() + sample.ignored.len(), 1);
            assert!(!sample.faces.is_empty() || sample.ignored[0].h < LEAST_FACE);
        }
        assert!(cut_by.iter().all(|count| *count > 25), "{cut_by:?}");
    }

    fn light(picture: &Picture, x: f32, y: f32) -> f32 {
        f32::from(picture.get_pixel(x as u32, y as u32).0[1])
    }

    #[test]
    fn boxes_follow_the_pixels() {
        let scene = scene();
        let mut random = StdRng::seed_from_u64(1);
        let mut seen = 0;
        for _ in 0..200 {
            let sample = cut(&scene, 128, &mut random);
            for face in sample.faces.iter().filter(|face| face.rect.w > 12.0) {
                seen += 1;
                let [cx, cy] = face.rect.centre();
                assert!(light(&sample.picture, cx, cy) > 200.0);
                let left = face.rect.x - 3.0;
                // A fill colour may be bright; within the photo the surroundings are black.
                if left > 0.0 && light(&sample.picture, left, cy) > 60.0 {
                    assert_eq!(
                        light(&sample.picture, left, cy),
                        light(&sample.picture, left, 0.0),
                        "{face:?}"
                    );
                }
                if let Some(points) = face.landmarks {
                    assert!(points[0][0] < points[1][0] && points[3][0] < points[4][0], "{points:?}");
                    assert!(
                        points
                            .iter()
                            .all(|&[x, y]| face.rect.x <= x && x <= face.rect.right() && y > face.rect.y)
                    );
                }
            }
        }
        assert!(seen > 100, "only {seen} faces in 200 cuts");
    }

    #[test]
    fn small_and_cut_off_faces_are_ignored() {
        let scene = scene();
        let tiny = Sample::from_square(&scene, &Rect::new(0.0, 0.0, 2000.0, 2000.0), 128, [0; 3]);
        assert!(tiny.faces.is_empty());
        assert_eq!(tiny.ignored.len(), 1);
        let cut = Sample::from_square(&scene, &Rect::new(150.0, 0.0, 128.0, 128.0), 128, [0; 3]);
        assert!(cut.faces.is_empty());
        assert_eq!(cut.ignored, [Rect::new(0.0, 60.0, 10.0, 50.0)]);
        let away = Sample::from_square(&scene, &Rect::new(170.0, 0.0, 96.0, 96.0), 128, [0; 3]);
        assert!(away.faces.is_empty() && away.ignored.is_empty());
    }

    #[test]
    fn flipping_twice_changes_nothing() {
        let before = Sample::from_square(&scene(), &Rect::new(60.0, 30.0, 128.0, 128.0), 128, [9; 3]);
        let mut after = before.clone();
        after.flip();
        assert_ne!(after.faces, before.faces);
        after.flip();
        assert_eq!(after.faces, before.faces);
        assert_eq!(after.picture, before.picture);
    }

    #[test]
    fn samples_depend_on_the_seed_alone() {
        let scenes = [scene()];
        let draw = |seed| sample(&scenes, 0, 64, &mut StdRng::seed_from_u64(seed));
        assert_eq!(draw(5).picture, draw(5).picture);
        assert!((0..20).any(|seed| draw(seed).picture != draw(5).picture));
    }
}
