//! Probabilities below which a label is "unsure", so that the labels that are given are mostly right.

use mien::attributes::{Attributes, Thresholds};

use super::temperature::Truth;

/// For each head the least probability at which labels are right at least as often as `accuracy` says, 0–1; the
/// largest that was seen where no threshold does that.
pub fn thresholds(answers: &[Attributes], truths: &[Truth], accuracy: f64) -> Thresholds {
    let head = |of: fn(&Attributes, &Truth) -> Option<(f32, bool)>| {
        least(answers.iter().zip(truths).filter_map(|(answer, truth)| of(answer, truth)).collect(), accuracy)
    };
    fn largest(p: &[f32]) -> f32 {
        p.iter().copied().fold(0.0, f32::max)
    }
    Thresholds {
        mask: head(|a, truth| Some((largest(&a.mask), a.best().0 == truth.mask))),
        gender: head(|a, truth| Some((largest(&a.gender), a.best().1 == truth.gender?))),
        age: head(|a, truth| Some((largest(&a.age), a.best().2 == truth.age?))),
    }
}

/// The least threshold over which (probability, right) pairs are right often enough.
fn least(mut pairs: Vec<(f32, bool)>, accuracy: f64) -> f32 {
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0));
    let mut threshold = pairs.first().map_or(0.0, |pair| pair.0);
    let mut right = 0;
    for (n, &(p, is_right)) in pairs.iter().enumerate() {
        right += usize::from(is_right);
        if f64::from(right as u32) >= accuracy * (n + 1) as f64 {
            threshold = p;
        }
    }
    threshold
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_above_the_threshold_are_right_often_enough() {
        let pairs = vec![(0.5, false), (0.9, true), (0.6, true), (0.7, false), (0.8, true)];
        assert_eq!(least(pairs.clone(), 1.0), 0.8);
        assert_eq!(least(pairs.clone(), 0.75), 0.6);
        assert_eq!(least(pairs, 0.5), 0.5);
        assert_eq!(least(vec![(0.7, false)], 0.95), 0.7);
    }
}
