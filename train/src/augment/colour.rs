//! Colour jitter.

use tch::{Kind, Tensor};

use crate::device::upload;

use super::{
    Augmentation,
    draw::{choose, normal, uniform},
};

/// Luminance of red, green and blue (BT.601).
pub const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

impl Augmentation {
    /// `x` `[N, 3, H, W]`, 0–1; the result may lie outside.
    pub(super) fn colours(&self, x: &Tensor) -> Tensor {
        let (n, _, h, w) = x.size4().expect("pictures are [N, 3, H, W]");
        let matrix = self.colour_matrix(n, x);
        let y = matrix.bmm(&x.reshape([n, 3, h * w])).reshape([n, 3, h, w]);
        let y = if self.gamma > 0.0 {
            y.clamp(1e-3, 1.0).pow(&normal(n, self.gamma, x).exp().view([n, 1, 1, 1]))
        } else {
            y
        };
        let mean = y.mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float);
        let contrast = normal(n, self.contrast, x).exp().view([n, 1, 1, 1]);
        let brightness = normal(n, self.brightness, x).view([n, 1, 1, 1]);
        (y - &mean) * contrast + mean + brightness
    }

    /// Saturation · hue · white balance, `[N, 3, 3]`.
    fn colour_matrix(&self, n: i64, like: &Tensor) -> Tensor {
        let grey = upload(&Tensor::from_slice(&LUMA), like.device()).view([1, 1, 3]);
        let eye = Tensor::eye(3, (Kind::Float, like.device())).unsqueeze(0);
        let colourful: Tensor = (1.0 - choose(n, self.grey, like)) * uniform(n, self.saturation, like);
        let colourful = colourful.view([n, 1, 1]);
        let saturation: Tensor = &eye * &colourful + grey.expand([1, 3, 3], false) * (1.0 - &colourful);
        // Rotation about the grey axis (Rodrigues).
        let angle = normal(n, self.hue, like).view([n, 1, 1]);
        let (sin, cos) = (angle.sin(), angle.cos());
        let k = 3f32.sqrt().recip();
        let turn = Tensor::from_slice(&[0.0, -k, k, k, 0.0, -k, -k, k, 0.0]);
        let turn = upload(&turn, like.device()).view([1, 3, 3]);
        let hue: Tensor = &eye * &cos + (1.0 - &cos) / 3.0 + turn * sin;
        let balance = (Tensor::randn([n, 1, 3], (Kind::Float, like.device())) * self.white_balance).exp();
        saturation.bmm(&hue) * balance
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn picture() -> Tensor {
        tch::manual_seed(4);
        Tensor::rand([3, 3, 8, 8], (Kind::Float, Device::Cpu)) * 0.5 + 0.25
    }

    fn luma(x: &Tensor) -> Tensor {
        (x * Tensor::from_slice(&LUMA).view([1, 3, 1, 1])).sum_dim_intlist(1, true, Kind::Float)
    }

    fn off(a: &Tensor, b: &Tensor) -> f64 {
        (a - b).abs().max().double_value(&[])
    }

    #[test]
    fn without_jitter_colours_stay() {
        let x = picture();
        assert!(off(&Augmentation::NONE.colours(&x), &x) < 1e-5);
    }

    #[test]
    fn grey_keeps_the_luminance_alone() {
        let x = picture();
        let y = Augmentation { grey: 1.0, ..Augmentation::NONE }.colours(&x);
        assert!(off(&y, &luma(&x).expand_as(&x)) < 1e-5);
        let vivid = Augmentation { saturation: (1.4, 1.4), ..Augmentation::NONE }.colours(&x);
        assert!(off(&(vivid - luma(&x)), &((&x - luma(&x)) * 1.4)) < 1e-5);
    }

    #[test]
    fn each_jitter_changes_what_its_name_says() {
        let x = picture();
        let each_mean = |x: &Tensor| x.mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float);
        let brighter = Augmentation { brightness: 0.1, ..Augmentation::NONE }.colours(&x) - &x;
        assert!(brighter.abs().max().double_value(&[]) > 0.01);
        assert!(
            off(&brighter, &each_mean(&brighter).expand_as(&x)) < 1e-5,
            "one value for the whole picture"
        );
        let contrast = Augmentation { contrast: 0.3, ..Augmentation::NONE }.colours(&x);
        assert!(off(&each_mean(&contrast), &each_mean(&x)) < 1e-5 && off(&contrast, &x) > 0.01);
        let hue = Augmentation { hue: 0.5, ..Augmentation::NONE }.colours(&x);
        let sum = |x: &Tensor| x.sum_dim_intlist(1, true, Kind::Float);
        assert!(off(&sum(&hue), &sum(&x)) < 1e-5 && off(&hue, &x) > 0.01);
    }
}
