//! Erased rectangles.

use tch::{Kind, Tensor};

use super::{
    Augmentation,
    draw::{choose, uniform},
};

impl Augmentation {
    /// `x` `[N, 3, H, W]`, 0–1; a rectangle of each picture drawn gets one random colour.
    pub(super) fn erase(&self, x: &Tensor) -> Tensor {
        if self.erase <= 0.0 {
            return x.shallow_clone();
        }
        let (n, _, h, w) = x.size4().expect("pictures are [N, 3, H, W]");
        let (low, high) = self.erase_side;
        let line = |length: i64| Tensor::arange(length, (Kind::Float, x.device())) / length as f64;
        let inside = |line: Tensor| {
            let centre = uniform(n, (0.0, 1.0), x).unsqueeze(1);
            let half = uniform(n, (low / 2.0, high / 2.0), x).unsqueeze(1);
            (line.unsqueeze(0) - centre).abs().lt_tensor(&half)
        };
        let columns = inside(line(w)).view([n, 1, 1, w]);
        let rows = inside(line(h)).view([n, 1, h, 1]);
        let chosen = choose(n, self.erase, x).to_kind(Kind::Bool).view([n, 1, 1, 1]);
        let colour = Tensor::rand([n, 3, 1, 1], (Kind::Float, x.device()));
        colour.where_self(&columns.logical_and(&rows).logical_and(&chosen), x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn rectangles_are_of_one_colour_and_no_larger_than_asked() {
        tch::manual_seed(9);
        let x = Tensor::full([32, 3, 50, 50], -1.0, (Kind::Float, Device::Cpu));
        let y = Augmentation { erase: 1.0, erase_side: (0.2, 0.4), ..Augmentation::NONE }.erase(&x);
        for picture in 0..32 {
            let erased = y.get(picture).get(0);
            let erased = erased.masked_select(&erased.ge(0.0));
            let area = erased.numel();
            assert!((1..=21 * 21).contains(&area), "{area} pixels");
            assert!((erased.max() - erased.min()).double_value(&[]) == 0.0);
        }
        assert_eq!(Augmentation::NONE.erase(&x), x);
    }
}
