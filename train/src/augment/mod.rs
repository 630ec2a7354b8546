//! What a network is shown: the preparation that evaluation shares ([`Input`]) and batched augmentation, both on the
//! training device.
//!
//! [`Mix`] may blend the pictures of a batch. Then they go through in this order: crop, turn, flip; equalise; colours; the
//! camera's faults (few pixels, blur, noise, JPEG); erased rectangles; normalisation.

mod camera;
mod colour;
mod draw;
mod equalise;
mod erase;
mod geometry;
mod mix;
mod sheet;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::device::upload;
use draw::subset;
pub use mix::Mix;
pub use sheet::{ContactSheetOptions, contact_sheet};

/// How bytes become numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Normalisation {
    /// `byte / 255`: 0 to 1, as the competition's team fed them.
    Off,
    /// `(byte − 128) / 128`: what the runtime does.
    Symmetric,
    /// By the mean and deviation of ImageNet's channels: what timm's `efficientnet_*` weights were trained with.
    Imagenet,
}

const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const IMAGENET_DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

impl Normalisation {
    /// From 0–1 to what the network takes, both `[N, 3, H, W]`.
    fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Normalisation::Off => x.shallow_clone(),
            Normalisation::Symmetric => x * (255.0 / 128.0) - 1.0,
            Normalisation::Imagenet => {
                let channels =
                    |values: &[f32; 3]| upload(&Tensor::from_slice(values), x.device()).view([1, 3, 1, 1]);
                (x - channels(&IMAGENET_MEAN)) / channels(&IMAGENET_DEVIATION)
            }
        }
    }
}

/// Histogram equalisation of every picture's luminance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Equalisation {
    Off,
    Plain,
    /// Contrast limited, in tiles (Zuiderveld, 1994).
    Clahe,
}

/// What training and evaluation alike do to a picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Input {
    /// Side of the network's input in pixels: not a setting of its own, for a run goes through several.
    #[serde(skip)]
    pub size: i64,
    /// Cuts the square around the face box out; else the whole picture is shown.
    pub centre_crop: bool,
    /// That square's side over the longer side of the face box.
    pub crop: f64,
    pub normalise: Normalisation,
    pub equalise: Equalisation,
}

impl Default for Input {
    fn default() -> Self {
        Self {
            size: 112,
            centre_crop: true,
            crop: 1.2,
            normalise: Normalisation::Symmetric,
            equalise: Equalisation::Off,
        }
    }
}

impl Input {
    /// Bytes `[N, P, P, 3]`, faces in the middle with longer sides `[N]` in pixels, to network inputs
    /// `[N, 3, size, size]`, channels last in memory; nothing is drawn by lot.
    pub fn prepare(&self, images: &Tensor, sides: &Tensor) -> Tensor {
        Augmentation::NONE.apply(images, sides, self)
    }

    /// Sides `[N]` of the squares that are shown, over the picture's side.
    fn shown(&self, sides: &Tensor, picture: i64) -> Tensor {
        if self.centre_crop { sides * (self.crop / picture as f64) } else { sides.ones_like() }
    }
}

/// Strengths and probabilities; every draw is per picture unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augmentation {
    /// The side of what is shown over that of [`Input`], drawn evenly.
    pub zoom: (f64, f64),
    /// Standard deviation of the shift, in sides of what is shown.
    pub shift: f64,
    /// Standard deviation of the rotation, in radians.
    pub rotation: f64,
    /// Standard deviation of the logarithm of width over height, halved.
    pub stretch: f64,
    /// Probabilities of mirroring left to right and top to bottom.
    pub flip: f64,
    pub vertical_flip: f64,
    /// Probabilities of equalising the luminance, plainly or by CLAHE.
    pub equalise: f64,
    pub clahe: f64,
    /// Standard deviations of brightness (of full scale), and of the logarithms of contrast, gamma and white balance.
    pub brightness: f64,
    pub contrast: f64,
    pub gamma: f64,
    pub white_balance: f64,
    /// What saturation is multiplied by, drawn evenly.
    pub saturation: (f64, f64),
    /// Standard deviation of the hue's rotation, in radians.
    pub hue: f64,
    /// Probability of a picture without colour.
    pub grey: f64,
    /// Probability of a small face: resampled to fewer pixels (drawn per batch) and back.
    pub small: f64,
    pub small_side: (f64, f64),
    /// Probability of a lens out of focus, and the blur's standard deviation in pixels of a 112-pixel input.
    pub blur: f64,
    pub blur_sigma: (f64, f64),
    /// Probability of a moving camera, and how far it moves, in pixels of a 112-pixel input.
    pub motion: f64,
    pub motion_length: (f64, f64),
    /// Probability of sensor noise, and its largest standard deviation (of full scale).
    pub noisy: f64,
    pub noise: f64,
    /// Probability of JPEG's losses, and the quality, 1–100.
    pub jpeg: f64,
    pub jpeg_quality: (f64, f64),
    /// Probability of an erased rectangle (Zhong et al., 2020), and its sides over the picture's.
    pub erase: f64,
    pub erase_side: (f64, f64),
}

impl Default for Augmentation {
    fn default() -> Self {
        Self {
            zoom: (0.875, 1.125),
            shift: 0.03,
            rotation: 0.12,
            stretch: 0.03,
            flip: 0.5,
            vertical_flip: 0.0,
            equalise: 0.0,
            clahe: 0.0,
            brightness: 0.08,
            contrast: 0.2,
            gamma: 0.2,
            white_balance: 0.07,
            saturation: (0.6, 1.3),
            hue: 0.08,
            grey: 0.06,
            small: 0.25,
            small_side: (24.0, 72.0),
            blur: 0.08,
            blur_sigma: (0.4, 1.6),
            motion: 0.08,
            motion_length: (2.0, 7.0),
            noisy: 0.3,
            noise: 0.06,
            jpeg: 0.15,
            jpeg_quality: (25.0, 85.0),
            erase: 0.12,
            erase_side: (0.1, 0.36),
        }
    }
}

impl Augmentation {
    /// Nothing is drawn: [`Input::prepare`].
    pub const NONE: Augmentation = Augmentation {
        zoom: (1.0, 1.0),
        shift: 0.0,
        rotation: 0.0,
        stretch: 0.0,
        flip: 0.0,
        vertical_flip: 0.0,
        equalise: 0.0,
        clahe: 0.0,
        brightness: 0.0,
        contrast: 0.0,
        gamma: 0.0,
        white_balance: 0.0,
        saturation: (1.0, 1.0),
        hue: 0.0,
        grey: 0.0,
        small: 0.0,
        small_side: (24.0, 72.0),
        blur: 0.0,
        blur_sigma: (0.4, 1.6),
        motion: 0.0,
        motion_length: (2.0, 7.0),
        noisy: 0.0,
        noise: 0.0,
        jpeg: 0.0,
        jpeg_quality: (25.0, 85.0),
        erase: 0.0,
        erase_side: (0.1, 0.36),
    };

    /// Bytes `[N, P, P, 3]`, faces in the middle with longer sides `[N]` in pixels, to network inputs
    /// `[N, 3, size, size]`, channels last in memory. Draws from torch's generator.
    pub fn apply(&self, images: &Tensor, sides: &Tensor, input: &Input) -> Tensor {
        let pictures = images.permute([0, 3, 1, 2]).to_kind(Kind::Float) / 255.0;
        let x = self.crop(&pictures, sides, input);
        let x = self.equalise(&x, input.equalise);
        let x = self.colours(&x);
        let x = self.camera(&x).clamp(0.0, 1.0);
        let x = self.erase(&x);
        let x = input.normalise.apply(&x).permute([0, 2, 3, 1]).contiguous();
        x.permute([0, 3, 1, 2])
    }
}

/// Applies `change` to the pictures drawn with `probability`.
fn sometimes(x: &Tensor, probability: f64, change: impl FnOnce(&Tensor) -> Tensor) -> Tensor {
    match subset(x, probability) {
        Some(chosen) => x.index_copy(0, &chosen, &change(&x.index_select(0, &chosen))),
        None => x.shallow_clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn pictures(n: i64) -> (Tensor, Tensor) {
        let images = Tensor::randint(256, [n, 128, 128, 3], (Kind::Uint8, Device::Cpu));
        (images, Tensor::full([n], 100.0, (Kind::Float, Device::Cpu)))
    }

    /// Everything at once.
    const ALL: Augmentation = Augmentation {
        vertical_flip: 0.5,
        equalise: 0.5,
        clahe: 0.5,
        small: 0.5,
        blur: 0.5,
        motion: 0.5,
        jpeg: 0.5,
        erase: 0.5,
        noisy: 0.5,
        noise: 0.1,
        brightness: 0.1,
        contrast: 0.2,
        gamma: 0.2,
        ..Augmentation::NONE
    };

    #[test]
    fn inputs_have_the_networks_shape_layout_and_range() {
        tch::manual_seed(3);
        let (images, sides) = pictures(6);
        for augmentation in [Augmentation::default(), ALL] {
            for size in [80, 113] {
                let x = augmentation.apply(&images, &sides, &Input { size, ..Input::default() });
                assert_eq!(x.size(), [6, 3, size, size]);
                assert_eq!(x.stride(), [size * size * 3, 1, size * 3, 3]);
                assert!(x.min().double_value(&[]) >= -1.0 && x.max().double_value(&[]) <= 1.0);
            }
        }
    }

    #[test]
    fn batches_differ_unless_nothing_is_drawn() {
        let (images, sides) = pictures(2);
        let input = Input { size: 32, ..Input::default() };
        let twice = |augmentation: Augmentation| {
            let [a, b] = [(); 2].map(|()| augmentation.apply(&images, &sides, &input));
            (a - b).abs().mean(Kind::Float).double_value(&[])
        };
        assert!(twice(Augmentation::default()) > 0.01);
        assert_eq!(twice(Augmentation::NONE), 0.0);
    }

    #[test]
    fn normalisation_of_black_and_white() {
        let images =
            Tensor::from_slice(&[0u8, 0, 0, 255, 255, 255]).view([2, 1, 1, 3]).expand([2, 8, 8, 3], false);
        let sides = Tensor::full([2], 4.0, (Kind::Float, Device::Cpu));
        for (normalise, channel, black, white) in [
            (Normalisation::Off, 0, 0.0, 1.0),
            (Normalisation::Symmetric, 1, -1.0, 127.0 / 128.0),
            (Normalisation::Imagenet, 2, -0.406 / 0.225, (1.0 - 0.406) / 0.225),
        ] {
            let x = Input { size: 4, normalise, ..Input::default() }.prepare(&images, &sides);
            for (row, expected) in [(0, black), (1, white)] {
                assert!((x.double_value(&[row, channel, 2, 2]) - expected).abs() < 1e-5, "{normalise:?}");
            }
        }
    }

    #[test]
    fn settings_name_each_augmentation_and_nothing_else() {
        let read: Augmentation = serde_json::from_str(r#"{"jpeg": 0.5, "zoom": [0.8, 1.2]}"#).unwrap();
        assert_eq!(read, Augmentation { jpeg: 0.5, zoom: (0.8, 1.2), ..Augmentation::default() });
        assert!(serde_json::from_str::<Augmentation>(r#"{"jepg": 0.5}"#).is_err());
        let read: Input = serde_json::from_str(r#"{"normalise": "off", "equalise": "clahe"}"#).unwrap();
        assert_eq!((read.normalise, read.equalise), (Normalisation::Off, Equalisation::Clahe));
    }
}
