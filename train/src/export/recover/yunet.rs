//! YuNet's own file as a start for the detector (Wu, Peng and Yu, "YuNet: a tiny millisecond-level face detector", 2023).
//!
//! The detector's layers are YuNet's, but for two things:
//!
//! - Where YuNet has outputs of a 1×1 and a depthwise 3×3 convolution each, a head has one 3×3 convolution: their product.
//!   Its score begins as the mean of YuNet's two.
//! - YuNet reads BGR from 0 to 255, and counts boxes and landmarks from a cell's corner, not from its centre.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use tch::{Kind as Element, Tensor};
use tract_onnx::pb::{GraphProto, tensor_proto::DataType};

use crate::{
    detector::network::{self, INPUT, NORM_EPSILON, Operation, STRIDES, output_name},
    export::{
        graph::{Graph, Parameters},
        lower::{self, Variables},
    },
};

/// Whether a file is YuNet's.
pub fn is_yunet(file: &GraphProto) -> bool {
    file.output.iter().any(|output| output.name == "cls_8")
}

/// The detector with YuNet's weights, for pictures of `size`.
pub fn graph(file: &GraphProto, size: [i64; 2]) -> Result<Graph> {
    lower::detector(&variables(convolutions(file)?)?, size)
}

/// All convolutions, in the file's order.
fn convolutions(file: &GraphProto) -> Result<Vec<Parameters>> {
    let mut constants = HashMap::new();
    for proto in &file.initializer {
        if proto.data_type == DataType::Float as i32 {
            let tensor = Tensor::from_data_size(&proto.raw_data, &proto.dims, Element::Float);
            constants.insert(proto.name.as_str(), tensor);
        }
    }
    let of = |name: &str| {
        let found = constants.get(name).map(Tensor::shallow_clone);
        found.with_context(|| format!("YuNet's file has no numbers called {name}"))
    };
    let convolutions = file.node.iter().filter(|node| node.op_type == "Conv");
    convolutions
        .map(|node| match &node.input[..] {
            [_, weight, bias] => Ok(Parameters { weight: of(weight)?, bias: of(bias)? }),
            _ => bail!("a convolution of YuNet's has no bias"),
        })
        .collect()
}

/// The layers' variables, with batch norms that only add.
fn variables(found: Vec<Parameters>) -> Result<Variables> {
    let layers = network::layers();
    let named = layers.iter().filter_map(|layer| match layer.operation {
        Operation::Convolution(convolution) => Some((layer, convolution)),
        _ => None,
    });
    let outputs = STRIDES.map(output_name);
    let mut variables = Variables::new();
    let mut found = found.into_iter();
    for (layer, convolution) in named.filter(|(layer, _)| !outputs.contains(&layer.name)) {
        let mut own = found.next().with_context(|| format!("YuNet has no layer {}", layer.name))?;
        if layer.inputs[0] == INPUT {
            own = of_normalised_rgb(&own);
        }
        put(&mut variables, &layer.name, convolution.after, own);
    }
    // Class, box, objectness and landmarks, each at all strides, each a pair of convolutions.
    let pairs: Vec<Parameters> = found.collect();
    ensure!(
        pairs.len() == 4 * STRIDES.len() * 2,
        "{} convolutions are left for YuNet's outputs",
        pairs.len()
    );
    let pairs: Vec<Parameters> = pairs.chunks_exact(2).map(|pair| as_one(&pair[0], &pair[1])).collect();
    for (level, name) in outputs.iter().enumerate() {
        let [class, boxes, object, landmarks] = [0, 1, 2, 3].map(|kind| &pairs[kind * STRIDES.len() + level]);
        let score = [(&class.weight + &object.weight) / 2.0, (&class.bias + &object.bias) / 2.0];
        let from_centre = Tensor::from_slice(&[0.5f32, 0.5, 0.0, 0.0]);
        let weight = Tensor::cat(&[&score[0], &boxes.weight, &landmarks.weight], 0);
        let bias = Tensor::cat(&[&score[1], &(&boxes.bias - from_centre), &(&landmarks.bias - 0.5)], 0);
        put(&mut variables, name, network::After::Bias, Parameters { weight, bias });
    }
    Ok(variables)
}

fn put(variables: &mut Variables, name: &str, after: network::After, own: Parameters) {
    let Parameters { weight, bias } = own;
    match after {
        network::After::Bias => {
            variables.insert(format!("{name}.conv.bias"), bias);
        }
        network::After::NormRelu => {
            let (one, nothing) = (bias.ones_like(), bias.zeros_like());
            let norm = [
                ("weight", one.shallow_clone()),
                ("bias", bias),
                ("running_mean", nothing),
                ("running_var", one - NORM_EPSILON),
            ];
            variables.extend(norm.map(|(part, tensor)| (format!("{name}.bn.{part}"), tensor)));
        }
    }
    variables.insert(format!("{name}.conv.weight"), weight);
}

/// Of a convolution over BGR from 0 to 255, the one over RGB less 128, over 128.
fn of_normalised_rgb(own: &Parameters) -> Parameters {
    let weight = own.weight.flip([1]) * 128.0;
    let bias = &own.bias + weight.sum_dim_intlist([1, 2, 3].as_slice(), false, None);
    Parameters { weight, bias }
}

/// A pointwise and a depthwise convolution as one. Where the window leaves the picture it differs by a bias.
fn as_one(pointwise: &Parameters, depthwise: &Parameters) -> Parameters {
    let window = depthwise.weight.sum_dim_intlist([1, 2, 3].as_slice(), false, None);
    Parameters {
        weight: &pointwise.weight * &depthwise.weight,
        bias: &pointwise.bias * window + &depthwise.bias,
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, nn, no_grad};
    use tract_onnx::pb::{NodeProto, TensorProto, ValueInfoProto};

    use super::*;
    use crate::{detector::network::normalise, export::tests::pictures};

    const FLOAT: (Element, Device) = (Element::Float, Device::Cpu);

    fn noise(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, FLOAT) * (2.0 / shape[1..].iter().product::<i64>() as f64).sqrt()
    }

    /// Random numbers in a file like YuNet's.
    fn file() -> GraphProto {
        let mut graph = GraphProto {
            output: vec![ValueInfoProto { name: "cls_8".into(), ..Default::default() }],
            ..Default::default()
        };
        let mut put = |weight: &[i64]| {
            let names = ["weight", "bias"].map(|part| format!("{part}{}", graph.node.len()));
            for (name, tensor) in names.iter().zip([noise(weight), Tensor::randn([weight[0]], FLOAT) * 0.1]) {
                let mut raw_data = vec![0; 4 * tensor.numel()];
                tensor.copy_data_u8(&mut raw_data, tensor.numel());
                let (dims, data_type) = (tensor.size(), DataType::Float as i32);
                graph.initializer.push(TensorProto {
                    name: name.clone(),
                    dims,
                    data_type,
                    raw_data,
                    ..Default::default()
                });
            }
            let input = ["x", &names[0], &names[1]].map(str::to_owned).to_vec();
            graph.node.push(NodeProto { op_type: "Conv".into(), input, ..Default::default() });
        };
        for layer in network::layers().iter().filter(|layer| !layer.name.starts_with("stride")) {
            if let Operation::Convolution(c) = layer.operation {
                put(&[c.outputs, c.inputs / c.groups, c.kernel, c.kernel]);
            }
        }
        for channels in [1, 1, 1, 4, 4, 4, 1, 1, 1, 10, 10, 10] {
            put(&[channels, 64, 1, 1]);
            put(&[channels, 1, 3, 3]);
        }
        graph
    }

    #[test]
    fn a_file_like_yunets_becomes_the_detector() {
        tch::manual_seed(4);
        no_grad(|| {
            let batch = normalise(&pictures(4, [96, 96]));
            let graph = graph(&file(), [96, 96]).unwrap();
            let store = nn::VarStore::new(Device::Cpu);
            network::Network::new(&store.root());
            let wanted = lower::detector(&store.variables(), [96, 96]).unwrap();
            let shapes = |graph: &Graph| -> Vec<_> {
                let sizes = |own: &Parameters| (own.weight.size(), own.bias.size());
                graph
                    .layers
                    .iter()
                    .map(|layer| (layer.name.clone(), layer.op.parameters().map(sizes)))
                    .collect()
            };
            assert_eq!(shapes(&graph), shapes(&wanted));
            assert_eq!(graph.run(&batch)[0].size(), [4, 15, 12, 12]);
        });
        let mut short = file();
        short.node.pop();
        let error = no_grad(|| super::graph(&short, [96, 96])).unwrap_err().to_string();
        assert!(error.contains("23 convolutions"), "{error}");
    }

    #[test]
    fn pixels_may_be_normalised_rgb() {
        tch::manual_seed(5);
        let own = Parameters { weight: noise(&[4, 3, 3, 3]), bias: Tensor::randn([4], FLOAT) };
        let pixels = Tensor::rand([1, 3, 8, 8], FLOAT) * 255.0;
        let of =
            |own: &Parameters, x: &Tensor| x.conv2d(&own.weight, Some(&own.bias), [2, 2], [0, 0], [1, 1], 1);
        let bgr = of(&own, &pixels.flip([1]));
        let rgb = of(&of_normalised_rgb(&own), &normalise(&pixels));
        assert!(bgr.allclose(&rgb, 1e-4, 1e-2, false));
    }

    #[test]
    fn a_pair_of_convolutions_becomes_one() {
        tch::manual_seed(6);
        let of =
            |weight: &[i64]| Parameters { weight: noise(weight), bias: Tensor::randn([weight[0]], FLOAT) };
        let (pointwise, depthwise) = (of(&[4, 8, 1, 1]), of(&[4, 1, 3, 3]));
        let x = Tensor::randn([1, 8, 5, 5], FLOAT);
        let run = |x: &Tensor, own: &Parameters, groups| {
            x.conv2d(&own.weight, Some(&own.bias), [1, 1], [0, 0], [1, 1], groups)
        };
        let two = run(&run(&x, &pointwise, 1), &depthwise, 4);
        assert!(two.allclose(&run(&x, &as_one(&pointwise, &depthwise), 1), 1e-4, 1e-4, false));
    }
}
