//! Graphs as ONNX files: opset 17, fixed shapes, one uint8 input `image` `[1, height, width, 3]`, f32 outputs.
//!
//! The picture is transposed to NCHW and read by a `DequantizeLinear`. In a quantised file every other value between
//! two layers is `QuantizeLinear → DequantizeLinear` too, parameters are `DequantizeLinear` of int8 and int32
//! initialisers, per output channel, and ReLU and ReLU6 are left out: the uint8 range clips exactly as they do.
//! `Flatten`, `MaxPool` and `Resize` work on the uint8 values themselves. No shape is written inside the graph, so a
//! program may give the input another batch, and the detector's other sides.

use std::collections::HashSet;

use prost::Message;
use tch::{Kind, Tensor};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto,
    TypeProto, ValueInfoProto, attribute_proto::AttributeType, tensor_proto::DataType, tensor_shape_proto,
    type_proto,
};

use super::{
    graph::{Activation, Graph, Layer, Op},
    quantize::{Affine, Integers, Quantized},
};

const OPSET: i64 = 17;
/// The file format's version that belongs to the opset.
const IR_VERSION: i64 = 8;

/// The bytes of an ONNX file; int8 if `quantized` is given, else f32.
pub fn encode(graph: &Graph, quantized: Option<&Quantized>) -> Vec<u8> {
    let [height, width] = graph.size;
    let mut writer = Writer::default();
    let mut stored = vec![writer.image()];
    for (index, layer) in graph.layers.iter().enumerate() {
        let integers = quantized.and_then(|q| q.parameters[index].as_ref());
        let affine = quantized.and_then(|q| q.values[index + 1]);
        let inputs: Vec<&Stored> = layer.inputs.iter().map(|&i| &stored[i]).collect();
        let output = match graph.output_name(index + 1) {
            Some(name) => name.to_owned(),
            None => format!("{}/out", layer.name),
        };
        let value = writer.layer(layer, &inputs, integers, affine, output);
        stored.push(value);
    }

    let empty = Tensor::zeros([1, 3, height, width], (Kind::Float, tch::Device::Cpu));
    let shapes = tch::no_grad(|| graph.run(&empty));
    let output = graph.outputs.iter().zip(shapes);
    let graph = GraphProto {
        name: graph.name.clone(),
        input: vec![value_info("image", DataType::Uint8, &[1, height, width, 3])],
        output: output.map(|((name, _), shape)| value_info(name, DataType::Float, &shape.size())).collect(),
        ..writer.graph
    };
    let model = ModelProto {
        ir_version: IR_VERSION,
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
        producer_name: env!("CARGO_PKG_NAME").to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        graph: Some(graph),
        ..Default::default()
    };
    model.encode_to_vec()
}

/// A value in the file.
#[derive(Debug, Clone)]
struct Stored {
    name: String,
    /// How it is read, if it is uint8.
    affine: Option<Affine>,
}

#[derive(Default)]
struct Writer {
    graph: GraphProto,
    /// Names of nodes and initialisers that are written once, however often they are used.
    written: HashSet<String>,
}

impl Writer {
    fn image(&mut self) -> Stored {
        let name = "image/nchw".to_owned();
        self.node("Transpose", &["image"], &name, vec![ints("perm", &[0, 3, 1, 2])]);
        Stored { name, affine: Some(Affine::PIXELS) }
    }

    /// Writes a layer whose result is called `output`, or quantised to `affine`.
    fn layer(
        &mut self,
        layer: &Layer,
        inputs: &[&Stored],
        integers: Option<&Integers>,
        affine: Option<Affine>,
        output: String,
    ) -> Stored {
        // Written of the uint8 values themselves.
        let stored = |name: String| Stored { name, affine: inputs[0].affine };
        match layer.op {
            Op::MaxPool2x => {
                self.max_pool(&inputs[0].name, &output);
                return stored(output);
            }
            Op::Upsample2x => {
                self.upsample(&inputs[0].name, &output);
                return stored(output);
            }
            _ => {}
        }
        // What the layer makes before its activation.
        let raw = match affine {
            Some(_) => format!("{}/f32", layer.name),
            None if layer.op.activation() != Activation::None => format!("{}/linear", layer.name),
            None => output.clone(),
        };
        match &layer.op {
            Op::Conv(own, window, _) => {
                let x = self.real(inputs[0]);
                let [weight, bias] = self.parameters(layer, integers);
                let attributes = vec![
                    ints("kernel_shape", &own.weight.size()[2..]),
                    ints("strides", &[window.stride; 2]),
                    ints("pads", &window.pads),
                    int("group", window.groups),
                ];
                self.node("Conv", &[&x, &weight, &bias], &raw, attributes);
            }
            Op::Linear(_) => {
                let flat = Stored { name: format!("{}/flat", layer.name), affine: inputs[0].affine };
                self.node("Flatten", &[&inputs[0].name], &flat.name, vec![int("axis", 1)]);
                let x = self.real(&flat);
                let [weight, bias] = self.parameters(layer, integers);
                self.node("Gemm", &[&x, &weight, &bias], &raw, vec![int("transB", 1)]);
            }
            Op::Add => {
                let (a, b) = (self.real(inputs[0]), self.real(inputs[1]));
                self.node("Add", &[&a, &b], &raw, vec![]);
            }
            Op::GlobalAveragePool => {
                let x = self.real(inputs[0]);
                self.node("GlobalAveragePool", &[&x], &raw, vec![]);
            }
            Op::MaxPool2x | Op::Upsample2x => unreachable!("written above"),
        }
        match affine {
            Some(affine) => {
                let [scale, zero_point] = self.affine(&output, affine);
                self.node("QuantizeLinear", &[&raw, &scale, &zero_point], &output, vec![]);
            }
            None => self.activation(layer.op.activation(), &raw, &output),
        }
        Stored { name: output, affine }
    }

    fn max_pool(&mut self, input: &str, output: &str) {
        let attributes = vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])];
        self.node("MaxPool", &[input], output, attributes);
    }

    fn upsample(&mut self, input: &str, output: &str) {
        let scales = "upsample/scales";
        self.initializer(scales, &Tensor::from_slice(&[1f32, 1.0, 2.0, 2.0]));
        let attributes = vec![
            string("mode", "nearest"),
            string("coordinate_transformation_mode", "asymmetric"),
            string("nearest_mode", "floor"),
        ];
        self.node("Resize", &[input, "", scales], output, attributes);
    }

    fn activation(&mut self, activation: Activation, input: &str, output: &str) {
        match activation {
            Activation::None => {}
            Activation::Relu => self.node("Relu", &[input], output, vec![]),
            Activation::Relu6 => {
                let [zero, six] = ["relu6/min", "relu6/max"];
                self.initializer(zero, &Tensor::from(0f32));
                self.initializer(six, &Tensor::from(6f32));
                self.node("Clip", &[input, zero, six], output, vec![]);
            }
        }
    }

    /// The f32 form of a value.
    fn real(&mut self, value: &Stored) -> String {
        let Some(affine) = value.affine else { return value.name.clone() };
        let real = format!("{}/real", value.name);
        if self.written.insert(real.clone()) {
            let [scale, zero_point] = self.affine(&value.name, affine);
            self.node("DequantizeLinear", &[&value.name, &scale, &zero_point], &real, vec![]);
        }
        real
    }

    /// The names of a value's scale and zero point.
    fn affine(&mut self, value: &str, affine: Affine) -> [String; 2] {
        let names = [format!("{value}/scale"), format!("{value}/zero_point")];
        self.initializer(&names[0], &Tensor::from(affine.scale));
        self.initializer(&names[1], &Tensor::from(affine.zero_point));
        names
    }

    /// The names of a layer's weight and bias in f32.
    fn parameters(&mut self, layer: &Layer, integers: Option<&Integers>) -> [String; 2] {
        let names = [format!("{}/weight", layer.name), format!("{}/bias", layer.name)];
        match (integers, layer.op.parameters()) {
            (Some(integers), _) => {
                let Integers { weight, weight_scale, bias, bias_scale } = integers;
                [
                    self.per_channel(&names[0], weight, weight_scale),
                    self.per_channel(&names[1], bias, bias_scale),
                ]
            }
            (None, Some(float)) => {
                self.initializer(&names[0], &float.weight);
                self.initializer(&names[1], &float.bias);
                names
            }
            (None, None) => unreachable!("only layers with parameters ask for them"),
        }
    }

    /// The f32 form of a constant with a scale per output channel and zero point 0.
    fn per_channel(&mut self, name: &str, constant: &Tensor, scale: &Tensor) -> String {
        let [integers, scales, zero_points] =
            ["int", "scale", "zero_point"].map(|part| format!("{name}/{part}"));
        self.initializer(&integers, constant);
        self.initializer(&scales, &scale.to_kind(Kind::Float));
        self.initializer(&zero_points, &scale.zeros_like().to_kind(constant.kind()));
        self.node("DequantizeLinear", &[&integers, &scales, &zero_points], name, vec![int("axis", 0)]);
        name.to_owned()
    }

    fn node(&mut self, op_type: &str, inputs: &[&str], output: &str, attribute: Vec<AttributeProto>) {
        self.graph.node.push(NodeProto {
            name: output.to_owned(),
            op_type: op_type.to_owned(),
            input: inputs.iter().map(|&input| input.to_owned()).collect(),
            output: vec![output.to_owned()],
            attribute,
            ..Default::default()
        });
    }

    /// Writes a constant, unless one of that name is written.
    fn initializer(&mut self, name: &str, tensor: &Tensor) {
        if !self.written.insert(name.to_owned()) {
            return;
        }
        let data_type = match tensor.kind() {
            Kind::Float => DataType::Float,
            Kind::Uint8 => DataType::Uint8,
            Kind::Int8 => DataType::Int8,
            Kind::Int => DataType::Int32,
            kind => unreachable!("graphs have no {kind:?} constants"),
        };
        let mut raw_data = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.detach().to_device(tch::Device::Cpu).contiguous().copy_data_u8(&mut raw_data, tensor.numel());
        self.graph.initializer.push(TensorProto {
            name: name.to_owned(),
            dims: tensor.size(),
            data_type: data_type as i32,
            raw_data,
            ..Default::default()
        });
    }
}

fn value_info(name: &str, element: DataType, shape: &[i64]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension};
    let dim = shape
        .iter()
        .map(|&d| Dimension { value: Some(dimension::Value::DimValue(d)), ..Default::default() })
        .collect();
    let tensor = type_proto::Tensor { elem_type: element as i32, shape: Some(TensorShapeProto { dim }) };
    ValueInfoProto {
        name: name.to_owned(),
        r#type: Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}

fn attribute(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: kind as i32, ..Default::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attribute(name, AttributeType::Int) }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..attribute(name, AttributeType::Ints) }
}

fn string(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: s.into(), ..attribute(name, AttributeType::String) }
}
