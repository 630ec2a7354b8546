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
}

impl Mesh {
    /// A mask as one wearer has put it on. `smile` stretches the face below the nose ([`Camera::smile`]).
    pub fn sample(style: Style, wear: Wear, smile: f32, rng: &mut impl Rng) -> Mesh {
        let sheet = match wear {
            Wear::Worn => WORN,
            Wear::BelowNose => BELOW_NOSE,
            Wear::Chin => CHIN,
        };
        let wide = rng.random_range(0.93f32..1.05);
        let (top, bottom) = match wear {
            Wear::Worn => (rng.random_range(-6.0f32..7.0), rng.random_range(-6.0f32..7.0)),
            Wear::BelowNose => (rng.random_range(-6.0f32..5.0), rng.random_range(-6.0f32..8.0)),
            Wear::Chin => (rng.random_range(-4.0f32..10.0), rng.random_range(-3.0f32..12.0)),
        };
        let tent: f32 = match style {
            Style::Ffp2 => rng.random_range(8.0..15.0),
            Style::Surgical => rng.random_range(0.0..6.0),
            Style::Cloth | Style::Dark => rng.random_range(-2.0..4.0),
        };
        let slant = rng.random_range(-0.04f32..0.04);
        let skew = rng.random_range(-2.5f32..2.5);
        let nose = HEAD[2][1];
        let mut points = Vec::with_capacity(ROWS * COLUMNS);
        for row in 0..ROWS {
            let v = row as f32 / (ROWS - 1) as f32;
            let half: [Point3; 4] = std::array::from_fn(|column| spline(&sheet.map(|row| row[column]), v));
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
                    x * wide + skew * (1.0 - v),
                    y + lerp(top, bottom, v) + slant * x,
                    z + tent * bulge,
                ]);
            }
        }
        Mesh { points }
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
        let mut lines = Vec::with_capacity(4);
        for (side, column) in [(-1.0, 0), (1.0, COLUMNS - 1)] {
            if dot(unit([side, 0.0, 0.45]), camera.axis()) < 0.12 {
                continue;
            }
            for (row, [x, y, z]) in [1, ROWS - 2].into_iter().zip(EAR) {
                lines.push([camera.project(self.point(row, column)), camera.project([side * x, y, z])]);
            }
        }
        lines
    }
}
