//! Losses of the three heads. Every loss is a mean over the samples that have the label.

use mien::attributes::{AGE_BINS, AGE_LOGITS, GENDER_LOGITS, MASK_LOGITS};
use tch::{Kind, Tensor};

/// Labels of a batch, `[N]` each, on the logits' device. A weight of 0 means that the label is unknown.
#[derive(Debug)]
pub struct Labels {
    /// Index into `Mask::ALL`.
    pub mask: Tensor,
    pub mask_weight: Tensor,
    /// Index into `Gender::ALL`.
    pub gender: Tensor,
    pub gender_weight: Tensor,
    /// First and last year of the age, equal for an exact one; years above the last bin count as the last bin.
    pub age_low: Tensor,
    pub age_high: Tensor,
    pub age_weight: Tensor,
}

impl Labels {
    /// The labels at `index`.
    pub fn select(&self, index: &Tensor) -> Labels {
        let pick = |t: &Tensor| t.index_select(0, index);
        Labels {
            mask: pick(&self.mask),
            mask_weight: pick(&self.mask_weight),
            gender: pick(&self.gender),
            gender_weight: pick(&self.gender_weight),
            age_low: pick(&self.age_low),
            age_high: pick(&self.age_high),
            age_weight: pick(&self.age_weight),
        }
    }
}

/// How the parts add up.
#[derive(Debug, Clone, Copy)]
pub struct Weights {
    pub mask: f64,
    pub gender: f64,
    pub age: f64,
    /// Of the distance in years between the expected age and the age's range.
    pub years: f64,
}

impl Default for Weights {
    fn default() -> Self {
        Self { mask: 1.0, gender: 1.0, age: 0.5, years: 0.03 }
    }
}

/// The parts, each a scalar tensor.
#[derive(Debug)]
pub struct Loss {
    pub total: Tensor,
    pub mask: Tensor,
    pub gender: Tensor,
    pub age: Tensor,
    pub years: Tensor,
}

/// Standard deviation of the target around an exact age, in years: neighbouring ages look alike.
const AGE_SPREAD: f64 = 2.0;

/// Losses of `logits` `[N, LOGITS]`.
pub fn loss(logits: &Tensor, labels: &Labels, weights: Weights) -> Loss {
    let head = |range: std::ops::Range<usize>| logits.narrow(1, range.start as i64, range.len() as i64);
    let mask = weighted_mean(&cross_entropy(&head(MASK_LOGITS), &labels.mask), &labels.mask_weight);
    let gender = weighted_mean(&cross_entropy(&head(GENDER_LOGITS), &labels.gender), &labels.gender_weight);

    let log_p = head(AGE_LOGITS).log_softmax(1, Kind::Float);
    let exact = labels.age_low.eq_tensor(&labels.age_high);
    let soft = -(soft_ages(&labels.age_low) * &log_p).sum_dim_intlist(1, false, Kind::Float);
    let age = soft.where_self(&exact, &range_loss(&log_p, &labels.age_low, &labels.age_high));
    let age = weighted_mean(&age, &labels.age_weight);

    let expected = (log_p.exp() * bins(&log_p)).sum_dim_intlist(1, false, Kind::Float);
    let last = (AGE_BINS - 1) as f64;
    let below = labels.age_low.clamp_max(last) - &expected;
    let above = expected - labels.age_high.clamp_max(last);
    let years = weighted_mean(&below.maximum(&above).clamp_min(0.0), &labels.age_weight);

    let total = &mask * weights.mask + &gender * weights.gender + &age * weights.age + &years * weights.years;
    Loss { total, mask, gender, age, years }
}

fn cross_entropy(logits: &Tensor, target: &Tensor) -> Tensor {
    logits.cross_entropy_loss(target, None::<Tensor>, tch::Reduction::None, -100, 0.0)
}

fn weighted_mean(values: &Tensor, weights: &Tensor) -> Tensor {
    (values * weights).sum(Kind::Float) / weights.sum(Kind::Float).clamp_min(1.0)
}

fn bins(like: &Tensor) -> Tensor {
    Tensor::arange(AGE_BINS as i64, (Kind::Float, like.device())).unsqueeze(0)
}

/// Targets `[N, AGE_BINS]` of exact ages `[N]`: a normalised Gaussian over the bins (label distribution learning,
/// Geng, 2016).
pub fn soft_ages(ages: &Tensor) -> Tensor {
    let centre = ages.clamp_max((AGE_BINS - 1) as f64).unsqueeze(1);
    let distance = (bins(ages) - centre) / AGE_SPREAD;
    (distance.square() * -0.5).softmax(1, Kind::Float)
}

/// −log of the probability that the bins `low` to `high` hold together: where in its range the age lies is free.
fn range_loss(log_p: &Tensor, low: &Tensor, high: &Tensor) -> Tensor {
    let bins = bins(log_p);
    let last = (AGE_BINS - 1) as f64;
    let inside =
        bins.ge_tensor(&low.clamp_max(last).unsqueeze(1)).logical_and(&bins.le_tensor(&high.unsqueeze(1)));
    -log_p.masked_fill(&inside.logical_not(), -1e4).logsumexp(1, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mien::attributes::LOGITS;
    use tch::{Device, IndexOp};

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_slice(values)
    }

    fn labels(low: f32, high: f32, weight: f32) -> Labels {
        Labels {
            mask: Tensor::from_slice(&[1i64]),
            mask_weight: floats(&[weight]),
            gender: Tensor::from_slice(&[0i64]),
            gender_weight: floats(&[weight]),
            age_low: floats(&[low]),
            age_high: floats(&[high]),
            age_weight: floats(&[weight]),
        }
    }

    #[test]
    fn soft_ages_sum_to_one_and_peak_at_the_age() {
        let targets = soft_ages(&floats(&[0.0, 33.0, 100.0, 116.0]));
        for (row, peak) in [(0, 0), (1, 33), (2, 100), (3, 100)] {
            let target = targets.i(row);
            assert!((target.sum(Kind::Float).double_value(&[]) - 1.0).abs() < 1e-5);
            assert_eq!(target.argmax(0, false).int64_value(&[]), peak);
        }
    }

    #[test]
    fn flat_logits_cost_the_entropy_of_each_head() {
        let logits = Tensor::zeros([1, LOGITS as i64], (Kind::Float, Device::Cpu));
        let exact = loss(&logits, &labels(40.0, 40.0, 1.0), Weights::default());
        assert!((exact.mask.double_value(&[]) - 3f64.ln()).abs() < 1e-5);
        assert!((exact.gender.double_value(&[]) - 2f64.ln()).abs() < 1e-5);
        assert!((exact.age.double_value(&[]) - 101f64.ln()).abs() < 1e-4);
        assert!((exact.years.double_value(&[]) - 10.0).abs() < 1e-3);
        let range = loss(&logits, &labels(45.0, 54.0, 1.0), Weights::default());
        assert!((range.age.double_value(&[]) - 10.1f64.ln()).abs() < 1e-4);
        assert!((range.years.double_value(&[])).abs() < 1e-3);
    }

    #[test]
    fn unknown_labels_cost_nothing() {
        let logits = Tensor::randn([1, LOGITS as i64], (Kind::Float, Device::Cpu));
        let none = loss(&logits, &labels(40.0, 49.0, 0.0), Weights::default());
        assert_eq!(none.total.double_value(&[]), 0.0);
    }
}
