//! Pictures of a batch blended with each other, and their losses likewise.

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::draw::one;

/// Which batches are blended, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Mix {
    /// Probability that a batch is blended pixel by pixel (mixup, Zhang et al., 2018).
    pub mixup: f64,
    /// Probability that a batch gets rectangles of its other pictures (CutMix, Yun et al., 2019).
    pub cutmix: f64,
    /// Both shares are drawn from Beta(`alpha`, `alpha`); 1 where it is 0.
    pub alpha: f64,
}

/// A blended batch.
#[derive(Debug)]
pub struct Mixed {
    /// Bytes `[N, H, W, 3]`.
    pub images: Tensor,
    /// Each picture's other one, `[N]` indices into the batch.
    pub partner: Tensor,
    /// The part, 0–1, that is a picture's own.
    pub share: f64,
}

impl Mixed {
    /// The loss of a batch from `own`, that against the pictures' own labels, and `other`, that against their
    /// partners'.
    pub fn loss(&self, own: &Tensor, other: &Tensor) -> Tensor {
        own * self.share + other * (1.0 - self.share)
    }
}

impl Mix {
    /// Blends `images`, bytes `[N, H, W, 3]`, or leaves them as they are (`None`).
    pub fn apply(&self, images: &Tensor) -> Option<Mixed> {
        if self.mixup + self.cutmix <= 0.0 {
            return None;
        }
        let drawn = one((0.0, 1.0));
        if drawn >= self.mixup + self.cutmix {
            return None;
        }
        let (n, h, w, _) = images.size4().expect("images are [N, H, W, 3]");
        let alpha = if self.alpha > 0.0 { self.alpha } else { 1.0 };
        let shares = Tensor::full([2], alpha, (Kind::Float, tch::Device::Cpu)).internal_sample_dirichlet();
        let share = shares.double_value(&[0]);
        let partner = Tensor::randperm(n, (Kind::Int64, images.device()));
        let others = images.index_select(0, &partner);
        if drawn < self.mixup {
            let images = (images * share + others * (1.0 - share)).round().to_kind(Kind::Uint8);
            return Some(Mixed { images, partner, share });
        }
        let part = (1.0 - share).sqrt();
        let span = |length: i64| {
            let centre = one((0.0, length as f64));
            let half = part * length as f64 / 2.0;
            let ends = [centre - half, centre + half].map(|end| end.round().clamp(0.0, length as f64) as i64);
            (ends[0], ends[1] - ends[0])
        };
        let ((y, high), (x, wide)) = (span(h), span(w));
        let images = images.copy();
        let cut = |t: &Tensor| t.narrow(1, y, high).narrow(2, x, wide);
        cut(&images).copy_(&cut(&others));
        // The rectangle may have been cut off at the edge.
        let share = 1.0 - (high * wide) as f64 / (h * w) as f64;
        Some(Mixed { images, partner, share })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// Picture `i` is all `40 i`.
    fn images() -> Tensor {
        let values = Tensor::arange(6, (Kind::Uint8, Device::Cpu)) * 40;
        values.view([6, 1, 1, 1]).expand([6, 20, 30, 3], false).contiguous()
    }

    #[test]
    fn shares_are_those_of_the_pixels() {
        tch::manual_seed(1);
        let images = images();
        for mix in [Mix { mixup: 1.0, cutmix: 0.0, alpha: 0.4 }, Mix { mixup: 0.0, cutmix: 1.0, alpha: 1.0 }]
        {
            for _ in 0..20 {
                let mixed = mix.apply(&images).unwrap();
                let own = images.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float);
                let expected = mixed.loss(&own, &own.index_select(0, &mixed.partner));
                let found = mixed.images.mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float);
                // Bytes are rounded.
                assert!((found - expected).abs().max().double_value(&[]) < 0.51, "{mix:?}");
            }
        }
    }

    #[test]
    fn cutmix_keeps_pixels_whole_and_the_images_as_they_were() {
        tch::manual_seed(2);
        let images = images();
        let mixed = Mix { cutmix: 1.0, alpha: 1.0, ..Mix::default() }.apply(&images).unwrap();
        assert_eq!(mixed.images.remainder(40).max().double_value(&[]), 0.0);
        assert_eq!(images, self::images());
    }

    #[test]
    fn batches_are_blended_as_often_as_asked() {
        tch::manual_seed(3);
        let images = images();
        let mix = Mix { mixup: 0.2, cutmix: 0.3, alpha: 1.0 };
        let blended = (0..400).filter(|_| mix.apply(&images).is_some()).count();
        assert!((160..240).contains(&blended), "{blended} of 400");
        assert!(Mix::default().apply(&images).is_none());
    }
}
