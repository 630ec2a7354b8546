//! From a mesh to pixels: rasterising finer than the picture, lighting by the covered skin, blending.

use image::Rgb;
use mien::{frame::Picture, geometry::Point};
use rand::Rng;

use super::{
    fabric::Fabric,
    mesh::Vertex,
    vector::{Point3, lerp, smoothstep},
};

/// What is seen at a sample.
#[derive(Clone, Copy)]
enum Sample {
    Nothing,
    Strap { light: f32 },
    Cloth { depth: f32, u: f32, v: f32, light: f32 },
}

/// A part of a picture in samples, `fine` of them along a pixel.
pub struct Layer {
    /// The part's top left pixel.
    x0: u32,
    y0: u32,
    /// In samples.
    width: usize,
    height: usize,
    fine: usize,
    samples: Vec<Sample>,
}

impl Layer {
    /// The part of `picture` that holds all `points` and `margin` pixels around them; `None` when that is empty.
    pub fn around(
        points: impl Iterator<Item = Point>,
        margin: f32,
        picture: &Picture,
        fine: usize,
    ) -> Option<Layer> {
        let (mut low, mut high) = ([f32::INFINITY; 2], [f32::NEG_INFINITY; 2]);
        for p in points {
            for k in 0..2 {
                low[k] = low[k].min(p[k] - margin);
                high[k] = high[k].max(p[k] + margin);
            }
        }
        let inside = |value: f32, end: u32| value.clamp(0.0, end as f32);
        let (x0, y0) =
            (inside(low[0].floor(), picture.width()) as u32, inside(low[1].floor(), picture.height()) as u32);
        let (x1, y1) =
            (inside(high[0].ceil(), picture.width()) as u32, inside(high[1].ceil(), picture.height()) as u32);
        if x1 <= x0 || y1 <= y0 {
            return None;
        }
        let (width, height) = ((x1 - x0) as usize * fine, (y1 - y0) as usize * fine);
        Some(Layer { x0, y0, width, height, fine, samples: vec![Sample::Nothing; width * height] })
    }

    /// The part of each pixel, 0–1, that something covers.
    fn covered(&self) -> Vec<f32> {
        let wide = self.width / self.fine;
        let mut alpha = vec![0.0; wide * (self.height / self.fine)];
        let part = 1.0 / (self.fine * self.fine) as f32;
        let seen = self.samples.iter().enumerate().filter(|(_, sample)| !matches!(sample, Sample::Nothing));
        seen.for_each(|(i, _)| {
            alpha[(i / self.width / self.fine) * wide + i % self.width / self.fine] += part
        });
        alpha
    }

    /// From the picture's pixels to samples.
    fn local(&self, p: Point) -> Point {
        let fine = self.fine as f32;
        [(p[0] - self.x0 as f32) * fine, (p[1] - self.y0 as f32) * fine]
    }

    /// Fills a triangle where nothing nearer lies.
    pub fn triangle(&mut self, t: [Vertex; 3]) {
        let [a, b, c] = t.map(|v| self.local(v.at));
        let area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
        if area.abs() < 1e-6 {
            return;
        }
        let span = |values: [f32; 3], end: usize| {
            let low = values.iter().copied().fold(f32::INFINITY, f32::min).floor().max(0.0) as usize;
            let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max).ceil().max(0.0) as usize;
            low.min(end)..high.min(end)
        };
        for y in span([a[1], b[1], c[1]], self.height) {
            for x in span([a[0], b[0], c[0]], self.width) {
                let (px, py) = (x as f32 + 0.5, y as f32 + 0.5);
                let wc = ((b[0] - a[0]) * (py - a[1]) - (b[1] - a[1]) * (px - a[0])) / area;
                let wb = ((px - a[0]) * (c[1] - a[1]) - (py - a[1]) * (c[0] - a[0])) / area;
                let wa = 1.0 - wb - wc;
                if wa < -1e-4 || wb < -1e-4 || wc < -1e-4 {
                    continue;
                }
                let mix = |f: fn(&Vertex) -> f32| wa * f(&t[0]) + wb * f(&t[1]) + wc * f(&t[2]);
                let depth = mix(|v| v.depth);
                let i = y * self.width + x;
                let hidden =
                    matches!(self.samples[i], Sample::Cloth { depth: nearer, .. } if nearer >= depth);
                if !hidden {
                    self.samples[i] =
                        Sample::Cloth { depth, u: mix(|v| v.u), v: mix(|v| v.v), light: mix(|v| v.light) };
                }
            }
        }
    }

    /// Draws a strap, behind the cloth; `thickness` in pixels.
    pub fn strap(&mut self, [from, to]: [Point; 2], thickness: f32) {
        let (a, b) = (self.local(from), self.local(to));
        let radius = thickness * self.fine as f32 / 2.0;
        let d = [b[0] - a[0], b[1] - a[1]];
        let squared = (d[0] * d[0] + d[1] * d[1]).max(1e-6);
        let span = |p: f32, q: f32, end: usize| {
            let low = (p.min(q) - radius).floor().max(0.0) as usize;
            let high = (p.max(q) + radius).ceil().max(0.0) as usize;
            low.min(end)..high.min(end)
        };
        for y in span(a[1], b[1], self.height) {
            for x in span(a[0], b[0], self.width) {
                let p = [x as f32 + 0.5 - a[0], y as f32 + 0.5 - a[1]];
                let t = ((p[0] * d[0] + p[1] * d[1]) / squared).clamp(0.0, 1.0);
                let (ex, ey) = (p[0] - t * d[0], p[1] - t * d[1]);
                let off = (ex * ex + ey * ey).sqrt() / radius;
                let i = y * self.width + x;
                if off < 1.0 && matches!(self.samples[i], Sample::Nothing) {
                    self.samples[i] = Sample::Strap { light: 1.0 - 0.35 * off * off };
                }
            }
        }
    }
}

/// Luminance of the covered skin as a plane over the picture: `mean + slope · (x − cx, y − cy)`, 0–1.
struct Skin {
    mean: f32,
    tint: Point3,
    /// 0 in a photo without colour, 1 in a common one.
    colourful: f32,
    centre: Point,
    slope: Point,
}

fn luma(c: Point3) -> f32 {
    0.299 * c[0] + 0.587 * c[1] + 0.114 * c[2]
}

impl Skin {
    fn under(picture: &Picture, alpha: &[f32], x0: u32, y0: u32, w: usize) -> Option<Skin> {
        let covered: Vec<(Point, Point3)> = alpha
            .iter()
            .enumerate()
            .filter(|&(_, &a)| a > 0.5)
            .map(|(i, _)| {
                let (x, y) = (x0 + (i % w) as u32, y0 + (i / w) as u32);
                let pixel = picture.get_pixel(x, y).0.map(|v| f32::from(v) / 255.0);
                ([x as f32, y as f32], pixel)
            })
            .collect();
        let n = covered.len() as f32;
        if covered.is_empty() {
            return None;
        }
        let mean = |f: &dyn Fn(&(Point, Point3)) -> f32| covered.iter().map(f).sum::<f32>() / n;
        let centre = [mean(&|s| s.0[0]), mean(&|s| s.0[1])];
        let colour = [mean(&|s| s.1[0]), mean(&|s| s.1[1]), mean(&|s| s.1[2])];
        let level = luma(colour);
        let (mut xx, mut xy, mut yy, mut xl, mut yl) = (1e-3f32, 0.0f32, 1e-3f32, 0.0f32, 0.0f32);
        for (p, c) in &covered {
            let (dx, dy, dl) = (p[0] - centre[0], p[1] - centre[1], luma(*c) - level);
            xx += dx * dx;
            xy += dx * dy;
            yy += dy * dy;
            xl += dx * dl;
            yl += dy * dl;
        }
        let det = (xx * yy - xy * xy).max(1e-6);
        let slope = [(xl * yy - yl * xy) / det, (yl * xx - xl * xy) / det];
        // The light's tint is what the skin has beyond its own: about 1.22 : 0.96 : 0.80.
        let tint = [colour[0] / 1.22, colour[1] / 0.96, colour[2] / 0.80];
        let norm = luma(tint).max(1e-3);
        let chroma = mean(&|s| (s.1[0] - s.1[2]).abs()) / level.max(0.05);
        let colourful = smoothstep(0.02, 0.12, chroma);
        let tint = tint.map(|t| lerp(1.0, t / norm, 0.5 * colourful));
        Some(Skin { mean: level, tint, colourful, centre, slope })
    }

    /// Brightness of the light at a pixel, 1 in the middle of an evenly lit face.
    fn relative(&self, p: Point) -> f32 {
        let l = self.slope[0] * (p[0] - self.centre[0]) + self.slope[1] * 0.6 * (p[1] - self.centre[1]);
        (1.0 + 0.75 * l / self.mean.max(0.05)).clamp(0.45, 1.5)
    }
}

/// Blends a layer into its picture, in the light of the skin under it, or under `lit`. `scale` is in pixels per
/// millimetre, `softness` the blur of edges and texture in pixels.
pub fn composite(
    picture: &mut Picture,
    layer: &Layer,
    lit: Option<&Layer>,
    fabric: &Fabric,
    scale: f32,
    softness: f32,
    rng: &mut impl Rng,
) {
    let fine = layer.fine;
    let (w, h) = (layer.width / fine, layer.height / fine);
    let mut colour = vec![[0.0f32; 3]; w * h];
    let mut alpha = vec![0.0f32; w * h];
    let part = 1.0 / (fine * fine) as f32;
    for (i, sample) in layer.samples.iter().enumerate() {
        let c = match *sample {
            Sample::Nothing => continue,
            Sample::Strap { light } => fabric.strap.map(|c| c * light),
            Sample::Cloth { u, v, light, .. } => fabric.shade(u, v, light),
        };
        let pixel = (i / layer.width / fine) * w + i % layer.width / fine;
        (0..3).for_each(|k| colour[pixel][k] += c[k] * part);
        alpha[pixel] += part;
    }
    let skin = match lit {
        Some(face) => Skin::under(picture, &face.covered(), face.x0, face.y0, face.width / face.fine),
        None => Skin::under(picture, &alpha, layer.x0, layer.y0, w),
    };
    let Some(skin) = skin else { return };
    // Skin reflects about half of the light; a mean luminance of 0.5 is a well exposed face.
    let exposure = (0.35 + 1.15 * skin.mean).clamp(0.4, 1.12) * rng.random_range(0.94f32..1.06);
    if softness > 0.05 {
        blur(&mut alpha, w, h, softness, |a, b| a + b, |a, k| a * k);
        blur(
            &mut colour,
            w,
            h,
            softness,
            |a, b| [a[0] + b[0], a[1] + b[1], a[2] + b[2]],
            |a, k| a.map(|v| v * k),
        );
    }
    let mut shadow = alpha.clone();
    blur(&mut shadow, w, h, 2.2 * scale, |a, b| a + b, |a, k| a * k);
    let depth = rng.random_range(0.25f32..0.5);
    let grain = rng.random_range(0.0f32..0.012);
    for y in 0..h {
        for x in 0..w {
            let i = y * w + x;
            if shadow[i] < 1e-3 {
                continue;
            }
            let (px, py) = (layer.x0 + x as u32, layer.y0 + y as u32);
            let lit = exposure * skin.relative([px as f32, py as f32]);
            let a = alpha[i].min(1.0);
            let noise = grain * (rng.random::<f32>() - 0.5) * 2.0;
            let dark = 1.0 - depth * shadow[i];
            let old = picture.get_pixel(px, py).0;
            let grey = luma(colour[i]);
            let new = std::array::from_fn(|k| {
                let mask = lerp(grey, colour[i][k], skin.colourful) * lit * skin.tint[k] + a * noise;
                let face = f32::from(old[k]) / 255.0 * dark;
                let mask = a * roll_off(mask / a.max(1e-6));
                ((face * (1.0 - a) + mask) * 255.0).round().clamp(0.0, 255.0) as u8
            });
            picture.put_pixel(px, py, Rgb(new));
        }
    }
}

/// Highlights saturate gradually, as a camera's do.
fn roll_off(value: f32) -> f32 {
    const KNEE: f32 = 0.85;
    const ROOM: f32 = 0.12;
    if value > KNEE { KNEE + ROOM * (1.0 - (-(value - KNEE) / ROOM).exp()) } else { value }
}

/// Two passes of a box filter each way, near enough to a Gaussian of `sigma` pixels; nothing lies outside.
fn blur<T: Copy + Default>(
    values: &mut [T],
    w: usize,
    h: usize,
    sigma: f32,
    add: impl Fn(T, T) -> T,
    times: impl Fn(T, f32) -> T,
) {
    // A box of half-width r, with fractional ends, has variance near (2r+1)²/12; two of them add up.
    let half = ((6.0 * sigma * sigma).sqrt() - 0.5).max(0.0);
    let (whole, rest) = (half as usize, half.fract());
    let norm = 1.0 / (2.0 * half + 1.0);
    let mut line = vec![T::default(); w.max(h)];
    for (count, length, stride, step) in [(h, w, 1, w), (w, h, w, 1)] {
        for _ in 0..2 {
            for c in 0..count {
                for (i, value) in line[..length].iter_mut().enumerate() {
                    let at = |j: i64| {
                        usize::try_from(j)
                            .ok()
                            .filter(|&j| j < length)
                            .map_or(T::default(), |j| values[c * step + j * stride])
                    };
                    let mut sum = at(i as i64);
                    for d in 1..=whole as i64 {
                        sum = add(sum, add(at(i as i64 - d), at(i as i64 + d)));
                    }
                    let d = whole as i64 + 1;
                    sum = add(sum, times(add(at(i as i64 - d), at(i as i64 + d)), rest));
                    *value = times(sum, norm);
                }
                for (i, value) in line[..length].iter().enumerate() {
                    values[c * step + i * stride] = *value;
                }
            }
        }
    }
}
