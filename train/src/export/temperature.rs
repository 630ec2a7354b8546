//! Softmax temperatures by which probabilities come to mean what they say (Guo et al. 2017, arXiv:1706.04599).

use mien::attributes::{AgeGroup, Attributes, Gender, LOGITS, Mask, Temperatures};

/// What is known of a face.
#[derive(Debug, Clone, Copy)]
pub struct Truth {
    pub mask: Mask,
    /// Whether the photo is of a set about masks, and no program pasted or painted one.
    pub mask_photo: bool,
    pub gender: Option<Gender>,
    pub age: Option<AgeGroup>,
}

/// The temperature of each head at which the held-out labels are likeliest; `logits` has [`LOGITS`] for each of
/// the `truths`. Of masks those count that were photographed, where there are any: bare faces of other sets and painted
/// masks are so easy that they would make it too sure of the hard ones.
pub fn temperatures(logits: &[f32], truths: &[Truth]) -> Temperatures {
    let likelihood = |temperatures: Temperatures, of: &dyn Fn(&Attributes, &Truth) -> Option<f32>| {
        let rows = logits.chunks_exact(LOGITS).zip(truths);
        let probabilities =
            rows.filter_map(|(row, truth)| of(&Attributes::from_logits(row, temperatures), truth));
        probabilities.map(|p| f64::from(p.max(f32::MIN_POSITIVE)).ln()).sum::<f64>()
    };
    let photographed = truths.iter().any(|truth| truth.mask_photo);
    let all = |t| Temperatures { mask: t, gender: t, age: t };
    Temperatures {
        mask: best(|t| {
            likelihood(all(t), &|a, truth| {
                (truth.mask_photo || !photographed).then_some(a.mask[truth.mask as usize])
            })
        }),
        gender: best(|t| likelihood(all(t), &|a, truth| Some(a.gender[truth.gender? as usize]))),
        age: best(|t| likelihood(all(t), &|a, truth| Some(a.age[truth.age? as usize]))),
    }
}

/// The temperature between 1/4 and 4 at which `likelihood`, which has one peak, is largest.
fn best(likelihood: impl Fn(f32) -> f64) -> f32 {
    // Golden-section search over the logarithm.
    const GOLDEN: f32 = 0.618_034;
    let (mut low, mut high) = (0.25f32.ln(), 4f32.ln());
    for _ in 0..16 {
        let (a, b) = (high - GOLDEN * (high - low), low + GOLDEN * (high - low));
        if likelihood(a.exp()) > likelihood(b.exp()) { high = b } else { low = a }
    }
    ((low + high) / 2.0).exp()
}

#[cfg(test)]
mod tests {
    use mien::attributes::GENDER_LOGITS;

    use super::*;

    #[test]
    fn overconfident_logits_are_cooled() {
        // Gender logits 4 apart say 98 %, but one face in five is otherwise: a gap of ln 4 is right.
        let mut row = vec![0.0; LOGITS];
        row[GENDER_LOGITS.start] = 4.0;
        let logits = row.repeat(100);
        let truth = |i| {
            let gender = if i % 5 == 0 { Gender::Female } else { Gender::Male };
            Truth { mask: Mask::None, mask_photo: false, gender: Some(gender), age: None }
        };
        let truths: Vec<Truth> = (0..100).map(truth).collect();
        let fitted = temperatures(&logits, &truths);
        assert!((fitted.gender - 4.0 / 4f32.ln()).abs() < 0.02, "{fitted:?}");
    }

    #[test]
    fn masks_are_cooled_by_photos_of_masks() {
        let mut row = vec![0.0; LOGITS];
        row[Mask::None as usize] = 4.0;
        let logits = row.repeat(200);
        // Bare faces of other sets are all right; of the photos of masks one in five is otherwise.
        let truth = |i, mask_photo| {
            let mask = if mask_photo && i % 5 == 0 { Mask::Worn } else { Mask::None };
            Truth { mask, mask_photo, gender: None, age: None }
        };
        let others = |mask_photo| (0..100).map(move |i| truth(i, mask_photo));
        let mixed: Vec<Truth> = others(true).chain(others(false)).collect();
        let photos: Vec<Truth> = others(true).collect();
        let fitted = temperatures(&logits, &mixed).mask;
        assert!(fitted > 1.0 && fitted == temperatures(&logits[..100 * LOGITS], &photos).mask, "{fitted}");
        let easy: Vec<Truth> = others(false).collect();
        assert!(temperatures(&logits[..100 * LOGITS], &easy).mask < 0.3);
    }
}
