//! Crop, scale, shift, rotation and mirroring in one resampling.

use tch::{Kind, Tensor};

use super::{
    Augmentation, Input,
    draw::{choose, normal, uniform},
};

impl Augmentation {
    /// `pictures` `[N, 3, P, P]` to `[N, 3, size, size]`; edges are repeated outside.
    pub(super) fn crop(&self, pictures: &Tensor, sides: &Tensor, input: &Input) -> Tensor {
        let (n, picture, size) = (pictures.size()[0], pictures.size()[2], input.size);
        let shown = input.shown(sides, picture);
        let pictures = &shrink(pictures, &shown, size);
        let side = shown * uniform(n, self.zoom, sides);
        let angle = normal(n, self.rotation, sides);
        let stretch = normal(n, self.stretch, sides).exp();
        let sign = |probability| choose(n, probability, sides) * -2.0 + 1.0;
        let shift = || &side * normal(n, 2.0 * self.shift, sides);
        let (sin, cos) = (angle.sin() * &side, angle.cos() * &side);
        let (wide, high) = (&stretch * sign(self.flip), stretch.reciprocal() * sign(self.vertical_flip));
        let x = Tensor::stack(&[&cos * &wide, -(&sin * &high), shift()], 1);
        let y = Tensor::stack(&[&sin * &wide, &cos * &high, shift()], 1);
        let theta = Tensor::stack(&[x, y], 1);
        let grid = Tensor::affine_grid_generator(&theta, [n, 3, size, size], false);
        const BILINEAR: i64 = 0;
        const BORDER: i64 = 1;
        pictures.grid_sampler(&grid, BILINEAR, BORDER, false)
    }
}

/// Large pictures lose the detail that `size` pixels over `shown` (parts of the side, `[N]`) cannot hold: bilinear
/// samples far apart would alias.
fn shrink(pictures: &Tensor, shown: &Tensor, size: i64) -> Tensor {
    const SHARP: f64 = 1.5;
    let picture = pictures.size()[2];
    if picture as f64 <= SHARP * size as f64 {
        return pictures.shallow_clone();
    }
    let step = shown.mean(Kind::Float).double_value(&[]) * picture as f64 / size as f64;
    if step <= SHARP {
        return pictures.shallow_clone();
    }
    let smaller = (picture as f64 / step).ceil() as i64;
    pictures.internal_upsample_bilinear2d_aa([smaller, smaller], false, None, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    /// A ramp of 0 to `side − 1` from left to right, and its transpose below, `[1, 3, side, side]`.
    fn ramp(side: i64) -> Tensor {
        Tensor::arange(side, (Kind::Float, Device::Cpu))
            .view([1, 1, 1, side])
            .expand([1, 3, side, side], false)
    }

    fn face(side: f64) -> Tensor {
        Tensor::full([1], side, (Kind::Float, Device::Cpu))
    }

    /// First and last pixel of the row or column in the middle.
    fn ends(augmentation: Augmentation, input: Input, picture: &Tensor, along: bool) -> (f64, f64) {
        let x = augmentation.crop(&picture.contiguous(), &face(64.0), &input);
        let (middle, last) = (input.size / 2, input.size - 1);
        let at =
            |i| if along { x.double_value(&[0, 0, middle, i]) } else { x.double_value(&[0, 0, i, middle]) };
        (at(0), at(last))
    }

    #[test]
    fn the_middle_is_cut_out_or_all_is_shown() {
        let input = Input { size: 64, crop: 1.0, ..Input::default() };
        assert_eq!(ends(Augmentation::NONE, input, &ramp(128), true), (32.0, 95.0));
        let whole = Input { centre_crop: false, size: 128, ..input };
        assert_eq!(ends(Augmentation::NONE, whole, &ramp(128), true), (0.0, 127.0));
        let wide = Augmentation { zoom: (1.5, 1.5), ..Augmentation::NONE };
        let (left, right) = ends(wide, input, &ramp(128), true);
        assert!((left - 16.25).abs() < 0.01 && (right - 110.75).abs() < 0.01, "{left} {right}");
    }

    #[test]
    fn flips_are_along_their_own_axis() {
        let input = Input { size: 64, crop: 1.0, ..Input::default() };
        let (across, down) = (ramp(128), ramp(128).transpose(2, 3));
        let flip = Augmentation { flip: 1.0, ..Augmentation::NONE };
        assert_eq!(ends(flip, input, &across, true), (95.0, 32.0));
        assert_eq!(ends(flip, input, &down, false), (32.0, 95.0));
        let vertical = Augmentation { vertical_flip: 1.0, ..Augmentation::NONE };
        assert_eq!(ends(vertical, input, &across, true), (32.0, 95.0));
        assert_eq!(ends(vertical, input, &down, false), (95.0, 32.0));
    }

    #[test]
    fn large_pictures_do_not_alias() {
        // Columns of black and white, one pixel each, are grey from afar.
        let stripes = ramp(512).remainder(2.0).contiguous();
        let x = Augmentation::NONE.crop(&stripes, &face(400.0), &Input { size: 64, ..Input::default() });
        assert!((x - 0.5).abs().max().double_value(&[]) < 0.1);
    }
}
