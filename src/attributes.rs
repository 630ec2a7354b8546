//! What is said of a face: mask, gender, age group, the 18-class code, and distributions over them.

use serde::Serialize;

/// How a mask is worn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mask {
    /// Over mouth and nose.
    Worn,
    /// Nose or mouth uncovered.
    Wrong,
    /// No mask.
    None,
}

impl Mask {
    pub const ALL: [Mask; 3] = [Mask::Worn, Mask::Wrong, Mask::None];

    /// The word used in JSON and in label tables.
    pub fn name(self) -> &'static str {
        ["worn", "wrong", "none"][self as usize]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Gender {
    Male,
    Female,
}

impl Gender {
    pub const ALL: [Gender; 2] = [Gender::Male, Gender::Female];

    /// The word used in JSON and in label tables.
    pub fn name(self) -> &'static str {
        ["male", "female"][self as usize]
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum AgeGroup {
    #[serde(rename = "<30")]
    Under30,
    #[serde(rename = "30-59")]
    From30To59,
    #[serde(rename = ">=60")]
    From60,
}

impl AgeGroup {
    pub const ALL: [AgeGroup; 3] = [AgeGroup::Under30, AgeGroup::From30To59, AgeGroup::From60];

    /// The first year of age of each group.
    pub const STARTS: [usize; 3] = [0, 30, 60];

    /// The group of an age in years.
    pub fn of_years(years: f32) -> AgeGroup {
        if years < 30.0 {
            AgeGroup::Under30
        } else if years < 60.0 {
            AgeGroup::From30To59
        } else {
            AgeGroup::From60
        }
    }

    /// The word used in JSON and in label tables.
    pub fn name(self) -> &'static str {
        ["<30", "30-59", ">=60"][self as usize]
    }
}

/// The competition's code: `mask * 6 + gender * 3 + age`, 0–17.
pub fn class18(mask: Mask, gender: Gender, age: AgeGroup) -> u8 {
    mask as u8 * 6 + gender as u8 * 3 + age as u8
}

/// The inverse of [`class18`]; `None` for codes above 17.
pub fn from_class18(code: u8) -> Option<(Mask, Gender, AgeGroup)> {
    let code = usize::from(code);
    Some((*Mask::ALL.get(code / 6)?, Gender::ALL[code % 6 / 3], AgeGroup::ALL[code % 3]))
}

/// Age bins of the network: one per year, 0 to 100 (older is taught as 100).
pub const AGE_BINS: usize = 101;

/// Where each head lies in the network's output row of [`LOGITS`] values.
pub const MASK_LOGITS: std::ops::Range<usize> = 0..3;
pub const GENDER_LOGITS: std::ops::Range<usize> = 3..5;
pub const AGE_LOGITS: std::ops::Range<usize> = 5..5 + AGE_BINS;
pub const LOGITS: usize = 5 + AGE_BINS;

/// Softmax with a temperature, stable for large logits.
pub fn softmax(logits: &[f32], temperature: f32) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut p: Vec<f32> = logits.iter().map(|&l| ((l - top) / temperature).exp()).collect();
    let sum: f32 = p.iter().sum();
    p.iter_mut().for_each(|v| *v /= sum);
    p
}

/// Calibrated probabilities of one face, or their average over a track.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Attributes {
    /// Probabilities in the order of [`Mask::ALL`].
    pub mask: [f32; 3],
    /// Probabilities in the order of [`Gender::ALL`].
    pub gender: [f32; 2],
    /// Probabilities in the order of [`AgeGroup::ALL`].
    pub age: [f32; 3],
    /// Expected age in years.
    pub years: f32,
}

/// Softmax temperature of each head, from the model card.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, serde::Deserialize)]
pub struct Temperatures {
    pub mask: f32,
    pub gender: f32,
    pub age: f32,
}

impl Default for Temperatures {
    fn default() -> Self {
        Self { mask: 1.0, gender: 1.0, age: 1.0 }
    }
}

/// Least probability of each head at which its label is given; below it the label is "unsure".
#[derive(Debug, Clone, Copy, PartialEq, Serialize, serde::Deserialize)]
pub struct Thresholds {
    pub mask: f32,
    pub gender: f32,
    pub age: f32,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { mask: 0.5, gender: 0.6, age: 0.45 }
    }
}

impl Attributes {
    /// From one output row of the network, `logits.len() == LOGITS`.
    pub fn from_logits(logits: &[f32], t: Temperatures) -> Attributes {
        assert_eq!(logits.len(), LOGITS);
        let mask = softmax(&logits[MASK_LOGITS], t.mask);
        let gender = softmax(&logits[GENDER_LOGITS], t.gender);
        let bins = softmax(&logits[AGE_LOGITS], t.age);
        let [_, mid, old] = AgeGroup::STARTS;
        let sum = |r: &[f32]| r.iter().sum::<f32>();
        Attributes {
            mask: [mask[0], mask[1], mask[2]],
            gender: [gender[0], gender[1]],
            age: [sum(&bins[..mid]), sum(&bins[mid..old]), sum(&bins[old..])],
            years: bins.iter().enumerate().map(|(year, p)| year as f32 * p).sum(),
        }
    }

    /// The likeliest value of each head.
    pub fn best(&self) -> (Mask, Gender, AgeGroup) {
        (Mask::ALL[argmax(&self.mask)], Gender::ALL[argmax(&self.gender)], AgeGroup::ALL[argmax(&self.age)])
    }

    /// The 18-class code of the likeliest values.
    pub fn class18(&self) -> u8 {
        let (mask, gender, age) = self.best();
        class18(mask, gender, age)
    }

    /// The labels to show: `None` where the probability is below its threshold ("unsure").
    pub fn labels(&self, least: Thresholds) -> Labels {
        let (mask, gender, age) = self.best();
        Labels {
            mask: (self.mask[mask as usize] >= least.mask).then_some(mask),
            gender: (self.gender[gender as usize] >= least.gender).then_some(gender),
            age: (self.age[age as usize] >= least.age).then_some(age),
        }
    }
}

/// What is shown of a face; `None` is "unsure".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Labels {
    pub mask: Option<Mask>,
    pub gender: Option<Gender>,
    pub age: Option<AgeGroup>,
}

/// Index of the largest value, the first of equals; 0 for an empty slice.
pub fn argmax(values: &[f32]) -> usize {
    let mut best = 0;
    for (i, &v) in values.iter().enumerate() {
        if v > values[best] {
            best = i;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class18_round_trips() {
        for code in 0..18 {
            let (m, g, a) = from_class18(code).unwrap();
            assert_eq!(class18(m, g, a), code);
        }
        assert_eq!(from_class18(18), None);
        assert_eq!(class18(Mask::Wrong, Gender::Female, AgeGroup::From60), 11);
    }

    #[test]
    fn logits_become_probabilities_groups_and_years() {
        let mut logits = vec![0.0; LOGITS];
        logits[0] = 20.0;
        logits[4] = 20.0;
        logits[AGE_LOGITS.start + 42] = 30.0;
        let a = Attributes::from_logits(&logits, Temperatures::default());
        assert_eq!(a.best(), (Mask::Worn, Gender::Female, AgeGroup::From30To59));
        assert!((a.years - 42.0).abs() < 0.01);
        assert!((a.age.iter().sum::<f32>() - 1.0).abs() < 1e-5);
    }

    #[test]
    fn flat_logits_are_unsure() {
        let a = Attributes::from_logits(&[0.0; LOGITS], Temperatures::default());
        let labels = a.labels(Thresholds { mask: 0.5, gender: 0.6, age: 0.45 });
        assert_eq!(labels, Labels { mask: None, gender: None, age: None });
    }

    #[test]
    fn group_edges() {
        assert_eq!(AgeGroup::of_years(29.9), AgeGroup::Under30);
        assert_eq!(AgeGroup::of_years(30.0), AgeGroup::From30To59);
        assert_eq!(AgeGroup::of_years(60.0), AgeGroup::From60);
    }
}
