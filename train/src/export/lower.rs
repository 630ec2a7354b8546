//! Trained networks as graphs.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use tch::Tensor;

use super::graph::{Activation, BatchNorm, Graph, IMAGE, Op, Parameters, Window};
use crate::{
    detector::network::{self, After, Convolution, Operation},
    network::{Architecture, Body, ConvBn, Convention},
};

/// A checkpoint's tensors by name.
pub type Variables = HashMap<String, Tensor>;

/// The attribute classifier, for square pictures of side `size`.
pub fn classifier(variables: &Variables, architecture: &Architecture, size: i64) -> Result<Graph> {
    let Body::Blocks(blocks) = &architecture.body else { bail!("a graph has no {:?}", architecture.body) };
    let mut graph = Graph::new("attributes", [size; 2]);
    let (mut value, mut side) = (IMAGE, size);
    for block in blocks {
        let before = value;
        for layer in &block.layers {
            let (op, made) = conv_bn(variables, layer, architecture.convention, side)?;
            value = graph.push(&layer.conv, op, &[value]);
            side = made;
        }
        if block.residual {
            let last = &graph.layers[value - 1].name;
            let name = last.rsplit_once('.').map_or(last.as_str(), |(block, _)| block);
            value = graph.push(format!("{name}.add"), Op::Add, &[value, before]);
        }
    }
    value = graph.push("global_pool", Op::GlobalAveragePool, &[value]);
    let name = &architecture.classifier;
    let parameters = Parameters {
        weight: tensor(variables, &format!("{name}.weight"))?.shallow_clone(),
        bias: tensor(variables, &format!("{name}.bias"))?.shallow_clone(),
    };
    value = graph.push(name, Op::Linear(parameters), &[value]);
    graph.outputs.push(("logits".to_owned(), value));
    Ok(graph)
}

/// A convolution with its batch norm, and the side of what it makes.
fn conv_bn(variables: &Variables, layer: &ConvBn, convention: Convention, side: i64) -> Result<(Op, i64)> {
    let &ConvBn { kernel, stride, groups, .. } = layer;
    let weight = tensor(variables, &format!("{}.weight", layer.conv))?;
    let parameters = batch_norm(variables, &layer.bn, convention.epsilon())?.fold(weight);
    let (before, after) = convention.padding(side, kernel, stride);
    let window = Window { stride, pads: [before, before, after, after], groups };
    let activation = match layer.activation {
        crate::network::Activation::None => Activation::None,
        crate::network::Activation::Relu6 => Activation::Relu6,
        other => bail!("{}: a graph has no activation {other:?}", layer.conv),
    };
    Ok((Op::Conv(parameters, window, activation), (side + before + after - kernel) / stride + 1))
}

/// The face detector for pictures of `size` (height, width).
pub fn detector(variables: &Variables, size: [i64; 2]) -> Result<Graph> {
    let mut graph = Graph::new("face", size);
    let mut values = HashMap::from([(network::INPUT.to_owned(), IMAGE)]);
    for layer in network::layers() {
        let op = match &layer.operation {
            Operation::Convolution(convolution) => detector_conv(variables, &layer.name, convolution)?,
            Operation::MaxPool => Op::MaxPool2x,
            Operation::Upsample => Op::Upsample2x,
            Operation::Add => Op::Add,
        };
        let inputs: Vec<usize> = layer.inputs.iter().map(|input| values[input]).collect();
        let value = graph.push(&layer.name, op, &inputs);
        values.insert(layer.name, value);
    }
    for stride in network::STRIDES {
        let name = network::output_name(stride);
        let value = values[&name];
        graph.outputs.push((name, value));
    }
    Ok(graph)
}

fn detector_conv(variables: &Variables, name: &str, convolution: &Convolution) -> Result<Op> {
    let &Convolution { kernel, stride, groups, after, .. } = convolution;
    let weight = tensor(variables, &format!("{name}.conv.weight"))?;
    let (parameters, activation) = match after {
        After::NormRelu => {
            let norm = batch_norm(variables, &format!("{name}.bn"), network::NORM_EPSILON)?;
            (norm.fold(weight), Activation::Relu)
        }
        After::Bias => {
            let bias = tensor(variables, &format!("{name}.conv.bias"))?.shallow_clone();
            (Parameters { weight: weight.shallow_clone(), bias }, Activation::None)
        }
    };
    Ok(Op::Conv(parameters, Window { stride, pads: [kernel / 2; 4], groups }, activation))
}

fn batch_norm<'v>(variables: &'v Variables, name: &str, eps: f64) -> Result<BatchNorm<'v>> {
    let part = |part: &str| tensor(variables, &format!("{name}.{part}"));
    Ok(BatchNorm {
        scale: part("weight")?,
        shift: part("bias")?,
        mean: part("running_mean")?,
        var: part("running_var")?,
        eps,
    })
}

fn tensor<'v>(variables: &'v Variables, name: &str) -> Result<&'v Tensor> {
    variables
        .get(name)
        .with_context(|| format!("the checkpoint has no tensor {name}: is it of another network?"))
}
