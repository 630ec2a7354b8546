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

/// Moves the mask logits of a classifier that learnt from `training`, calibrated at `temperature`.
pub fn set_right(graph: &mut Graph, training: &[Face], temperature: f32) -> Result<()> {
    let mut shift = vec![0f32; LOGITS];
    for (mask, logit) in Mask::ALL.into_iter().zip(&mut shift[MASK_LOGITS]) {
        *logit = -temperature * mean_repeats(training, mask).ln();
    }
    let Some(Op::Linear(own)) = graph.layers.last_mut().map(|layer| &mut layer.op) else {
        bail!("the classifier does not end in a fully connected layer")
    };
    own.bias = &own.bias + Tensor::from_slice(&shift).to_kind(Kind::Float);
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
        export::tests::{classifier, pictures},
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
            set_right(&mut graph, &training, 2.0).unwrap();
            let moved = (graph.run(&image).remove(0) - before).get(1);
            let wanted = [-2.0 * 2f64.ln(), -2.0 * 6f64.ln(), 0.0, 0.0, 0.0];
            for (n, wanted) in wanted.into_iter().enumerate() {
                assert!((moved.double_value(&[n as i64]) - wanted).abs() < 1e-4, "{n}: {moved:?}");
            }
        });
    }
}
