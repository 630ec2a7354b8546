//! What a mask is made of.

use rand::Rng;

use super::{
    Style,
    vector::{Point3, lerp, smoothstep},
};

/// A mask's looks: everything that is drawn by lot.
pub struct Fabric {
    style: Style,
    colour: Point3,
    second: Point3,
    pattern: Pattern,
    pub strap: Point3,
    /// Rows of pleats, as fractions of the height.
    pleats: Vec<f32>,
    creases: Vec<Crease>,
    seam: bool,
}

/// A wave of the cloth: frequencies along u and v in radians, phase, and how much of the light it takes.
struct Crease {
    u: f32,
    v: f32,
    phase: f32,
    depth: f32,
}

#[derive(Clone, Copy)]
enum Pattern {
    Plain,
    Stripes { count: f32, across: bool },
    Checks { count: f32 },
    Dots { count: f32 },
}

impl Fabric {
    pub fn sample(style: Style, rng: &mut impl Rng) -> Fabric {
        let colour = match style {
            Style::Surgical => jitter(
                pick(
                    &[
                        [0.58, 0.76, 0.86],
                        [0.66, 0.82, 0.90],
                        [0.48, 0.70, 0.85],
                        [0.60, 0.80, 0.76],
                        [0.90, 0.91, 0.92],
                        [0.88, 0.74, 0.78],
                        [0.14, 0.14, 0.15],
                    ],
                    rng,
                ),
                0.05,
                rng,
            ),
            Style::Cloth => std::array::from_fn(|_| rng.random_range(0.08f32..0.92)),
            Style::Ffp2 => jitter(
                pick(&[[0.92, 0.92, 0.91], [0.86, 0.87, 0.87], [0.93, 0.92, 0.89], [0.2; 3]], rng),
                0.03,
                rng,
            ),
            Style::Dark => {
                jitter(pick(&[[0.07; 3], [0.11; 3], [0.10, 0.12, 0.20], [0.22, 0.22, 0.23]], rng), 0.03, rng)
            }
        };
        let second: Point3 = std::array::from_fn(|_| rng.random_range(0.05f32..0.95));
        let count = rng.random_range(6.0..20.0);
        let pattern = match (style, rng.random_range(0..10)) {
            (Style::Cloth, 0..2) => Pattern::Stripes { count, across: rng.random() },
            (Style::Cloth, 2..4) => Pattern::Checks { count },
            (Style::Cloth, 4..6) => Pattern::Dots { count },
            _ => Pattern::Plain,
        };
        let strap = match style {
            Style::Surgical | Style::Ffp2 if rng.random_bool(0.85) => [0.88, 0.88, 0.87],
            _ => colour.map(|c| c * 0.85),
        };
        let pleats = match style {
            Style::Surgical => {
                let first = rng.random_range(0.26..0.34);
                let step = rng.random_range(0.15..0.2);
                (0..3).map(|i| first + step * i as f32).collect()
            }
            _ => Vec::new(),
        };
        let creases = (0..rng.random_range(3..7))
            .map(|_| Crease {
                u: rng.random_range(-9.0..9.0),
                v: rng.random_range(-12.0..12.0),
                phase: rng.random_range(0.0..std::f32::consts::TAU),
                depth: rng.random_range(0.008..0.035),
            })
            .collect();
        let seam = match style {
            Style::Ffp2 => true,
            Style::Cloth | Style::Dark => rng.random_bool(0.5),
            Style::Surgical => false,
        };
        Fabric { style, colour, second, pattern, strap, pleats, creases, seam }
    }

    /// Colour at `u` (−1 to 1 from side to side) and `v` (0 to 1 from top to bottom), under light `light`.
    pub fn shade(&self, u: f32, v: f32, light: f32) -> Point3 {
        let base = match self.pattern {
            Pattern::Plain => self.colour,
            Pattern::Stripes { count, across } => {
                let t = if across { v * count * 0.5 } else { u * count * 0.5 };
                if t.rem_euclid(1.0) < 0.5 { self.colour } else { self.second }
            }
            Pattern::Checks { count } => {
                let even = |t: f32| u8::from((t * count * 0.5).rem_euclid(1.0) < 0.5);
                let mix = f32::from(even(u) + even(v * 0.8)) * 0.5;
                std::array::from_fn(|k| lerp(self.colour[k], self.second[k], mix))
            }
            Pattern::Dots { count } => {
                let d = |t: f32| (t * count * 0.5).rem_euclid(1.0) - 0.5;
                let (x, y) = (d(u), d(v * 0.8));
                if x * x + y * y < 0.06 { self.second } else { self.colour }
            }
        };
        let mut light = light;
        for crease in &self.creases {
            light *= 1.0 + crease.depth * (crease.u * u + crease.v * v + crease.phase).sin();
        }
        for &at in &self.pleats {
            // A fold opens downwards: a dark line, and the cloth below it brightens gradually.
            let d = (v - at) / 0.05;
            let inside = 1.0 - smoothstep(0.8, 0.97, u.abs());
            if (-0.5..0.0).contains(&d) {
                light *= 1.0 - 0.22 * inside * (1.0 + 2.0 * d);
            } else if (0.0..1.4).contains(&d) {
                light *= 1.0 + 0.07 * inside * (1.0 - d / 1.4);
            }
        }
        let edge =
            smoothstep(0.05, 0.03, v).max(smoothstep(0.955, 0.975, v)).max(smoothstep(0.94, 0.96, u.abs()));
        light *= match self.style {
            Style::Surgical => 1.0 - 0.09 * edge,
            Style::Ffp2 => 1.0 - 0.06 * edge,
            Style::Cloth | Style::Dark => 1.0 - 0.14 * edge,
        };
        if self.style == Style::Surgical {
            // The wire over the nose.
            let wire =
                (1.0 - smoothstep(0.012, 0.03, (v - 0.085).abs())) * (1.0 - smoothstep(0.4, 0.5, u.abs()));
            light *= 1.0 + 0.06 * wire;
        }
        if self.seam {
            let d = u.abs() / 0.018;
            light *= 1.0 - 0.16 * (-d * d).exp();
        }
        base.map(|c| c * light)
    }
}

fn pick(colours: &[Point3], rng: &mut impl Rng) -> Point3 {
    colours[rng.random_range(0..colours.len())]
}

fn jitter(colour: Point3, by: f32, rng: &mut impl Rng) -> Point3 {
    colour.map(|c| (c + rng.random_range(-by..by)).clamp(0.03, 0.97))
}
