//! What every layer of a network is and what its tensors are called.

use super::{Activation, inception};

/// How a family of timm's weights pads its convolutions and what its batch norms add to the variance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// `kernel / 2` zeros on every side, 1e-5: timm's `efficientnet_*`.
    PyTorch,
    /// [`same_padding`], 1e-3: timm's `tf_efficientnet_*`.
    TensorFlow,
}

impl Convention {
    /// Zeros before and after an axis of `size` pixels.
    pub fn padding(self, size: i64, kernel: i64, stride: i64) -> (i64, i64) {
        match self {
            Convention::PyTorch => (kernel / 2, kernel / 2),
            Convention::TensorFlow => same_padding(size, kernel, stride),
        }
    }

    /// Added to the variance by every batch norm.
    pub fn epsilon(self) -> f64 {
        match self {
            Convention::PyTorch => 1e-5,
            Convention::TensorFlow => 1e-3,
        }
    }
}

/// Zeros before and after an axis of `size` pixels under TensorFlow's "same" rule: the output has
/// `ceil(size / stride)` pixels, and an odd zero goes after.
pub fn same_padding(size: i64, kernel: i64, stride: i64) -> (i64, i64) {
    let output = (size + stride - 1) / stride;
    let total = ((output - 1) * stride + kernel - size).max(0);
    (total / 2, total - total / 2)
}

/// A convolution without bias, padded by the [`Convention`], and the batch norm and activation behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConvBn {
    /// `{conv}.weight` has shape `[output, input / groups, kernel, kernel]`.
    pub conv: String,
    /// `{bn}.weight`, `.bias`, `.running_mean` and `.running_var` have shape `[output]`.
    pub bn: String,
    pub input: i64,
    pub output: i64,
    pub kernel: i64,
    pub stride: i64,
    pub groups: i64,
    pub activation: Activation,
}

/// Squeeze and excitation (Hu et al., 2018): channels are scaled by what their means over the picture say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqueezeExcite {
    /// `{reduce}.weight` has shape `[reduced, channels, 1, 1]`, `.bias` `[reduced]`; SiLU follows.
    pub reduce: String,
    /// `{expand}.weight` has shape `[channels, reduced, 1, 1]`, `.bias` `[channels]`; the sigmoid follows.
    pub expand: String,
    pub channels: i64,
    pub reduced: i64,
}

/// Layers in sequence, `squeeze` before the last of them; with `residual`, the block's input is added to its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub layers: Vec<ConvBn>,
    pub squeeze: Option<SqueezeExcite>,
    pub residual: bool,
}

/// What is before the mean over all pixels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// In order: the stem is the first, the head the last.
    Blocks(Vec<Block>),
    /// That of FaceNet, which teaches and is not exported.
    InceptionResNetV1,
}

/// The network layer by layer: the `body`, then the mean over all pixels, then the linear layer `classifier` with
/// `{classifier}.weight` `[outputs, features]` and `.bias`.
#[derive(Debug, Clone, PartialEq)]
pub struct Architecture {
    pub body: Body,
    /// Of a body of blocks.
    pub convention: Convention,
    pub features: i64,
    pub classifier: String,
    pub outputs: i64,
    /// The side of the pictures that the published weights were trained on, in pixels; any other works, from `least_side`
    /// on.
    pub side: i64,
    pub least_side: i64,
    /// The dropout that the authors trained with.
    pub dropout: f64,
    /// Whether it has fewer channels than the authors'.
    pub narrowed: bool,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "there is no network {0:?}; there are efficientnet_b0 to _b7, efficientnet_lite0 to _lite4, both also with tf_ \
     before the name and a part of their channels in hundredths behind it (_075), simple_cnn, and inception_resnet_v1"
)]
pub struct UnknownArchitecture(String);

impl Architecture {
    /// A network by timm's name, with `outputs` logits: `efficientnet_b0` to `b7`, `efficientnet_lite0` to `lite4`,
    /// `tf_efficientnet_…` of the same; each of them also narrower, by a part of its channels in hundredths, 010 to 099,
    /// as timm writes it of other families (`tf_efficientnet_lite0_075`); `simple_cnn`; or `inception_resnet_v1`, as
    /// facenet-pytorch has it.
    pub fn by_name(name: &str, outputs: i64) -> Result<Architecture, UnknownArchitecture> {
        let unknown = || UnknownArchitecture(name.to_owned());
        if name == "simple_cnn" {
            return Ok(simple_cnn(outputs));
        }
        if name == "inception_resnet_v1" {
            return Ok(inception_resnet_v1(outputs));
        }
        let (convention, variant) = match name.strip_prefix("tf_") {
            Some(rest) => (Convention::TensorFlow, rest),
            None => (Convention::PyTorch, name),
        };
        let variant = variant.strip_prefix("efficientnet_").ok_or_else(unknown)?;
        let (variant, part) = match variant.split_once('_') {
            Some((variant, hundredths)) => (variant, part_of(hundredths).ok_or_else(unknown)?),
            None => (variant, 1.0),
        };
        let (family, index) = match variant.strip_prefix("lite") {
            Some(index) => (&LITE, index),
            None => (&B, variant.strip_prefix('b').ok_or_else(unknown)?),
        };
        let index: usize =
            index.parse().ok().filter(|i: &usize| i.to_string() == index).ok_or_else(unknown)?;
        let scale = family.scales.get(index).ok_or_else(unknown)?;
        let scale = Scale { width: scale.width * part, ..*scale };
        Ok(Architecture { narrowed: part < 1.0, ..efficientnet(family, &scale, convention, outputs) })
    }

    /// EfficientNet-Lite0 as TensorFlow pads it: what the shipped classifier is.
    pub fn lite0(outputs: i64) -> Architecture {
        efficientnet(&LITE, &LITE.scales[0], Convention::TensorFlow, outputs)
    }

    /// The convolutions of a body of blocks.
    pub fn layers(&self) -> impl Iterator<Item = &ConvBn> {
        let blocks = match &self.body {
            Body::Blocks(blocks) => blocks.as_slice(),
            Body::InceptionResNetV1 => &[],
        };
        blocks.iter().flat_map(|block| &block.layers)
    }
}

/// Three digits, 010 to 099, as hundredths.
fn part_of(digits: &str) -> Option<f64> {
    let hundredths: u32 =
        digits.parse().ok().filter(|n| (10..100).contains(n) && format!("{n:03}") == digits)?;
    Some(f64::from(hundredths) / 100.0)
}

/// A run of blocks: the first one strides and changes the number of channels, the others repeat.
#[derive(Debug, Clone, Copy)]
struct Stage {
    repeats: usize,
    kernel: i64,
    stride: i64,
    expand: i64,
    channels: i64,
}

const fn stage(repeats: usize, kernel: i64, stride: i64, expand: i64, channels: i64) -> Stage {
    Stage { repeats, kernel, stride, expand, channels }
}

/// The stages of EfficientNet-B0 and Lite0.
const BASE: [Stage; 7] = [
    stage(1, 3, 1, 1, 16),
    stage(2, 3, 2, 6, 24),
    stage(2, 5, 2, 6, 40),
    stage(3, 3, 2, 6, 80),
    stage(3, 5, 1, 6, 112),
    stage(4, 5, 2, 6, 192),
    stage(1, 3, 1, 6, 320),
];

const STEM_CHANNELS: i64 = 32;
/// Blocks pad their input, so that a pixel is left of anything; on less there is nothing to see.
const LEAST_SIDE: i64 = 8;
const FEATURES: i64 = 1280;

/// How a member of a family grows from [`BASE`].
#[derive(Debug)]
struct Scale {
    width: f64,
    depth: f64,
    side: i64,
    dropout: f64,
}

const fn scale(width: f64, depth: f64, side: i64, dropout: f64) -> Scale {
    Scale { width, depth, side, dropout }
}

#[derive(Debug)]
struct Family {
    activation: Activation,
    squeeze: bool,
    /// Whether the stem, the head, and the number of blocks of the first and last stage stay as they are.
    fixed_ends: bool,
    scales: &'static [Scale],
}

/// EfficientNet (Tan and Le, 2019).
const B: Family = Family {
    activation: Activation::Silu,
    squeeze: true,
    fixed_ends: false,
    scales: &[
        scale(1.0, 1.0, 224, 0.2),
        scale(1.0, 1.1, 240, 0.2),
        scale(1.1, 1.2, 260, 0.3),
        scale(1.2, 1.4, 300, 0.3),
        scale(1.4, 1.8, 380, 0.4),
        scale(1.6, 2.2, 456, 0.4),
        scale(1.8, 2.6, 528, 0.5),
        scale(2.0, 3.1, 600, 0.5),
    ],
};

/// The Lite variants of TensorFlow's `efficientnet/lite`.
const LITE: Family = Family {
    activation: Activation::Relu6,
    squeeze: false,
    fixed_ends: true,
    scales: &[
        scale(1.0, 1.0, 224, 0.2),
        scale(1.0, 1.1, 240, 0.2),
        scale(1.1, 1.2, 260, 0.3),
        scale(1.2, 1.4, 280, 0.3),
        scale(1.4, 1.8, 300, 0.3),
    ],
};

/// A number of channels times `width`, to the next multiple of 8 that is not more than a tenth smaller.
fn scaled_channels(channels: i64, width: f64) -> i64 {
    const DIVISOR: i64 = 8;
    let wanted = channels as f64 * width;
    let rounded = ((wanted + DIVISOR as f64 / 2.0) as i64 / DIVISOR * DIVISOR).max(DIVISOR);
    if (rounded as f64) < 0.9 * wanted { rounded + DIVISOR } else { rounded }
}

fn efficientnet(family: &Family, scale: &Scale, convention: Convention, outputs: i64) -> Architecture {
    let end = |channels| if family.fixed_ends { channels } else { scaled_channels(channels, scale.width) };
    let (stem, features) = (end(STEM_CHANNELS), end(FEATURES));
    let single = |conv: &str, bn: &str, input, output, kernel, stride| {
        let layer = ConvBn {
            conv: conv.into(),
            bn: bn.into(),
            input,
            output,
            kernel,
            stride,
            groups: 1,
            activation: family.activation,
        };
        Block { layers: vec![layer], squeeze: None, residual: false }
    };
    let mut blocks = vec![single("conv_stem", "bn1", 3, stem, 3, 2)];
    let mut channels = stem;
    for (s, stage) in BASE.iter().enumerate() {
        let fixed = family.fixed_ends && (s == 0 || s == BASE.len() - 1);
        let depth = if fixed { 1.0 } else { scale.depth };
        let output = scaled_channels(stage.channels, scale.width);
        for b in 0..(stage.repeats as f64 * depth).ceil() as usize {
            let stage = Stage { stride: if b == 0 { stage.stride } else { 1 }, channels: output, ..*stage };
            blocks.push(inverted_residual(&format!("blocks.{s}.{b}"), family, channels, &stage));
            channels = output;
        }
    }
    blocks.push(single("conv_head", "bn2", channels, features, 1, 1));
    Architecture {
        body: Body::Blocks(blocks),
        convention,
        features,
        classifier: "classifier".into(),
        outputs,
        side: scale.side,
        least_side: LEAST_SIDE,
        dropout: scale.dropout,
        narrowed: false,
    }
}

/// Expand (left out when the factor is 1), depthwise, squeeze and excite, project.
fn inverted_residual(name: &str, family: &Family, input: i64, stage: &Stage) -> Block {
    let hidden = input * stage.expand;
    let mut layers = Vec::with_capacity(3);
    let mut push = |conv: &str, input, output, kernel, stride, groups, activation| {
        let bn = format!("{name}.bn{}", layers.len() + 1);
        layers.push(ConvBn {
            conv: format!("{name}.{conv}"),
            bn,
            input,
            output,
            kernel,
            stride,
            groups,
            activation,
        });
    };
    if stage.expand > 1 {
        push("conv_pw", input, hidden, 1, 1, 1, family.activation);
    }
    push("conv_dw", hidden, hidden, stage.kernel, stage.stride, hidden, family.activation);
    let project = if stage.expand > 1 { "conv_pwl" } else { "conv_pw" };
    push(project, hidden, stage.channels, 1, 1, 1, Activation::None);
    let squeeze = family.squeeze.then(|| SqueezeExcite {
        reduce: format!("{name}.se.conv_reduce"),
        expand: format!("{name}.se.conv_expand"),
        channels: hidden,
        reduced: input / 4,
    });
    Block { layers, squeeze, residual: stage.stride == 1 && input == stage.channels }
}

/// Five 3×3 convolutions that halve the picture each: what anything larger should beat.
fn simple_cnn(outputs: i64) -> Architecture {
    const CHANNELS: [i64; 6] = [3, 32, 64, 128, 256, 256];
    let block = |(i, ends): (usize, &[i64])| {
        let layer = ConvBn {
            conv: format!("blocks.{i}.conv"),
            bn: format!("blocks.{i}.bn"),
            input: ends[0],
            output: ends[1],
            kernel: 3,
            stride: 2,
            groups: 1,
            activation: Activation::Relu,
        };
        Block { layers: vec![layer], squeeze: None, residual: false }
    };
    Architecture {
        body: Body::Blocks(CHANNELS.windows(2).enumerate().map(block).collect()),
        convention: Convention::PyTorch,
        features: CHANNELS[CHANNELS.len() - 1],
        classifier: "classifier".into(),
        outputs,
        side: 112,
        least_side: LEAST_SIDE,
        dropout: 0.2,
        narrowed: false,
    }
}

fn inception_resnet_v1(outputs: i64) -> Architecture {
    Architecture {
        body: Body::InceptionResNetV1,
        convention: Convention::TensorFlow,
        features: inception::FEATURES,
        classifier: "classifier".into(),
        outputs,
        side: 160,
        least_side: inception::LEAST_SIDE,
        dropout: 0.4,
        narrowed: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_padding_as_tensorflow_pads() {
        assert_eq!(same_padding(112, 3, 2), (0, 1));
        assert_eq!(same_padding(56, 5, 2), (1, 2));
        assert_eq!(same_padding(7, 5, 2), (2, 2));
        assert_eq!(same_padding(14, 5, 1), (2, 2));
        assert_eq!(same_padding(14, 1, 1), (0, 0));
    }

    fn blocks_of(architecture: &Architecture) -> &[Block] {
        let Body::Blocks(blocks) = &architecture.body else { panic!("no blocks") };
        blocks
    }

    /// Parameters of the table, batch norm statistics left out.
    fn parameters(architecture: &Architecture) -> i64 {
        let conv = |l: &ConvBn| l.output * (l.input / l.groups * l.kernel * l.kernel + 2);
        let squeeze = |s: &SqueezeExcite| s.reduced * (s.channels + 1) + s.channels * (s.reduced + 1);
        let block =
            |b: &Block| b.layers.iter().map(conv).sum::<i64>() + b.squeeze.as_ref().map_or(0, squeeze);
        let blocks: i64 = blocks_of(architecture).iter().map(block).sum();
        blocks + (architecture.features + 1) * architecture.outputs
    }

    #[test]
    fn every_variant_has_as_many_parameters_as_timms() {
        // sum(p.numel() for p in timm.create_model(name).parameters())
        let counts = [
            ("efficientnet_b0", 5_288_548),
            ("efficientnet_b1", 7_794_184),
            ("efficientnet_b2", 9_109_994),
            ("efficientnet_b3", 12_233_232),
            ("efficientnet_b4", 19_341_616),
            ("efficientnet_b5", 30_389_784),
            ("efficientnet_b6", 43_040_704),
            ("efficientnet_b7", 66_347_960),
            ("efficientnet_lite0", 4_652_008),
            ("efficientnet_lite1", 5_416_680),
            ("efficientnet_lite2", 6_092_072),
            ("efficientnet_lite3", 8_197_096),
            ("efficientnet_lite4", 13_006_568),
        ];
        for (name, count) in counts {
            for name in [name.to_owned(), format!("tf_{name}")] {
                assert_eq!(parameters(&Architecture::by_name(&name, 1000).unwrap()), count, "{name}");
            }
        }
    }

    #[test]
    fn lite0_is_the_tensorflow_one() {
        assert_eq!(Architecture::lite0(7), Architecture::by_name("tf_efficientnet_lite0", 7).unwrap());
        assert_ne!(Architecture::lite0(7), Architecture::by_name("efficientnet_lite0", 7).unwrap());
    }

    #[test]
    fn narrower_networks_have_a_part_of_the_channels() {
        let [whole, narrow] = ["tf_efficientnet_lite0", "tf_efficientnet_lite0_075"]
            .map(|name| Architecture::by_name(name, 7).unwrap());
        assert!(narrow.narrowed && !whole.narrowed);
        let widths = |architecture: &Architecture| -> Vec<i64> {
            let last = |block: &Block| block.layers.last().map_or(0, |layer| layer.output);
            blocks_of(architecture).iter().map(last).collect()
        };
        let channels = [32, 16, 24, 24, 32, 32, 64, 64, 64, 88, 88, 88, 144, 144, 144, 144, 240, 1280];
        assert_eq!(widths(&narrow), channels);
        let all_layers = |architecture: &Architecture| {
            blocks_of(architecture).iter().map(|block| block.layers.len()).collect::<Vec<_>>()
        };
        assert_eq!(all_layers(&narrow), all_layers(&whole));
        assert!(parameters(&narrow) < parameters(&whole) * 7 / 10);
    }

    #[test]
    fn unknown_names_are_told_what_there_is() {
        let wrong = ["b8", "b01", "lite5", "lite0_", "lite0_75", "lite0_100", "lite0_005", "lite0_0.75"];
        let wrong = wrong.map(|variant| format!("efficientnet_{variant}"));
        for name in wrong.iter().map(String::as_str).chain(["resnet18", "tf_simple_cnn"]) {
            let error = Architecture::by_name(name, 3).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("simple_cnn"), "{error}");
        }
    }
}
