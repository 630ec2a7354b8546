//! Cross-layer equalisation (Nagel et al. 2019, arXiv:1906.04721, section 4.1), by activations.
//!
//! A value is quantised by one scale for all its channels, so a channel of small values is rounded coarsely. Between
//! a convolution without ReLU6 and convolutions that read it, every channel can be scaled down and up again: the
//! network stays the same, and its channels become alike.

use tch::Tensor;

use super::graph::{Activation, Graph, Op, Parameters};

/// Scales channels so that on `image` (normalised pictures) those of one value have like ranges.
pub fn equalize(graph: &mut Graph, image: &Tensor) {
    let values = graph.values(image);
    for producer in 0..graph.layers.len() {
        if !may_rescale(graph, producer) {
            continue;
        }
        let range = values[producer + 1].abs().amax([0, 2, 3].as_slice(), false);
        // A depthwise reader has a weight scale for each channel and takes any factor; another reader's weight scales
        // span its input channels, so activation and weight share the imbalance.
        let readers = readers_of(graph, producer);
        let weight =
            readers.iter().filter_map(|&l| column_range(&graph.layers[l].op)).reduce(|a, b| a.maximum(&b));
        let factor = match weight {
            None => range.shallow_clone(),
            Some(weight) => (&range / weight.clamp_min(1e-12)).sqrt(),
        };
        let factor = factor.where_self(&range.gt(0.0), &range.ones_like()).clamp(1e-4, 1e4);
        rescale(graph, producer, &factor);
    }
}

/// The layers that read what layer `producer` makes, or the largest of it: a channel's factor passes a maximum.
pub fn readers_of(graph: &Graph, producer: usize) -> Vec<usize> {
    let value = producer + 1;
    let readers = (value..graph.layers.len()).filter(|&l| graph.layers[l].inputs.contains(&value));
    readers
        .flat_map(|l| match graph.layers[l].op {
            Op::MaxPool2x => readers_of(graph, l),
            _ => vec![l],
        })
        .collect()
}

/// Whether a layer's channels may be scaled and scaled back by its readers.
fn may_rescale(graph: &Graph, producer: usize) -> bool {
    matches!(graph.layers[producer].op, Op::Conv(_, _, Activation::None | Activation::Relu))
        && graph.output_name(producer + 1).is_none()
        && readers_of(graph, producer).iter().all(|&l| matches!(graph.layers[l].op, Op::Conv(..)))
}

/// Divides the channels of a convolution's output by `factor` `[channels]`, all above zero, and multiplies its readers'
/// weights by it; leaves the graph alone where that would change what it computes.
pub fn rescale(graph: &mut Graph, producer: usize, factor: &Tensor) {
    if !may_rescale(graph, producer) {
        return;
    }
    if let Op::Conv(own, ..) = &mut graph.layers[producer].op {
        *own = Parameters { weight: &own.weight / factor.view([-1, 1, 1, 1]), bias: &own.bias / factor };
    }
    for reader in readers_of(graph, producer) {
        if let Op::Conv(own, window, _) = &mut graph.layers[reader].op {
            let shape = if window.groups == 1 { [1, -1, 1, 1] } else { [-1, 1, 1, 1] };
            own.weight = &own.weight * factor.view(shape);
        }
    }
}

/// The largest weight on each input channel; `None` for a depthwise convolution.
fn column_range(op: &Op) -> Option<Tensor> {
    match op {
        Op::Conv(own, window, _) if window.groups == 1 => {
            Some(own.weight.abs().amax([0, 2, 3].as_slice(), false))
        }
        _ => None,
    }
}
