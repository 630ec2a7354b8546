//! YuNet, the face detector of OpenCV's model zoo, run as a mark to pass.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use mien::{
    detect::{Face, strongest},
    frame::Picture,
    geometry::Rect,
};
use tract_onnx::prelude::*;

use super::{
    evaluate::{LEAST_SCORE, letterbox},
    network::STRIDES,
};

/// The network of `face_detection_yunet_2023mar.onnx`, in plain tract (Wu, Peng and Yu, "YuNet: a tiny
/// millisecond-level face detector", 2023).
pub struct Yunet {
    plan: Arc<TypedRunnableModel>,
    /// The side of its square input in pixels.
    side: u32,
}

/// As in OpenCV's `FaceDetectorYN`.
const NMS_IOU: f32 = 0.3;

impl Yunet {
    /// # Errors
    /// When the file is not YuNet with a square input.
    pub fn load(path: &Path) -> Result<Yunet> {
        let load = || -> Result<Yunet> {
            let model = tract_onnx::onnx().model_for_path(path)?.into_optimized()?;
            let shape =
                model.input_fact(0)?.shape.as_concrete().context("its input has no fixed size")?.to_vec();
            ensure!(
                matches!(shape[..], [1, 3, h, w] if h == w) && model.output_outlets()?.len() == 12,
                "it has an input of {shape:?} and {} outputs, not YuNet's",
                model.output_outlets()?.len()
            );
            Ok(Yunet { plan: model.into_runnable()?, side: shape[3] as u32 })
        };
        load().with_context(|| format!("loading YuNet from {}", path.display()))
    }

    /// The faces in a picture, best first, down to very low scores.
    pub fn detect(&self, picture: &Picture) -> Result<Vec<Face>> {
        let (square, scale) = letterbox(picture, self.side);
        let side = self.side as usize;
        // Blue, green, red, 0–255.
        let input = tract_ndarray::Array4::from_shape_fn((1, 3, side, side), |(_, channel, y, x)| {
            f32::from(square.get_pixel(x as u32, y as u32).0[2 - channel])
        });
        let outputs = self.plan.run(tvec!(Tensor::from(input).into_tvalue()))?;
        let values = |n: usize| -> Result<Vec<f32>> {
            Ok(outputs[n].to_plain_array_view::<f32>()?.iter().copied().collect())
        };
        let mut faces = Vec::new();
        for (level, stride) in STRIDES.into_iter().enumerate() {
            // Class, objectness, box and landmarks come one after the other, each at the three strides.
            let [class, object, boxes, points] =
                [values(level)?, values(3 + level)?, values(6 + level)?, values(9 + level)?];
            let (s, columns) = (stride as f32, side / stride as usize);
            for (cell, (class, object)) in class.iter().zip(&object).enumerate() {
                let score = (class.clamp(0.0, 1.0) * object.clamp(0.0, 1.0)).sqrt();
                if score < LEAST_SCORE {
                    continue;
                }
                let (i, j) = ((cell % columns) as f32, (cell / columns) as f32);
                let [dx, dy, dw, dh] = [0, 1, 2, 3].map(|k| boxes[4 * cell + k]);
                let (cx, cy, w, h) = ((i + dx) * s, (j + dy) * s, dw.exp() * s, dh.exp() * s);
                let point =
                    |k: usize| [(i + points[10 * cell + 2 * k]) * s, (j + points[10 * cell + 2 * k + 1]) * s];
                faces.push(Face {
                    rect: Rect::new(cx - w / 2.0, cy - h / 2.0, w, h),
                    landmarks: [0, 1, 2, 3, 4].map(point),
                    score,
                });
            }
        }
        let to_picture = |face: Face| Face {
            rect: face.rect.scaled(1.0 / scale),
            landmarks: face.landmarks.map(|[x, y]| [x / scale, y / scale]),
            ..face
        };
        Ok(strongest(faces, NMS_IOU).into_iter().map(to_picture).collect())
    }
}
