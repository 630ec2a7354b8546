//! What a network is taught: the loss of its three heads, or of its 18 classes.

use mien::attributes::{AGE_BINS, AGE_LOGITS, AgeGroup, GENDER_LOGITS, LOGITS, MASK_LOGITS, Mask};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::{
    config::{Config, Head},
    dataset::paintable,
    distillation,
    labels::Face,
    prediction::CLASSES,
};
use crate::loss::{ClassLoss, LossError, Settings};

/// Labels of a batch, `[N]` each, on the logits' device. A weight of 0 means that the label is unknown.
#[derive(Debug)]
pub struct Labels {
    /// Index into `Mask::ALL`.
    pub mask: Tensor,
    pub mask_weight: Tensor,
    /// Index into `Gender::ALL`.
    pub gender: Tensor,
    pub gender_weight: Tensor,
    /// Index into `AgeGroup::ALL`.
    pub age_group: Tensor,
    /// First and last year of the age, equal for an exact one; years above the last bin count as the last bin.
    pub age_low: Tensor,
    pub age_high: Tensor,
    pub age_weight: Tensor,
    /// What teachers say, as [`distillation::head_log_p`] has it.
    pub soft: Option<Tensor>,
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
            age_group: pick(&self.age_group),
            age_low: pick(&self.age_low),
            age_high: pick(&self.age_high),
            age_weight: pick(&self.age_weight),
            soft: self.soft.as_ref().map(pick),
        }
    }
}

impl Labels {
    /// The 18-class code `[N]`, and 1 where it is known.
    pub fn classes(&self) -> (Tensor, Tensor) {
        let known = self.gender_weight.gt(0.0).logical_and(&self.age_weight.gt(0.0));
        (&self.mask * 6 + &self.gender * 3 + &self.age_group, known.to_kind(Kind::Float))
    }
}

impl Head {
    /// Values that the network gives for a face.
    pub fn outputs(self) -> usize {
        match self {
            Head::Three => LOGITS,
            Head::Classes => CLASSES,
        }
    }

    /// Logits `[N, outputs]` as logits of the 18 classes `[N, 18]`; the three heads are taken to be independent.
    pub fn classes(self, logits: &Tensor) -> Tensor {
        if self == Head::Classes {
            return logits.shallow_clone();
        }
        let head = |range| part(logits, range).log_softmax(1, Kind::Float);
        let (mask, gender) = (head(MASK_LOGITS), head(GENDER_LOGITS));
        let age = age_groups(&head(AGE_LOGITS));
        let pairs = (mask.unsqueeze(2) + gender.unsqueeze(1)).flatten(1, 2);
        (pairs.unsqueeze(2) + age.unsqueeze(1)).flatten(1, 2)
    }
}

/// What each term of three heads' loss counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Terms {
    pub mask: f64,
    pub gender: f64,
    /// The age's distribution over years.
    pub age: f64,
    /// The distance in years between the expected age and the age's range.
    pub years: f64,
}

impl Default for Terms {
    fn default() -> Self {
        Self { mask: 1.0, gender: 1.0, age: 0.5, years: 0.03 }
    }
}

/// Standard deviation of the target around an exact age, in years: neighbouring ages look alike.
const AGE_SPREAD: f64 = 2.0;

/// The sum that is minimised and its parts, each a scalar tensor.
#[derive(Debug)]
pub struct Loss {
    pub total: Tensor,
    pub parts: Vec<(&'static str, Tensor)>,
}

/// A loss over a head.
#[derive(Debug)]
pub enum Objective {
    Classes(ClassLoss),
    /// Of mask and gender. Age learns its distribution over years; with another loss than cross-entropy, which would
    /// say the same once more, the age groups add theirs.
    Three {
        mask: ClassLoss,
        gender: ClassLoss,
        groups: Option<ClassLoss>,
        terms: Terms,
        /// What teachers' word counts, where there is one.
        teachers: distillation::Settings,
    },
}

impl Objective {
    /// For training on `faces`, some with painted masks.
    pub fn new(config: &Config, faces: &[Face]) -> Result<Objective, LossError> {
        let settings = &config.loss;
        let counts = |classes: usize, class: &dyn Fn(&Face, Mask) -> Option<usize>| {
            let mut counts = vec![0.0; classes];
            for face in faces {
                for (mask, share) in masks(face, config) {
                    if let Some(class) = class(face, mask) {
                        counts[class] += share;
                    }
                }
            }
            counts.into_iter().map(|count: f64| count.round() as u64).collect::<Vec<u64>>()
        };
        Ok(match config.head {
            Head::Classes => {
                let class = |face: &Face, mask| face.class18(mask).map(usize::from);
                Objective::Classes(settings.build(&counts(CLASSES, &class))?)
            }
            Head::Three => Objective::Three {
                mask: settings.build(&counts(3, &|_, mask| Some(mask as usize)))?,
                gender: settings.build(&counts(2, &|face, _| face.gender.map(|gender| gender as usize)))?,
                groups: if *settings == Settings::default() {
                    None
                } else {
                    Some(settings.build(&counts(3, &|face, _| face.age_group().map(|age| age as usize)))?)
                },
                terms: config.terms,
                teachers: config.distillation.clone(),
            },
        })
    }

    /// Losses of `logits` `[N, outputs]`; every one is a mean over the samples that have the label.
    pub fn loss(&self, logits: &Tensor, labels: &Labels) -> Loss {
        match self {
            Objective::Classes(loss) => {
                let (classes, known) = labels.classes();
                Loss { total: loss.forward(logits, &classes, Some(&known)), parts: Vec::new() }
            }
            Objective::Three { mask, gender, groups, terms, teachers } => {
                let mask = mask.forward(&part(logits, MASK_LOGITS), &labels.mask, Some(&labels.mask_weight));
                let gender =
                    gender.forward(&part(logits, GENDER_LOGITS), &labels.gender, Some(&labels.gender_weight));
                let log_p = part(logits, AGE_LOGITS).log_softmax(1, Kind::Float);
                let (age, years) = age_losses(&log_p, labels);
                let mut total =
                    &mask * terms.mask + &gender * terms.gender + &age * terms.age + &years * terms.years;
                let mut parts = vec![("mask", mask), ("gender", gender), ("age", age), ("years", years)];
                if let Some(groups) = groups {
                    let groups =
                        groups.forward(&age_groups(&log_p), &labels.age_group, Some(&labels.age_weight));
                    total += &groups;
                    parts.push(("age_group", groups));
                }
                if let Some(soft) = &labels.soft {
                    let taught = teachers.loss(logits, soft, labels, terms.age);
                    total = total * (1.0 - teachers.weight) + &taught;
                    parts.push(("teachers", taught));
                }
                Loss { total, parts }
            }
        }
    }
}

/// The masks that a face is shown with, and how often each.
fn masks(face: &Face, config: &Config) -> Vec<(Mask, f64)> {
    if !paintable(face) {
        return vec![(face.mask, 1.0)];
    }
    let (painted, right) = (config.painted, config.wardrobe.worn_right());
    vec![(Mask::None, 1.0 - painted), (Mask::Worn, painted * right), (Mask::Wrong, painted * (1.0 - right))]
}

pub fn part(logits: &Tensor, range: std::ops::Range<usize>) -> Tensor {
    logits.narrow(1, range.start as i64, range.len() as i64)
}

/// Logarithms of the age groups' probabilities `[N, 3]` from those of the years `[N, AGE_BINS]`.
fn age_groups(log_p: &Tensor) -> Tensor {
    let [_, middle, old] = AgeGroup::STARTS.map(|start| start as i64);
    let bins = AGE_BINS as i64;
    let sum = |from: i64, to: i64| log_p.narrow(1, from, to - from).logsumexp(1, true);
    Tensor::cat(&[sum(0, middle), sum(middle, old), sum(old, bins)], 1)
}

/// Of the distribution over years, and of the distance of its mean from the age.
fn age_losses(log_p: &Tensor, labels: &Labels) -> (Tensor, Tensor) {
    let exact = labels.age_low.eq_tensor(&labels.age_high);
    let soft = -(soft_ages(&labels.age_low) * log_p).sum_dim_intlist(1, false, Kind::Float);
    let age = soft.where_self(&exact, &range_loss(log_p, &labels.age_low, &labels.age_high));

    let expected = (log_p.exp() * bins(log_p)).sum_dim_intlist(1, false, Kind::Float);
    let last = (AGE_BINS - 1) as f64;
    let below = labels.age_low.clamp_max(last) - &expected;
    let above = expected - labels.age_high.clamp_max(last);
    let years = below.maximum(&above).clamp_min(0.0);
    (weighted_mean(&age, &labels.age_weight), weighted_mean(&years, &labels.age_weight))
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
    use crate::classifier::{labels::tests_support::face, prediction::Prediction};
    use mien::attributes::{Attributes, Temperatures};
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
            age_group: Tensor::from_slice(&[1i64]),
            age_low: floats(&[low]),
            age_high: floats(&[high]),
            age_weight: floats(&[weight]),
            soft: None,
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

    fn objective(name: &str, head: Head, faces: &[Face]) -> Objective {
        let loss = Settings { name: name.parse().unwrap(), ..Settings::default() };
        Objective::new(&Config { loss, head, ..Config::default() }, faces).unwrap()
    }

    fn value(loss: &Loss, part: &str) -> f64 {
        loss.parts.iter().find(|(name, _)| *name == part).unwrap().1.double_value(&[])
    }

    #[test]
    fn flat_logits_cost_the_entropy_of_each_head() {
        let three = objective("ce", Head::Three, &[]);
        let logits = Tensor::zeros([1, LOGITS as i64], (Kind::Float, Device::Cpu));
        let exact = three.loss(&logits, &labels(40.0, 40.0, 1.0));
        assert!((value(&exact, "mask") - 3f64.ln()).abs() < 1e-5);
        assert!((value(&exact, "gender") - 2f64.ln()).abs() < 1e-5);
        assert!((value(&exact, "age") - 101f64.ln()).abs() < 1e-4);
        assert!((value(&exact, "years") - 10.0).abs() < 1e-3);
        let range = three.loss(&logits, &labels(45.0, 54.0, 1.0));
        assert!((value(&range, "age") - 10.1f64.ln()).abs() < 1e-4);
        assert!(value(&range, "years").abs() < 1e-3);
        let classes = objective("ce", Head::Classes, &[]);
        let logits = Tensor::zeros([1, CLASSES as i64], (Kind::Float, Device::Cpu));
        let loss = classes.loss(&logits, &labels(40.0, 40.0, 1.0)).total;
        assert!((loss.double_value(&[]) - 18f64.ln()).abs() < 1e-5);
    }

    #[test]
    fn each_term_counts_what_the_configuration_says() {
        let logits = Tensor::zeros([1, LOGITS as i64], (Kind::Float, Device::Cpu));
        let loss = |keys: &[&str]| {
            let keys: Vec<_> = keys.iter().map(|key| key.parse().unwrap()).collect();
            let config = Config::default().with(&keys).unwrap();
            Objective::new(&config, &[]).unwrap().loss(&logits, &labels(40.0, 40.0, 1.0))
        };
        let total = |keys: &[&str]| loss(keys).total.double_value(&[]);
        let base = loss(&[]);
        for (term, more) in [("mask", 1.0), ("gender", 1.5), ("age", 0.25), ("years", 0.07)] {
            let usual = toml::Value::try_from(Terms::default()).unwrap()[term].as_float().unwrap();
            let key = format!("terms.{term}={}", usual + more);
            let expected = base.total.double_value(&[]) + more * value(&base, term);
            assert!((total(&[&key]) - expected).abs() < 1e-4, "{key}");
        }
        assert!(Config::default().with(&["terms.race=1.0".parse().unwrap()]).is_err());
    }

    #[test]
    fn unknown_labels_cost_nothing() {
        for head in [Head::Three, Head::Classes] {
            let logits = Tensor::randn([1, head.outputs() as i64], (Kind::Float, Device::Cpu));
            let none = objective("ce", head, &[]).loss(&logits, &labels(40.0, 49.0, 0.0));
            assert_eq!(none.total.double_value(&[]), 0.0);
        }
    }

    #[test]
    fn three_heads_answer_as_classes_do() {
        let logits = Tensor::randn([4, LOGITS as i64], (Kind::Float, Device::Cpu));
        let classes = Head::Three.classes(&logits).softmax(1, Kind::Float);
        let rows = Vec::<f32>::try_from(logits.flatten(0, -1)).unwrap();
        for (i, row) in rows.chunks_exact(LOGITS).enumerate() {
            let heads = Attributes::from_logits(row, Temperatures::default());
            let expected = Prediction::from_heads(&heads).classes;
            for (class, p) in expected.into_iter().enumerate() {
                let found = classes.double_value(&[i as i64, class as i64]);
                assert!((found - f64::from(p)).abs() < 1e-5, "face {i}, class {class}: {found}, not {p}");
            }
        }
    }

    #[test]
    fn painted_masks_count_as_classes() {
        let man = Face { landmarks: Some([[1.0, 1.0]; 5]), ..face(0, 20) };
        let config = Config { painted: 0.3, ..Config::default() };
        let shares = masks(&man, &config);
        let expected = [(Mask::None, 0.7), (Mask::Worn, 0.2), (Mask::Wrong, 0.1)];
        for ((mask, share), (named, part)) in shares.into_iter().zip(expected) {
            assert!(mask == named && (share - part).abs() < 1e-9, "{mask:?} {share}");
        }
        assert_eq!(masks(&Face { landmarks: None, ..man }, &config), [(Mask::None, 1.0)]);
        // Bare, worn and wrong young men have weights; no woman has, and so a woman costs nothing.
        let faces = vec![Face { landmarks: Some([[1.0, 1.0]; 5]), ..face(0, 20) }; 30];
        let Objective::Classes(loss) = objective("weighted-ce", Head::Classes, &faces) else {
            unreachable!()
        };
        let flat = Tensor::zeros([1, CLASSES as i64], (Kind::Float, Device::Cpu));
        let cost = |class: i64| loss.forward(&flat, &Tensor::from_slice(&[class]), None).double_value(&[]);
        assert!([0, 6, 12].iter().all(|&class| (cost(class) - 18f64.ln()).abs() < 1e-5));
        assert_eq!(cost(3), 0.0);
    }
}
