//! Networks from a picture to logits: EfficientNet B0–B7 and Lite0–Lite4 (Tan and Le, 2019), a simple CNN, and, to teach
//! those, FaceNet's Inception-ResNet.
//!
//! An [`Architecture`] is a table that says what every layer is and what its tensors are called; the [`Network`] that
//! trains and the exporter both walk it. Names are timm's, so that its weights load by name.

mod architecture;
mod inception;
mod silu;

use tch::{
    Kind, Tensor,
    nn::{self, Module, ModuleT},
    no_grad,
};

pub use architecture::{Architecture, Block, Body, ConvBn, Convention, SqueezeExcite};
pub use silu::Silu;

/// What follows a batch norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    None,
    Relu,
    Relu6,
    Silu,
}

impl Module for Activation {
    fn forward(&self, x: &Tensor) -> Tensor {
        match self {
            Activation::None => x.shallow_clone(),
            Activation::Relu => x.relu(),
            // The gradient of clamp takes four passes over the values where this takes one.
            Activation::Relu6 => x.relu6(),
            Activation::Silu => Silu.forward(x),
        }
    }
}

/// What holds the network back while training.
#[derive(Debug, Clone, Copy)]
pub struct Regularisation {
    /// Blocks, from the stem on, that keep their weights and statistics ([`Network::freeze`]).
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
    convention: Convention,
    weight: Tensor,
    bn: nn::BatchNorm,
}

impl Layer {
    fn new(root: &nn::Path, spec: &ConvBn, convention: Convention) -> Layer {
        let shape = [spec.output, spec.input / spec.groups, spec.kernel, spec.kernel];
        let fan_out = (spec.kernel * spec.kernel * spec.output / spec.groups) as f64;
        let init = nn::Init::Randn { mean: 0.0, stdev: (2.0 / fan_out).sqrt() };
        let config = nn::BatchNormConfig {
            eps: convention.epsilon(),
            ws_init: nn::Init::Const(1.0),
            ..Default::default()
        };
        Layer {
            weight: at(root, &spec.conv).var("weight", &shape, init),
            bn: nn::batch_norm2d(at(root, &spec.bn), spec.output, config),
            spec: spec.clone(),
            convention,
        }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let ConvBn { kernel, stride, groups, activation, .. } = self.spec;
        let (_, _, h, w) = x.size4().expect("the network is applied to [N, C, H, W]");
        let weight = self.weight.to_kind(x.kind());
        let padding = |size| self.convention.padding(size, kernel, stride);
        let ((top, bottom), (left, right)) = (padding(h), padding(w));
        let y = if top == bottom && left == right {
            x.conv2d(&weight, None::<Tensor>, stride, [top, left], 1, groups)
        } else {
            let padded = x.constant_pad_nd([left, right, top, bottom]);
            padded.conv2d(&weight, None::<Tensor>, stride, 0, 1, groups)
        };
        activation.forward(&self.bn.forward_t(&y, train))
    }

    fn variables(&self) -> impl Iterator<Item = &Tensor> {
        [&self.weight].into_iter().chain(&self.bn.ws).chain(&self.bn.bs)
    }
}

#[derive(Debug)]
struct Squeeze {
    reduce: nn::Conv2D,
    expand: nn::Conv2D,
}

impl Squeeze {
    fn new(root: &nn::Path, spec: &SqueezeExcite) -> Squeeze {
        let conv =
            |name: &str, input, output| nn::conv2d(at(root, name), input, output, 1, Default::default());
        Squeeze {
            reduce: conv(&spec.reduce, spec.channels, spec.reduced),
            expand: conv(&spec.expand, spec.reduced, spec.channels),
        }
    }

    fn variables(&self) -> impl Iterator<Item = &Tensor> {
        [&self.reduce, &self.expand].into_iter().flat_map(|conv| [&conv.ws].into_iter().chain(&conv.bs))
    }
}

impl Module for Squeeze {
    fn forward(&self, x: &Tensor) -> Tensor {
        let means = x.mean_dim([2i64, 3].as_slice(), true, None::<Kind>);
        x * pointwise(&self.expand, &Silu.forward(&pointwise(&self.reduce, &means))).sigmoid()
    }
}

#[derive(Debug)]
struct Blocks {
    layers: Vec<Layer>,
    squeeze: Option<Squeeze>,
    residual: bool,
}

impl Blocks {
    fn new(root: &nn::Path, spec: &Block, convention: Convention) -> Blocks {
        Blocks {
            layers: spec.layers.iter().map(|layer| Layer::new(root, layer, convention)).collect(),
            squeeze: spec.squeeze.as_ref().map(|squeeze| Squeeze::new(root, squeeze)),
            residual: spec.residual,
        }
    }
}

impl Stage for Blocks {
    fn forward(&self, x: &Tensor, drop_path: f64, train: bool) -> Tensor {
        let last = self.layers.len() - 1;
        let mut y = x.shallow_clone();
        for (i, layer) in self.layers.iter().enumerate() {
            if let Some(squeeze) = self.squeeze.as_ref().filter(|_| i == last) {
                y = squeeze.forward(&y);
            }
            y = layer.forward(&y, train);
        }
        match (self.residual, train) {
            (false, _) => y,
            (true, false) => x + y,
            (true, true) => x + drop_path_of(&y, drop_path),
        }
    }

    fn variables(&self) -> Vec<&Tensor> {
        let squeeze = self.squeeze.iter().flat_map(Squeeze::variables);
        self.layers.iter().flat_map(Layer::variables).chain(squeeze).collect()
    }
}

/// A 1×1 convolution with weights cast to the kind of `x`.
fn pointwise(conv: &nn::Conv2D, x: &Tensor) -> Tensor {
    let bias = conv.bs.as_ref().map(|bias| bias.to_kind(x.kind()));
    x.conv2d(&conv.ws.to_kind(x.kind()), bias, 1, 0, 1, 1)
}

/// The same values with a pixel's channels side by side in memory, which convolutions then keep: on a CPU, training
/// is 1.6 times as fast so.
pub fn channels_last(images: &Tensor) -> Tensor {
    images.permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2])
}

/// Zeroes whole samples with probability `rate` and scales the others so that the mean stays.
fn drop_path_of(y: &Tensor, rate: f64) -> Tensor {
    if rate <= 0.0 {
        return y.shallow_clone();
    }
    let kept = Tensor::full([y.size()[0], 1, 1, 1], 1.0 - rate, (y.kind(), y.device())).bernoulli();
    y * (kept / (1.0 - rate))
}

/// The path of a dotted name.
fn at<'a>(root: &nn::Path<'a>, name: &str) -> nn::Path<'a> {
    name.split('.').fold(root.clone(), |path, part| path / part)
}

/// A part of the backbone.
trait Stage: std::fmt::Debug {
    /// `drop_path` is the rate at which a residual is left out of a training sample.
    fn forward(&self, x: &Tensor, drop_path: f64, train: bool) -> Tensor;

    fn variables(&self) -> Vec<&Tensor>;
}

/// The trainable network of an [`Architecture`].
#[derive(Debug)]
pub struct Network {
    blocks: Vec<Box<dyn Stage>>,
    classifier: nn::Linear,
    regularisation: Regularisation,
}

impl Network {
    /// Puts the network's variables into `root`'s store under the names of the table.
    pub fn new(root: &nn::Path, architecture: &Architecture, regularisation: Regularisation) -> Network {
        let config =
            nn::LinearConfig { ws_init: nn::Init::Randn { mean: 0.0, stdev: 0.01 }, ..Default::default() };
        let path = at(root, &architecture.classifier);
        let stage =
            |block: &Block| -> Box<dyn Stage> { Box::new(Blocks::new(root, block, architecture.convention)) };
        let blocks = match &architecture.body {
            Body::Blocks(blocks) => blocks.iter().map(stage).collect(),
            Body::InceptionResNetV1 => inception::stages(root),
        };
        let mut network = Network {
            blocks,
            classifier: nn::linear(path, architecture.features, architecture.outputs, config),
            regularisation,
        };
        if regularisation.frozen_blocks > 0 {
            network.freeze(regularisation.frozen_blocks);
        }
        network
    }

    /// Blocks of the backbone, the stem and the head among them.
    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    /// Keeps the weights and batch norm statistics of the first `blocks` blocks, from the stem on (features that any
    /// picture has, and the costliest to differentiate), and releases all others; [`Network::blocks`] freezes the
    /// whole backbone, 0 nothing.
    pub fn freeze(&mut self, blocks: usize) {
        self.regularisation.frozen_blocks = blocks.min(self.blocks.len());
        for (i, block) in self.blocks.iter().enumerate() {
            for variable in block.variables() {
                let _ = variable.set_requires_grad(i >= blocks);
            }
        }
    }

    /// `images` `[N, 3, H, W]` of any size to logits `[N, outputs]`, f32. Images of half precision go through the
    /// convolutions as such: weights, batch norm's statistics and gradients stay f32 (Micikevicius et al., 2018).
    pub fn forward(&self, images: &Tensor, train: bool) -> Tensor {
        let Regularisation { frozen_blocks, dropout, drop_path } = self.regularisation;
        let (frozen, live) = self.blocks.split_at(frozen_blocks);
        let images = channels_last(images);
        let x = no_grad(|| frozen.iter().fold(images, |x, block| block.forward(&x, 0.0, false)));
        let last = (self.blocks.len() - 1).max(1) as f64;
        let rate = |i: usize| drop_path * (frozen_blocks + i) as f64 / last;
        let x = live.iter().enumerate().fold(x, |x, (i, block)| block.forward(&x, rate(i), train));
        let features = x.mean_dim([2i64, 3].as_slice(), false, Kind::Float);
        features.dropout(dropout, train).apply(&self.classifier)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        checkpoint::{self, load_pretrained},
        python::python,
    };
    use tch::Device;

    fn network(name: &str, outputs: i64) -> (nn::VarStore, Architecture, Network) {
        let store = nn::VarStore::new(Device::Cpu);
        let architecture = Architecture::by_name(name, outputs).unwrap();
        let net = Network::new(&store.root(), &architecture, Regularisation::default());
        (store, architecture, net)
    }

    #[test]
    fn lite0_has_the_tensors_of_timm() {
        let (store, _, net) = network("efficientnet_lite0", 1000);
        let variables = store.variables();
        // 49 convolutions with four batch norm tensors each, and the classifier's two.
        assert_eq!(variables.len(), 49 * 5 + 2);
        assert_eq!(variables["blocks.1.0.conv_dw.weight"].size(), [96, 1, 3, 3]);
        assert_eq!(variables["blocks.0.0.bn2.running_var"].size(), [16]);
        let logits = net.forward(&Tensor::zeros([2, 3, 112, 112], (Kind::Float, Device::Cpu)), false);
        assert_eq!(logits.size(), [2, 1000]);
    }

    #[test]
    fn the_simple_cnn_takes_any_size_and_learns() {
        tch::manual_seed(5);
        let (store, _, net) = network("simple_cnn", 2);
        assert_eq!(
            net.forward(&Tensor::zeros([1, 3, 37, 90], (Kind::Float, Device::Cpu)), false).size(),
            [1, 2]
        );
        let images = Tensor::randn([16, 3, 32, 32], (Kind::Float, Device::Cpu));
        let targets = Tensor::arange(16, (Kind::Int64, Device::Cpu)).remainder(2);
        let mut adam = crate::optimizer::AdamW::new(&store, 0.0);
        let losses: Vec<f64> = (0..12)
            .map(|_| {
                let loss = net.forward(&images, true).cross_entropy_for_logits(&targets);
                crate::optimizer::Optimizer::step(&mut adam, &loss, 2e-3);
                loss.double_value(&[])
            })
            .collect();
        assert!(losses[11] < 0.5 * losses[0], "{losses:?}");
    }

    #[test]
    fn images_of_half_precision_give_the_logits_and_gradients_of_f32() {
        let first = "blocks.2.0.conv_dw.weight";
        for (name, side, weight, most) in [
            ("efficientnet_lite0", 48, first, 0.5),
            ("efficientnet_b0", 48, first, f64::INFINITY),
            ("inception_resnet_v1", 96, "repeat_2.0.branch1.1.conv.weight", 0.5),
        ] {
            tch::manual_seed(7);
            let (store, _, net) = network(name, 5);
            let images = Tensor::randn([4, 3, side, side], (Kind::Float, Device::Cpu));
            let [exact, half] = [Kind::Float, Kind::Half].map(|kind| {
                let logits = net.forward(&images.to_kind(kind), false);
                assert_eq!(logits.kind(), Kind::Float);
                logits.square().sum(Kind::Float).backward();
                let mut weight = store.variables()[weight].shallow_clone();
                let gradient = weight.grad().copy();
                weight.zero_grad();
                assert_eq!(gradient.kind(), Kind::Float);
                (logits, gradient)
            });
            let off = |a: &Tensor, b: &Tensor| ((a - b).norm() / b.norm()).double_value(&[]);
            let (logits, gradients) = (off(&half.0, &exact.0), off(&half.1, &exact.1));
            // B0's vanish from random weights, and in half precision altogether.
            assert!(logits < 0.05 && gradients < most, "{name}: logits {logits} off, gradients {gradients}");
        }
    }

    #[test]
    fn frozen_blocks_stay_as_they_are_until_they_are_released() {
        let (store, _, mut net) = network("efficientnet_b0", 4);
        let images = Tensor::randn([2, 3, 32, 32], (Kind::Float, Device::Cpu));
        net.freeze(2);
        net.forward(&images, true).sum(Kind::Float).backward();
        let variables = store.variables();
        let shift = |name: &str| variables[name].abs().max().double_value(&[]);
        assert!(!variables["blocks.0.0.se.conv_reduce.weight"].requires_grad());
        assert!(!variables["blocks.0.0.conv_dw.weight"].grad().defined());
        assert_eq!(shift("blocks.0.0.bn1.running_mean"), 0.0);
        assert!(variables["blocks.1.0.conv_dw.weight"].grad().defined());
        assert!(shift("blocks.1.0.bn1.running_mean") > 0.0);

        net.freeze(net.blocks());
        let before = shift("blocks.1.0.bn1.running_mean");
        net.forward(&images, true).sum(Kind::Float).backward();
        assert_eq!(shift("blocks.1.0.bn1.running_mean"), before);
        assert!(
            !variables["conv_head.weight"].requires_grad() && variables["classifier.weight"].requires_grad()
        );

        net.freeze(0);
        net.forward(&images, true).sum(Kind::Float).backward();
        assert!(variables["blocks.0.0.conv_dw.weight"].grad().defined());
        assert!(!variables["blocks.0.0.bn1.running_mean"].requires_grad());
    }

    #[test]
    fn a_narrower_network_begins_with_the_leading_channels() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("wide.safetensors");
        let (wide, wide_architecture, _) = network("efficientnet_lite0", 9);
        wide.save(&path).unwrap();
        let (mut store, architecture, _) = network("efficientnet_lite0_075", 9);
        let loaded = load_pretrained(&path, &mut store, &architecture).unwrap();
        // All 247 tensors but those of the stem, the first stages, the last batch norm and the classifier.
        assert_eq!(loaded, checkpoint::Loaded { narrowed: 247 - 61, ..Default::default() });
        let variables = store.variables();
        for name in ["blocks.3.1.conv_pw.weight", "blocks.3.1.bn1.weight", "classifier.weight"] {
            let size = variables[name].size();
            let wide = wide.variables()[name].shallow_clone();
            let leading =
                size.iter().enumerate().fold(wide, |part, (axis, &n)| part.narrow(axis as i64, 0, n));
            assert_eq!(variables[name], leading, "{name}");
        }
        // Nothing of the kind happens between networks of the authors'.
        let path = folder.path().join("narrow.safetensors");
        store.save(&path).unwrap();
        let mut store = wide;
        assert!(load_pretrained(&path, &mut store, &wide_architecture).is_err());
        let (b2, ..) = network("efficientnet_b2", 9);
        let path = folder.path().join("b2.safetensors");
        b2.save(&path).unwrap();
        let (mut store, architecture, _) = network("efficientnet_b0", 9);
        assert!(load_pretrained(&path, &mut store, &architecture).is_err());
    }

    #[test]
    fn dropped_paths_keep_the_mean() {
        tch::manual_seed(1);
        let ones = Tensor::ones([20_000, 1, 1, 1], (Kind::Float, Device::Cpu));
        let mean = drop_path_of(&ones, 0.3).mean(Kind::Float).double_value(&[]);
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
        assert_eq!(drop_path_of(&ones, 0.0), ones);
    }

    #[test]
    fn the_same_weights_give_the_same_logits_as_timm() {
        const NAMES: [&str; 5] = [
            "efficientnet_b0",
            "efficientnet_b3",
            "efficientnet_lite0",
            "tf_efficientnet_b0",
            "tf_efficientnet_lite0",
        ];
        let folder = tempfile::tempdir().unwrap();
        let Some(mut python) = python("timm, torch, safetensors") else { return };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/timm_golden.py");
        let ran = python.arg(script).arg(folder.path()).args(NAMES).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        NAMES.into_iter().for_each(|name| answers_as(folder.path(), name));
    }

    #[test]
    fn the_same_weights_give_the_same_logits_as_facenet_pytorch() {
        let folder = tempfile::tempdir().unwrap();
        let Some(mut python) = python("facenet_pytorch, torch, safetensors") else { return };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/facenet_golden.py");
        let ran = python.arg(script).arg(folder.path()).output().unwrap();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        answers_as(folder.path(), "inception_resnet_v1");
    }

    /// A network answers as the file `NAME.answers.safetensors` in `folder` does, with the weights of `NAME.safetensors`.
    fn answers_as(folder: &Path, name: &str) {
        let (mut store, architecture, net) = network(name, 18);
        let weights = folder.join(format!("{name}.safetensors"));
        let loaded = load_pretrained(&weights, &mut store, &architecture).unwrap();
        assert_eq!((loaded.missing.len(), loaded.unexpected.len()), (0, 0), "{name}: {loaded:?}");
        let answers = folder.join(format!("{name}.answers.safetensors"));
        let mut golden: std::collections::HashMap<_, _> =
            Tensor::read_safetensors(answers).unwrap().into_iter().collect();
        let (images, expected) = (golden.remove("images").unwrap(), golden.remove("logits").unwrap());
        let spread = expected.std(true).double_value(&[]);
        assert!((0.5..2.0).contains(&spread), "{name}: logits that spread by {spread} prove nothing");
        let off = (no_grad(|| net.forward(&images, false)) - expected).abs().max().double_value(&[]);
        assert!(off < 1e-4, "{name} is off by {off}");
    }
}
