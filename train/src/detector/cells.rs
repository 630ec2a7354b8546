//! The cells of the network's outputs, and how their channels describe faces.

use mien::geometry::Rect;
use tch::{Kind, Tensor};

use super::network::STRIDES;

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
    /// The box that a cell's 15 `channels` describe, in pixels of the input.
    pub fn decode(&self, channels: &[f32]) -> Rect {
        let (w, h) = (channels[3].exp() * self.stride, channels[4].exp() * self.stride);
        let (cx, cy) = (self.x + channels[1] * self.stride, self.y + channels[2] * self.stride);
        Rect::new(cx - w / 2.0, cy - h / 2.0, w, h)
    }
}

/// The values of a tensor, in row-major order.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.detach().to_kind(Kind::Float).contiguous();
    let mut values = vec![0.0; tensor.numel()];
    let count = values.len();
    tensor.copy_data(&mut values, count);
    values
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    #[test]
    fn decoding_undoes_encoding() {
        let rect = Rect::new(20.0, 30.0, 41.0, 53.0);
        let [cx, cy] = rect.centre();
        for cell in cells(96, 96) {
            let Cell { x, y, stride } = cell;
            let channels =
                [0.0, (cx - x) / stride, (cy - y) / stride, (rect.w / stride).ln(), (rect.h / stride).ln()];
            assert!(cell.decode(&channels).iou(&rect) > 0.9999, "{cell:?}");
        }
    }

    /// The assigner and the loss read cells as the runtime does.
    #[test]
    fn decoding_agrees_with_the_runtime() {
        let (width, height) = (96u32, 64u32);
        let outputs = STRIDES.map(|stride| {
            let (h, w) = (i64::from(height) / stride, i64::from(width) / stride);
            // Not so wild that the runtime takes a box for a number gone wild.
            Tensor::rand([1, 15, h, w], (Kind::Float, Device::Cpu)) - 0.5
        });
        let mut faces = Vec::new();
        for (output, stride) in outputs.iter().zip(STRIDES) {
            let shape = output.size().iter().map(|&side| side as usize).collect();
            let output = mien::engine::Output { shape, values: values(output) };
            mien::detect::decode(&output, stride as usize, 0.0, &mut faces);
        }
        let rows = values(&flatten(&outputs));
        let cells = cells(width, height);
        assert_eq!(faces.len(), cells.len());
        for ((face, cell), row) in faces.iter().zip(&cells).zip(rows.chunks_exact(15)) {
            assert!(face.rect.iou(&cell.decode(row)) > 0.9999, "{face:?}");
        }
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
