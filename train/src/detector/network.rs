//! The face detector's network: what its layers are, and how they run.
//!
//! YuNet's (Wu, Peng and Yu, "YuNet: a tiny millisecond-level face detector", 2023) but for the outputs, so that training can
//! begin with its weights (`mien-train recover`): a backbone of separable convolutions, a top-down neck (nearest upsampling
//! and addition, as in "Feature pyramid networks", Lin et al. 2017) and one head for each of the strides 8, 16 and 32.
//!
//! [`layers`] is the one description of it. [`Network`] runs it in libtorch; an exporter walks the same list:
//!
//! - A layer reads the results of the layers named in `inputs`; [`INPUT`] names the picture.
//! - A [`Operation::Convolution`] pads symmetrically with `kernel / 2` zeros. Its variables are `NAME.conv.weight`
//!   `[outputs, inputs / groups, kernel, kernel]` and, by [`After`], `NAME.conv.bias` `[outputs]` or the batch norm
//!   `NAME.bn.{weight, bias, running_mean, running_var}` `[outputs]` with epsilon [`NORM_EPSILON`].
//! - The layers `stride8`, `stride16` and `stride32` are the outputs: `[N, 15, H / stride, W / stride]`.
//!
//! A separable convolution `NAME` is `NAME.pointwise`, 1×1 with a bias, then `NAME.depthwise`, 3×3 with norm and ReLU.
//!
//! | layers (N = 0, 1, …) | what they are | channels |
//! |---|---|---|
//! | `stem` | 3×3 convolution at stride 2, norm, ReLU | 3 → 16 |
//! | `down2` | separable | 16 |
//! | `pool4`, `down4.N` | 2×2 maximum; four separable | 16 → 16 → 64 → 64 → 64 |
//! | `pool8`, `down8.N` | 2×2 maximum; two separable | 64 |
//! | `pool16`, `down16.N`; `pool32`, `down32.N` | the same | 64 |
//! | `smooth32` | separable, of `down32.1` | 64 |
//! | `up32`, `sum16`, `smooth16` | upsample `smooth32`; add `down16.1`; separable | 64 |
//! | `up16`, `sum8`, `smooth8` | upsample `smooth16`; add `down8.1`; separable | 64 |
//! | `head8`, `head16`, `head32` | separable, of `smooth8`, `smooth16`, `smooth32` | 64 |
//! | `stride8`, `stride16`, `stride32` | 3×3 convolution with a bias, of the heads | 64 → 15 |
//!
//! There is nothing between a pointwise convolution and its depthwise one, so their channels may be rescaled against
//! each other (cross-layer equalisation) without changing the result.
//!
//! The 15 channels of an output at cell (i, j), counted from 0, for stride s: 0 the score's logit; 1–2 the box centre,
//! `cx = (i + 0.5 + dx) s`, `cy = (j + 0.5 + dy) s`; 3–4 the box size, `w = exp(dw) s`, `h = exp(dh) s`; 5–14 the
//! landmarks, `x = (i + 0.5 + lx) s`, `y = (j + 0.5 + ly) s`, in the order of [`mien::geometry::Landmarks`].

use std::collections::HashMap;

use tch::{Kind, Tensor, nn};

use crate::network::channels_last;

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
    /// The largest of 2×2 values.
    MaxPool,
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
    Bias,
    NormRelu,
}

impl Convolution {
    fn depthwise(channels: i64) -> Self {
        Self {
            inputs: channels,
            outputs: channels,
            kernel: 3,
            stride: 1,
            groups: channels,
            after: After::NormRelu,
        }
    }

    fn pointwise(inputs: i64, outputs: i64) -> Self {
        Self { inputs, outputs, kernel: 1, stride: 1, groups: 1, after: After::Bias }
    }

    fn output(inputs: i64) -> Self {
        Self { inputs, outputs: CHANNELS, kernel: 3, stride: 1, groups: 1, after: After::Bias }
    }

    fn weight_shape(&self) -> [i64; 4] {
        [self.outputs, self.inputs / self.groups, self.kernel, self.kernel]
    }
}

/// The network's layers, each after those it reads.
pub fn layers() -> Vec<Layer> {
    const STEM: i64 = 16;
    const WIDE: i64 = 64;

    let mut plan = Plan::default();
    let stem =
        Convolution { inputs: 3, outputs: STEM, kernel: 3, stride: 2, groups: 1, after: After::NormRelu };
    plan.convolution("stem", INPUT, stem);
    let (mut last, mut channels) = (plan.separable("down2", "stem", STEM, STEM), STEM);
    let mut levels = Vec::new();
    for (stride, widths) in
        [(4, &[STEM, WIDE, WIDE, WIDE][..]), (8, &[WIDE; 2]), (16, &[WIDE; 2]), (32, &[WIDE; 2])]
    {
        let pool = format!("pool{stride}");
        plan.add(&pool, Operation::MaxPool, &[&last]);
        last = pool;
        for (n, &outputs) in widths.iter().enumerate() {
            last = plan.separable(&format!("down{stride}.{n}"), &last, channels, outputs);
            channels = outputs;
        }
        levels.push(last.clone());
    }

    let smooth32 = plan.separable("smooth32", &levels[3], WIDE, WIDE);
    plan.add("up32", Operation::Upsample, &[&smooth32]);
    plan.add("sum16", Operation::Add, &[&levels[2], "up32"]);
    let smooth16 = plan.separable("smooth16", "sum16", WIDE, WIDE);
    plan.add("up16", Operation::Upsample, &[&smooth16]);
    plan.add("sum8", Operation::Add, &[&levels[1], "up16"]);
    let smooth8 = plan.separable("smooth8", "sum8", WIDE, WIDE);

    for (stride, features) in STRIDES.into_iter().zip([&smooth8, &smooth16, &smooth32]) {
        let head = plan.separable(&format!("head{stride}"), features, WIDE, WIDE);
        plan.convolution(&output_name(stride), &head, Convolution::output(WIDE));
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

    /// A separable convolution; gives the name of its result.
    fn separable(&mut self, name: &str, input: &str, inputs: i64, outputs: i64) -> String {
        let (pointwise, depthwise) = (format!("{name}.pointwise"), format!("{name}.depthwise"));
        self.convolution(&pointwise, input, Convolution::pointwise(inputs, outputs));
        self.convolution(&depthwise, &pointwise, Convolution::depthwise(outputs));
        depthwise
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
        let outputs = STRIDES.map(output_name);
        let with_weights = |layer: Layer| {
            let weights = match layer.operation {
                Operation::Convolution(convolution) => {
                    let path = layer.name.split('.').fold(root.clone(), |path, part| path / part);
                    let weights = Weights::new(&path, &convolution);
                    if outputs.contains(&layer.name) {
                        weights.begin_with_no_face();
                    }
                    Some(weights)
                }
                Operation::MaxPool | Operation::Upsample | Operation::Add => None,
            };
            (layer, weights)
        };
        Self { layers: layers().into_iter().map(with_weights).collect() }
    }

    /// The outputs at [`STRIDES`] for `image` `[N, 3, H, W]`; `train` makes batch norm use the batch's statistics.
    pub fn forward(&self, image: &Tensor, train: bool) -> [Tensor; 3] {
        let mut results = HashMap::from([(INPUT, channels_last(image))]);
        for (layer, weights) in &self.layers {
            let input = |n: usize| &results[layer.inputs[n].as_str()];
            let result = match (&layer.operation, weights) {
                (Operation::Convolution(convolution), Some(weights)) => {
                    weights.forward(convolution, input(0), train)
                }
                (Operation::MaxPool, _) => input(0).max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false),
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

        let kaiming = nn::Init::Kaiming {
            dist: NormalOrUniform::Normal,
            fan: FanInOut::FanIn,
            non_linearity: match convolution.after {
                After::NormRelu => NonLinearity::ReLU,
                After::Bias => NonLinearity::Linear,
            },
        };
        let conv = path / "conv";
        let weight = conv.var("weight", &convolution.weight_shape(), kaiming);
        let (bias, norm) = match convolution.after {
            After::Bias => (Some(conv.var("bias", &[convolution.outputs], nn::Init::Const(0.0))), None),
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

    /// Every cell of an output says 1 % (RetinaNet's prior), so that the many empty ones do not swamp the first steps,
    /// and a box of 2.5 strides, so that the assigner sends each face to the level of its size.
    fn begin_with_no_face(&self) {
        const SCORE: f64 = 0.01;
        const SIZE: f64 = 2.5;
        if let Some(bias) = &self.bias {
            tch::no_grad(|| {
                let _ = bias.narrow(0, 0, 1).fill_((SCORE / (1.0 - SCORE)).ln());
                let _ = bias.narrow(0, 3, 2).fill_(SIZE.ln());
            });
        }
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
                Operation::MaxPool => input / 2,
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
        // Of YuNet's layers without its outputs: what every frame costs is changed on purpose or not at all.
        assert_eq!(multiplications(320), 151_289_600);
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
            "down8.1.pointwise.conv.bias",
            "down8.1.depthwise.bn.bias",
            "stride32.conv.bias",
        ] {
            assert!(variables.contains_key(name), "{name} is missing");
        }
        assert_eq!(variables["down8.1.depthwise.conv.weight"].size(), [64, 1, 3, 3]);
    }
}
