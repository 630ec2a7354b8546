//! Batched augmentation on the training device: crop, rotate, flip, colours, blur, noise, erased rectangles.

use tch::{Kind, Tensor};

use super::labels::PICTURE_SIDE;

/// Strengths and probabilities; every draw is per picture unless said otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Augmentation {
    /// The crop's side over the longer side of the face box, drawn evenly.
    pub crop: (f64, f64),
    /// Standard deviation of the crop's shift, in crop sides.
    pub shift: f64,
    /// Standard deviation of the rotation, in radians.
    pub rotation: f64,
    /// Standard deviations of brightness (of full scale), and of the logarithms of contrast, gamma and white balance.
    pub brightness: f64,
    pub contrast: f64,
    pub gamma: f64,
    pub white_balance: f64,
    /// Standard deviation of the hue's rotation, in radians.
    pub hue: f64,
    /// Probability of a picture without colour.
    pub grey: f64,
    /// Probability of a small face: resampled to fewer pixels (drawn per batch) and back.
    pub small: f64,
    pub small_side: (f64, f64),
    /// Probability of sensor noise, and its largest standard deviation (of full scale).
    pub noisy: f64,
    pub noise: f64,
    /// Probability of an erased rectangle (Zhong et al., 2020).
    pub erase: f64,
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            crop: (1.05, 1.35),
            shift: 0.03,
            rotation: 0.12,
            brightness: 0.08,
            contrast: 0.2,
            gamma: 0.2,
            white_balance: 0.07,
            hue: 0.08,
            grey: 0.06,
            small: 0.25,
            small_side: (24.0, 72.0),
            noisy: 0.3,
            noise: 0.06,
            erase: 0.12,
        }
    }
}

impl Augmentation {
    /// Bytes `[N, 128, 128, 3]` with the faces' longer sides `[N]` in pixels to network inputs
    /// `[N, 3, size, size]`, channels last in memory.
    pub fn apply(&self, images: &Tensor, sides: &Tensor, size: i64) -> Tensor {
        let pictures = images.permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0;
        let x = self.crop(&pictures, sides, size);
        let x = self.colours(&x);
        let x = self.small_faces(&x);
        let x = self.noise(&x);
        let x = self.erase(&x);
        let x = (x.clamp(0.0, 1.0) * (255.0 / 128.0) - 1.0).permute([0, 2, 3, 1]).contiguous();
        x.permute([0, 3, 1, 2])
    }

    fn crop(&self, pictures: &Tensor, sides: &Tensor, size: i64) -> Tensor {
        let n = pictures.size()[0];
        let side = sides * uniform(n, self.crop, sides) / f64::from(PICTURE_SIDE);
        let angle = normal(n, self.rotation, sides);
        let stretch = normal(n, 0.03, sides).exp();
        let flip = choose(n, 0.5, sides) * -2.0 + 1.0;
        let shift = || &side * normal(n, 2.0 * self.shift, sides);
        let (sin, cos) = (angle.sin() * &side, angle.cos() * &side);
        let (wide, high) = (&stretch * flip, stretch.reciprocal());
        let x = Tensor::stack(&[&cos * &wide, -(&sin * &high), shift()], 1);
        let y = Tensor::stack(&[&sin * &wide, &cos * &high, shift()], 1);
        let theta = Tensor::stack(&[x, y], 1);
        let grid = Tensor::affine_grid_generator(&theta, [n, 3, size, size], false);
        const BILINEAR: i64 = 0;
        const BORDER: i64 = 1;
        pictures.grid_sampler(&grid, BILINEAR, BORDER, false)
    }

    fn colours(&self, x: &Tensor) -> Tensor {
        let (n, _, h, w) = x.size4().expect("pictures are [N, 3, H, W]");
        let like = &x.narrow(1, 0, 1).mean_dim([1i64, 2, 3].as_slice(), false, Kind::Float);
        let matrix = self.colour_matrix(n, like);
        let y = matrix.bmm(&x.reshape([n, 3, h * w])).reshape([n, 3, h, w]);
        let gamma = normal(n, self.gamma, like).exp().view([n, 1, 1, 1]);
        let y = y.clamp(1e-3, 1.0).pow(&gamma);
        let mean = y.mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float);
        let contrast = normal(n, self.contrast, like).exp().view([n, 1, 1, 1]);
        let brightness = normal(n, self.brightness, like).view([n, 1, 1, 1]);
        (y - &mean) * contrast + mean + brightness
    }

    /// Saturation · hue · white balance, `[N, 3, 3]`.
    fn colour_matrix(&self, n: i64, like: &Tensor) -> Tensor {
        let grey = Tensor::from_slice(&[0.299f32, 0.587, 0.114]).to_device(like.device()).view([1, 1, 3]);
        let eye = Tensor::eye(3, (Kind::Float, like.device())).unsqueeze(0);
        let colourful: Tensor = (1.0 - choose(n, self.grey, like)) * uniform(n, (0.6, 1.3), like);
        let colourful = colourful.view([n, 1, 1]);
        let saturation: Tensor = &eye * &colourful + grey.expand([1, 3, 3], false) * (1.0 - &colourful);
        // Rotation about the grey axis (Rodrigues).
        let angle = normal(n, self.hue, like).view([n, 1, 1]);
        let (sin, cos) = (angle.sin(), angle.cos());
        let k = 3f32.sqrt().recip();
        let turn = Tensor::from_slice(&[0.0, -k, k, k, 0.0, -k, -k, k, 0.0])
            .to_device(like.device())
            .view([1, 3, 3]);
        let hue: Tensor = &eye * &cos + (1.0 - &cos) / 3.0 + turn * sin;
        let balance = (Tensor::randn([n, 1, 3], (Kind::Float, like.device())) * self.white_balance).exp();
        saturation.bmm(&hue) * balance
    }

    fn small_faces(&self, x: &Tensor) -> Tensor {
        let Some(chosen) = subset(x, self.small) else {
            return x.shallow_clone();
        };
        let size = x.size()[2];
        let (low, high) = self.small_side;
        let side = uniform(1, (low, high), &x.narrow(0, 0, 1)).double_value(&[0]).round() as i64;
        let few = x.index_select(0, &chosen).internal_upsample_bilinear2d_aa([side, side], false, None, None);
        let back = few.upsample_bilinear2d([size, size], false, None, None);
        x.index_copy(0, &chosen, &back)
    }

    fn noise(&self, x: &Tensor) -> Tensor {
        let Some(chosen) = subset(x, self.noisy) else {
            return x.shallow_clone();
        };
        let part = x.index_select(0, &chosen);
        let n = part.size()[0];
        let level = uniform(n, (0.0, self.noise), x).view([n, 1, 1, 1]);
        x.index_copy(0, &chosen, &(&part + part.randn_like() * level))
    }

    fn erase(&self, x: &Tensor) -> Tensor {
        let (n, _, h, w) = x.size4().expect("pictures are [N, 3, H, W]");
        let line = |length: i64| Tensor::arange(length, (Kind::Float, x.device())) / length as f64;
        let inside = |line: Tensor| {
            let centre = uniform(n, (0.0, 1.0), x).unsqueeze(1);
            let half = uniform(n, (0.05, 0.18), x).unsqueeze(1);
            (line.unsqueeze(0) - centre).abs().lt_tensor(&half)
        };
        let columns = inside(line(w)).view([n, 1, 1, w]);
        let rows = inside(line(h)).view([n, 1, h, 1]);
        let chosen = choose(n, self.erase, x).to_kind(Kind::Bool).view([n, 1, 1, 1]);
        let colour = Tensor::rand([n, 3, 1, 1], (Kind::Float, x.device()));
        colour.where_self(&columns.logical_and(&rows).logical_and(&chosen), x)
    }
}

fn uniform(n: i64, (low, high): (f64, f64), like: &Tensor) -> Tensor {
    Tensor::rand([n], (Kind::Float, like.device())) * (high - low) + low
}

fn normal(n: i64, deviation: f64, like: &Tensor) -> Tensor {
    Tensor::randn([n], (Kind::Float, like.device())) * deviation
}

/// Ones with the given probability, else zeros.
fn choose(n: i64, probability: f64, like: &Tensor) -> Tensor {
    Tensor::rand([n], (Kind::Float, like.device())).lt(probability).to_kind(Kind::Float)
}

/// Indices of the pictures drawn with the given probability; `None` when there are none.
fn subset(x: &Tensor, probability: f64) -> Option<Tensor> {
    let chosen = choose(x.size()[0], probability, x).nonzero().squeeze_dim(1);
    (chosen.numel() > 0).then_some(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    const STILL: Augmentation = Augmentation {
        crop: (1.0, 1.0),
        shift: 0.0,
        rotation: 0.0,
        brightness: 0.0,
        contrast: 0.0,
        gamma: 0.0,
        white_balance: 0.0,
        hue: 0.0,
        grey: 0.0,
        small: 0.0,
        small_side: (24.0, 72.0),
        noisy: 0.0,
        noise: 0.0,
        erase: 0.0,
    };

    fn pictures(n: i64) -> (Tensor, Tensor) {
        let images = Tensor::randint(256, [n, 128, 128, 3], (Kind::Uint8, Device::Cpu));
        (images, Tensor::full([n], 100.0, (Kind::Float, Device::Cpu)))
    }

    #[test]
    fn inputs_have_the_networks_shape_layout_and_range() {
        tch::manual_seed(3);
        let (images, sides) = pictures(6);
        let x = Augmentation::default().apply(&images, &sides, 80);
        assert_eq!(x.size(), [6, 3, 80, 80]);
        assert_eq!(x.stride(), [80 * 80 * 3, 1, 80 * 3, 3]);
        assert!(x.min().double_value(&[]) >= -1.0 && x.max().double_value(&[]) <= 1.0);
    }

    #[test]
    fn batches_differ() {
        let (images, sides) = pictures(2);
        let augmentation = Augmentation::default();
        let (a, b) = (augmentation.apply(&images, &sides, 32), augmentation.apply(&images, &sides, 32));
        assert!((a - b).abs().mean(Kind::Float).double_value(&[]) > 0.01);
    }

    #[test]
    fn a_still_crop_takes_the_middle() {
        let ramp = Tensor::arange(128, (Kind::Float, Device::Cpu))
            .view([1, 1, 128, 1])
            .expand([1, 128, 128, 3], false);
        let sides = Tensor::full([1], 64.0, (Kind::Float, Device::Cpu));
        let x = Augmentation { ..STILL }.crop(&ramp.permute([0, 3, 1, 2]).contiguous(), &sides, 64);
        let (first, last) = (x.double_value(&[0, 0, 5, 0]), x.double_value(&[0, 0, 5, 63]));
        // A random flip may have turned it round.
        let (low, high) = (first.min(last), first.max(last));
        assert!((low - 32.0).abs() < 3.0 && (high - 95.0).abs() < 3.0, "{low} {high}");
    }
}
