//! How well a detector finds the faces of photos that it was not trained on.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use mien::{
    attributes::Mask,
    detect::{self, Face},
    engine::Output,
    frame::Picture,
    geometry::{Rect, resample},
};
use serde::{Deserialize, Serialize};
use tch::{Device, Tensor, nn};

use super::{
    cells::values,
    network::{Network, STRIDES, normalise},
    scenes::{Mark, Scene, Split, read_marks, read_scenes},
};

#[derive(Debug, clap::Args)]
pub struct EvaluateOptions {
    /// The folder that holds scenes.tar and scenes.csv
    #[arg(long)]
    data: PathBuf,
    /// Weights written by `mien-train detector`
    #[arg(long)]
    weights: PathBuf,
    /// The long side of a photo as the network sees it, in pixels; a multiple of 32
    #[arg(long, default_value_t = 320)]
    long_side: u32,
    /// The least score of a face that counts as found
    #[arg(long, default_value_t = MIN_SCORE)]
    min_score: f32,
    /// Chooses the photos: the seed of the training run
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// The least score of a face that is shown.
pub const MIN_SCORE: f32 = 0.5;
/// IoU above which the weaker of two boxes is dropped.
const NMS_IOU: f32 = 0.45;
/// IoU from which a box has found a face.
const FOUND_IOU: f32 = 0.5;
/// Boxes below this score are not looked at.
pub const LEAST_SCORE: f32 = 0.02;
/// Faces with a longer side from here on, in pixels of the stored photo, are asked for.
const ASKED_SIDE: f32 = 32.0;
/// Size classes: the longer side in pixels of the stored photo.
const SIZES: [(f32, f32); 5] =
    [(8.0, 16.0), (16.0, 32.0), (32.0, 64.0), (64.0, 128.0), (128.0, f32::INFINITY)];
const BATCH: usize = 16;

/// Figures over the photos of one data set.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct Report {
    pub photos: usize,
    /// Faces of at least 32 pixels.
    pub faces: usize,
    /// Average precision at IoU 0.5 over faces of at least 32 pixels; smaller ones count neither way.
    pub average_precision: f32,
    /// The same over faces of at least 8 pixels.
    pub average_precision_from_8: f32,
    /// Average precision over the faces that are at least 50 (easy), 30 (medium) and 10 (hard) pixels high where the
    /// photo's longer side is 1024, about WIDER FACE's own three sets; others count neither way.
    pub easy: f32,
    pub medium: f32,
    pub hard: f32,
    /// The part of the faces of at least 32 pixels that is found at `min_score`.
    pub recall: f32,
    /// The same for the faces known to have a mask, worn or worn wrongly, and how many these are.
    pub masked_recall: f32,
    pub masked: usize,
    pub min_score: f32,
    /// Boxes at `min_score` that are on no marked face, for each photo.
    pub false_per_photo: f32,
    /// The score at which one photo in ten has such a box, and the recall there.
    pub score_at_tenth: f32,
    pub recall_at_tenth: f32,
    pub recall_by_size: Vec<SizeRecall>,
    /// Mean distance of the landmarks of faces found, over the square root of the box area.
    pub landmark_error: f32,
}

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct SizeRecall {
    /// The longer side in pixels of the stored photo.
    pub from: f32,
    pub faces: usize,
    pub recall: f32,
}

/// Measures weights on the photos kept from training and prints a JSON object.
pub fn evaluate(options: &EvaluateOptions) -> Result<()> {
    if options.long_side == 0 || !options.long_side.is_multiple_of(32) {
        bail!("--long-side {}: must be a positive multiple of 32", options.long_side);
    }
    let marks = read_marks(&options.data)?;
    let split = Split::of(marks.keys().map(String::as_str), options.seed);
    let scenes = read_scenes(&options.data, &split.validation, &marks)?;
    let mut vs = nn::VarStore::new(Device::Cpu);
    let network = Network::new(&vs.root());
    vs.load(&options.weights)
        .with_context(|| format!("loading the weights {}", options.weights.display()))?;
    let found = find(|image| network.forward(image, false), vs.device(), &scenes, options.long_side);
    println!("{:#}", serde_json::to_value(reports(&scenes, &found, options.min_score))?);
    Ok(())
}

/// A report for each data set.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reports {
    pub wider: Report,
    pub ilc: Report,
}

pub fn reports(scenes: &[Scene], found: &[Vec<Face>], min_score: f32) -> Reports {
    let of = |wider: bool| {
        let part = scenes.iter().zip(found).filter(|(scene, _)| scene.file.starts_with('w') == wider);
        report(&part.map(|(scene, found)| Photo::of(scene, found)).collect::<Vec<_>>(), min_score)
    };
    Reports { wider: of(true), ilc: of(false) }
}

/// The score at which as many boxes of WIDER's photos are on no marked face as `false_per_photo` says.
pub fn score_at(scenes: &[Scene], found: &[Vec<Face>], false_per_photo: f32) -> f32 {
    let wider = scenes.iter().zip(found).filter(|(scene, _)| scene.file.starts_with('w'));
    let photos: Vec<Photo> = wider.map(|(scene, found)| Photo::of(scene, found)).collect();
    let allowed = (false_per_photo * photos.len() as f32).round() as usize;
    Scores::of(&photos).at_false(allowed)
}

/// A photo judged: what is marked and what was found in it.
struct Photo<'a> {
    marks: &'a [Mark],
    found: &'a [Face],
    /// Pixels of its longer side.
    side: f32,
}

impl<'a> Photo<'a> {
    fn of(scene: &'a Scene, found: &'a [Face]) -> Photo<'a> {
        let (w, h) = scene.picture.dimensions();
        Photo { marks: &scene.faces, found, side: w.max(h) as f32 }
    }
}

/// The faces found in each photo, in its pixels, best first, down to very low scores.
///
/// `network` gives the outputs at [`STRIDES`] for pictures scaled by [`normalise`].
pub fn find(
    network: impl Fn(&Tensor) -> [Tensor; 3],
    device: Device,
    scenes: &[Scene],
    long_side: u32,
) -> Vec<Vec<Face>> {
    let mut found = Vec::with_capacity(scenes.len());
    for batch in scenes.chunks(BATCH) {
        let (pictures, scales): (Vec<_>, Vec<_>) =
            batch.iter().map(|scene| letterbox(&scene.picture, long_side)).unzip();
        let input = normalise(&stack(&pictures.iter().collect::<Vec<_>>()).to_device(device));
        let outputs = tch::no_grad(|| network(&input));
        for (faces, scale) in decode(&outputs, LEAST_SCORE).into_iter().zip(scales) {
            found.push(faces.iter().map(|face| scaled(face, 1.0 / scale)).collect());
        }
    }
    found
}

/// The faces of each picture that the network's outputs hold, in pixels of the input, as the runtime decodes them.
pub fn decode(outputs: &[Tensor; 3], min_score: f32) -> Vec<Vec<Face>> {
    let pictures = outputs[0].size()[0];
    let faces_of = |n: i64| {
        let mut faces = Vec::new();
        for (output, stride) in outputs.iter().zip(STRIDES) {
            let output = output.narrow(0, n, 1);
            let shape = output.size().iter().map(|&side| side as usize).collect();
            let output = Output { shape, values: values(&output) };
            detect::decode(&output, stride as usize, min_score, &mut faces);
        }
        detect::strongest(faces, NMS_IOU)
    };
    (0..pictures).map(faces_of).collect()
}

/// Pictures of one size as a uint8 tensor `[N, 3, H, W]`, channels last in memory.
pub fn stack(pictures: &[&Picture]) -> Tensor {
    let (w, h) = pictures.first().map_or((0, 0), |picture| picture.dimensions());
    let bytes: Vec<u8> = pictures.iter().flat_map(|picture| picture.as_raw()).copied().collect();
    let rows = Tensor::from_slice(&bytes).view([pictures.len() as i64, i64::from(h), i64::from(w), 3]);
    rows.permute([0, 3, 1, 2])
}

/// The picture at the top left of a grey square, its long side resampled to `side`; and by what it was scaled.
pub fn letterbox(picture: &Picture, side: u32) -> (Picture, f32) {
    let (w, h) = picture.dimensions();
    let scale = side as f32 / w.max(h) as f32;
    let pixels = |length: u32| ((length as f32 * scale).round() as u32).clamp(1, side);
    let whole = Rect::new(0.0, 0.0, w as f32, h as f32);
    let mut square = Picture::from_pixel(side, side, image::Rgb([128; 3]));
    image::imageops::replace(&mut square, &resample(picture, &whole, pixels(w), pixels(h)), 0, 0);
    (square, scale)
}

fn scaled(face: &Face, k: f32) -> Face {
    Face {
        rect: face.rect.scaled(k),
        landmarks: face.landmarks.map(|[x, y]| [x * k, y * k]),
        score: face.score,
    }
}

/// What a box turned out to be.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    /// The index of the face.
    Found(usize),
    /// On a face that is not asked for, or on one that a better box has found.
    Neutral,
    False,
}

/// Judges boxes, best first: each takes the free face that it overlaps most.
fn judge(marks: &[Mark], found: &[Face], asked: impl Fn(&Mark) -> bool) -> Vec<Verdict> {
    let mut free: Vec<bool> = marks.iter().map(&asked).collect();
    let verdict = |face: &Face| {
        let mut on_any = false;
        let mut best: Option<(f32, usize)> = None;
        for (index, mark) in marks.iter().enumerate() {
            let iou = mark.rect.iou(&face.rect);
            if iou < FOUND_IOU {
                continue;
            }
            on_any |= !asked(mark);
            if free[index] && best.is_none_or(|(most, _)| iou > most) {
                best = Some((iou, index));
            }
        }
        match best {
            Some((_, index)) => {
                free[index] = false;
                Verdict::Found(index)
            }
            None if on_any => Verdict::Neutral,
            None => Verdict::False,
        }
    };
    found.iter().map(verdict).collect()
}

/// Scores of the boxes on a face and on none, over all photos; marks that are to be ignored count neither way.
#[derive(Default)]
struct Scores {
    /// Best first.
    on_none: Vec<f32>,
    /// With the face found.
    on_face: Vec<(Mark, Face)>,
}

impl Scores {
    fn of(photos: &[Photo]) -> Scores {
        let mut scores = Scores::default();
        for photo in photos {
            for (face, verdict) in
                photo.found.iter().zip(judge(photo.marks, photo.found, |mark| !mark.ignore))
            {
                match verdict {
                    Verdict::Found(index) => scores.on_face.push((photo.marks[index], *face)),
                    Verdict::Neutral => {}
                    Verdict::False => scores.on_none.push(face.score),
                }
            }
        }
        scores.on_none.sort_by(|a, b| b.total_cmp(a));
        scores
    }

    /// The score that so many boxes on no face are above.
    fn at_false(&self, boxes: usize) -> f32 {
        self.on_none.get(boxes).copied().unwrap_or(LEAST_SCORE)
    }
}

fn longer_side(mark: &Mark) -> f32 {
    mark.rect.w.max(mark.rect.h)
}

fn report(photos: &[Photo], min_score: f32) -> Report {
    let from = |side: f32| move |mark: &Mark, _: &Photo| !mark.ignore && longer_side(mark) >= side;
    let high = |pixels: f32| {
        move |mark: &Mark, photo: &Photo| !mark.ignore && mark.rect.h * 1024.0 / photo.side >= pixels
    };
    let asked: Vec<&Mark> = photos.iter().flat_map(|photo| photo.marks).filter(|mark| !mark.ignore).collect();
    let scores = Scores::of(photos);

    let recall = |wanted: &dyn Fn(&Mark) -> bool, score: f32| {
        let all = asked.iter().filter(|mark| wanted(mark)).count();
        let hits = scores.on_face.iter().filter(|(mark, face)| wanted(mark) && face.score >= score).count();
        (all, hits as f32 / all.max(1) as f32)
    };
    let large = |mark: &Mark| longer_side(mark) >= ASKED_SIDE;
    let masked = |mark: &Mark| large(mark) && matches!(mark.mask, Some(Mask::Worn | Mask::Wrong));
    let (faces, recall_of_large) = recall(&large, min_score);
    let (masked, masked_recall) = recall(&masked, min_score);
    let score_at_tenth = scores.at_false(photos.len() / 10);
    let false_boxes = scores.on_none.iter().filter(|score| **score >= min_score).count();
    let landmark_errors: Vec<f32> = scores
        .on_face
        .iter()
        .filter(|(mark, face)| large(mark) && face.score >= min_score)
        .filter_map(|(mark, face)| {
            Some(distance(&mark.landmarks?, &face.landmarks) / mark.rect.area().sqrt())
        })
        .collect();
    Report {
        photos: photos.len(),
        faces,
        average_precision: average_precision(photos, from(ASKED_SIDE)),
        average_precision_from_8: average_precision(photos, from(8.0)),
        easy: average_precision(photos, high(50.0)),
        medium: average_precision(photos, high(30.0)),
        hard: average_precision(photos, high(10.0)),
        recall: recall_of_large,
        masked_recall,
        masked,
        min_score,
        false_per_photo: false_boxes as f32 / photos.len().max(1) as f32,
        score_at_tenth,
        recall_at_tenth: recall(&large, score_at_tenth).1,
        recall_by_size: SIZES
            .map(|(low, high)| {
                let (faces, recall) = recall(&|mark| (low..high).contains(&longer_side(mark)), min_score);
                SizeRecall { from: low, faces, recall }
            })
            .to_vec(),
        landmark_error: landmark_errors.iter().sum::<f32>() / landmark_errors.len().max(1) as f32,
    }
}

/// The area under precision over recall, precision made monotonous (PASCAL VOC 2010).
fn average_precision(photos: &[Photo], asked: impl Fn(&Mark, &Photo) -> bool) -> f32 {
    let of_photo = |photo: &Photo| photo.marks.iter().filter(|mark| asked(mark, photo)).count();
    let total: usize = photos.iter().map(of_photo).sum();
    let mut boxes: Vec<(f32, bool)> = Vec::new();
    for photo in photos {
        let verdicts = judge(photo.marks, photo.found, |mark| asked(mark, photo));
        for (face, verdict) in photo.found.iter().zip(verdicts) {
            match verdict {
                Verdict::Found(_) => boxes.push((face.score, true)),
                Verdict::False => boxes.push((face.score, false)),
                Verdict::Neutral => {}
            }
        }
    }
    boxes.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut hits = 0;
    let mut precisions: Vec<(bool, f32)> = Vec::with_capacity(boxes.len());
    for (seen, (_, hit)) in boxes.iter().enumerate() {
        hits += usize::from(*hit);
        precisions.push((*hit, hits as f32 / (seen + 1) as f32));
    }
    let (mut best, mut area) = (0f32, 0f32);
    for (hit, precision) in precisions.into_iter().rev() {
        best = best.max(precision);
        if hit {
            area += best;
        }
    }
    area / total.max(1) as f32
}

fn distance(a: &[[f32; 2]; 5], b: &[[f32; 2]; 5]) -> f32 {
    a.iter().zip(b).map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1])).sum::<f32>() / 5.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(x: f32, side: f32, ignore: bool) -> Mark {
        let mask = Some(if x > 0.0 { Mask::Worn } else { Mask::None });
        Mark { rect: Rect::new(x, 0.0, side, side), ignore, mask, landmarks: Some([[x, 0.0]; 5]) }
    }

    fn face(x: f32, side: f32, score: f32) -> Face {
        Face { rect: Rect::new(x, 0.0, side, side), landmarks: [[x, 0.0]; 5], score }
    }

    #[test]
    fn average_precision_of_a_known_ranking() {
        let marks = [mark(0.0, 40.0, false), mark(100.0, 40.0, false)];
        // Hit, miss, hit: (1 + 2/3) / 2.
        let found = [face(0.0, 40.0, 0.9), face(300.0, 40.0, 0.8), face(100.0, 40.0, 0.7)];
        let report = report(&[Photo { marks: &marks, found: &found, side: 416.0 }], 0.75);
        assert!((report.average_precision - 5.0 / 6.0).abs() < 1e-6);
        assert_eq!((report.recall, report.false_per_photo, report.faces), (0.5, 1.0, 2));
        assert_eq!(report.landmark_error, 0.0);
        assert_eq!((report.masked, report.masked_recall), (1, 0.0));
        assert_eq!(report.easy, report.average_precision);
    }

    #[test]
    fn ignored_and_small_faces_count_neither_way() {
        let marks = [mark(0.0, 40.0, false), mark(100.0, 12.0, false), mark(200.0, 4.0, true)];
        let found = [face(100.0, 12.0, 0.9), face(200.0, 4.0, 0.8), face(0.0, 40.0, 0.7)];
        let report = report(&[Photo { marks: &marks, found: &found, side: 416.0 }], 0.5);
        // 12 of 416 pixels are 29.5 of 1024.
        assert_eq!((report.easy, report.medium, report.hard), (1.0, 1.0, 1.0));
        assert_eq!(report.average_precision, 1.0);
        assert_eq!(report.average_precision_from_8, 1.0);
        assert_eq!((report.recall, report.false_per_photo), (1.0, 0.0));
        assert_eq!(report.recall_by_size[0], SizeRecall { from: 8.0, faces: 1, recall: 1.0 });
    }

    #[test]
    fn a_second_box_on_a_face_is_false() {
        let marks = [mark(0.0, 40.0, false)];
        let found = [face(0.0, 40.0, 0.9), face(4.0, 40.0, 0.8)];
        assert_eq!(judge(&marks, &found, |_| true), [Verdict::Found(0), Verdict::False]);
    }

    #[test]
    fn letterboxing_keeps_the_aspect() {
        let (square, scale) = letterbox(&Picture::from_pixel(416, 208, image::Rgb([255; 3])), 320);
        assert_eq!(square.dimensions(), (320, 320));
        assert!((scale - 320.0 / 416.0).abs() < 1e-6);
        assert_eq!((square.get_pixel(319, 159).0, square.get_pixel(0, 160).0), ([255; 3], [128; 3]));
    }
}
