//! The parameters in a file that `mien-train export` wrote.

use std::collections::HashMap;

use anyhow::{Context, Result, bail, ensure};
use prost::Message;
use tch::{Kind as Element, Tensor};
use tract_onnx::pb::{
    GraphProto, ModelProto, TensorProto, ValueInfoProto, tensor_proto::DataType,
    tensor_shape_proto::dimension, type_proto,
};

use super::layers::Kind;
use crate::export::graph::{Graph, Op, Parameters};

/// A network's file, its integers and scales not yet multiplied.
#[derive(Debug)]
pub struct File {
    /// The graph's name: which network it is.
    pub name: String,
    /// Height and width of the picture.
    pub size: [i64; 2],
    constants: HashMap<String, Tensor>,
}

/// The graph in an ONNX file.
pub fn graph(bytes: &[u8]) -> Result<GraphProto> {
    ModelProto::decode(bytes)?.graph.context("the file holds no graph")
}

impl File {
    pub fn parse(graph: GraphProto) -> Result<File> {
        let [.., height, width, _] = shape(graph.input.first().context("the graph has no input")?)[..] else {
            bail!("the graph's input is no picture [1, height, width, 3]");
        };
        let constants = graph
            .initializer
            .iter()
            .map(|proto| Ok((proto.name.clone(), constant(proto)?)))
            .collect::<Result<_>>()?;
        Ok(File { name: graph.name, size: [height, width], constants })
    }

    /// The network with the file's parameters.
    pub fn graph(&self, kind: Kind) -> Result<Graph> {
        let mut graph = kind.graph(&kind.fresh(), self.size)?;
        for layer in &mut graph.layers {
            if let Op::Conv(own, ..) | Op::Linear(own) = &mut layer.op {
                let found = self.parameters(&layer.name)?;
                ensure!(
                    (found.weight.size(), found.bias.size()) == (own.weight.size(), own.bias.size()),
                    "{}: {:?} in the file, {:?} in the network",
                    layer.name,
                    found.weight.size(),
                    own.weight.size()
                );
                *own = found;
            }
        }
        Ok(graph)
    }

    /// What a layer computes with: the weight and bias themselves of an f32 file, what the integers stand for of an
    /// int8 one.
    fn parameters(&self, layer: &str) -> Result<Parameters> {
        let of = |part: &str| {
            let name = format!("{layer}/{part}");
            self.real(&name).with_context(|| format!("the file has no {name}: is it of another network?"))
        };
        Ok(Parameters { weight: of("weight")?, bias: of("bias")? })
    }

    fn real(&self, name: &str) -> Option<Tensor> {
        if let Some(float) = self.constants.get(name) {
            return Some(float.shallow_clone());
        }
        let integers = self.constants.get(&format!("{name}/int"))?;
        let scale = self.constants.get(&format!("{name}/scale"))?;
        let mut per_channel = vec![1; integers.dim()];
        per_channel[0] = -1;
        // A bias may have more digits than an f32.
        let real = integers.to_kind(Element::Double) * scale.view(per_channel.as_slice());
        Some(real.to_kind(Element::Float))
    }
}

fn shape(value: &ValueInfoProto) -> Vec<i64> {
    let Some(type_proto::Value::TensorType(tensor)) = value.r#type.as_ref().and_then(|t| t.value.as_ref())
    else {
        return Vec::new();
    };
    let dims = tensor.shape.iter().flat_map(|shape| &shape.dim);
    dims.map(|dim| match dim.value {
        Some(dimension::Value::DimValue(size)) => size,
        _ => -1,
    })
    .collect()
}

fn constant(proto: &TensorProto) -> Result<Tensor> {
    let kind = match DataType::try_from(proto.data_type) {
        Ok(DataType::Float) => Element::Float,
        Ok(DataType::Uint8) => Element::Uint8,
        Ok(DataType::Int8) => Element::Int8,
        Ok(DataType::Int32) => Element::Int,
        _ => bail!("{} is of ONNX's type {}, which no exported file has", proto.name, proto.data_type),
    };
    let wanted = proto.dims.iter().product::<i64>() as usize * kind.elt_size_in_bytes();
    ensure!(
        proto.raw_data.len() == wanted,
        "{}: {} bytes of raw data for the shape {:?}; was the file written by mien-train export?",
        proto.name,
        proto.raw_data.len(),
        proto.dims
    );
    Ok(Tensor::from_data_size(&proto.raw_data, &proto.dims, kind))
}
