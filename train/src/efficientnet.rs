//! EfficientNet-Lite (Tan & Le, 2019; the Lite variants of TensorFlow's `efficientnet/lite`): ReLU6, no squeeze-excite.
//!
//! [`Architecture`] is a table that says what every layer is and what its tensors are called; the network that
//! trains ([`EfficientNet`]) and the exporter both walk it. Names are those of timm's `tf_efficientnet_lite0`.

use tch::{Kind, Tensor, nn, no_grad};

/// Added to the variance by every batch norm.
pub const BATCH_NORM_EPS: f64 = 1e-3;

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
const FEATURES: i64 = 1280;

/// A convolution without bias, padded as TensorFlow's "same" ([`same_padding`]), and the batch norm behind it.
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
    /// Whether a ReLU6 follows.
    pub relu6: bool,
}

/// Layers in sequence; with `residual`, the block's input is added to its output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    pub layers: Vec<ConvBn>,
    pub residual: bool,
}

/// The network layer by layer: `blocks` in order (the stem is the first, the head the last), then the mean over
/// all pixels, then the linear layer `classifier` with `{classifier}.weight` `[outputs, features]` and `.bias`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Architecture {
    pub blocks: Vec<Block>,
    pub features: i64,
    pub classifier: String,
    pub outputs: i64,
}

impl Architecture {
    /// EfficientNet-Lite0 with `outputs` logits.
    pub fn lite0(outputs: i64) -> Architecture {
        let single = |conv: &str, bn: &str, input, output, kernel, stride| Block {
            layers: vec![ConvBn {
                conv: conv.into(),
                bn: bn.into(),
                input,
                output,
                kernel,
                stride,
                groups: 1,
                relu6: true,
            }],
            residual: false,
        };
        let mut blocks = vec![single("conv_stem", "bn1", 3, STEM_CHANNELS, 3, 2)];
        let mut channels = STEM_CHANNELS;
        for (s, stage) in BASE.iter().enumerate() {
            for b in 0..stage.repeats {
                let stride = if b == 0 { stage.stride } else { 1 };
                blocks.push(inverted_residual(&format!("blocks.{s}.{b}"), channels, stage, stride));
                channels = stage.channels;
            }
        }
        blocks.push(single("conv_head", "bn2", channels, FEATURES, 1, 1));
        Architecture { blocks, features: FEATURES, classifier: "classifier".into(), outputs }
    }
}

/// Expand (left out when the factor is 1), depthwise, project.
fn inverted_residual(name: &str, input: i64, stage: &Stage, stride: i64) -> Block {
    let hidden = input * stage.expand;
    let mut layers = Vec::with_capacity(3);
    let mut push = |conv: &str, input, output, kernel, stride, groups, relu6| {
        let bn = format!("{name}.bn{}", layers.len() + 1);
        layers.push(ConvBn {
            conv: format!("{name}.{conv}"),
            bn,
            input,
            output,
            kernel,
            stride,
            groups,
            relu6,
        });
    };
    if stage.expand > 1 {
        push("conv_pw", input, hidden, 1, 1, 1, true);
    }
    push("conv_dw", hidden, hidden, stage.kernel, stride, hidden, true);
    let project = if stage.expand > 1 { "conv_pwl" } else { "conv_pw" };
    push(project, hidden, stage.channels, 1, 1, 1, false);
    Block { layers, residual: stride == 1 && input == stage.channels }
}

/// Zeros before and after an axis of `size` pixels under TensorFlow's "same" rule: the output has
/// `ceil(size / stride)` pixels, and an odd zero goes after.
pub fn same_padding(size: i64, kernel: i64, stride: i64) -> (i64, i64) {
    let output = (size + stride - 1) / stride;
    let total = ((output - 1) * stride + kernel - size).max(0);
    (total / 2, total - total / 2)
}

/// What holds the network back while training.
#[derive(Debug, Clone, Copy)]
pub struct Regularisation {
    /// Blocks, from the stem on, that keep their weights and statistics: features that any picture has, and the
    /// costliest to differentiate.
    pub frozen_blocks: usize,
    /// Dropout before the classifier.
    pub dropout: f64,
    /// Stochastic depth (Huang et al., 2016): the rate of the last block; it grows linearly from 0 at the first.
    pub drop_path: f64,
}

impl Default for Regularisation {
    fn default() -> Self {
        Self { frozen_blocks: 0, dropout: 0.2, drop_path: 0.05 }
    }
}

#[derive(Debug)]
struct Layer {
    spec: ConvBn,
    weight: Tensor,
    bn: nn::BatchNorm,
}

impl Layer {
    fn new(root: &nn::Path, spec: &ConvBn) -> Layer {
        let shape = [spec.output, spec.input / spec.groups, spec.kernel, spec.kernel];
        let fan_out = (spec.kernel * spec.kernel * spec.output / spec.groups) as f64;
        let init = nn::Init::Randn { mean: 0.0, stdev: (2.0 / fan_out).sqrt() };
        let config =
            nn::BatchNormConfig { eps: BATCH_NORM_EPS, ws_init: nn::Init::Const(1.0), ..Default::default() };
        Layer {
            weight: at(root, &spec.conv).var("weight", &shape, init),
            bn: nn::batch_norm2d(at(root, &spec.bn), spec.output, config),
            spec: spec.clone(),
        }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let ConvBn { kernel, stride, groups, .. } = self.spec;
        let (_, _, h, w) = x.size4().expect("the network is applied to [N, C, H, W]");
        let ((top, bottom), (left, right)) =
            (same_padding(h, kernel, stride), same_padding(w, kernel, stride));
        let y = if top == bottom && left == right {
            x.conv2d(&self.weight, None::<Tensor>, stride, [top, left], 1, groups)
        } else {
            let padded = x.constant_pad_nd([left, right, top, bottom]);
            padded.conv2d(&self.weight, None::<Tensor>, stride, 0, 1, groups)
        };
        let y = nn::ModuleT::forward_t(&self.bn, &y, train);
        if self.spec.relu6 { y.clamp(0.0, 6.0) } else { y }
    }
}

/// The path of a dotted name.
fn at<'a>(root: &nn::Path<'a>, name: &str) -> nn::Path<'a> {
    name.split('.').fold(root.clone(), |path, part| path / part)
}

/// The trainable network of an [`Architecture`].
#[derive(Debug)]
pub struct EfficientNet {
    blocks: Vec<(Vec<Layer>, bool)>,
    classifier: nn::Linear,
    regularisation: Regularisation,
}

impl EfficientNet {
    /// Puts the network's variables into `root`'s store under the names of the table.
    pub fn new(root: &nn::Path, architecture: &Architecture, regularisation: Regularisation) -> EfficientNet {
        let layers = |block: &Block| block.layers.iter().map(|spec| Layer::new(root, spec)).collect();
        EfficientNet {
            blocks: architecture.blocks.iter().map(|block| (layers(block), block.residual)).collect(),
            classifier: nn::linear(
                at(root, &architecture.classifier),
                architecture.features,
                architecture.outputs,
                nn::LinearConfig {
                    ws_init: nn::Init::Randn { mean: 0.0, stdev: 0.01 },
                    ..Default::default()
                },
            ),
            regularisation,
        }
    }

    /// `images` `[N, 3, H, W]`, normalised to about ±1, to logits `[N, outputs]`.
    pub fn forward(&self, images: &Tensor, train: bool) -> Tensor {
        let last = (self.blocks.len() - 1).max(1) as f64;
        let block = |x: Tensor, i: usize, train: bool| {
            let (layers, residual) = &self.blocks[i];
            let y = layers.iter().fold(x.shallow_clone(), |y, layer| layer.forward(&y, train));
            match (residual, train) {
                (false, _) => y,
                (true, false) => x + y,
                (true, true) => x + drop_path(&y, self.regularisation.drop_path * i as f64 / last),
            }
        };
        let frozen = self.regularisation.frozen_blocks.min(self.blocks.len());
        let x = no_grad(|| (0..frozen).fold(images.shallow_clone(), |x, i| block(x, i, false)));
        let x = (frozen..self.blocks.len()).fold(x, |x, i| block(x, i, train));
        let features = x.mean_dim([2i64, 3].as_slice(), false, Kind::Float);
        features.dropout(self.regularisation.dropout, train).apply(&self.classifier)
    }
}

/// Zeroes whole samples with probability `rate` and scales the others so that the mean stays.
fn drop_path(y: &Tensor, rate: f64) -> Tensor {
    if rate <= 0.0 {
        return y.shallow_clone();
    }
    let kept = Tensor::full([y.size()[0], 1, 1, 1], 1.0 - rate, (y.kind(), y.device())).bernoulli();
    y * (kept / (1.0 - rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn same_padding_as_tensorflow_pads() {
        assert_eq!(same_padding(112, 3, 2), (0, 1));
        assert_eq!(same_padding(56, 5, 2), (1, 2));
        assert_eq!(same_padding(7, 5, 2), (2, 2));
        assert_eq!(same_padding(14, 5, 1), (2, 2));
        assert_eq!(same_padding(14, 1, 1), (0, 0));
    }

    #[test]
    fn lite0_has_the_tensors_and_parameters_of_timm() {
        let store = nn::VarStore::new(Device::Cpu);
        let architecture = Architecture::lite0(1000);
        let net = EfficientNet::new(&store.root(), &architecture, Regularisation::default());
        let parameters: usize = store.trainable_variables().iter().map(Tensor::numel).sum();
        assert_eq!(parameters, 4_652_008);
        let variables = store.variables();
        // 49 convolutions with four batch norm tensors each, and the classifier's two.
        assert_eq!(variables.len(), 49 * 5 + 2);
        assert_eq!(variables["blocks.1.0.conv_dw.weight"].size(), [96, 1, 3, 3]);
        assert_eq!(variables["blocks.0.0.bn2.running_var"].size(), [16]);
        let logits = net.forward(&Tensor::zeros([2, 3, 112, 112], (Kind::Float, Device::Cpu)), false);
        assert_eq!(logits.size(), [2, 1000]);
    }

    #[test]
    fn frozen_blocks_stay_as_they_are() {
        let store = nn::VarStore::new(Device::Cpu);
        let held = Regularisation { frozen_blocks: 2, ..Default::default() };
        let net = EfficientNet::new(&store.root(), &Architecture::lite0(4), held);
        let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
        net.forward(&images, true).sum(Kind::Float).backward();
        let variables = store.variables();
        assert!(!variables["blocks.0.0.conv_dw.weight"].grad().defined());
        assert_eq!(variables["blocks.0.0.bn1.running_mean"].abs().max().double_value(&[]), 0.0);
        assert!(variables["blocks.1.0.conv_dw.weight"].grad().defined());
        assert!(variables["blocks.1.0.bn1.running_mean"].abs().max().double_value(&[]) > 0.0);
    }

    #[test]
    fn dropped_paths_keep_the_mean() {
        tch::manual_seed(1);
        let ones = Tensor::ones([20_000, 1, 1, 1], (Kind::Float, Device::Cpu));
        let mean = drop_path(&ones, 0.3).mean(Kind::Float).double_value(&[]);
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert_eq!(drop_path(&ones, 0.0), ones);
    }
}
