//! Vectors and curves.

pub type Point3 = [f32; 3];

pub fn sub(a: Point3, b: Point3) -> Point3 {
    [a[0] - b[0], a[1] - b[1], a[2] - b[2]]
}

pub fn dot(a: Point3, b: Point3) -> f32 {
    a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
}

pub fn cross(a: Point3, b: Point3) -> Point3 {
    [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
}

pub fn length(a: Point3) -> f32 {
    dot(a, a).sqrt()
}

pub fn unit(a: Point3) -> Point3 {
    let l = length(a).max(1e-9);
    a.map(|v| v / l)
}

/// Cramer's rule.
pub fn solve3(m: [[f32; 3]; 3], r: Point3) -> Point3 {
    let det = dot(m[0], cross(m[1], m[2]));
    let column = |i: usize| {
        let mut n = m;
        (0..3).for_each(|k| n[k][i] = r[k]);
        dot(n[0], cross(n[1], n[2])) / det
    };
    [column(0), column(1), column(2)]
}

pub fn lerp(a: f32, b: f32, t: f32) -> f32 {
    a + (b - a) * t
}

pub fn smoothstep(from: f32, to: f32, x: f32) -> f32 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Catmull–Rom through `points` at `t` in 0–1, ends repeated.
pub fn spline(points: &[Point3], t: f32) -> Point3 {
    let last = points.len() - 1;
    let at = t * last as f32;
    let i = (at as usize).min(last - 1);
    let f = at - i as f32;
    let (a, b, c, d) = (points[i.saturating_sub(1)], points[i], points[i + 1], points[(i + 2).min(last)]);
    std::array::from_fn(|k| {
        0.5 * (2.0 * b[k]
            + (c[k] - a[k]) * f
            + (2.0 * a[k] - 5.0 * b[k] + 4.0 * c[k] - d[k]) * f * f
            + (3.0 * b[k] - a[k] - 3.0 * c[k] + d[k]) * f * f * f)
    })
}
