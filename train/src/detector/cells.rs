//! The cells of the network's outputs, and how their channels describe faces.

use mien::{
    detect::Face,
    geometry::{Landmarks, Rect, nms},
};
use tch::{Kind, Tensor};

use super::network::{CHANNELS, STRIDES};

/// One position of an output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cell {
    /// The point that offsets are counted from, in pixels of the input.
    pub x: f32,
    pub y: f32,
    pub stride: f32,
}

/// All cells for an input of `width` × `height` pixels: by stride, then row, then column, as in [`flatten`].
pub fn cells(width: u32, height: u32) -> Vec<Cell> {
    let mut cells = Vec::new();
    for stride in STRIDES {
        let s = stride as f32;
        for j in 0..i64::from(height) / stride {
            let row = |i| Cell { x: (i as f32 + 0.5) * s, y: (j as f32 + 0.5) * s, stride: s };
            cells.extend((0..i64::from(width) / stride).map(row));
        }
    }
    cells
}

/// The network's outputs as one tensor `[N, cells, 15]`.
pub fn flatten(outputs: &[Tensor; 3]) -> Tensor {
    let rows = outputs.each_ref().map(|output| output.permute([0, 2, 3, 1]).flatten(1, 2));
    Tensor::cat(&rows, 1)
}

impl Cell {
    /// The face that `channels` describe, in pixels of the input.
    pub fn decode(&self, channels: &[f32]) -> Face {
        let rect = self.decode_rect(channels);
        let mut landmarks = Landmarks::default();
        for (point, offset) in landmarks.iter_mut().zip(channels[5..].chunks_exact(2)) {
            *point = [self.x + offset[0] * self.stride, self.y + offset[1] * self.stride];
        }
        Face { rect, landmarks, score: sigmoid(channels[0]) }
    }

    /// The box alone.
    pub fn decode_rect(&self, channels: &[f32]) -> Rect {
        let (w, h) = (channels[3].exp() * self.stride, channels[4].exp() * self.stride);
        let (cx, cy) = (self.x + channels[1] * self.stride, self.y + channels[2] * self.stride);
        Rect::new(cx - w / 2.0, cy - h / 2.0, w, h)
    }
}

/// The faces that score at least `min_score`, best first, overlaps above `nms_iou` dropped.
///
/// `channels` holds 15 values for each of `cells`.
pub fn decode(cells: &[Cell], channels: &[f32], min_score: f32, nms_iou: f32) -> Vec<Face> {
    let faces: Vec<Face> = cells
        .iter()
        .zip(channels.chunks_exact(CHANNELS as usize))
        .filter(|(_, channels)| sigmoid(channels[0]) >= min_score)
        .map(|(cell, channels)| cell.decode(channels))
        .collect();
    let boxes: Vec<Rect> = faces.iter().map(|face| face.rect).collect();
    let scores: Vec<f32> = faces.iter().map(|face| face.score).collect();
    nms(&boxes, &scores, nms_iou).into_iter().map(|kept| faces[kept]).collect()
}

/// The values of a tensor, in row-major order.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.detach().to_kind(Kind::Float).contiguous();
    let mut values = vec![0.0; tensor.numel()];
    let count = values.len();
    tensor.copy_data(&mut values, count);
    values
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// The channels by which `cell` would describe a face.
    fn encode(cell: &Cell, rect: &Rect, landmarks: &Landmarks, logit: f32) -> Vec<f32> {
        let [cx, cy] = rect.centre();
        let offset = |x: f32, y: f32| [(x - cell.x) / cell.stride, (y - cell.y) / cell.stride];
        let mut channels = vec![logit];
        channels.extend(offset(cx, cy));
        channels.extend([(rect.w / cell.stride).ln(), (rect.h / cell.stride).ln()]);
        channels.extend(landmarks.iter().flat_map(|&[x, y]| offset(x, y)));
        channels
    }

    #[test]
    fn decoding_undoes_encoding() {
        let rect = Rect::new(20.0, 30.0, 41.0, 53.0);
        let landmarks = [[30.0, 44.0], [50.0, 45.0], [40.0, 56.0], [32.0, 70.0], [49.0, 71.5]];
        let mut all = Vec::new();
        let cells = cells(96, 96);
        for cell in &cells {
            let near = (cell.x, cell.y, cell.stride) == (40.0, 56.0, 16.0);
            all.extend(encode(cell, &rect, &landmarks, if near { 2.0 } else { -9.0 }));
        }
        let faces = decode(&cells, &all, 0.5, 0.4);
        assert_eq!(faces.len(), 1);
        let face = faces[0];
        assert!(face.rect.iou(&rect) > 0.9999, "{:?}", face.rect);
        let error = |(a, b): (&[f32; 2], &[f32; 2])| (a[0] - b[0]).abs().max((a[1] - b[1]).abs());
        assert!(face.landmarks.iter().zip(&landmarks).map(error).all(|e| e < 1e-3));
        assert!((face.score - 0.8808).abs() < 1e-4);
    }

    #[test]
    fn flattened_rows_follow_the_cells() {
        let outputs = STRIDES.map(|stride| {
            let (h, w) = (64 / stride, 96 / stride);
            let x = (Tensor::arange(w, (Kind::Float, Device::Cpu)) + 0.5) * stride;
            let y = (Tensor::arange(h, (Kind::Float, Device::Cpu)) + 0.5) * stride;
            let x = x.view([1, 1, 1, w]).expand([1, 1, h, w], false);
            let y = y.view([1, 1, h, 1]).expand([1, 1, h, w], false);
            Tensor::cat(&[x, y], 1)
        });
        let rows = values(&flatten(&outputs));
        let cells = cells(96, 64);
        assert_eq!(rows.len(), 2 * cells.len());
        for (row, cell) in rows.chunks_exact(2).zip(&cells) {
            assert_eq!(row, [cell.x, cell.y]);
        }
    }
}
