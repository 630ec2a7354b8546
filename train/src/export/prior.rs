//! Masks expected as often as photos show them.
//!
//! Training shows few kinds of photos more often than they are ([`repeats`]), so the network expects them that much more
//! often. Odds are set right by the same factor (Elkan 2001, "The foundations of cost-sensitive learning", theorem 2): of
//! `p / repeats`, the logit is `logit − temperature × ln(repeats)`.

use anyhow::{Result, bail};
use mien::attributes::{LOGITS, MASK_LOGITS, Mask};
use tch::{Kind, Tensor};

use super::graph::{Graph, Op};
use crate::classifier::{
    dataset::repeats,
    labels::{Face, Set},
};

/// Steps in which the temperature and the shift by it settle.
const STEPS: usize = 12;

/// Moves the mask logits of a classifier that learnt from `training`. `logits` has [`LOGITS`] for each of some faces on
/// which `temperature` is fitted: that of the logits as they are moved, for a wrong prior would pass for want of certainty.
pub fn set_right(
    graph: &mut Graph,
    training: &[Face],
    logits: &[f32],
    temperature: impl Fn(&[f32]) -> f32,
) -> Result<()> {
    let repeats = Mask::ALL.map(|mask| mean_repeats(training, mask));
    let shift = |temperature: f32| repeats.map(|repeats| -temperature * repeats.ln());
    let mut settled = 1.0;
    for _ in 0..STEPS {
        let mut moved = logits.to_vec();
        for row in moved.chunks_exact_mut(LOGITS) {
            for (logit, shift) in row[MASK_LOGITS].iter_mut().zip(shift(settled)) {
                *logit += shift;
            }
        }
        // Halfway, lest it should swing.
        settled = (settled + temperature(&moved)) / 2.0;
    }
    log::info!("masks: a temperature of {settled:.3}, repeats {repeats:?}");
    let mut moved = vec![0f32; LOGITS];
    moved[MASK_LOGITS].copy_from_slice(&shift(settled));
    let Some(Op::Linear(own)) = graph.layers.last_mut().map(|layer| &mut layer.op) else {
        bail!("the classifier does not end in a fully connected layer")
    };
    own.bias = &own.bias + Tensor::from_slice(&moved).to_kind(Kind::Float);
    Ok(())
}

/// How often a photo with the mask worn so was shown for every time that it is there.
fn mean_repeats(training: &[Face], mask: Mask) -> f32 {
    let photos =
        training.iter().filter(|face| face.set == Set::Masks && !face.synthetic && face.mask == mask);
    let (count, shown) = photos.fold((0, 0), |(count, shown), face| (count + 1, shown + repeats(face)));
    if count == 0 { 1.0 } else { shown as f32 / count as f32 }
}

#[cfg(test)]
mod tests {
    use tch::no_grad;

    use super::*;
    use crate::{
        classifier::labels::tests_support::face,
        detector::network::normalise,
        export::{
            temperature::{Truth, temperatures},
            tests::{classifier, pictures},
        },
    };

    #[test]
    fn masks_that_training_repeats_are_expected_less() {
        no_grad(|| {
            let (mut graph, _) = classifier();
            let image = normalise(&pictures(2, graph.size));
            let before = graph.run(&image).remove(0);
            let photo = |mask, synthetic| Face { set: Set::Masks, mask, synthetic, ..face(0, 30) };
            let training =
                [photo(Mask::Worn, false), photo(Mask::Wrong, false), photo(Mask::Wrong, true), face(0, 30)];
            set_right(&mut graph, &training, &[0.0; LOGITS], |_| 2.0).unwrap();
            let moved = (graph.run(&image).remove(0) - before).get(1);
            let wanted = [-2.0 * 2f64.ln(), -2.0 * 6f64.ln(), 0.0, 0.0, 0.0];
            for (n, wanted) in wanted.into_iter().enumerate() {
                assert!((moved.double_value(&[n as i64]) - wanted).abs() < 1e-4, "{n}: {moved:?}");
            }
        });
    }

    /// A network that expects masks four times too often, and is otherwise as sure as it should be, is only moved.
    #[test]
    fn a_wrong_prior_is_no_want_of_certainty() {
        no_grad(|| {
            let (mut graph, _) = classifier();
            let image = normalise(&pictures(1, graph.size));
            let before = graph.run(&image).remove(0);
            let photo = |mask| Face { set: Set::Masks, mask, ..face(0, 30) };
            let training = [photo(Mask::Worn), photo(Mask::None)];
            let repeats = mean_repeats(&training, Mask::Worn) / mean_repeats(&training, Mask::None);
            // Four faces in five wear one, and the network says so, but with the wrong prior.
            let mut row = [0.0; LOGITS];
            row[Mask::Worn as usize] = 4f32.ln() + repeats.ln();
            row[Mask::Wrong as usize] = -50.0;
            let truth = |n| {
                let mask = if n % 5 == 0 { Mask::None } else { Mask::Worn };
                Truth { mask, mask_photo: true, gender: None, age: None }
            };
            let truths: Vec<Truth> = (0..100).map(truth).collect();
            let fit = |logits: &[f32]| temperatures(logits, &truths).mask;
            set_right(&mut graph, &training, &row.repeat(100), fit).unwrap();
            let moved = (graph.run(&image).remove(0) - before).get(0);
            let between = moved.double_value(&[0]) - moved.double_value(&[2]);
            assert!((between + f64::from(repeats.ln())).abs() < 0.02 && repeats > 1.5, "{moved:?}");
        });
    }
}
