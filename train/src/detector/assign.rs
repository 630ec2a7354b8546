//! Which cells learn which face: SimOTA (Ge et al., "YOLOX: exceeding YOLO series in 2021").

use mien::geometry::{Landmarks, Rect};

use super::{cells::Cell, network::CHANNELS};

/// A face to be found, in pixels of the input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Truth {
    pub rect: Rect,
    /// None where nobody marked them.
    pub landmarks: Option<Landmarks>,
}

/// What the cells of one picture are to learn.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Assignment {
    /// Cell and face; a cell has at most one.
    pub faces: Vec<(usize, usize)>,
    /// Cells that neither hold a face nor may be called empty.
    pub ignored: Vec<usize>,
}

/// A face's cells lie within its box or this many strides from its centre.
const RADIUS: f32 = 1.5;
/// A face gets as many cells as the sum of this many best IoUs says.
const BEST: usize = 10;
/// Weight of the box against the score in the cost of a match.
const BOX_WEIGHT: f32 = 3.0;
/// Cost of a cell outside the box or far from the centre: taken only when nothing else is left.
const OUTSIDE: f32 = 1e5;

/// Matches faces to cells by what the network says now: `channels` holds 15 values for each of `cells`.
///
/// Unmatched cells in an `ignored` region, widened by half a stride, are left out of the loss.
pub fn assign(cells: &[Cell], channels: &[f32], truths: &[Truth], ignored: &[Rect]) -> Assignment {
    let row = |cell: usize| &channels[cell * CHANNELS as usize..(cell + 1) * CHANNELS as usize];
    // For each cell the face that it costs least to match it with.
    let mut taken: Vec<Option<(f32, usize)>> = vec![None; cells.len()];
    for (face, truth) in truths.iter().enumerate() {
        let mut candidates: Vec<(usize, f32, f32)> = Vec::new();
        for (index, cell) in cells.iter().enumerate() {
            let Some(inside) = reach(cell, &truth.rect) else { continue };
            let iou = cell.decode(row(index)).iou(&truth.rect);
            let cost = softplus(-row(index)[0]) - BOX_WEIGHT * (iou + 1e-6).ln();
            candidates.push((index, iou, if inside { cost } else { cost + OUTSIDE }));
        }
        candidates.sort_by(|a, b| b.1.total_cmp(&a.1));
        let sum: f32 = candidates.iter().take(BEST).map(|candidate| candidate.1).sum();
        candidates.sort_by(|a, b| a.2.total_cmp(&b.2));
        for &(index, _, cost) in candidates.iter().take((sum as usize).max(1)) {
            if taken[index].is_none_or(|(best, _)| cost < best) {
                taken[index] = Some((cost, face));
            }
        }
    }
    let mut assignment = Assignment::default();
    for (index, (cell, face)) in cells.iter().zip(&taken).enumerate() {
        match face {
            Some((_, face)) => assignment.faces.push((index, *face)),
            None if ignored.iter().any(|region| near(cell, region)) => assignment.ignored.push(index),
            None => {}
        }
    }
    assignment
}

/// Whether a cell may learn a face: `Some(true)` within its box and near its centre, `Some(false)` one of the two.
fn reach(cell: &Cell, rect: &Rect) -> Option<bool> {
    let within = cell.x > rect.x && cell.x < rect.right() && cell.y > rect.y && cell.y < rect.bottom();
    let [cx, cy] = rect.centre();
    let central = (cell.x - cx).abs().max((cell.y - cy).abs()) < RADIUS * cell.stride;
    (within || central).then_some(within && central)
}

fn near(cell: &Cell, region: &Rect) -> bool {
    let margin = cell.stride / 2.0;
    cell.x > region.x - margin
        && cell.x < region.right() + margin
        && cell.y > region.y - margin
        && cell.y < region.bottom() + margin
}

fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::{super::cells::cells, *};

    fn face(x: f32, y: f32, side: f32) -> Truth {
        Truth { rect: Rect::new(x, y, side, side), landmarks: None }
    }

    /// What an untrained network says: boxes of 2.5 strides around every cell, no scores.
    fn untrained(cells: &[Cell]) -> Vec<f32> {
        let mut channels = vec![0.0; cells.len() * CHANNELS as usize];
        for row in channels.chunks_exact_mut(CHANNELS as usize) {
            row[0] = -4.6;
            row[3..5].fill(2.5f32.ln());
        }
        channels
    }

    #[test]
    fn faces_go_to_the_level_of_their_size() {
        let cells = cells(128, 128);
        let channels = untrained(&cells);
        for (side, stride) in [(20.0, 8.0), (40.0, 16.0), (80.0, 32.0)] {
            let assignment = assign(&cells, &channels, &[face(24.0, 24.0, side)], &[]);
            assert!(!assignment.faces.is_empty());
            let best = assignment.faces.iter().filter(|(cell, _)| cells[*cell].stride == stride).count();
            assert!(2 * best > assignment.faces.len(), "{side}: {:?}", assignment.faces);
        }
    }

    #[test]
    fn every_face_apart_from_others_is_learned_within_reach() {
        let cells = cells(128, 128);
        let truths = [face(3.0, 3.0, 9.0), face(60.0, 10.0, 30.0), face(30.0, 50.0, 70.0)];
        let assignment = assign(&cells, &untrained(&cells), &truths, &[]);
        for (index, truth) in truths.iter().enumerate() {
            let mine: Vec<_> = assignment.faces.iter().filter(|(_, face)| *face == index).collect();
            assert!(!mine.is_empty(), "face {index} has no cell");
            assert!(mine.iter().all(|(cell, _)| reach(&cells[*cell], &truth.rect).is_some()));
        }
    }

    #[test]
    fn ignored_regions_hold_neither_faces_nor_background() {
        let cells = cells(64, 64);
        let region = Rect::new(32.0, 32.0, 16.0, 16.0);
        let assignment = assign(&cells, &untrained(&cells), &[face(4.0, 4.0, 16.0)], &[region]);
        let ignored: Vec<Cell> = assignment.ignored.iter().map(|&index| cells[index]).collect();
        assert!(ignored.contains(&Cell { x: 36.0, y: 44.0, stride: 8.0 }));
        assert!(ignored.contains(&Cell { x: 40.0, y: 40.0, stride: 16.0 }));
        assert!(!ignored.iter().any(|cell| cell.x < 16.0));
        let learned: Vec<usize> = assignment.faces.iter().map(|(cell, _)| *cell).collect();
        assert!(assignment.ignored.iter().all(|cell| !learned.contains(cell)));
    }

    #[test]
    fn a_better_box_wins_the_face() {
        let cells = cells(64, 64);
        let truth = face(20.0, 20.0, 20.0);
        let mut channels = untrained(&cells);
        // The cell at (28, 28) already sees the face exactly.
        let winner = cells.iter().position(|cell| *cell == Cell { x: 28.0, y: 28.0, stride: 8.0 }).unwrap();
        let [cx, cy] = truth.rect.centre();
        channels[winner * 15] = 3.0;
        channels[winner * 15 + 1..winner * 15 + 3].copy_from_slice(&[(cx - 28.0) / 8.0, (cy - 28.0) / 8.0]);
        assert!(assign(&cells, &channels, &[truth], &[]).faces.contains(&(winner, 0)));
    }
}
