//! What the detector's network says: a byte each for width and height of its input, the least score and the greatest
//! overlap, then the f32 values of its three outputs; those that are missing are 0.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};
use mien::{
    detect::{CHANNELS, Face, STRIDES, decode, strongest},
    engine::Output,
    frame::Picture,
    geometry,
};
use mien_fuzz::within;

/// The input's sides are multiples of it.
const SIDE: usize = 32;
const MOST_FACES: usize = 200;
/// The side of a crop, as in the shipped models.
const CROP: f32 = 1.2;

fn share(byte: u8) -> f32 {
    f32::from(byte) / 255.0
}

fn check(face: &Face, [width, height]: [usize; 2], min_score: f32) {
    let Face { rect, landmarks, score } = face;
    assert!((min_score - 1e-6..=1.0).contains(score), "{face:?}");
    let side = width.max(height) as f32;
    assert!((0.0..=4.0 * side).contains(&rect.w) && (0.0..=4.0 * side).contains(&rect.h), "{face:?}");
    let points = landmarks.iter().chain([&rect.centre()]).flatten().copied().collect::<Vec<f32>>();
    assert!(points.iter().all(|at| at.abs() <= 8.0 * side), "{face:?} is nowhere near the picture");
}

fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((&[width, height, min_score, nms_iou], values)) = input.split_first_chunk() else {
        return Corpus::Reject;
    };
    let [width, height] = [width, height].map(|side| SIDE * (1 + usize::from(side % 3)));
    let (min_score, nms_iou) = (share(min_score), share(nms_iou));
    let mut values =
        values.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]));

    let mut candidates = Vec::new();
    for stride in STRIDES {
        let shape = vec![1, CHANNELS, height / stride, width / stride];
        let values = (0..shape.iter().product()).map(|_| values.next().unwrap_or_default()).collect();
        decode(&Output { shape, values }, stride, min_score, &mut candidates);
    }
    candidates.iter().for_each(|face| check(face, [width, height], min_score));

    let faces = strongest(candidates.clone(), nms_iou);
    assert!(faces.len() <= MOST_FACES && faces.is_sorted_by(|a, b| a.score >= b.score));
    for (index, face) in faces.iter().enumerate() {
        assert!(candidates.contains(face));
        assert!(faces[..index].iter().all(|better| better.rect.iou(&face.rect) <= nms_iou), "{face:?} stays");
    }
    if faces.len() < MOST_FACES {
        let covers = |face: &Face, better: &Face| {
            better.score >= face.score && (better == face || better.rect.iou(&face.rect) > nms_iou)
        };
        assert!(
            candidates.iter().all(|face| faces.iter().any(|better| covers(face, better))),
            "a face is lost"
        );
    }

    if let Some(best) = faces.first() {
        let picture = Picture::new(width as u32, height as u32);
        let square = geometry::crop_square(&best.rect, CROP);
        let side = CROP * 4.0 * width.max(height) as f32 + 2.0;
        let crop = within(3 * (side * side) as usize + (1 << 20), || {
            geometry::crop(
                &picture,
                &geometry::Rect { w: square.w.max(1.0), h: square.h.max(1.0), ..square },
                16,
            )
        });
        assert_eq!(crop.dimensions(), (16, 16));
    }
    Corpus::Keep
});
