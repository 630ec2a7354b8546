//! What the detector's training makes small.

use tch::{Device, Kind, Reduction, Tensor};

use super::{
    assign::{Truth, assign},
    augment::Sample,
    cells::{Cell, values},
    network::CHANNELS,
};

const BOX_WEIGHT: f64 = 2.0;
const LANDMARK_WEIGHT: f64 = 5.0;
/// Landmark errors below this part of the face's size count by their square.
const LANDMARK_BETA: f64 = 0.05;
/// The IoUs of a box with its face from which the score is to say more than 0, and 1. Halfway between is the IoU that makes
/// a box a hit, so that a score says how likely the box is one, not how exact.
const QUALITY: (f64, f64) = (0.25, 0.75);
/// Weight of an empty cell's score, times its square: "VarifocalNet", Zhang et al. 2021.
const EMPTY_WEIGHT: f64 = 0.75;

/// The loss of a batch and its parts, each a scalar divided by the number of cells that learn a face.
#[derive(Debug)]
pub struct Loss {
    pub total: Tensor,
    /// Binary cross-entropy of the scores; a face's cell is to say the [`quality`] of its box.
    pub score: Tensor,
    /// EIoU of the boxes: "Focal and efficient IOU loss", Zhang et al. 2022.
    pub boxes: Tensor,
    /// Smooth L1 of the landmarks over the square root of the box area.
    pub landmarks: Tensor,
}

/// `rows` is the network's flattened output `[N, cells, 15]` for the N `samples`.
pub fn loss(rows: &Tensor, cells: &[Cell], samples: &[Sample]) -> Loss {
    let said = values(rows);
    let per_picture = cells.len() * CHANNELS as usize;
    let mut learned = Learned::default();
    let mut counted = vec![1f32; samples.len() * cells.len()];
    for (n, (sample, said)) in samples.iter().zip(said.chunks_exact(per_picture)).enumerate() {
        let assignment = assign(cells, said, &sample.faces, &sample.ignored);
        for cell in assignment.ignored {
            counted[n * cells.len() + cell] = 0.0;
        }
        for (cell, face) in assignment.faces {
            learned.push(n * cells.len() + cell, &cells[cell], &sample.faces[face]);
        }
    }

    let rows = rows.view([-1, CHANNELS]);
    let logits = rows.select(1, 0);
    let scores = logits.detach().sigmoid();
    let weights = scores.square() * EMPTY_WEIGHT * Tensor::from_slice(&counted).to_device(rows.device());
    let count = learned.indices.len().max(1) as f64;

    if learned.indices.is_empty() {
        let none = logits.zeros_like();
        let score = logits.binary_cross_entropy_with_logits(&none, Some(weights), None, Reduction::Sum);
        let zero = Tensor::zeros([], (Kind::Float, rows.device()));
        return Loss { total: score.shallow_clone(), score, boxes: zero.shallow_clone(), landmarks: zero };
    }

    let at = Tensor::from_slice(&learned.indices).to_device(rows.device());
    let learned = learned.tensors(rows.device());
    let said = rows.index_select(0, &at);
    let (ious, box_losses) = eiou(&said, &learned);
    let targets = logits.zeros_like().index_copy(0, &at, &quality(&ious));
    let weights = weights.index_fill(0, &at, 1.0);
    let score =
        logits.binary_cross_entropy_with_logits(&targets, Some(weights), None, Reduction::Sum) / count;
    let boxes = box_losses.sum(Kind::Float) / count;
    let landmarks = landmark_losses(&said, &learned).sum(Kind::Float) / count;
    let total = &score + BOX_WEIGHT * &boxes + LANDMARK_WEIGHT * &landmarks;
    Loss { total, score, boxes, landmarks }
}

/// What the score of a box is to be, 0–1, by its IoU with the face.
fn quality(ious: &Tensor) -> Tensor {
    ((ious - QUALITY.0) / (QUALITY.1 - QUALITY.0)).clamp(0.0, 1.0)
}

/// The cells that learn a face, and the faces, a row each.
#[derive(Default)]
struct Learned {
    /// Rows of the flattened output.
    indices: Vec<i64>,
    /// Centre x, y and stride.
    cells: Vec<f32>,
    /// Centre x, y, width, height.
    boxes: Vec<f32>,
    landmarks: Vec<f32>,
    /// 1 where the landmarks are known.
    known: Vec<f32>,
}

/// The same as tensors: `[faces, 2]`, landmarks `[faces, 5, 2]`, `stride` `[faces, 1]`, `known` `[faces]`.
struct Targets {
    cell: Tensor,
    stride: Tensor,
    centre: Tensor,
    size: Tensor,
    landmarks: Tensor,
    known: Tensor,
}

impl Learned {
    fn push(&mut self, row: usize, cell: &Cell, truth: &Truth) {
        let [cx, cy] = truth.rect.centre();
        self.indices.push(row as i64);
        self.cells.extend([cell.x, cell.y, cell.stride]);
        self.boxes.extend([cx, cy, truth.rect.w, truth.rect.h]);
        self.landmarks.extend(truth.landmarks.unwrap_or_default().as_flattened());
        self.known.push(if truth.landmarks.is_some() { 1.0 } else { 0.0 });
    }

    fn tensors(&self, device: Device) -> Targets {
        let tensor = |values: &[f32]| Tensor::from_slice(values).to_device(device);
        let cells = tensor(&self.cells).view([-1, 3]);
        let boxes = tensor(&self.boxes).view([-1, 4]);
        Targets {
            cell: cells.narrow(1, 0, 2),
            stride: cells.narrow(1, 2, 1),
            centre: boxes.narrow(1, 0, 2),
            size: boxes.narrow(1, 2, 2),
            landmarks: tensor(&self.landmarks).view([-1, 5, 2]),
            known: tensor(&self.known),
        }
    }
}

/// One value for each cell: 0 where the landmarks are unknown.
fn landmark_losses(said: &Tensor, targets: &Targets) -> Tensor {
    let offsets = said.narrow(1, 5, 10).view([-1, 5, 2]);
    let points = offsets * targets.stride.unsqueeze(1) + targets.cell.unsqueeze(1);
    let size = targets.size.prod_dim_int(1, true, Kind::Float).sqrt().unsqueeze(1);
    let wanted = &targets.landmarks / &size;
    let losses = (points / size).smooth_l1_loss(&wanted, Reduction::None, LANDMARK_BETA);
    losses.mean_dim([1i64, 2].as_slice(), false, Kind::Float) * &targets.known
}

/// IoU (without gradient) and EIoU loss of what the cells say against the faces they learn.
fn eiou(said: &Tensor, targets: &Targets) -> (Tensor, Tensor) {
    // e^6 strides: 12 times the largest input.
    const LARGEST: f64 = 6.0;
    let centre = said.narrow(1, 1, 2) * &targets.stride + &targets.cell;
    let size = said.narrow(1, 3, 2).clamp_max(LARGEST).exp() * &targets.stride;

    let corners = |centre: &Tensor, size: &Tensor| (centre - size / 2.0, centre + size / 2.0);
    let area = |size: &Tensor| size.select(1, 0) * size.select(1, 1);
    let (low, high) = corners(&centre, &size);
    let (wanted_low, wanted_high) = corners(&targets.centre, &targets.size);
    let both = area(&(high.minimum(&wanted_high) - low.maximum(&wanted_low)).clamp_min(0.0));
    let iou = &both / (area(&size) + area(&targets.size) - &both + 1e-6);
    let hull = (high.maximum(&wanted_high) - low.minimum(&wanted_low)).square() + 1e-6;
    let sum = |x: Tensor| x.sum_dim_intlist([1i64].as_slice(), false, Kind::Float);
    let distance = sum((centre - &targets.centre).square()) / sum(hull.shallow_clone());
    let shape = sum((size - &targets.size).square() / hull);
    (iou.detach(), 1.0 - iou + distance + shape)
}

#[cfg(test)]
mod tests {
    use mien::{frame::Picture, geometry::Rect};
    use tch::nn;

    use super::{
        super::{
            cells::{cells, flatten},
            evaluate::{decode, stack},
            network::{Network, normalise},
        },
        *,
    };
    use crate::optimizer::{AdamW, Optimizer};

    const SIDE: u32 = 96;

    /// A grey picture with one bright square for a face.
    fn sample(rect: Rect) -> Sample {
        let picture = Picture::from_fn(SIDE, SIDE, |x, y| {
            let inside = rect.iou(&Rect::new(x as f32, y as f32, 1.0, 1.0)) > 0.0;
            image::Rgb(if inside { [230, 180, 150] } else { [60 + (x % 7) as u8, 70, 80] })
        });
        let point = |x: f32, y: f32| [rect.x + x * rect.w, rect.y + y * rect.h];
        let landmarks =
            [point(0.3, 0.35), point(0.7, 0.35), point(0.5, 0.6), point(0.35, 0.8), point(0.65, 0.8)];
        let faces = vec![Truth { rect, landmarks: Some(landmarks) }];
        Sample { picture, faces, ignored: Vec::new() }
    }

    #[test]
    fn two_pictures_are_learned_by_heart() {
        tch::set_num_threads(1);
        tch::manual_seed(3);
        let samples = [sample(Rect::new(12.0, 20.0, 26.0, 30.0)), sample(Rect::new(40.0, 30.0, 44.0, 48.0))];
        let input = normalise(&stack(&samples.each_ref().map(|sample| &sample.picture)));
        let cells = cells(SIDE, SIDE);
        let vs = nn::VarStore::new(Device::Cpu);
        let network = Network::new(&vs.root());
        let mut adam = AdamW::new(&vs, 0.0);
        let mut totals = Vec::new();
        for _ in 0..100 {
            let loss = loss(&flatten(&network.forward(&input, true)), &cells, &samples);
            totals.push(loss.total.double_value(&[]));
            adam.step(&loss.total, 5e-3);
        }
        assert!(totals[99] < 0.25 * totals[0], "{} → {}", totals[0], totals[99]);

        let outputs = network.forward(&input, true);
        for (faces, sample) in decode(&outputs, 0.3).iter().zip(&samples) {
            let (best, truth) = (faces[0], sample.faces[0]);
            assert!(best.rect.iou(&truth.rect) > 0.7, "{:?} for {:?}", best.rect, truth.rect);
            let [eye, wanted] = [best.landmarks[0], truth.landmarks.unwrap()[0]];
            assert!((eye[0] - wanted[0]).hypot(eye[1] - wanted[1]) < 5.0, "{eye:?} for {wanted:?}");
        }
    }

    #[test]
    fn ignored_regions_cost_nothing() {
        let cells = cells(SIDE, SIDE);
        // Every cell is sure of a face where there is none.
        let rows = Tensor::full([1, cells.len() as i64, CHANNELS], 3.0, (Kind::Float, Device::Cpu));
        let empty = |ignored| Sample { picture: Picture::new(SIDE, SIDE), faces: Vec::new(), ignored };
        let cost = |ignored| loss(&rows, &cells, &[empty(ignored)]).total.double_value(&[]);
        let whole = Rect::new(0.0, 0.0, SIDE as f32, SIDE as f32);
        assert!(cost(vec![]) > 1.0);
        assert_eq!(cost(vec![whole]), 0.0);
        let half = cost(vec![Rect { w: whole.w / 2.0, ..whole }]);
        assert!(half > 0.0 && half < 0.6 * cost(vec![]));
    }

    #[test]
    fn a_box_that_is_just_a_hit_is_scored_as_an_even_chance() {
        let said = quality(&Tensor::from_slice(&[0.1f32, 0.25, 0.5, 0.6, 0.75, 0.9]));
        let expected = Tensor::from_slice(&[0f32, 0.0, 0.5, 0.7, 1.0, 1.0]);
        assert!(said.allclose(&expected, 1e-5, 1e-6, false), "{said:?}");
    }

    #[test]
    fn an_exact_box_has_no_loss() {
        let cells = cells(SIDE, SIDE);
        let index =
            cells.iter().position(|cell| (cell.x, cell.y, cell.stride) == (40.0, 40.0, 16.0)).unwrap();
        let mut learned = Learned::default();
        let truth = Truth { rect: Rect::new(24.0, 16.0, 32.0, 48.0), landmarks: None };
        learned.push(index, &cells[index], &truth);
        let mut row = [0f32; 15];
        row[3..5].copy_from_slice(&[2f32.ln(), 3f32.ln()]);
        let said = Tensor::from_slice(&row).view([1, 15]);
        let targets = learned.tensors(Device::Cpu);
        let (iou, loss) = eiou(&said, &targets);
        assert!((iou.double_value(&[0]) - 1.0).abs() < 1e-5 && loss.double_value(&[0]).abs() < 1e-5);
        assert_eq!(landmark_losses(&said, &targets).double_value(&[0]), 0.0);
    }
}
