//! The face detector's network: what its layers are, and how they run.
//!
//! An anchor-free network of YuNet's size class (Wu, Peng and Yu, "YuNet: a tiny millisecond-level face detector",
//! 2023): a backbone of depthwise-separable convolutions, a top-down neck (nearest upsampling and addition, as in
//! "Feature pyramid networks", Lin et al. 2017) and one head for each of the strides 8, 16 and 32.
//!
//! [`layers`] is the one description of it. [`Network`] runs it in libtorch; an exporter walks the same list:
//!
//! - A layer reads the results of the layers named in `inputs`; [`INPUT`] names the picture.
//! - A [`Operation::Convolution`] pads symmetrically with `kernel / 2` zeros. Its variables are `NAME.conv.weight`
//!   `[outputs, inputs / groups, kernel, kernel]` and, by [`After`], `NAME.conv.bias` `[outputs]` or the batch norm
//!   `NAME.bn.{weight, bias, running_mean, running_var}` `[outputs]` with epsilon [`NORM_EPSILON`].
//! - The layers `stride8`, `stride16` and `stride32` are the outputs: `[N, 15, H / stride, W / stride]`.
//!
//! | layers (N = 0, 1, …) | convolution | stride | channels |
//! |---|---|---|---|
//! | `stem` | 3×3, norm, ReLU | 2 | 3 → 16 |
//! | `down4.N.depthwise`, `down4.N.pointwise` three times | 3×3 depthwise, then 1×1, norm, ReLU | 2, 1, 1 | 16 → 32 |
//! | `down8.N.…` three times | the same | 2, 1, 1 | 32 → 64 |
//! | `down16.N.…` three times | the same | 2, 1, 1 | 64 → 96 |
//! | `down32.N.…` twice | the same | 2, 1 | 96 → 128 |
//! | `lateral8`, `lateral16`, `lateral32` | 1×1, norm, ReLU, of the last `downS` | 1 | → 48 |
//! | `smooth32.…` | separable, of `lateral32` | 1 | 48 |
//! | `up32`, `sum16`, `smooth16.…` | upsample `smooth32`; add `lateral16`; separable | 1 | 48 |
//! | `up16`, `sum8`, `smooth8.…` | upsample `smooth16`; add `lateral8`; separable | 1 | 48 |
//! | `head8.…`, `head16.…`, `head32.…` | separable, of `smooth8`, `smooth16`, `smooth32` | 1 | 48 |
//! | `stride8`, `stride16`, `stride32` | 1×1, bias, of the heads | 1 | 48 → 15 |
//!
//! There is nothing between a depthwise and its pointwise convolution, so their channels may be rescaled against
//! each other (cross-layer equalisation) without changing the result.
//!
//! The 15 channels of an output at cell (i, j), counted from 0, for stride s: 0 the score's logit; 1–2 the box centre,
//! `cx = (i + 0.5 + dx) s`, `cy = (j + 0.5 + dy) s`; 3–4 the box size, `w = exp(dw) s`, `h = exp(dh) s`; 5–14 the
//! landmarks, `x = (i + 0.5 + lx) s`, `y = (j + 0.5 + ly) s`, in the order of [`mien::geometry::Landmarks`].

use std::collections::HashMap;

use tch::{Kind, Tensor, nn};

/// The name by which layers refer to the picture: RGB, NCHW, scaled by [`normalise`].
pub const INPUT: &str = "image";
/// The outputs' strides in pixels. The input's sides must be multiples of the last one.
pub const STRIDES: [i64; 3] = [8, 16, 32];
/// Channels of an output: score, centre, size, five landmarks.
pub const CHANNELS: i64 = 15;
/// Batch norm's epsilon.
pub const NORM_EPSILON: f64 = 1e-5;

/// One step of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    pub name: String,
    pub operation: Operation,
    /// The layers whose results it reads.
    pub inputs: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    Convolution(Convolution),
    /// Nearest-neighbour upsampling by 2.
    Upsample,
    /// The element-wise sum of two inputs.
    Add,
}

/// A square convolution, padded symmetrically with `kernel / 2` zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    pub inputs: i64,
    pub outputs: i64,
    pub kernel: i64,
    pub stride: i64,
    pub groups: i64,
    pub after: After,
}

/// What follows the product of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    Nothing,
    Bias,
    NormRelu,
}

impl Convolution {
    fn depthwise(channels: i64, stride: i64) -> Self {
        Self {
            inputs: channels,
            outputs: channels,
            kernel: 3,
            stride,
            groups: channels,
            after: After::Nothing,
        }
    }

    fn pointwise(inputs: i64, outputs: i64, after: After) -> Self {
        Self { inputs, outputs, kernel: 1, stride: 1, groups: 1, after }
    }

    fn weight_shape(&self) -> [i64; 4] {
        [self.outputs, self.inputs / self.groups, self.kernel, self.kernel]
    }
}

/// The network's layers, each after those it reads.
pub fn layers() -> Vec<Layer> {
    /// Channels of the neck and the heads.
    const NECK: i64 = 48;
    const STEM: i64 = 16;

    let mut plan = Plan::default();
    let stem =
        Convolution { inputs: 3, outputs: STEM, kernel: 3, stride: 2, groups: 1, after: After::NormRelu };
    plan.convolution("stem", INPUT, stem);

    let (mut last, mut channels) = ("stem".to_owned(), STEM);
    let mut levels = Vec::new();
    for (stride, outputs, blocks) in [(4, 32, 3), (8, 64, 3), (16, 96, 3), (32, 128, 2)] {
        for block in 0..blocks {
            let step = if block == 0 { 2 } else { 1 };
            last = plan.separable(&format!("down{stride}.{block}"), &last, channels, outputs, step);
            channels = outputs;
        }
        if STRIDES.contains(&stride) {
            let lateral = format!("lateral{stride}");
            plan.convolution(&lateral, &last, Convolution::pointwise(channels, NECK, After::NormRelu));
            levels.push(lateral);
        }
    }

    let smooth32 = plan.separable("smooth32", "lateral32", NECK, NECK, 1);
    plan.add("up32", Operation::Upsample, &[&smooth32]);
    plan.add("sum16", Operation::Add, &["lateral16", "up32"]);
    let smooth16 = plan.separable("smooth16", "sum16", NECK, NECK, 1);
    plan.add("up16", Operation::Upsample, &[&smooth16]);
    plan.add("sum8", Operation::Add, &["lateral8", "up16"]);
    let smooth8 = plan.separable("smooth8", "sum8", NECK, NECK, 1);

    for (stride, features) in STRIDES.into_iter().zip([&smooth8, &smooth16, &smooth32]) {
        let head = plan.separable(&format!("head{stride}"), features, NECK, NECK, 1);
        let output = Convolution::pointwise(NECK, CHANNELS, After::Bias);
        plan.convolution(&output_name(stride), &head, output);
    }
    plan.layers
}

/// The output at a stride: `stride8`, `stride16` or `stride32`.
pub fn output_name(stride: i64) -> String {
    format!("stride{stride}")
}

#[derive(Default)]
struct Plan {
    layers: Vec<Layer>,
}

impl Plan {
    fn add(&mut self, name: &str, operation: Operation, inputs: &[&str]) {
        let inputs = inputs.iter().map(|&input| input.to_owned()).collect();
        self.layers.push(Layer { name: name.to_owned(), operation, inputs });
    }

    fn convolution(&mut self, name: &str, input: &str, convolution: Convolution) {
        self.add(name, Operation::Convolution(convolution), &[input]);
    }

    /// A depthwise-separable convolution; gives the name of its result.
    fn separable(&mut self, name: &str, input: &str, inputs: i64, outputs: i64, stride: i64) -> String {
        let (depthwise, pointwise) = (format!("{name}.depthwise"), format!("{name}.pointwise"));
        self.convolution(&depthwise, input, Convolution::depthwise(inputs, stride));
        self.convolution(&pointwise, &depthwise, Convolution::pointwise(inputs, outputs, After::NormRelu));
        pointwise
    }
}

/// Pixels 0–255 as the network wants them: `(x - 128) / 128` in f32.
pub fn normalise(pixels: &Tensor) -> Tensor {
    (pixels.to_kind(Kind::Float) - 128.0) / 128.0
}

/// The network with its variables in a [`nn::VarStore`].
#[derive(Debug)]
pub struct Network {
    layers: Vec<(Layer, Option<Weights>)>,
}

#[derive(Debug)]
struct Weights {
    weight: Tensor,
    bias: Option<Tensor>,
    norm: Option<nn::BatchNorm>,
}

impl Network {
    /// Makes the variables under `root`, freshly initialised.
    pub fn new(root: &nn::Path) -> Self {
        let with_weights = |layer: Layer| {
            let weights = match layer.operation {
                Operation::Convolution(convolution) => {
                    let path = layer.name.split('.').fold(root.clone(), |path, part| path / part);
                    Some(Weights::new(&path, &convolution))
                }
                Operation::Upsample | Operation::Add => None,
            };
            (layer, weights)
        };
        Self { layers: layers().into_iter().map(with_weights).collect() }
    }

    /// The outputs at [`STRIDES`] for `image` `[N, 3, H, W]`; `train` makes batch norm use the batch's statistics.
    pub fn forward(&self, image: &Tensor, train: bool) -> [Tensor; 3] {
        let mut results = HashMap::from([(INPUT, image.shallow_clone())]);
        for (layer, weights) in &self.layers {
            let input = |n: usize| &results[layer.inputs[n].as_str()];
            let result = match (&layer.operation, weights) {
                (Operation::Convolution(convolution), Some(weights)) => {
                    weights.forward(convolution, input(0), train)
                }
                (Operation::Upsample, _) => {
                    let (h, w) = (input(0).size()[2], input(0).size()[3]);
                    input(0).upsample_nearest2d([2 * h, 2 * w], None, None)
                }
                (Operation::Add, _) => input(0) + input(1),
                (Operation::Convolution(_), None) => {
                    unreachable!("`new` gives every convolution its weights")
                }
            };
            results.insert(&layer.name, result);
        }
        STRIDES.map(|stride| results[output_name(stride).as_str()].shallow_clone())
    }
}

impl Weights {
    fn new(path: &nn::Path, convolution: &Convolution) -> Self {
        use nn::init::{FanInOut, NonLinearity, NormalOrUniform};

        // At the start every cell says 1 % (RetinaNet's prior), so that the many empty ones do not swamp the first
        // steps, and a box of 2.5 strides, so that the assigner sends each face to the level of its size.
        const SCORE: f64 = 0.01;
        const SIZE: f64 = 2.5;
        let kaiming = nn::Init::Kaiming {
            dist: NormalOrUniform::Normal,
            fan: FanInOut::FanIn,
            non_linearity: match convolution.after {
                After::NormRelu => NonLinearity::ReLU,
                After::Nothing | After::Bias => NonLinearity::Linear,
            },
        };
        let conv = path / "conv";
        let weight = conv.var("weight", &convolution.weight_shape(), kaiming);
        let (bias, norm) = match convolution.after {
            After::Nothing => (None, None),
            After::Bias => {
                let bias = conv.var("bias", &[convolution.outputs], nn::Init::Const(0.0));
                tch::no_grad(|| {
                    let _ = bias.narrow(0, 0, 1).fill_((SCORE / (1.0 - SCORE)).ln());
                    let _ = bias.narrow(0, 3, 2).fill_(SIZE.ln());
                });
                (Some(bias), None)
            }
            After::NormRelu => {
                let config = nn::BatchNormConfig {
                    eps: NORM_EPSILON,
                    momentum: 0.03,
                    ws_init: nn::Init::Const(1.0),
                    ..Default::default()
                };
                (None, Some(nn::batch_norm2d(path / "bn", convolution.outputs, config)))
            }
        };
        Self { weight, bias, norm }
    }

    fn forward(&self, convolution: &Convolution, input: &Tensor, train: bool) -> Tensor {
        use nn::ModuleT;

        let &Convolution { kernel, stride, groups, .. } = convolution;
        let padding = kernel / 2;
        let bias = self.bias.as_ref();
        let result = input.conv2d(&self.weight, bias, [stride; 2], [padding; 2], [1, 1], groups);
        match &self.norm {
            Some(norm) => norm.forward_t(&result, train).relu_(),
            None => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// Multiplications of one pass over a square picture.
    fn multiplications(side: i64) -> i64 {
        let mut sides = HashMap::from([(INPUT.to_owned(), side)]);
        let mut total = 0;
        for layer in layers() {
            let input = sides[&layer.inputs[0]];
            let output = match layer.operation {
                Operation::Convolution(c) => {
                    total += (input / c.stride).pow(2) * c.weight_shape().iter().product::<i64>();
                    input / c.stride
                }
                Operation::Upsample => 2 * input,
                Operation::Add => input,
            };
            sides.insert(layer.name, output);
        }
        total
    }

    #[test]
    fn stays_in_its_size_class() {
        let vs = nn::VarStore::new(Device::Cpu);
        Network::new(&vs.root());
        let parameters: usize = vs.trainable_variables().iter().map(Tensor::numel).sum();
        assert!(parameters <= 150_000, "{parameters} parameters");
        assert!(multiplications(320) <= 100_000_000, "{} multiplications", multiplications(320));
    }

    #[test]
    fn outputs_have_the_contract_shapes() {
        let vs = nn::VarStore::new(Device::Cpu);
        let network = Network::new(&vs.root());
        let pixels = Tensor::zeros([2, 3, 96, 160], (Kind::Uint8, Device::Cpu));
        let outputs = tch::no_grad(|| network.forward(&normalise(&pixels), false));
        for (output, stride) in outputs.iter().zip(STRIDES) {
            assert_eq!(output.size(), [2, CHANNELS, 96 / stride, 160 / stride]);
        }
    }

    #[test]
    fn variables_are_named_as_documented() {
        let vs = nn::VarStore::new(Device::Cpu);
        Network::new(&vs.root());
        let variables = vs.variables();
        for name in [
            "stem.conv.weight",
            "stem.bn.running_var",
            "down8.2.depthwise.conv.weight",
            "down8.2.pointwise.bn.bias",
            "stride32.conv.bias",
        ] {
            assert!(variables.contains_key(name), "{name} is missing");
        }
        assert_eq!(variables["down8.2.depthwise.conv.weight"].size(), [64, 1, 3, 3]);
    }
}
