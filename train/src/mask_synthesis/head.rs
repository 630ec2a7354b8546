//! The generic head, and the camera that sees it.

use mien::geometry::{Landmarks, Point};

use super::vector::{Point3, cross, dot, length, solve3, sub, unit};

/// The generic head's landmarks, in the order of [`Landmarks`].
pub const HEAD: [Point3; 5] =
    [[-32.0, 0.0, -32.0], [32.0, 0.0, -32.0], [0.0, 42.0, 0.0], [-25.0, 72.0, -22.0], [25.0, 72.0, -22.0]];

/// An affine camera: pixels = `rows` · millimetres + `offset`.
pub struct Camera {
    rows: [Point3; 2],
    offset: Point,
}

impl Camera {
    /// The least-squares camera that puts [`HEAD`] on the landmarks. Only the nose stands out of the landmarks'
    /// plane, so depth is damped a little: a long nose must not pass for a turned head.
    pub fn fit(landmarks: &Landmarks) -> Camera {
        const DAMPING: f32 = 120.0;
        let mean = |axis: usize| HEAD.iter().map(|p| p[axis]).sum::<f32>() / 5.0;
        let centre = [mean(0), mean(1), mean(2)];
        let mut normal = [[0.0f32; 3]; 3];
        let mut right = [[0.0f32; 3]; 2];
        for (model, seen) in HEAD.iter().zip(landmarks) {
            let d = sub(*model, centre);
            for i in 0..3 {
                for j in 0..3 {
                    normal[i][j] += d[i] * d[j];
                }
                right[0][i] += d[i] * seen[0];
                right[1][i] += d[i] * seen[1];
            }
        }
        normal[2][2] += DAMPING;
        let rows = right.map(|r| solve3(normal, r));
        let seen = |axis: usize| landmarks.iter().map(|p| p[axis]).sum::<f32>() / 5.0;
        Camera { rows, offset: [seen(0) - dot(rows[0], centre), seen(1) - dot(rows[1], centre)] }
    }

    pub fn project(&self, p: Point3) -> Point {
        [dot(self.rows[0], p) + self.offset[0], dot(self.rows[1], p) + self.offset[1]]
    }

    /// The unit vector from the head to the camera.
    pub fn axis(&self) -> Point3 {
        unit(cross(self.rows[0], self.rows[1]))
    }

    /// How much longer the face below the nose is than the mouth's height says, at least 1: a smile lifts and
    /// widens the mouth, but not the chin.
    pub fn smile(&self) -> f32 {
        (length(self.rows[0]) / length(self.rows[1]).max(1e-6)).clamp(1.0, 1.2)
    }

    /// Pixels per millimetre.
    pub fn scale(&self) -> f32 {
        length(cross(self.rows[0], self.rows[1])).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_camera_puts_a_turned_head_on_its_landmarks() {
        let (sin, cos) = 0.5f32.sin_cos();
        let landmarks = HEAD.map(|[x, y, z]| [100.0 + 1.5 * (cos * x + sin * z), 80.0 + 1.5 * y]);
        let camera = Camera::fit(&landmarks);
        for (p, seen) in HEAD.iter().zip(landmarks) {
            let [x, y] = camera.project(*p);
            assert!((x - seen[0]).abs() < 3.5 && (y - seen[1]).abs() < 3.5, "{x} {y} {seen:?}");
        }
        let turn = camera.axis()[0].abs();
        assert!((0.3..0.6).contains(&turn), "sin 0.5 is 0.48, found {turn}");
    }
}
