//! The mask's surface, draped over the head.

use std::f32::consts::PI;

use mien::geometry::Point;
use rand::Rng;

use super::{
    Style, Wear,
    head::{Camera, HEAD},
    vector::{Point3, cross, dot, lerp, spline, sub, unit},
};

/// Control points of half a mask: rows from the top edge to the bottom one, columns from the middle to the side.
type Sheet = [[Point3; 4]; 5];

const WORN: Sheet = [
    [[0.0, 16.0, -9.0], [20.0, 27.0, -25.0], [42.0, 36.0, -40.0], [63.0, 39.0, -68.0]],
    [[0.0, 41.0, 4.0], [21.0, 45.0, -13.0], [43.0, 51.0, -35.0], [65.0, 52.0, -68.0]],
    [[0.0, 67.0, -2.0], [22.0, 69.0, -11.0], [44.0, 70.0, -34.0], [64.0, 66.0, -69.0]],
    [[0.0, 94.0, -9.0], [22.0, 92.0, -17.0], [42.0, 87.0, -38.0], [61.0, 78.0, -70.0]],
    [[0.0, 117.0, -26.0], [20.0, 113.0, -33.0], [40.0, 102.0, -48.0], [58.0, 87.0, -72.0]],
];

const BELOW_NOSE: Sheet = [
    [[0.0, 57.0, -10.0], [18.0, 58.0, -16.0], [41.0, 57.0, -35.0], [62.0, 50.0, -68.0]],
    [[0.0, 71.0, -4.0], [21.0, 70.0, -12.0], [43.0, 67.0, -34.0], [64.0, 59.0, -69.0]],
    [[0.0, 87.0, -5.0], [22.0, 85.0, -14.0], [43.0, 79.0, -36.0], [63.0, 69.0, -70.0]],
    [[0.0, 104.0, -11.0], [22.0, 101.0, -20.0], [41.0, 92.0, -41.0], [60.0, 79.0, -71.0]],
    [[0.0, 121.0, -28.0], [20.0, 117.0, -35.0], [39.0, 105.0, -50.0], [58.0, 88.0, -73.0]],
];

const CHIN: Sheet = [
    [[0.0, 90.0, -13.0], [19.0, 88.0, -19.0], [40.0, 83.0, -40.0], [61.0, 67.0, -70.0]],
    [[0.0, 98.0, -9.0], [20.0, 96.0, -17.0], [41.0, 89.0, -40.0], [61.0, 73.0, -71.0]],
    [[0.0, 107.0, -9.0], [20.0, 104.0, -18.0], [41.0, 96.0, -42.0], [60.0, 79.0, -72.0]],
    [[0.0, 116.0, -15.0], [20.0, 113.0, -24.0], [40.0, 103.0, -46.0], [59.0, 85.0, -73.0]],
    [[0.0, 124.0, -28.0], [19.0, 121.0, -36.0], [38.0, 109.0, -54.0], [57.0, 91.0, -75.0]],
];

/// Where an ear holds the upper and the lower strap (the left ear; the right one mirrors it).
const EAR: [Point3; 2] = [[69.0, 13.0, -92.0], [68.0, 34.0, -94.0]];

/// Grid of the tessellated mask.
const COLUMNS: usize = 25;

const ROWS: usize = 17;

/// A corner of the projected mesh.
#[derive(Debug, Clone, Copy)]
pub struct Vertex {
    /// In the picture, in pixels.
    pub at: Point,
    /// Towards the camera, in millimetres.
    pub depth: f32,
    /// Where in the cloth: −1 to 1 from side to side, 0 to 1 from top to bottom.
    pub u: f32,
    pub v: f32,
    /// Light that falls on it, 0–1.
    pub light: f32,
}

/// The mask's surface, `ROWS` × `COLUMNS` points in millimetres.
pub struct Mesh {
    points: Vec<Point3>,
    /// The ear that a mask hangs off, −1 on the picture's left and 1 on its right; `None` when both hold it.
    hangs: Option<f32>,
}

/// How a mask that both ears hold sits.
struct Fit {
    sheet: Sheet,
    wide: f32,
    /// How far the upper and the lower edge are moved down.
    top: f32,
    bottom: f32,
    /// How far it stands off the face.
    tent: f32,
    slant: f32,
    skew: f32,
}

impl Mesh {
    /// A mask as one wearer has put it on, before this camera.
    pub fn sample(style: Style, wear: Wear, camera: &Camera, rng: &mut impl Rng) -> Mesh {
        let (sheet, top, bottom) = match wear {
            Wear::Worn => (WORN, -6.0f32..7.0, -6.0f32..7.0),
            Wear::BelowNose => (BELOW_NOSE, -6.0..5.0, -6.0..8.0),
            Wear::Chin => (CHIN, -4.0..10.0, -3.0..12.0),
            Wear::OneEar => return Mesh::hanging(camera, rng),
        };
        let wide = rng.random_range(0.93f32..1.05);
        let (top, bottom) = (rng.random_range(top), rng.random_range(bottom));
        let tent = match style {
            Style::Ffp2 => rng.random_range(8.0..15.0),
            Style::Surgical => rng.random_range(0.0..6.0),
            Style::Cloth | Style::Dark => rng.random_range(-2.0..4.0),
        };
        let slant = rng.random_range(-0.04f32..0.04);
        let skew = rng.random_range(-2.5f32..2.5);
        Mesh::drape(&Fit { sheet, wide, top, bottom, tent, slant, skew }, camera.smile())
    }

    /// The mask that all are varied from.
    pub fn plain(camera: &Camera) -> Mesh {
        let fit = Fit { sheet: WORN, wide: 1.0, top: 0.0, bottom: 0.0, tent: 0.0, slant: 0.0, skew: 0.0 };
        Mesh::drape(&fit, camera.smile())
    }

    /// `smile` stretches the face below the nose ([`Camera::smile`]).
    fn drape(fit: &Fit, smile: f32) -> Mesh {
        let nose = HEAD[2][1];
        let mut points = Vec::with_capacity(ROWS * COLUMNS);
        for row in 0..ROWS {
            let v = row as f32 / (ROWS - 1) as f32;
            let half: [Point3; 4] =
                std::array::from_fn(|column| spline(&fit.sheet.map(|row| row[column]), v));
            let mirrored = |[x, y, z]: Point3| [-x, y, z];
            let whole =
                [mirrored(half[3]), mirrored(half[2]), mirrored(half[1]), half[0], half[1], half[2], half[3]];
            for column in 0..COLUMNS {
                let t = column as f32 / (COLUMNS - 1) as f32;
                let u = 2.0 * t - 1.0;
                let [x, y, z] = spline(&whole, t);
                let y = if y > nose { nose + (y - nose) * smile } else { y };
                let bulge = (1.0 - u * u) * (PI * v.clamp(0.05, 0.95)).sin();
                points.push([
                    x * fit.wide + fit.skew * (1.0 - v),
                    y + lerp(fit.top, fit.bottom, v) + fit.slant * x,
                    z + fit.tent * bulge,
                ]);
            }
        }
        Mesh { points, hangs: None }
    }

    /// Off one ear that the camera sees: turned on end, one of the sides up, its pleats almost closed.
    fn hanging(camera: &Camera, rng: &mut impl Rng) -> Mesh {
        let first = if rng.random() { 1.0 } else { -1.0 };
        let side = if faces_camera(first, camera) { first } else { -first };
        let start = rng.random_range(40.0f32..56.0);
        let length = rng.random_range(95.0f32..150.0);
        let half = rng.random_range(24.0f32..40.0);
        // It lies along the cheek, turned away from the front.
        let (away, front) = rng.random_range(0.4f32..1.0).sin_cos();
        let middle = rng.random_range(66.0f32..76.0);
        let sway = rng.random_range(-0.1f32..0.15);
        let twist = rng.random_range(0.0f32..0.45);
        let bulge = rng.random_range(4.0f32..14.0);
        let mut points = Vec::with_capacity(ROWS * COLUMNS);
        for row in 0..ROWS {
            let across = 1.0 - 2.0 * row as f32 / (ROWS - 1) as f32;
            for column in 0..COLUMNS {
                let down = column as f32 / (COLUMNS - 1) as f32;
                // Elastic gathers both ends.
                let gathered = 0.7 + 0.3 * (PI * down.clamp(0.02, 0.98)).sin().sqrt();
                let reach = across * half * gathered * (1.0 - twist * down);
                let x = side * (middle + sway * length * down) + reach * front;
                let round = bulge * (1.0 - across * across) * (PI * down.clamp(0.1, 0.9)).sin();
                points.push([
                    x,
                    start + length * down + 3.0 * across * side,
                    round - 62.0 - side * reach * away,
                ]);
            }
        }
        Mesh { points, hangs: Some(side) }
    }

    fn point(&self, row: usize, column: usize) -> Point3 {
        self.points[row * COLUMNS + column]
    }

    /// The triangles that face the camera, under a lamp in the direction `lamp` (a unit vector).
    pub fn triangles(&self, camera: &Camera, lamp: Point3) -> Vec<[Vertex; 3]> {
        let axis = camera.axis();
        let vertex = |row: usize, column: usize| {
            let across = sub(
                self.point(row, (column + 1).min(COLUMNS - 1)),
                self.point(row, column.saturating_sub(1)),
            );
            let down =
                sub(self.point((row + 1).min(ROWS - 1), column), self.point(row.saturating_sub(1), column));
            let p = self.point(row, column);
            Vertex {
                at: camera.project(p),
                depth: dot(p, axis),
                u: 2.0 * column as f32 / (COLUMNS - 1) as f32 - 1.0,
                v: row as f32 / (ROWS - 1) as f32,
                light: 0.52 + 0.48 * dot(unit(cross(across, down)), lamp).max(0.0),
            }
        };
        let mut triangles = Vec::with_capacity(2 * ROWS * COLUMNS);
        for row in 0..ROWS - 1 {
            for column in 0..COLUMNS - 1 {
                let corner = self.point(row, column);
                let normal =
                    cross(sub(self.point(row, column + 1), corner), sub(self.point(row + 1, column), corner));
                if dot(normal, axis) > 0.0 {
                    let [a, b] = [vertex(row, column), vertex(row, column + 1)];
                    let [c, d] = [vertex(row + 1, column), vertex(row + 1, column + 1)];
                    triangles.extend([[a, b, c], [b, d, c]]);
                }
            }
        }
        triangles
    }

    /// The straps on the sides that the camera sees, from the mask's corners to the ears.
    pub fn straps(&self, camera: &Camera) -> Vec<[Point; 2]> {
        let line = |row, column, side: f32, [x, y, z]: Point3| {
            [camera.project(self.point(row, column)), camera.project([side * x, y, z])]
        };
        if let Some(side) = self.hangs {
            return [0, ROWS - 1].map(|row| line(row, 0, side, EAR[0])).into();
        }
        let mut lines = Vec::with_capacity(4);
        for (side, column) in [(-1.0, 0), (1.0, COLUMNS - 1)] {
            if faces_camera(side, camera) {
                let ends = [1, ROWS - 2].into_iter().zip(EAR);
                lines.extend(ends.map(|(row, ear)| line(row, column, side, ear)));
            }
        }
        lines
    }
}

/// Whether the ear on a side (−1 on the picture's left, 1 on its right) is seen.
fn faces_camera(side: f32, camera: &Camera) -> bool {
    dot(unit([side, 0.0, 0.45]), camera.axis()) >= 0.12
}
