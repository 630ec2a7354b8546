//! Training on from a shallower network, whose results a deeper one starts with.

use std::{collections::HashMap, path::Path};

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind, Tensor, nn, no_grad};

use super::network::{After, Convolution, INPUT, Layer, NORM_EPSILON, Operation, layers};

/// Fills `store` from weights of a network that may lack some separable convolutions with as many outputs as inputs;
/// these begin as identities ("Net2Net", Chen, Goodfellow and Shlens 2016).
pub fn warm_start(path: &Path, store: &nn::VarStore) -> Result<()> {
    let saved =
        Tensor::read_safetensors(path).with_context(|| format!("reading the weights {}", path.display()))?;
    let saved: HashMap<String, Tensor> = saved.into_iter().collect();
    let variables = store.variables();
    let mut moments = HashMap::from([(INPUT.to_owned(), Moments::of_nothing())]);
    for layer in layers() {
        let prefix = format!("{}.", layer.name);
        let mut mine = variables.iter().filter(|(name, _)| name.starts_with(&prefix)).peekable();
        if let Operation::Convolution(convolution) = &layer.operation
            && mine.peek().is_some_and(|(name, _)| !saved.contains_key(*name))
        {
            become_identity(&layer, convolution, &variables, &moments[&layer.inputs[0]])
                .with_context(|| format!("{} lacks {}", path.display(), layer.name))?;
        } else {
            for (name, variable) in mine {
                let source = saved.get(name).with_context(|| format!("{} lacks {name}", path.display()))?;
                ensure!(source.size() == variable.size(), "{}: {name} has another shape", path.display());
                no_grad(|| variable.shallow_clone().copy_(source));
            }
        }
        let after = Moments::after(&layer, &variables, &moments);
        moments.insert(layer.name, after);
    }
    Ok(())
}

fn become_identity(
    layer: &Layer,
    convolution: &Convolution,
    variables: &HashMap<String, Tensor>,
    input: &Moments,
) -> Result<()> {
    let &Convolution { inputs, outputs, kernel, stride, groups, after } = convolution;
    if inputs != outputs || stride != 1 || after == After::Bias {
        bail!("a layer from {inputs} to {outputs} channels at stride {stride} can't begin as an identity");
    }
    let set = |name: &str, value: &Tensor| {
        no_grad(|| {
            variables[&format!("{}.{name}", layer.name)].shallow_clone().copy_(value);
        })
    };
    let weight = Tensor::zeros([outputs, inputs / groups, kernel, kernel], (Kind::Float, tch::Device::Cpu));
    let centre = weight.select(3, kernel / 2).select(2, kernel / 2);
    let ones =
        if groups == 1 { Tensor::eye(outputs, (Kind::Float, tch::Device::Cpu)) } else { centre.ones_like() };
    centre.shallow_clone().copy_(&ones);
    set("conv.weight", &weight);
    if after == After::NormRelu {
        set("bn.weight", &(&input.variance + NORM_EPSILON).sqrt());
        set("bn.bias", &input.mean);
        set("bn.running_mean", &input.mean);
        set("bn.running_var", &input.variance);
    }
    Ok(())
}

/// What a layer's channels are about: `[channels]` each.
struct Moments {
    mean: Tensor,
    variance: Tensor,
}

impl Moments {
    /// For layers whose moments nothing asks for.
    fn of_nothing() -> Self {
        Self { mean: Tensor::new(), variance: Tensor::new() }
    }

    fn after(layer: &Layer, variables: &HashMap<String, Tensor>, known: &HashMap<String, Moments>) -> Self {
        let input = |n: usize| &known[&layer.inputs[n]];
        let same =
            |of: &Moments| Self { mean: of.mean.shallow_clone(), variance: of.variance.shallow_clone() };
        match &layer.operation {
            Operation::Convolution(Convolution { after: After::NormRelu, .. }) => {
                let of = |name: &str| variables[&format!("{}.bn.{name}", layer.name)].detach();
                Self::rectified(&of("bias"), &of("weight").abs())
            }
            // A depthwise convolution with nothing after it: right where it is an identity.
            Operation::Convolution(_) | Operation::Upsample => same(input(0)),
            Operation::Add => Self {
                mean: &input(0).mean + &input(1).mean,
                variance: &input(0).variance + &input(1).variance,
            },
        }
    }

    /// Of the positive part of a normal distribution, `[channels]` each.
    fn rectified(mean: &Tensor, deviation: &Tensor) -> Self {
        let deviation = deviation.clamp_min(1e-4);
        let at = mean / &deviation;
        let below = ((&at / 2f64.sqrt()).erf() + 1.0) * 0.5;
        let density = (at.square() * -0.5).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let first = mean * &below + &deviation * &density;
        let second = (mean.square() + deviation.square()) * &below + mean * &deviation * &density;
        Self { variance: (second - first.square()).clamp_min(1e-6), mean: first }
    }
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::{super::network::Network, *};

    /// The weights of a network without these layers.
    fn shallower(missing: &[&str], path: &Path) {
        let store = nn::VarStore::new(Device::Cpu);
        Network::new(&store.root());
        let kept = |name: &str| !missing.iter().any(|layer| name.starts_with(&format!("{layer}.")));
        let variables: Vec<_> = store.variables().into_iter().filter(|(name, _)| kept(name)).collect();
        Tensor::write_safetensors(&variables, path).unwrap();
    }

    #[test]
    fn layers_that_are_missing_change_nothing() {
        tch::manual_seed(2);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("old.safetensors");
        shallower(&["smooth8", "smooth32"], &path);
        let store = nn::VarStore::new(Device::Cpu);
        Network::new(&store.root());
        warm_start(&path, &store).unwrap();
        let variables = store.variables();
        let norm = |name: &str| variables[&format!("smooth8.pointwise.bn.{name}")].shallow_clone();
        let input = Tensor::rand([1, 48, 8, 8], (Kind::Float, Device::Cpu));
        let weight = |name: &str| variables[&format!("smooth8.{name}.conv.weight")].shallow_clone();
        let output = input
            .conv2d(&weight("depthwise"), None::<Tensor>, [1, 1], [1, 1], [1, 1], 48)
            .conv2d(&weight("pointwise"), None::<Tensor>, [1, 1], [0, 0], [1, 1], 1)
            .batch_norm(
                Some(norm("weight")),
                Some(norm("bias")),
                Some(norm("running_mean")),
                Some(norm("running_var")),
                false,
                0.0,
                NORM_EPSILON,
                false,
            )
            .relu();
        assert!(output.allclose(&input, 1e-4, 1e-4, false));
    }

    #[test]
    fn rectified_moments_are_those_of_samples() {
        let (mean, deviation) = (Tensor::from_slice(&[0.3f32]), Tensor::from_slice(&[0.8f32]));
        let moments = Moments::rectified(&mean, &deviation);
        tch::manual_seed(1);
        let samples: Tensor = Tensor::randn([200_000], (Kind::Float, Device::Cpu)) * 0.8 + 0.3;
        let samples = samples.clamp_min(0.0);
        assert!((moments.mean.double_value(&[0]) - samples.mean(Kind::Float).double_value(&[])).abs() < 0.01);
        assert!((moments.variance.double_value(&[0]) - samples.var(true).double_value(&[])).abs() < 0.01);
    }

    #[test]
    fn a_layer_that_cannot_be_an_identity_is_named() {
        let store = nn::VarStore::new(Device::Cpu);
        Network::new(&store.root());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none.safetensors");
        Tensor::write_safetensors(&[("x", Tensor::from_slice(&[1f32]))], &path).unwrap();
        let error = warm_start(&path, &store).unwrap_err();
        assert!(format!("{error:#}").contains("stem"), "{error:#}");
    }
}
