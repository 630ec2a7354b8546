//! Ranges of values, by what calibration pictures show of them.

use tch::{Kind, Tensor};

use super::{graph::Graph, quantize::Affine};

/// How a value's range is chosen from what calibration saw of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Range {
    /// Everything seen.
    Full,
    /// All but one in ten thousand at each end.
    Percentile,
    /// The part of the full range with the least squared rounding and clipping error.
    LeastError,
    /// The part of the full range whose rounded values tell least from the values as they are (Migacz 2017, "8-bit
    /// inference with TensorRT").
    Entropy,
}

impl Range {
    pub const ALL: [Range; 4] = [Range::Full, Range::Percentile, Range::LeastError, Range::Entropy];

    pub fn name(self) -> &'static str {
        match self {
            Range::Full => "full range",
            Range::Percentile => "percentile",
            Range::LeastError => "least squared error",
            Range::Entropy => "entropy",
        }
    }
}

/// What calibration saw of a value.
pub struct Seen {
    low: f64,
    high: f64,
    /// Values drawn at random.
    sample: Tensor,
}

/// Values drawn per tensor over all calibration pictures.
const SAMPLE: i64 = 100_000;

impl Seen {
    pub fn affine(&self, range: Range) -> Affine {
        match range {
            Range::Full => Affine::covering(self.low, self.high),
            Range::Percentile => {
                let (sorted, _) = self.sample.sort(0, false);
                let tail = (sorted.size()[0] as f64 * 1e-4).round() as i64;
                let at = |index: i64| sorted.double_value(&[index]);
                Affine::covering(at(tail), at(sorted.size()[0] - 1 - tail))
            }
            Range::LeastError => {
                let error = |affine: &Affine| {
                    (affine.round(&self.sample) - &self.sample).square().mean(None).double_value(&[])
                };
                self.of_least(|part| error(&self.part(part)))
            }
            Range::Entropy => {
                let histogram = self.histogram();
                self.of_least(|part| histogram.divergence(self.low * part, self.high * part))
            }
        }
    }

    /// The part of the full range at which `cost` is least.
    fn of_least(&self, cost: impl Fn(f64) -> f64) -> Affine {
        let parts = (0..60).map(|step| 1.0 - f64::from(step) * 0.0125);
        let costs = parts.map(|part| (part, cost(part)));
        self.part(costs.min_by(|(_, a), (_, b)| a.total_cmp(b)).map_or(1.0, |(part, _)| part))
    }

    /// Covers this part of what was seen, 0–1.
    fn part(&self, part: f64) -> Affine {
        Affine::covering(self.low * part, self.high * part)
    }

    fn histogram(&self) -> Histogram {
        // Zero is exact in every range, and after a ReLU it is most of what there is.
        let seen = self.sample.masked_select(&self.sample.ne(0.0));
        let bin = ((seen - self.low) * (BINS as f64 / (self.high - self.low).max(1e-12))).floor();
        let counts =
            bin.clamp(0.0, BINS as f64 - 1.0).to_kind(Kind::Int64).bincount(None::<Tensor>, BINS as i64);
        let counts = (0..BINS as i64).map(|bin| counts.int64_value(&[bin]) as f64).collect();
        Histogram { low: self.low, high: self.high, counts }
    }
}

/// Bins of a [`Histogram`]: eight for each step of the full range.
const BINS: usize = 2048;

/// How many of the values seen lie in each of [`BINS`] equal parts of the full range.
struct Histogram {
    low: f64,
    high: f64,
    counts: Vec<f64>,
}

impl Histogram {
    /// Kullback–Leibler divergence of the values, clipped to `low..=high`, from what 256 steps over that range keep of
    /// them: each step's count, spread evenly over its bins that are not empty. What was clipped counts at the ends,
    /// where no step keeps it.
    fn divergence(&self, low: f64, high: f64) -> f64 {
        let at = |value: f64| {
            ((value - self.low) / (self.high - self.low).max(1e-12) * BINS as f64).round() as usize
        };
        let (from, to) = (at(low).min(BINS - 1), at(high).clamp(1, BINS));
        let kept = &self.counts[from..to.max(from + 1)];
        let mut clipped = kept.to_vec();
        clipped[0] += self.counts[..from].iter().sum::<f64>();
        clipped[kept.len() - 1] += self.counts[from + kept.len()..].iter().sum::<f64>();

        const STEPS: usize = 256;
        let step = |bin: usize| bin * STEPS / kept.len();
        let (mut counts, mut filled) = ([0.0; STEPS], [0.0; STEPS]);
        for bin in 0..kept.len() {
            counts[step(bin)] += kept[bin];
            filled[step(bin)] += f64::from(u8::from(clipped[bin] > 0.0));
        }
        let (all, kept_all) = (clipped.iter().sum::<f64>().max(1.0), counts.iter().sum::<f64>().max(1.0));
        let terms = clipped.iter().enumerate().filter(|(_, count)| **count > 0.0).map(|(bin, count)| {
            let (p, q) = (count / all, counts[step(bin)] / filled[step(bin)] / kept_all);
            p * (p / q.max(LEAST)).ln()
        });
        terms.sum()
    }
}

/// The probability of what no step keeps.
const LEAST: f64 = 1e-9;

/// Runs the float network over the calibration batches.
pub fn observe(graph: &Graph, batches: &[Tensor]) -> Vec<Seen> {
    let mut seen: Vec<(f64, f64, Vec<Tensor>)> = Vec::new();
    seen.resize_with(graph.layers.len() + 1, || (0.0, 0.0, Vec::new()));
    for batch in batches {
        for (value, (low, high, samples)) in graph.values(batch).iter().zip(&mut seen) {
            *low = low.min(value.min().double_value(&[]));
            *high = high.max(value.max().double_value(&[]));
            let wanted = SAMPLE / batches.len() as i64;
            let drawn = Tensor::randint(value.numel() as i64, [wanted], (Kind::Int64, value.device()));
            samples.push(value.take(&drawn));
        }
    }
    seen.into_iter()
        .map(|(low, high, samples)| Seen { low, high, sample: Tensor::cat(&samples, 0) })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(values: &[f32]) -> Seen {
        let low = values.iter().copied().fold(0.0, f32::min).into();
        let high = values.iter().copied().fold(0.0, f32::max).into();
        Seen { low, high, sample: Tensor::from_slice(values) }
    }

    #[test]
    fn what_an_outlier_does_to_each_range() {
        // An exponential distribution of mean 1, and one value of 60.
        let exponential = |i: u16| -(1.0 - (f32::from(i) + 0.5) / 20_000.0).ln();
        let seen = seen(&(0..20_000).map(exponential).chain([60.0]).collect::<Vec<f32>>());
        let reach = |range| f64::from(seen.affine(range).scale) * 255.0;
        assert!((reach(Range::Full) - 60.0).abs() < 1e-4);
        assert!((9.0..10.7).contains(&reach(Range::Percentile)), "{}", reach(Range::Percentile));
        // Every other value is rounded to within a tenth, which one square of a large error outweighs.
        assert!((55.0..60.0).contains(&reach(Range::LeastError)), "{}", reach(Range::LeastError));
        assert!((9.0..20.0).contains(&reach(Range::Entropy)), "{}", reach(Range::Entropy));
    }

    #[test]
    fn a_range_without_outliers_stays_whole() {
        let values: Vec<f32> = (-5_000..20_000).map(|i| i as f32 / 20_000.0).collect();
        let seen = seen(&values);
        for range in Range::ALL {
            let reach = f64::from(seen.affine(range).scale) * 255.0;
            assert!((1.2..1.26).contains(&reach), "{}: {reach}", range.name());
        }
    }

    #[test]
    fn nothing_seen_is_no_error() {
        let zeros = seen(&[0.0; 100]);
        for range in Range::ALL {
            assert!(zeros.affine(range).scale > 0.0);
        }
    }
}
