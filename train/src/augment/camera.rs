//! A webcam's faults: few pixels, blur, sensor noise, JPEG.

use std::f64::consts::PI;

use tch::{Kind, Tensor};

use crate::device::upload;

use super::{
    Augmentation,
    colour::LUMA,
    draw::{one, subset, uniform},
    sometimes,
};

/// The side of the input that lengths in pixels are meant for.
const REFERENCE: f64 = 112.0;
/// Deviation of a moving lens across its way, in pixels.
const SHARP: f64 = 0.3;

impl Augmentation {
    /// `x` `[N, 3, H, W]`, about 0–1; the result may lie outside.
    pub(super) fn camera(&self, x: &Tensor) -> Tensor {
        let scale = x.size()[3] as f64 / REFERENCE;
        let x = self.small_faces(x);
        let (low, high) = self.blur_sigma;
        let x = sometimes(&x, self.blur, |x| {
            let sigma = uniform(x.size()[0], (low * scale, high * scale), x);
            blur(x, &sigma, &sigma, &sigma.zeros_like(), high * scale)
        });
        // The deviation of an even line is its length over √12.
        let (low, high) = self.motion_length;
        let (low, high) = (low * scale / 12f64.sqrt(), high * scale / 12f64.sqrt());
        let x = sometimes(&x, self.motion, |x| {
            let along = uniform(x.size()[0], (low, high), x);
            let angle = uniform(x.size()[0], (0.0, PI), x);
            blur(x, &along, &along.full_like(SHARP), &angle, high)
        });
        let x = self.noise(&x);
        sometimes(&x, self.jpeg, |x| jpeg(x, &uniform(x.size()[0], self.jpeg_quality, x)))
    }

    fn small_faces(&self, x: &Tensor) -> Tensor {
        let Some(chosen) = subset(x, self.small) else {
            return x.shallow_clone();
        };
        let size = x.size()[2];
        let side = one(self.small_side).round() as i64;
        let few = x.index_select(0, &chosen).internal_upsample_bilinear2d_aa([side, side], false, None, None);
        let back = few.upsample_bilinear2d([size, size], false, None, None);
        x.index_copy(0, &chosen, &back)
    }

    fn noise(&self, x: &Tensor) -> Tensor {
        sometimes(x, self.noisy, |x| {
            let n = x.size()[0];
            let level = uniform(n, (0.0, self.noise), x).view([n, 1, 1, 1]);
            x + x.randn_like() * level
        })
    }
}

/// A Gaussian for each picture of `x` `[N, 3, H, W]`: deviations `along` and `across` a line at `angle` (radians from
/// the x axis), `[N]` each; no deviation is above `largest`. Edges are repeated outside.
fn blur(x: &Tensor, along: &Tensor, across: &Tensor, angle: &Tensor, largest: f64) -> Tensor {
    let (n, channels, h, w) = x.size4().expect("pictures are [N, 3, H, W]");
    let radius = (3.0 * largest).ceil().max(1.0) as i64;
    let side = 2 * radius + 1;
    let line = Tensor::arange_start(-radius, radius + 1, (Kind::Float, x.device()));
    let (dx, dy) = (line.view([1, 1, side]), line.view([1, side, 1]));
    let each = |t: &Tensor| t.view([n, 1, 1]);
    let (sin, cos) = (each(&angle.sin()), each(&angle.cos()));
    let forward: Tensor = &dx * &cos + &dy * &sin;
    let sideways: Tensor = &dy * &cos - &dx * &sin;
    let least = |t: &Tensor| each(&t.clamp_min(0.05));
    let kernel: Tensor =
        (((forward / least(along)).square() + (sideways / least(across)).square()) * -0.5).exp();
    let kernel = &kernel / kernel.sum_dim_intlist([1i64, 2].as_slice(), true, Kind::Float);
    let weight =
        kernel.unsqueeze(1).expand([n, channels, side, side], false).reshape([n * channels, 1, side, side]);
    let padded = x.replication_pad2d([radius; 4]);
    let padded = padded.reshape([1, n * channels, h + 2 * radius, w + 2 * radius]);
    padded.conv2d(&weight, None::<Tensor>, 1, 0, 1, n * channels).view([n, channels, h, w])
}

/// Side of JPEG's blocks.
const BLOCK: i64 = 8;

/// Quantisation of luminance and chrominance at quality 50, row by row (ITU-T T.81, annex K.1).
const LUMINANCE: [f32; 64] = [
    16., 11., 10., 16., 24., 40., 51., 61., 12., 12., 14., 19., 26., 58., 60., 55., 14., 13., 16., 24., 40.,
    57., 69., 56., 14., 17., 22., 29., 51., 87., 80., 62., 18., 22., 37., 56., 68., 109., 103., 77., 24.,
    35., 55., 64., 81., 104., 113., 92., 49., 64., 78., 87., 103., 121., 120., 101., 72., 92., 95., 98.,
    112., 100., 103., 99.,
];
const CHROMINANCE: [f32; 64] = [
    17., 18., 24., 47., 99., 99., 99., 99., 18., 21., 26., 66., 99., 99., 99., 99., 24., 26., 56., 99., 99.,
    99., 99., 99., 47., 66., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99.,
    99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99., 99.,
    99.,
];

/// What JPEG leaves of pictures `x` `[N, 3, H, W]`, 0–1, at `quality` `[N]`, 1–100 on libjpeg's scale, with half as
/// many pixels of colour each way.
fn jpeg(x: &Tensor, quality: &Tensor) -> Tensor {
    let (_, _, h, w) = x.size4().expect("pictures are [N, 3, H, W]");
    let short = |length: i64| (2 * BLOCK - length % (2 * BLOCK)) % (2 * BLOCK);
    let padded = (x.clamp(0.0, 1.0) * 255.0).round().replication_pad2d([0, short(w), 0, short(h)]);
    let [red, green, blue] = [0, 1, 2].map(|channel| padded.narrow(1, channel, 1));
    let [r, g, b] = LUMA.map(f64::from);
    let y: Tensor = &red * r + &green * g + &blue * b;
    let halved = |t: Tensor| t.avg_pool2d([2i64, 2], [2i64, 2], [0i64, 0], false, true, None);
    let blueness = halved((blue - &y) * (0.5 / (1.0 - b)));
    let redness = halved((red - &y) * (0.5 / (1.0 - r)));

    let y = quantised(&(y - 128.0), &LUMINANCE, quality) + 128.0;
    let size = &y.size()[2..];
    let chroma =
        |t: &Tensor| quantised(t, &CHROMINANCE, quality).upsample_bilinear2d(size, false, None, None);
    let (blueness, redness) = (chroma(&blueness), chroma(&redness));
    let red: Tensor = &y + &redness * (2.0 * (1.0 - r));
    let blue: Tensor = &y + &blueness * (2.0 * (1.0 - b));
    let green: Tensor = (&y - &red * r - &blue * b) / g;
    let whole = (Tensor::cat(&[red, green, blue], 1) / 255.0).clamp(0.0, 1.0);
    whole.narrow(2, 0, h).narrow(3, 0, w)
}

/// The rows of the orthonormal cosine transform of 8 values.
fn cosines(like: &Tensor) -> Tensor {
    let values: Vec<f32> = (0..BLOCK * BLOCK)
        .map(|i| {
            let (k, x) = ((i / BLOCK) as f64, (i % BLOCK) as f64);
            let scale = if k == 0.0 { 0.125f64.sqrt() } else { 0.5 };
            (scale * ((2.0 * x + 1.0) * k * PI / 16.0).cos()) as f32
        })
        .collect();
    upload(&Tensor::from_slice(&values), like.device()).view([BLOCK, BLOCK])
}

/// `x` `[N, 1, H, W]`, −128 to 127 and sides in multiples of 8, after rounding its blocks' cosine coefficients.
fn quantised(x: &Tensor, table: &[f32; 64], quality: &Tensor) -> Tensor {
    let (n, _, h, w) = x.size4().expect("planes are [N, 1, H, W]");
    let quality = quality.round().clamp(1.0, 100.0);
    let below: Tensor = quality.reciprocal() * 5000.0;
    let percent = below.floor().where_self(&quality.lt(50.0), &(&quality * -2.0 + 200.0));
    let table = upload(&Tensor::from_slice(table), x.device()).view([1, 1, 1, BLOCK, BLOCK]);
    let steps = ((table * percent.view([n, 1, 1, 1, 1]) + 50.0) / 100.0).floor().clamp(1.0, 255.0);
    let dct = cosines(x);
    let inverse = dct.transpose(0, 1);
    let blocks = x.view([n, h / BLOCK, BLOCK, w / BLOCK, BLOCK]).permute([0, 1, 3, 2, 4]);
    let coefficients = (dct.matmul(&blocks).matmul(&inverse) / &steps).round() * &steps;
    let back = inverse.matmul(&coefficients).matmul(&dct);
    back.permute([0, 1, 3, 2, 4]).reshape([n, 1, h, w])
}

#[cfg(test)]
mod tests {
    use image::{ExtendedColorType, codecs::jpeg::JpegEncoder};
    use tch::Device;

    use super::*;

    /// Smooth colours, `[n, 3, side, side]`.
    fn pictures(n: i64, side: i64) -> Tensor {
        tch::manual_seed(6);
        let coarse = Tensor::rand([n, 3, side / 8, side / 8], (Kind::Float, Device::Cpu));
        coarse.upsample_bilinear2d([side, side], false, None, None)
    }

    fn floats(values: &[f32]) -> Tensor {
        Tensor::from_slice(values)
    }

    fn mean_square(x: &Tensor) -> f64 {
        x.square().mean(Kind::Float).double_value(&[])
    }

    #[test]
    fn jpeg_loses_what_an_encoder_loses() {
        // Grey, so that how an encoder halves the colours plays no part; odd sides, so that edges are filled.
        let side = 43;
        let grey = pictures(1, 48).narrow(1, 0, 1).narrow(2, 0, side).narrow(3, 0, side);
        let noisy: Tensor = &grey + grey.randn_like() * 0.05;
        let grey = (noisy.clamp(0.0, 1.0) * 255.0).round();
        let bytes = Vec::<u8>::try_from(grey.to_kind(Kind::Uint8).flatten(0, -1)).unwrap();
        for quality in [10, 40, 75] {
            let mut file = Vec::new();
            JpegEncoder::new_with_quality(&mut file, quality)
                .encode(&bytes, side as u32, side as u32, ExtendedColorType::L8)
                .unwrap();
            let decoded = image::load_from_memory(&file).unwrap().into_luma8().into_raw();
            let expected = Tensor::from_slice(&decoded).view([1, 1, side, side]).to_kind(Kind::Float) / 255.0;
            let x = (&grey / 255.0).expand([1, 3, side, side], false);
            let found = jpeg(&x, &floats(&[f32::from(quality)])).narrow(1, 1, 1);
            let (apart, lost) =
                (mean_square(&(&found - &expected)), mean_square(&(expected - &grey / 255.0)));
            assert!(apart < 0.1 * lost, "quality {quality}: {apart} apart where the encoder loses {lost}");
        }
    }

    #[test]
    fn each_picture_has_its_own_quality_and_colours_stay() {
        let x = pictures(3, 48);
        let y = jpeg(&x, &floats(&[5.0, 50.0, 95.0]));
        let lost: Vec<f64> = (0..3).map(|i| mean_square(&(y.get(i) - x.get(i)))).collect();
        assert!(lost[0] > 2.0 * lost[1] && lost[1] > 2.0 * lost[2] && lost[2] < 2e-4, "{lost:?}");
    }

    #[test]
    fn blur_spreads_a_dot_as_its_deviations_say() {
        let dot = Tensor::zeros([2, 3, 41, 41], (Kind::Float, Device::Cpu));
        let _ = dot.narrow(2, 20, 1).narrow(3, 20, 1).fill_(1.0);
        // The second one moves along the y axis.
        let (along, across) = (floats(&[2.0, 3.0]), floats(&[2.0, 0.5]));
        let y = blur(&dot, &along, &across, &floats(&[0.0, PI as f32 / 2.0]), 3.0);
        let at = Tensor::arange_start(-20, 21, (Kind::Float, Device::Cpu)).square();
        let variance = |picture: i64, shape: [i64; 2]| {
            (y.get(picture).get(0) * at.view(shape)).sum(Kind::Float).double_value(&[])
        };
        for (picture, shape, expected) in
            [(0, [1, 41], 4.0), (0, [41, 1], 4.0), (1, [1, 41], 0.25), (1, [41, 1], 9.0)]
        {
            let found = variance(picture, shape);
            assert!((found - expected).abs() < 0.1 * expected + 0.03, "{found}, not {expected}");
        }
        assert!((y.sum(Kind::Float).double_value(&[]) - 6.0).abs() < 1e-3, "light is kept");
    }

    #[test]
    fn each_fault_takes_away_or_adds_detail() {
        tch::manual_seed(8);
        let x = pictures(4, 48) + Tensor::randn([4, 3, 48, 48], (Kind::Float, Device::Cpu)) * 0.1;
        let detail = |x: &Tensor| mean_square(&x.diff(1, 3, None::<Tensor>, None::<Tensor>));
        let faulty = |augmentation: Augmentation| detail(&augmentation.camera(&x)) / detail(&x);
        let none = Augmentation::NONE;
        assert_eq!(faulty(none), 1.0);
        assert!(faulty(Augmentation { small: 1.0, small_side: (12.0, 16.0), ..none }) < 0.3);
        assert!(faulty(Augmentation { blur: 1.0, blur_sigma: (2.0, 3.0), ..none }) < 0.5);
        assert!(faulty(Augmentation { motion: 1.0, motion_length: (8.0, 12.0), ..none }) < 0.8);
        assert!(faulty(Augmentation { noisy: 1.0, noise: 0.3, ..none }) > 1.2);
        assert!(faulty(Augmentation { jpeg: 1.0, jpeg_quality: (5.0, 10.0), ..none }) < 0.6);
    }
}
