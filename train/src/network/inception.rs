//! Inception-ResNet v1 (Szegedy et al., 2017), the network of FaceNet's published weights, which tell people apart.
//!
//! Tensors have the names of facenet-pytorch, so that its weights load by name; layers are those of David Sandberg's facenet.

use tch::{
    Kind, Tensor,
    nn::{self, ModuleT},
};

use super::{Stage, at, drop_path_of, pointwise};

/// Channels before the mean over all pixels.
pub const FEATURES: i64 = 1792;
/// The least side of a picture that leaves a pixel at the end.
pub const LEAST_SIDE: i64 = 75;
const EPSILON: f64 = 1e-3;

/// A convolution without bias.
#[derive(Debug, Clone, Copy)]
struct Spec {
    input: i64,
    output: i64,
    /// Height and width.
    kernel: [i64; 2],
    stride: i64,
    padded: bool,
}

/// Padded with zeros, so that a picture keeps its size.
const fn conv(input: i64, output: i64, kernel: [i64; 2]) -> Spec {
    Spec { input, output, kernel, stride: 1, padded: true }
}

impl Spec {
    const fn unpadded(self) -> Spec {
        Spec { padded: false, ..self }
    }

    const fn halving(self) -> Spec {
        Spec { stride: 2, padded: false, ..self }
    }
}

/// A convolution, its batch norm and ReLU.
#[derive(Debug)]
struct Conv {
    spec: Spec,
    weight: Tensor,
    bn: nn::BatchNorm,
}

impl Conv {
    fn new(root: &nn::Path, name: &str, spec: Spec) -> Conv {
        let path = at(root, name);
        let Spec { input, output, kernel: [h, w], .. } = spec;
        let init = nn::Init::Randn { mean: 0.0, stdev: (2.0 / (h * w * input) as f64).sqrt() };
        let config =
            nn::BatchNormConfig { eps: EPSILON, ws_init: nn::Init::Const(1.0), ..Default::default() };
        Conv {
            weight: (&path / "conv").var("weight", &[output, input, h, w], init),
            bn: nn::batch_norm2d(&path / "bn", output, config),
            spec,
        }
    }

    fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let Spec { kernel, stride, padded, .. } = self.spec;
        let padding = if padded { kernel.map(|side| side / 2) } else { [0, 0] };
        let y = x.conv2d(&self.weight.to_kind(x.kind()), None::<Tensor>, stride, padding, 1, 1);
        self.bn.forward_t(&y, train).relu()
    }

    fn variables(&self) -> impl Iterator<Item = &Tensor> {
        [&self.weight].into_iter().chain(&self.bn.ws).chain(&self.bn.bs)
    }
}

impl Stage for Conv {
    fn forward(&self, x: &Tensor, _drop_path: f64, train: bool) -> Tensor {
        Conv::forward(self, x, train)
    }

    fn variables(&self) -> Vec<&Tensor> {
        Conv::variables(self).collect()
    }
}

/// Every picture gets mean 0 and deviation 1 over its pixels and channels, as FaceNet's weights want it.
#[derive(Debug)]
struct Standardise;

impl Stage for Standardise {
    fn forward(&self, x: &Tensor, _drop_path: f64, _train: bool) -> Tensor {
        const LEAST: f64 = 1e-4;
        let values = x.to_kind(Kind::Float);
        let axes = [1i64, 2, 3];
        let centred = &values - values.mean_dim(axes.as_slice(), true, Kind::Float);
        let deviation = centred.square().mean_dim(axes.as_slice(), true, Kind::Float).sqrt();
        (centred / deviation.clamp_min(LEAST)).to_kind(x.kind())
    }

    fn variables(&self) -> Vec<&Tensor> {
        Vec::new()
    }
}

/// The largest of 3×3 values, every two pixels.
#[derive(Debug)]
struct Pool;

fn pool(x: &Tensor) -> Tensor {
    x.max_pool2d([3, 3], [2, 2], [0, 0], [1, 1], false)
}

impl Stage for Pool {
    fn forward(&self, x: &Tensor, _drop_path: f64, _train: bool) -> Tensor {
        pool(x)
    }

    fn variables(&self) -> Vec<&Tensor> {
        Vec::new()
    }
}

/// Branches side by side, whose channels lie one after the other.
#[derive(Debug)]
struct Mixed {
    branches: Vec<Vec<Conv>>,
    then: Then,
}

#[derive(Debug)]
enum Then {
    /// One more branch is a [`Pool`].
    Pooled,
    /// The block's input is added to a convolution of the branches, times `scale`.
    Added { conv: nn::Conv2D, scale: f64, relu: bool },
}

impl Mixed {
    fn branches(root: &nn::Path, name: &str, branches: &[&[Spec]]) -> Vec<Vec<Conv>> {
        let branch = |(b, specs): (usize, &&[Spec])| match specs {
            [one] => vec![Conv::new(root, &format!("{name}.branch{b}"), *one)],
            specs => {
                let named =
                    |(i, spec): (usize, &Spec)| Conv::new(root, &format!("{name}.branch{b}.{i}"), *spec);
                specs.iter().enumerate().map(named).collect()
            }
        };
        branches.iter().enumerate().map(branch).collect()
    }

    fn halving(root: &nn::Path, name: &str, branches: &[&[Spec]]) -> Mixed {
        Mixed { branches: Mixed::branches(root, name, branches), then: Then::Pooled }
    }

    fn residual(
        root: &nn::Path,
        name: &str,
        channels: i64,
        branches: &[&[Spec]],
        scale: f64,
        relu: bool,
    ) -> Mixed {
        let inner = branches.iter().filter_map(|branch| branch.last()).map(|spec| spec.output).sum();
        let conv = nn::conv2d(at(root, &format!("{name}.conv2d")), inner, channels, 1, Default::default());
        Mixed { branches: Mixed::branches(root, name, branches), then: Then::Added { conv, scale, relu } }
    }
}

impl Stage for Mixed {
    fn forward(&self, x: &Tensor, drop_path: f64, train: bool) -> Tensor {
        let through =
            |branch: &Vec<Conv>| branch.iter().fold(x.shallow_clone(), |y, conv| conv.forward(&y, train));
        let mut sides: Vec<Tensor> = self.branches.iter().map(through).collect();
        match &self.then {
            Then::Pooled => {
                sides.push(pool(x));
                Tensor::cat(&sides, 1)
            }
            Then::Added { conv, scale, relu } => {
                let y = pointwise(conv, &Tensor::cat(&sides, 1)) * *scale;
                let y = x + if train { drop_path_of(&y, drop_path) } else { y };
                if *relu { y.relu() } else { y }
            }
        }
    }

    fn variables(&self) -> Vec<&Tensor> {
        let own = match &self.then {
            Then::Pooled => Vec::new(),
            Then::Added { conv, .. } => [&conv.ws].into_iter().chain(&conv.bs).collect(),
        };
        self.branches.iter().flatten().flat_map(Conv::variables).chain(own).collect()
    }
}

/// All stages before the mean over all pixels.
pub fn stages(root: &nn::Path) -> Vec<Box<dyn Stage>> {
    const ONE: [i64; 2] = [1, 1];
    const THREE: [i64; 2] = [3, 3];
    let single = |name: &str, spec: Spec| -> Box<dyn Stage> { Box::new(Conv::new(root, name, spec)) };
    let residual =
        |name: String, channels: i64, branches: &[&[Spec]], scale: f64, relu: bool| -> Box<dyn Stage> {
            Box::new(Mixed::residual(root, &name, channels, branches, scale, relu))
        };
    let mut stages: Vec<Box<dyn Stage>> = vec![
        Box::new(Standardise),
        single("conv2d_1a", conv(3, 32, THREE).halving()),
        single("conv2d_2a", conv(32, 32, THREE).unpadded()),
        single("conv2d_2b", conv(32, 64, THREE)),
        Box::new(Pool),
        single("conv2d_3b", conv(64, 80, ONE)),
        single("conv2d_4a", conv(80, 192, THREE).unpadded()),
        single("conv2d_4b", conv(192, 256, THREE).halving()),
    ];
    let block35: [&[Spec]; 3] = [
        &[conv(256, 32, ONE)],
        &[conv(256, 32, ONE), conv(32, 32, THREE)],
        &[conv(256, 32, ONE), conv(32, 32, THREE), conv(32, 32, THREE)],
    ];
    stages.extend((0..5).map(|i| residual(format!("repeat_1.{i}"), 256, &block35, 0.17, true)));
    stages.push(Box::new(Mixed::halving(
        root,
        "mixed_6a",
        &[
            &[conv(256, 384, THREE).halving()],
            &[conv(256, 192, ONE), conv(192, 192, THREE), conv(192, 256, THREE).halving()],
        ],
    )));
    let block17: [&[Spec]; 2] =
        [&[conv(896, 128, ONE)], &[conv(896, 128, ONE), conv(128, 128, [1, 7]), conv(128, 128, [7, 1])]];
    stages.extend((0..10).map(|i| residual(format!("repeat_2.{i}"), 896, &block17, 0.1, true)));
    stages.push(Box::new(Mixed::halving(
        root,
        "mixed_7a",
        &[
            &[conv(896, 256, ONE), conv(256, 384, THREE).halving()],
            &[conv(896, 256, ONE), conv(256, 256, THREE).halving()],
            &[conv(896, 256, ONE), conv(256, 256, THREE), conv(256, 256, THREE).halving()],
        ],
    )));
    let block8: [&[Spec]; 2] = [
        &[conv(FEATURES, 192, ONE)],
        &[conv(FEATURES, 192, ONE), conv(192, 192, [1, 3]), conv(192, 192, [3, 1])],
    ];
    stages.extend((0..5).map(|i| residual(format!("repeat_3.{i}"), FEATURES, &block8, 0.2, true)));
    stages.push(residual("block8".into(), FEATURES, &block8, 1.0, false));
    stages
}

#[cfg(test)]
mod tests {
    use tch::{Device, no_grad};

    use super::*;
    use crate::network::{Architecture, Network, Regularisation};

    #[test]
    fn brightness_and_contrast_of_a_picture_do_not_matter_and_the_least_side_is_enough() {
        tch::manual_seed(3);
        let store = nn::VarStore::new(Device::Cpu);
        let architecture = Architecture::by_name("inception_resnet_v1", 4).unwrap();
        let network = Network::new(&store.root(), &architecture, Regularisation::default());
        let image = Tensor::randn([1, 3, LEAST_SIDE, LEAST_SIDE], (Kind::Float, Device::Cpu));
        let logits = |image: &Tensor| no_grad(|| network.forward(image, false));
        let other = logits(&image.flip([3]));
        let same = logits(&(&image * 0.25 - 0.5));
        let off = |a: &Tensor| (a - logits(&image)).abs().max().double_value(&[]);
        assert!(off(&same) < 1e-4 && off(&other) > 1e-3, "{} and {}", off(&same), off(&other));
        assert!(off(&logits(&Tensor::zeros_like(&image))).is_finite());
    }
}
