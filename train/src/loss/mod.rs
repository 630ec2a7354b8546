//! Losses of one head of classes, by name, and their weighted sums.

mod distillation;

use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tch::{Kind, Reduction, Tensor};

pub use distillation::divergence;

/// One loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Term {
    /// Cross-entropy.
    CrossEntropy,
    /// Cross-entropy with class weights `N / (C · count)`.
    Weighted,
    /// Cross-entropy with class weights by the effective number of samples (Cui et al., 2019):
    /// `(1 − β) / (1 − β^count)`, scaled to sum to `C`.
    Effective,
    /// `(1 − p)^γ` times the cross-entropy (Lin et al., 2017).
    Focal,
    /// Cross-entropy against targets that leave a part to all classes (Szegedy et al., 2016).
    Smooth,
    /// One minus the macro F1 of the probabilities: `2·tp / (2·tp + fp + fn)` with soft counts over the batch, averaged
    /// over the classes that the batch's targets name.
    F1,
}

impl Term {
    pub const ALL: [Term; 6] =
        [Term::CrossEntropy, Term::Weighted, Term::Effective, Term::Focal, Term::Smooth, Term::F1];

    /// The word used in configuration files.
    pub fn name(self) -> &'static str {
        ["ce", "weighted-ce", "effective-ce", "focal", "smooth", "f1"][self as usize]
    }
}

/// The terms of a sum; written with `+` between them, as in `ce+f1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(pub Vec<Term>);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LossError {
    #[error(
        "there is no loss {0:?}; there are ce, weighted-ce, effective-ce, focal, smooth, f1, and sums as ce+f1"
    )]
    Unknown(String),
    #[error("the loss has {weights} weights for {terms} terms; give one for each, or none")]
    Weights { weights: usize, terms: usize },
    #[error("weights by class need the number of training faces of each class, and there are none")]
    NoCounts,
}

impl FromStr for Name {
    type Err = LossError;

    fn from_str(words: &str) -> Result<Name, LossError> {
        let term = |word: &str| {
            let found = Term::ALL.into_iter().find(|term| term.name() == word.trim());
            found.ok_or_else(|| LossError::Unknown(word.to_owned()))
        };
        words.split('+').map(term).collect::<Result<_, _>>().map(Name)
    }
}

impl TryFrom<String> for Name {
    type Error = LossError;

    fn try_from(words: String) -> Result<Name, LossError> {
        words.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> String {
        name.0.into_iter().map(Term::name).collect::<Vec<_>>().join("+")
    }
}

/// A loss as a configuration file sets it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    pub name: Name,
    /// Of each term of a sum; empty for 1 each.
    pub weights: Vec<f64>,
    /// Scales every term of a sum, before its weight, to the first one's value in the batch.
    pub balanced: bool,
    /// Of the focal loss.
    pub gamma: f64,
    /// The part of a target that `smooth` spreads over all classes.
    pub smoothing: f64,
    /// Of `effective-ce`: near 1 for weights near those of `weighted-ce`, 0 for equal ones.
    pub beta: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: Name(vec![Term::CrossEntropy]),
            weights: Vec::new(),
            balanced: false,
            gamma: 2.0,
            smoothing: 0.1,
            beta: 0.999,
        }
    }
}

impl Settings {
    /// The loss for a training set with `counts` faces of each class.
    pub fn build(&self, counts: &[u64]) -> Result<ClassLoss, LossError> {
        let terms = self.name.0.len();
        if !self.weights.is_empty() && self.weights.len() != terms {
            return Err(LossError::Weights { weights: self.weights.len(), terms });
        }
        let parts = self.name.0.iter().enumerate().map(|(i, &term)| {
            let weight = self.weights.get(i).copied().unwrap_or(1.0);
            Ok((self.part(term, counts)?, weight))
        });
        Ok(ClassLoss { parts: parts.collect::<Result<_, _>>()?, balanced: self.balanced })
    }

    fn part(&self, term: Term, counts: &[u64]) -> Result<Part, LossError> {
        let all: u64 = counts.iter().sum();
        let counted = || if all > 0 { Ok(counts) } else { Err(LossError::NoCounts) };
        Ok(match term {
            Term::CrossEntropy => Part::CrossEntropy { class_weights: None, smoothing: 0.0 },
            Term::Smooth => Part::CrossEntropy { class_weights: None, smoothing: self.smoothing },
            Term::Weighted => Part::weighted(inverse_counts(counted()?)),
            Term::Effective => Part::weighted(effective_number(counted()?, self.beta)),
            Term::Focal => Part::Focal { gamma: self.gamma },
            Term::F1 => Part::F1,
        })
    }
}

/// `N / (C · count)` for each class; 0 for a class that has no samples.
fn inverse_counts(counts: &[u64]) -> Vec<f64> {
    let all: u64 = counts.iter().sum();
    let weight =
        |&count: &u64| if count == 0 { 0.0 } else { all as f64 / (counts.len() as u64 * count) as f64 };
    counts.iter().map(weight).collect()
}

/// `(1 − β) / (1 − β^count)` for each class, scaled to sum to the number of classes; 0 for a class without samples.
fn effective_number(counts: &[u64], beta: f64) -> Vec<f64> {
    let weight = |&count: &u64| if count == 0 { 0.0 } else { (1.0 - beta) / (1.0 - beta.powf(count as f64)) };
    let weights: Vec<f64> = counts.iter().map(weight).collect();
    let scale = counts.len() as f64 / weights.iter().sum::<f64>();
    weights.into_iter().map(|weight| weight * scale).collect()
}

/// A term with all it needs.
#[derive(Debug)]
enum Part {
    CrossEntropy { class_weights: Option<Tensor>, smoothing: f64 },
    Focal { gamma: f64 },
    F1,
}

/// Keeps a batch without any known label from dividing by zero.
const LEAST: f64 = 1e-12;

impl Part {
    fn weighted(class_weights: Vec<f64>) -> Part {
        Part::CrossEntropy { class_weights: Some(Tensor::from_slice(&class_weights)), smoothing: 0.0 }
    }

    /// `logits` `[N, C]`, `targets` `[N]`, `samples` `[N]` of the logits' kind.
    fn forward(&self, logits: &Tensor, targets: &Tensor, samples: &Tensor) -> Tensor {
        match self {
            Part::CrossEntropy { class_weights: None, smoothing } => {
                weighted_mean(&cross_entropy(logits, targets, *smoothing), samples)
            }
            Part::CrossEntropy { class_weights: Some(weights), smoothing } => {
                let of_target =
                    weights.to_device(logits.device()).to_kind(logits.kind()).index_select(0, targets);
                weighted_mean(&cross_entropy(logits, targets, *smoothing), &(of_target * samples))
            }
            Part::Focal { gamma } => {
                let loss = cross_entropy(logits, targets, 0.0);
                // 1 − p without the loss of digits at p near 1, and with a finite slope at p = 1.
                let rest = (-(-&loss).expm1()).clamp_min(LEAST);
                weighted_mean(&(rest.pow_tensor_scalar(*gamma) * loss), samples)
            }
            Part::F1 => soft_f1(logits, targets, samples),
        }
    }
}

fn cross_entropy(logits: &Tensor, targets: &Tensor, smoothing: f64) -> Tensor {
    logits.cross_entropy_loss(targets, None::<Tensor>, Reduction::None, -100, smoothing)
}

fn weighted_mean(values: &Tensor, weights: &Tensor) -> Tensor {
    (values * weights).sum(None) / weights.sum(None).clamp_min(LEAST)
}

fn soft_f1(logits: &Tensor, targets: &Tensor, samples: &Tensor) -> Tensor {
    let samples = samples.unsqueeze(1);
    let over_batch = |t: Tensor| t.sum_dim_intlist(0, false, None);
    let probabilities = logits.softmax(1, None) * &samples;
    let truths = targets.one_hot(logits.size()[1]).to_kind(logits.kind());
    let hits = over_batch(&probabilities * &truths);
    let truths = over_batch(truths * samples);
    let f1 = hits * 2.0 / (over_batch(probabilities) + &truths).clamp_min(LEAST);
    let named = truths.gt(0.0).to_kind(logits.kind());
    weighted_mean(&(1.0 - f1), &named)
}

/// A loss for one head of classes.
#[derive(Debug)]
pub struct ClassLoss {
    parts: Vec<(Part, f64)>,
    balanced: bool,
}

impl ClassLoss {
    /// A scalar from `logits` `[N, C]` and `targets` `[N]` (indices of classes), a mean over the samples by their
    /// weights `samples` `[N]`, where 0 marks an unknown label. 0 when no label is known. Half precision is
    /// widened.
    pub fn forward(&self, logits: &Tensor, targets: &Tensor, samples: Option<&Tensor>) -> Tensor {
        let kind = if logits.kind() == Kind::Double { Kind::Double } else { Kind::Float };
        let logits = &logits.to_kind(kind);
        let samples = match samples {
            Some(samples) => samples.to_kind(kind),
            None => Tensor::ones([logits.size()[0]], (kind, logits.device())),
        };
        let mut sum = Tensor::zeros([], (kind, logits.device()));
        let mut first: Option<Tensor> = None;
        for (part, weight) in &self.parts {
            let loss = part.forward(logits, targets, &samples);
            let level = first.get_or_insert_with(|| loss.detach());
            sum = if self.balanced {
                let scale = &*level / loss.detach().clamp_min(LEAST);
                sum + loss * scale * *weight
            } else {
                sum + loss * *weight
            };
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    const COUNTS: [u64; 3] = [100, 20, 5];

    fn logits() -> Tensor {
        let values = [1.5, -0.5, 0.2, 0.1, 2.0, -1.0, -0.3, 0.4, 0.9, 2.0, 1.0, 0.0, 0.0, 0.0, 3.0f64];
        Tensor::from_slice(&values).view([5, 3])
    }

    fn targets() -> Tensor {
        Tensor::from_slice(&[0i64, 1, 0, 2, 2])
    }

    fn samples() -> Tensor {
        Tensor::from_slice(&[1.0f64, 0.5, 1.0, 0.0, 2.0])
    }

    fn build(name: &str) -> ClassLoss {
        let name = name.parse().unwrap();
        Settings { name, beta: 0.99, ..Settings::default() }.build(&COUNTS).unwrap()
    }

    fn value(loss: &ClassLoss, samples: Option<&Tensor>) -> f64 {
        loss.forward(&logits(), &targets(), samples).double_value(&[])
    }

    /// Value and gradient of the third sample's logits, as train/scripts/loss_golden.py prints them.
    #[test]
    fn values_and_gradients_as_pytorch() {
        let some = samples();
        let golden = [
            ("ce", None, 0.974460123809, [-0.168423726462, 0.06358680633, 0.104836920132]),
            ("ce", Some(&some), 0.548605637383, [-0.187137473846, 0.070652007033, 0.116485466813]),
            ("weighted-ce", None, 1.130797618252, [-0.017917417709, 0.006764553865, 0.011152863844]),
            ("effective-ce", None, 1.122471087817, [-0.026859665524, 0.010140616085, 0.016719049438]),
            ("smooth", None, 1.036460123809, [-0.155090393128, 0.056920139663, 0.098170253465]),
            ("focal", None, 0.667433829851, [-0.202110071211, 0.076304771456, 0.125805299755]),
            ("f1", None, 0.447419426646, [-0.026558272236, 0.017772955277, 0.00878531696]),
            ("f1", Some(&some), 0.346832771438, [-0.03264361705, 0.027989876702, 0.004653740348]),
        ];
        for (name, samples, expected, slopes) in golden {
            let logits = logits().set_requires_grad(true);
            let loss = build(name).forward(&logits, &targets(), samples);
            assert!((loss.double_value(&[]) - expected).abs() < 1e-10, "{name} is {loss:?}, not {expected}");
            loss.backward();
            for (class, expected) in slopes.into_iter().enumerate() {
                let found = logits.grad().double_value(&[2, class as i64]);
                assert!((found - expected).abs() < 1e-10, "{name}: slope {found}, not {expected}");
            }
        }
    }

    #[test]
    fn gradients_are_finite_differences() {
        let samples = samples();
        for term in Term::ALL.into_iter().map(Term::name).chain(["ce+f1"]) {
            let loss = build(term);
            let logits = logits().set_requires_grad(true);
            loss.forward(&logits, &targets(), Some(&samples)).backward();
            let step = 1e-5;
            for (row, class) in (0..5).flat_map(|row| (0..3).map(move |class| (row, class))) {
                let at = |by: f64| {
                    let moved = logits.detach().copy();
                    let _ = moved.get(row).get(class).g_add_scalar_(by);
                    loss.forward(&moved, &targets(), Some(&samples)).double_value(&[])
                };
                let expected = (at(step) - at(-step)) / (2.0 * step);
                let found = logits.grad().double_value(&[row, class]);
                assert!((found - expected).abs() < 1e-8, "{term} at {row}, {class}: {found}, not {expected}");
            }
        }
    }

    #[test]
    fn sums_are_weighted_and_balanced() {
        let (ce, f1) = (value(&build("ce"), None), value(&build("f1"), None));
        assert!((value(&build("ce+f1"), None) - (ce + f1)).abs() < 1e-12);
        let name: Name = "ce+f1".parse().unwrap();
        let settings = Settings { name, weights: vec![0.25, 0.75], ..Settings::default() };
        let given = settings.build(&COUNTS).unwrap();
        assert!((value(&given, None) - (0.25 * ce + 0.75 * f1)).abs() < 1e-12);
        let balanced = Settings { balanced: true, ..settings }.build(&COUNTS).unwrap();
        assert!((value(&balanced, None) - ce).abs() < 1e-12, "both terms have the first one's value");
        let slope = |loss: &ClassLoss| {
            let logits = logits().set_requires_grad(true);
            loss.forward(&logits, &targets(), None).backward();
            logits.grad()
        };
        let expected = slope(&build("ce")) * 0.25 + slope(&build("f1")) * (0.75 * ce / f1);
        assert!((slope(&balanced) - expected).abs().max().double_value(&[]) < 1e-12);
    }

    #[test]
    fn unknown_labels_teach_nothing() {
        for term in Term::ALL {
            let loss = build(term.name());
            let logits = logits().set_requires_grad(true);
            loss.forward(&logits, &targets(), Some(&samples())).backward();
            assert_eq!(logits.grad().get(3).abs().max().double_value(&[]), 0.0, "{term:?}");
            let none = Tensor::zeros([5], (Kind::Double, Device::Cpu));
            assert_eq!(value(&loss, Some(&none)), 0.0, "{term:?}");
        }
    }

    #[test]
    fn right_and_certain_costs_nothing_and_slopes_stay_finite() {
        let logits = Tensor::from_slice(&[200.0f32, 0.0, 0.0, -200.0]).view([2, 2]).set_requires_grad(true);
        for term in Term::ALL.into_iter().filter(|&term| term != Term::Smooth) {
            let loss = Settings { name: Name(vec![term]), ..Settings::default() }.build(&[1, 1]).unwrap();
            let cost = loss.forward(&logits, &Tensor::from_slice(&[0i64, 0]), None);
            assert!(cost.double_value(&[]).abs() < 1e-6, "{term:?} costs {cost:?}");
            cost.backward();
            assert!(logits.grad().isfinite().all().int64_value(&[]) == 1, "{term:?}");
        }
    }

    #[test]
    fn classes_without_faces_weigh_nothing() {
        assert_eq!(inverse_counts(&[1, 0, 3]), [4.0 / 3.0, 0.0, 4.0 / 9.0]);
        let effective = effective_number(&[7, 0, 7], 0.9);
        assert!((effective[0] - 1.5).abs() < 1e-12 && effective[1] == 0.0);
    }

    #[test]
    fn names_are_read_and_written() {
        let settings: Settings = serde_json::from_str(r#"{"name": "effective-ce+f1"}"#).unwrap();
        assert_eq!(settings.name, Name(vec![Term::Effective, Term::F1]));
        assert_eq!(String::from(settings.name), "effective-ce+f1");
        let error = serde_json::from_str::<Settings>(r#"{"name": "ce+hinge"}"#).unwrap_err().to_string();
        assert!(error.contains("no loss \"hinge\""), "{error}");
        let uneven = Settings { weights: vec![1.0, 2.0], ..Settings::default() };
        assert_eq!(uneven.build(&COUNTS).unwrap_err(), LossError::Weights { weights: 2, terms: 1 });
        let weighted = Settings { name: Name(vec![Term::Weighted]), ..Settings::default() };
        assert_eq!(weighted.build(&[]).unwrap_err(), LossError::NoCounts);
    }
}
