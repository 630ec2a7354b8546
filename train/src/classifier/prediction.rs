//! What networks say of a face, and the vote of several.

use clap::ValueEnum;
use mien::attributes::{AgeGroup, Attributes, Gender, Mask, argmax, class18, from_class18, softmax};
use serde::{Deserialize, Serialize};

/// Classes of the competition's code.
pub const CLASSES: usize = 18;

/// Probabilities of the 18 classes, and the class that is answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    pub classes: [f32; CLASSES],
    /// The likeliest class, or the one that was voted for.
    pub class: usize,
    /// Expected age in years, of networks that say one.
    pub years: Option<f32>,
}

impl Prediction {
    fn new(classes: [f32; CLASSES], years: Option<f32>) -> Prediction {
        Prediction { class: argmax(&classes), classes, years }
    }

    /// From the logits of an 18-class head.
    pub fn from_classes(logits: &[f32]) -> Prediction {
        let p = softmax(logits, 1.0);
        Prediction::new(std::array::from_fn(|class| p[class]), None)
    }

    /// From three heads, which are taken to be independent.
    pub fn from_heads(heads: &Attributes) -> Prediction {
        let mut classes = [0.0; CLASSES];
        for mask in Mask::ALL {
            for gender in Gender::ALL {
                for age in AgeGroup::ALL {
                    classes[usize::from(class18(mask, gender, age))] =
                        heads.mask[mask as usize] * heads.gender[gender as usize] * heads.age[age as usize];
                }
            }
        }
        Prediction::new(classes, Some(heads.years))
    }

    /// The answered mask, gender and age group.
    pub fn answer(&self) -> (Mask, Gender, AgeGroup) {
        parts(self.class)
    }

    /// The marginal probabilities of each head; years are 0 where they are not said.
    pub fn heads(&self) -> Attributes {
        let (mut mask, mut gender, mut age) = ([0.0; 3], [0.0; 2], [0.0; 3]);
        for (class, p) in self.classes.iter().enumerate() {
            let (m, g, a) = parts(class);
            mask[m as usize] += p;
            gender[g as usize] += p;
            age[a as usize] += p;
        }
        Attributes { mask, gender, age, years: self.years.unwrap_or_default() }
    }
}

fn parts(class: usize) -> (Mask, Gender, AgeGroup) {
    // There are 18 classes, so the code is always one of them.
    from_class18(class as u8).unwrap_or((Mask::None, Gender::Male, AgeGroup::Under30))
}

/// How several networks agree on an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Vote {
    /// The class that most answer; of equals the one with the larger mean probability, then the lower one
    Hard,
    /// The class with the largest mean probability
    Soft,
}

/// The vote of `members`, each with its weight, on every face: all members have a prediction for each.
pub fn vote(rule: Vote, members: &[Vec<Prediction>], weights: &[f32]) -> Vec<Prediction> {
    let faces = members.first().map_or(0, Vec::len);
    let total: f32 = weights.iter().sum();
    (0..faces)
        .map(|face| {
            let said = || members.iter().map(|member| &member[face]).zip(weights);
            let mean: [f32; CLASSES] =
                std::array::from_fn(|class| said().map(|(p, w)| w * p.classes[class]).sum::<f32>() / total);
            let years = said().filter_map(|(p, w)| Some((p.years? * w, *w)));
            let (years, weight) = years.fold((0.0, 0.0), |(y, w), (a, b)| (y + a, w + b));
            let mut prediction = Prediction::new(mean, (weight > 0.0).then(|| years / weight));
            if rule == Vote::Hard {
                let mut votes = [0.0; CLASSES];
                said().for_each(|(p, weight)| votes[p.class] += weight);
                let most = votes.iter().copied().fold(0.0, f32::max);
                // Summed weights of equal votes may differ in the last bit.
                let ahead = |class: usize| votes[class] >= most * (1.0 - 1e-5);
                let first: [f32; CLASSES] =
                    std::array::from_fn(|class| if ahead(class) { mean[class] } else { -1.0 });
                prediction.class = argmax(&first);
            }
            prediction
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sure(class: usize, p: f32) -> Prediction {
        let rest = (1.0 - p) / (CLASSES - 1) as f32;
        Prediction::new(std::array::from_fn(|i| if i == class { p } else { rest }), None)
    }

    fn winner(rule: Vote, members: &[Prediction]) -> usize {
        let weights = vec![1.0; members.len()];
        vote(rule, &members.iter().map(|p| vec![p.clone()]).collect::<Vec<_>>(), &weights)[0].class
    }

    #[test]
    fn the_majority_wins_a_hard_vote_and_probability_a_soft_one() {
        let members = [sure(3, 0.4), sure(3, 0.4), sure(7, 0.95)];
        assert_eq!((winner(Vote::Hard, &members), winner(Vote::Soft, &members)), (3, 7));
    }

    #[test]
    fn ties_go_to_probability_then_to_the_lower_class() {
        assert_eq!(winner(Vote::Hard, &[sure(9, 0.5), sure(4, 0.6)]), 4);
        assert_eq!(winner(Vote::Hard, &[sure(9, 0.6), sure(4, 0.5)]), 9);
        assert_eq!(winner(Vote::Hard, &[sure(9, 0.5), sure(4, 0.5)]), 4);
    }

    #[test]
    fn weights_count() {
        let members = [vec![sure(1, 0.6)], vec![sure(2, 0.6)], vec![sure(2, 0.6)]];
        for rule in [Vote::Hard, Vote::Soft] {
            assert_eq!(vote(rule, &members, &[3.0, 1.0, 1.0])[0].class, 1);
            assert_eq!(vote(rule, &members, &[1.0, 1.0, 1.0])[0].class, 2);
        }
    }

    #[test]
    fn heads_make_classes_and_classes_heads() {
        let heads =
            Attributes { mask: [0.7, 0.2, 0.1], gender: [0.4, 0.6], age: [0.1, 0.2, 0.7], years: 61.0 };
        let prediction = Prediction::from_heads(&heads);
        assert_eq!(prediction.answer(), heads.best());
        assert_eq!(prediction.class, 5);
        let again = prediction.heads();
        assert!((again.mask[1] - 0.2).abs() < 1e-6 && (again.age[2] - 0.7).abs() < 1e-6);
        assert!((prediction.classes.iter().sum::<f32>() - 1.0).abs() < 1e-6);
    }
}
