//! Picture → faces: letterbox, network, decoding, non-maximum suppression.

use crate::{
    engine::{EngineError, EngineKind, Network, Output, kernels::halve::halve},
    frame::Picture,
    geometry::{self, Landmarks, Rect},
    models::{DetectorSettings, Model},
};

/// A face found in a picture, in pixels of that picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Face {
    pub rect: Rect,
    pub landmarks: Landmarks,
    /// 0–1.
    pub score: f32,
}

/// Strides of the network's three outputs in input pixels.
pub const STRIDES: [usize; 3] = [8, 16, 32];
/// Values a cell gives: score logit, centre offset (2), log size (2), landmark offsets (10).
pub const CHANNELS: usize = 15;
/// Names of the network's outputs.
pub const OUTPUTS: [&str; 3] = ["stride8", "stride16", "stride32"];
/// The sides of the network's input are multiples of this.
const ALIGN: usize = 32;
/// The colour of the letterbox's margin: zero to the network.
const MARGIN: u8 = 128;
/// No more faces than this are returned for a picture, best first.
const MOST_FACES: usize = 200;

/// The face detector.
pub struct Detector {
    network: Network,
    settings: DetectorSettings,
    long_side: usize,
}

impl Detector {
    /// `long_side`: the picture's longer side as the network sees it, in pixels, rounded up to a multiple of 32.
    /// `min_score` replaces the card's threshold.
    ///
    /// # Errors
    /// When the model is not a detector of ours.
    pub fn new(
        model: &Model<DetectorSettings>,
        engine: EngineKind,
        long_side: u32,
        min_score: Option<f32>,
    ) -> Result<Self, EngineError> {
        let mut settings = model.card.settings;
        settings.min_score = min_score.unwrap_or(settings.min_score);
        let network = Network::load(&model.onnx, &model.origin, &OUTPUTS, engine)?;
        let long_side = (long_side as usize).max(ALIGN).next_multiple_of(ALIGN);
        Ok(Self { network, settings, long_side })
    }

    /// The least score of the faces that it gives, 0–1.
    pub fn min_score(&self) -> f32 {
        self.settings.min_score
    }

    /// The faces in a picture, best first; boxes may reach over its edge.
    ///
    /// # Errors
    /// When the network cannot run.
    pub fn detect(&mut self, picture: &Picture) -> Result<Vec<Face>, EngineError> {
        if picture.width() == 0 || picture.height() == 0 {
            return Ok(Vec::new());
        }
        let letterbox = self.letterbox(picture);
        let outputs = self.outputs(&letterbox)?;
        self.faces(&letterbox, &outputs)
    }

    /// First step of [`Detector::detect`]: a picture, not empty, as the network sees it.
    pub fn letterbox(&self, picture: &Picture) -> Letterbox {
        Letterbox::new(picture, self.long_side)
    }

    /// Second step: the network's outputs.
    ///
    /// # Errors
    /// When the network cannot run.
    pub fn outputs(&mut self, letterbox: &Letterbox) -> Result<Vec<Output>, EngineError> {
        self.network.run(&letterbox.pixels, [1, letterbox.height, letterbox.width])
    }

    /// Third step: the faces in those outputs, in pixels of the picture, best first.
    ///
    /// # Errors
    /// When the outputs have other shapes than a detector's.
    pub fn faces(&self, letterbox: &Letterbox, outputs: &[Output]) -> Result<Vec<Face>, EngineError> {
        let (w, h) = (letterbox.width, letterbox.height);
        let mut candidates = Vec::new();
        for (output, stride) in outputs.iter().zip(STRIDES) {
            let expected = [1, CHANNELS, h / stride, w / stride];
            if output.shape != expected {
                return Err(EngineError::Foreign {
                    origin: self.network.origin().into(),
                    found: format!("its output for stride {stride} has the shape {:?}", output.shape),
                    expected: format!("{expected:?}"),
                });
            }
            decode(output, stride, self.settings.min_score, &mut candidates);
        }
        Ok(strongest(candidates, self.settings.nms_iou)
            .into_iter()
            .map(|face| letterbox.to_picture(&face))
            .collect())
    }
}

/// Appends the faces of one output, `[1, 15, rows, columns]`, whose score is at least `min_score` (0–1), in pixels of
/// the network's input. What is not finite, or beyond four times the input's longer side, is no face.
pub fn decode(output: &Output, stride: usize, min_score: f32, faces: &mut Vec<Face>) {
    let (rows, columns) = (output.shape[2], output.shape[3]);
    let cells = rows * columns;
    let s = stride as f32;
    let largest = 4.0 * s * rows.max(columns) as f32;
    let least_logit = (min_score / (1.0 - min_score)).ln();
    for (cell, &logit) in output.values[..cells].iter().enumerate() {
        if logit.is_nan() || logit < least_logit {
            continue;
        }
        let at = |channel: usize| output.values[channel * cells + cell];
        let (i, j) = ((cell % columns) as f32 + 0.5, (cell / columns) as f32 + 0.5);
        let (w, h) = (at(3).exp() * s, at(4).exp() * s);
        let (cx, cy) = ((i + at(1)) * s, (j + at(2)) * s);
        let face = Face {
            rect: Rect::new(cx - w / 2.0, cy - h / 2.0, w, h),
            landmarks: std::array::from_fn(|k| [(i + at(5 + 2 * k)) * s, (j + at(6 + 2 * k)) * s]),
            score: 1.0 / (1.0 + (-logit).exp()),
        };
        // A face far larger than the input or far away is a number gone wild; cropping it would need the memory. NaN
        // is not within the limit either.
        let mut numbers = [w, h, cx, cy].into_iter().chain(face.landmarks.into_iter().flatten());
        if numbers.all(|number| number.abs() <= largest) {
            faces.push(face);
        }
    }
}

/// What is left after non-maximum suppression, best first.
pub fn strongest(faces: Vec<Face>, nms_iou: f32) -> Vec<Face> {
    let rects: Vec<Rect> = faces.iter().map(|f| f.rect).collect();
    let scores: Vec<f32> = faces.iter().map(|f| f.score).collect();
    let kept = geometry::nms(&rects, &scores, nms_iou);
    kept.into_iter().take(MOST_FACES).map(|i| faces[i]).collect()
}

/// A picture shrunk or enlarged to a long side, with margins at the right and the bottom.
pub struct Letterbox {
    /// RGB, `3 * width * height` bytes.
    pixels: Vec<u8>,
    width: usize,
    height: usize,
    /// Input pixels per picture pixel, across and down.
    scale: [f32; 2],
}

impl Letterbox {
    fn new(picture: &Picture, long_side: usize) -> Self {
        let (pw, ph) = picture.dimensions();
        let scale = long_side as f32 / pw.max(ph) as f32;
        let side = |pixels: u32| ((pixels as f32 * scale).round() as usize).clamp(1, long_side);
        let (w, h) = (side(pw), side(ph));
        let (width, height) = (w.next_multiple_of(ALIGN), h.next_multiple_of(ALIGN));
        let mut pixels = vec![MARGIN; 3 * width * height];
        let picture_size = [ph, pw].map(|side| side as usize);
        if picture_size == [2 * h, 2 * w] {
            halve(picture.as_raw(), picture_size, &mut pixels, 3 * width);
        } else {
            let whole = Rect::new(0.0, 0.0, pw as f32, ph as f32);
            let small = geometry::resample(picture, &whole, w as u32, h as u32);
            for (row, source) in pixels.chunks_exact_mut(3 * width).zip(small.chunks_exact(3 * w)) {
                row[..source.len()].copy_from_slice(source);
            }
        }
        Self { pixels, width, height, scale: [w as f32 / pw as f32, h as f32 / ph as f32] }
    }

    /// A face in pixels of the network's input, in those of the picture.
    fn to_picture(&self, face: &Face) -> Face {
        let [sx, sy] = self.scale;
        let Rect { x, y, w, h } = face.rect;
        Face {
            rect: Rect::new(x / sx, y / sy, w / sx, h / sy),
            landmarks: face.landmarks.map(|[x, y]| [x / sx, y / sy]),
            score: face.score,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_the_cell_that_says_face() {
        let (rows, columns) = (2, 3);
        let mut values = vec![0.0; CHANNELS * rows * columns];
        let cell = columns + 2;
        values[..rows * columns].fill(-10.0);
        values[cell] = 2.0;
        values[rows * columns + cell] = 0.25;
        values[3 * rows * columns + cell] = 2f32.ln();
        values[5 * rows * columns + cell] = -1.0;
        let output = Output { shape: vec![1, CHANNELS, rows, columns], values };
        let mut faces = Vec::new();
        decode(&output, 16, 0.5, &mut faces);
        assert_eq!(faces.len(), 1);
        assert_eq!(faces[0].rect, Rect::new(2.75 * 16.0 - 16.0, 24.0 - 8.0, 32.0, 16.0));
        assert_eq!(faces[0].landmarks[0], [1.5 * 16.0, 24.0]);
        assert!((faces[0].score - 0.880797).abs() < 1e-5);
    }

    /// Found by fuzzing: a box of which one side is no number, wild landmarks, and a score that is none were faces.
    #[test]
    fn what_is_no_number_is_no_face() {
        for (channel, wild) in
            (0..CHANNELS).flat_map(|c| [f32::NAN, f32::INFINITY, 3e38].map(|wild| (c, wild)))
        {
            let mut values = vec![0.0; CHANNELS];
            values[channel] = wild;
            let mut faces = Vec::new();
            decode(&Output { shape: vec![1, CHANNELS, 1, 1], values }, 32, 0.5, &mut faces);
            match faces[..] {
                [] => {}
                [face] => assert!(channel == 0 && face.score == 1.0, "{wild} in channel {channel}: {face:?}"),
                _ => panic!("one cell gives {faces:?}"),
            }
        }
    }

    #[test]
    fn letterbox_keeps_the_shape_and_pads_with_the_margin() {
        let picture = Picture::from_pixel(640, 400, image::Rgb([10, 20, 30]));
        let l = Letterbox::new(&picture, 320);
        assert_eq!((l.width, l.height), (320, 224));
        assert_eq!(l.pixels[..3], [10, 20, 30]);
        assert_eq!(l.pixels[3 * 320 * 199..][..3], [10, 20, 30]);
        assert_eq!(l.pixels[3 * 320 * 200..][..3], [MARGIN; 3]);
        let face = Face { rect: Rect::new(10.0, 20.0, 30.0, 40.0), landmarks: [[1.0, 2.0]; 5], score: 0.5 };
        assert_eq!(l.to_picture(&face).rect, Rect::new(20.0, 40.0, 60.0, 80.0));
    }

    #[test]
    fn letterbox_of_extreme_pictures() {
        for (w, h) in [(1, 1), (4000, 1), (1, 4000)] {
            let l = Letterbox::new(&Picture::new(w, h), 320);
            assert_eq!(l.pixels.len(), 3 * l.width * l.height);
            assert!(l.width <= 320 && l.height <= 320);
        }
    }
}
