//! Pictures cut from held-out photos so that a face is where photos seldom have it: close up, or cut by the edge; and
//! pictures without people.

use anyhow::Result;
use mien::{
    detect::Face,
    frame::Picture,
    geometry::{Rect, resample},
};
use serde::Serialize;

use super::{
    evaluate::LEAST_SCORE,
    scenes::{Mark, Scene},
};

/// How a detector does on such pictures at one score.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Trials {
    pub min_score: f32,
    /// Faces, each in the three kinds of pictures.
    pub faces: usize,
    /// Recall where the face's longer side is 30 % of the picture's and it lies in the middle.
    pub mid: f32,
    /// Where it is 75 %.
    pub close: f32,
    /// Where it is 30 % and an edge of the picture cuts a tenth of it off.
    pub edge: f32,
    /// Pictures with no marked face in them.
    pub empty: usize,
    /// Faces found in those, for every twenty of them.
    pub false_per_20: f32,
}

/// What a detector found in all such pictures, down to very low scores.
pub struct Answers {
    /// For each face, and for each of the three kinds of pictures: the best score of a box on it.
    faces: Vec<[f32; 3]>,
    /// For each picture without people: the scores.
    empty: Vec<Vec<f32>>,
}

/// Faces of fewer pixels would only be blown up.
const LEAST_FACE: f32 = 40.0;
/// The longer side of a face over the picture's.
const MID: f32 = 0.3;
const CLOSE: f32 = 0.75;
/// The part of a face that the edge cuts off.
const CUT_OFF: f32 = 0.1;
/// The side of the cut pictures.
const SIDE: u32 = 320;
/// The least side of a cut without people, in pixels of the photo.
const LEAST_EMPTY: f32 = 160.0;
/// IoU from which a box has found a face.
const FOUND_IOU: f32 = 0.5;

impl Answers {
    /// Lets `detect` look at all pictures cut from `scenes`.
    pub fn of(scenes: &[Scene], mut detect: impl FnMut(&Picture) -> Result<Vec<Face>>) -> Result<Answers> {
        let mut answers = Answers { faces: Vec::new(), empty: Vec::new() };
        for scene in scenes {
            for mark in scene.faces.iter().filter(|mark| !mark.ignore) {
                if let Some(squares) = squares(scene, mark) {
                    let mut scores = [0.0; 3];
                    for (square, score) in squares.iter().zip(&mut scores) {
                        let (picture, face) = cut(scene, square, &mark.rect);
                        let found = detect(&picture)?;
                        let on_it = found.iter().filter(|found| found.rect.iou(&face) >= FOUND_IOU);
                        *score = on_it.map(|found| found.score).fold(0.0, f32::max);
                    }
                    answers.faces.push(scores);
                }
            }
            if let Some(square) = empty_square(scene) {
                let found = detect(&cut(scene, &square, &Rect::default()).0)?;
                answers.empty.push(found.iter().map(|face| face.score).collect());
            }
        }
        Ok(answers)
    }

    /// # Panics
    /// When the score is below what [`Answers::of`] has looked at.
    pub fn at(&self, min_score: f32) -> Trials {
        assert!(min_score >= LEAST_SCORE, "boxes below {LEAST_SCORE} were not looked at");
        let recall = |kind: usize| {
            let hits = self.faces.iter().filter(|scores| scores[kind] >= min_score).count();
            hits as f32 / self.faces.len().max(1) as f32
        };
        let wrong = self.empty.iter().flatten().filter(|score| **score >= min_score).count();
        Trials {
            min_score,
            faces: self.faces.len(),
            mid: recall(0),
            close: recall(1),
            edge: recall(2),
            empty: self.empty.len(),
            false_per_20: 20.0 * wrong as f32 / self.empty.len().max(1) as f32,
        }
    }
}

/// Where to cut for a face: in the middle, close up, at the edge; nothing if the photo has not enough around it, or
/// the face is small or cut off already.
fn squares(scene: &Scene, mark: &Mark) -> Option<[Rect; 3]> {
    let photo = Rect::new(0.0, 0.0, scene.picture.width() as f32, scene.picture.height() as f32);
    let Rect { x, y, w, h } = mark.rect;
    let long = w.max(h);
    if long < LEAST_FACE || !holds(&photo, &mark.rect) {
        return None;
    }
    let [cx, cy] = mark.rect.centre();
    let (mid, close) = (long / MID, long / CLOSE);
    let square = |x: f32, y: f32, side: f32| {
        let square = Rect::new(x, y, side, side);
        holds(&photo, &square).then_some(square)
    };
    // Where there is room: to the left, to the right, above or below.
    let edge = square(x + CUT_OFF * w, cy - mid / 2.0, mid)
        .or_else(|| square(x + (1.0 - CUT_OFF) * w - mid, cy - mid / 2.0, mid))
        .or_else(|| square(cx - mid / 2.0, y + CUT_OFF * h, mid))
        .or_else(|| square(cx - mid / 2.0, y + (1.0 - CUT_OFF) * h - mid, mid))?;
    Some([
        square(cx - mid / 2.0, cy - mid / 2.0, mid)?,
        square(cx - close / 2.0, cy - close / 2.0, close)?,
        edge,
    ])
}

/// The largest of some squares of a photo that touches no marked face, ignored ones included.
fn empty_square(scene: &Scene) -> Option<Rect> {
    let (w, h) = (scene.picture.width() as f32, scene.picture.height() as f32);
    let free = |square: &Rect| scene.faces.iter().all(|mark| square.iou(&mark.rect) == 0.0);
    let mut side = w.min(h);
    while side >= LEAST_EMPTY {
        let places = |length: f32| [0.0, (length - side) / 2.0, length - side];
        for y in places(h) {
            if let Some(square) = places(w).map(|x| Rect::new(x, y, side, side)).into_iter().find(free) {
                return Some(square);
            }
        }
        side *= 0.9;
    }
    None
}

fn holds(outer: &Rect, inner: &Rect) -> bool {
    inner.x >= outer.x
        && inner.y >= outer.y
        && inner.right() <= outer.right()
        && inner.bottom() <= outer.bottom()
}

/// The part of a photo in `square`, and where in it the visible part of `face` is.
fn cut(scene: &Scene, square: &Rect, face: &Rect) -> (Picture, Rect) {
    let scale = SIDE as f32 / square.w;
    let (x, y) = (face.x.max(square.x), face.y.max(square.y));
    let (right, bottom) = (face.right().min(square.right()), face.bottom().min(square.bottom()));
    let seen = Rect::new(x, y, right - x, bottom - y).shifted(-square.x, -square.y).scaled(scale);
    (resample(&scene.picture, square, SIDE, SIDE), seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A black photo with one white face.
    fn scene(rect: Rect) -> Scene {
        let picture = Picture::from_fn(400, 300, |x, y| {
            let inside = rect.iou(&Rect::new(x as f32, y as f32, 1.0, 1.0)) > 0.0;
            image::Rgb([if inside { 255 } else { 0 }; 3])
        });
        Scene {
            file: "white.webp".into(),
            picture,
            faces: vec![Mark { rect, ignore: false, mask: None, landmarks: None }],
        }
    }

    /// Finds what is white.
    fn find_white(picture: &Picture) -> Result<Vec<Face>> {
        let white: Vec<(f32, f32)> = picture
            .enumerate_pixels()
            .filter(|(_, _, pixel)| pixel.0[0] > 127)
            .map(|(x, y, _)| (x as f32, y as f32))
            .collect();
        let low = white.iter().fold((f32::MAX, f32::MAX), |low, at| (low.0.min(at.0), low.1.min(at.1)));
        let high = white.iter().fold((0f32, 0f32), |high, at| (high.0.max(at.0), high.1.max(at.1)));
        let rect = Rect::new(low.0, low.1, high.0 - low.0 + 1.0, high.1 - low.1 + 1.0);
        let face = Face { rect, landmarks: Default::default(), score: 0.7 };
        Ok(if white.is_empty() { vec![] } else { vec![face] })
    }

    #[test]
    fn a_face_is_where_it_should_be_in_every_cut() {
        let scene = scene(Rect::new(170.0, 120.0, 50.0, 60.0));
        let answers = Answers::of(std::slice::from_ref(&scene), find_white).unwrap();
        let trials = answers.at(0.7);
        assert_eq!((trials.faces, trials.mid, trials.close, trials.edge), (1, 1.0, 1.0, 1.0));
        // There is room for an empty square beside the face.
        assert_eq!((trials.empty, trials.false_per_20), (1, 0.0));
        assert_eq!(answers.at(0.71).mid, 0.0);
        let [mid, close, edge] = squares(&scene, &scene.faces[0]).unwrap();
        let part = |square: &Rect| cut(&scene, square, &scene.faces[0].rect).1;
        assert!((part(&mid).h - 96.0).abs() < 0.01 && (part(&close).h - 240.0).abs() < 0.01);
        assert!(part(&edge).x.abs() < 0.01 && (part(&edge).w - 0.9 * 80.0).abs() < 0.01, "{:?}", part(&edge));
    }

    #[test]
    fn small_and_cornered_faces_are_left_out() {
        for rect in [Rect::new(100.0, 100.0, 20.0, 20.0), Rect::new(0.0, 0.0, 50.0, 60.0)] {
            let scene = scene(rect);
            assert!(squares(&scene, &scene.faces[0]).is_none());
        }
    }
}
