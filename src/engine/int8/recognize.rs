//! ONNX in, a program out, and what is left.

use std::collections::HashMap;

use tract_onnx::{
    pb::{GraphProto, ModelProto, NodeProto, TensorProto},
    prelude::*,
    tract_core::internal::format_err,
};

use super::{
    super::kernels::{InstructionSet, pointwise::Addition},
    convolution::{Convolution, Form},
    program::{Geometry, Layer, Operation, PICTURE, Program, Quantization, TensorId},
};

/// What became of a node of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// It is part of this layer of the program.
    Layer(String),
    /// It only says what values stand for, or how they lie in memory.
    Free,
    /// It stays in plain tract, and why.
    Plain(String),
}

/// A graph, cut in two.
pub struct Recognized {
    /// Nothing when no layer is known.
    pub program: Option<Program>,
    /// What plain tract has to do: its inputs are the program's exits (f32), and the picture if it reads that as well.
    pub rest: Option<ModelProto>,
    /// Name, operator and fate of each node.
    pub fates: Vec<(String, String, Fate)>,
}

/// What a name in the graph stands for.
#[derive(Clone)]
pub(super) enum Value {
    Constant(Arc<Tensor>),
    /// A constant in whole numbers, to be multiplied by the scale of its first axis (or the only one).
    Scaled {
        whole: Arc<Tensor>,
        scales: Vec<f32>,
    },
    /// u8; of the picture nobody has said yet what it stands for.
    Quantized {
        tensor: TensorId,
        quantization: Option<Quantization>,
        flat: bool,
    },
    /// The same as numbers.
    Real {
        tensor: TensorId,
        quantization: Quantization,
        flat: bool,
    },
    /// Numbers that are not quantised yet, and their limits.
    Sum(Sum, Limits),
}

#[derive(Clone)]
pub(super) enum Sum {
    Convolution(Arc<Convolution>),
    Add([(TensorId, Quantization); 2]),
    Pool(TensorId, Quantization),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub low: f32,
    pub high: f32,
}

const UNLIMITED: Limits = Limits { low: f32::NEG_INFINITY, high: f32::INFINITY };

pub(super) type Step<T> = Result<T, String>;

/// Cuts a graph with the input `image` (u8, `[N, H, W, 3]`) into a program and a rest.
///
/// # Errors
/// When a constant can't be read.
pub fn recognize(proto: &ModelProto, set: InstructionSet) -> TractResult<Recognized> {
    let graph = proto.graph.as_ref().ok_or_else(|| format_err!("there is no graph"))?;
    let mut refused = HashMap::new();
    loop {
        let mut reader = Reader::new(graph, set, &refused)?;
        for (index, node) in graph.node.iter().enumerate() {
            reader.node(index, node);
        }
        match reader.cut(proto) {
            Ok(recognized) => return Ok(recognized),
            // A sum leaves before it is quantised: its node has to stay plain.
            Err((node, reason)) => refused.insert(node, reason),
        };
    }
}

pub(super) struct Reader<'a> {
    pub(super) graph: &'a GraphProto,
    pub(super) set: InstructionSet,
    refused: &'a HashMap<String, String>,
    pub(super) values: HashMap<&'a str, Value>,
    pub(super) fates: Vec<Fate>,
    pub(super) layers: Vec<Layer>,
    pub(super) channels: Vec<usize>,
    pub(super) real: Vec<bool>,
}

impl<'a> Reader<'a> {
    fn new(
        graph: &'a GraphProto,
        set: InstructionSet,
        refused: &'a HashMap<String, String>,
    ) -> TractResult<Self> {
        let constant = |tensor: &'a TensorProto| -> TractResult<(&'a str, Value)> {
            let provider = tract_onnx::data_resolver::MmapDataResolver;
            let value = tract_onnx::tensor::load_tensor(&provider, tensor, None)?;
            Ok((tensor.name.as_str(), Value::Constant(value.into_arc_tensor())))
        };
        let mut values = graph.initializer.iter().map(constant).collect::<TractResult<HashMap<_, _>>>()?;
        values.insert("image", Value::Quantized { tensor: PICTURE, quantization: None, flat: false });
        Ok(Self {
            graph,
            set,
            refused,
            values,
            fates: Vec::new(),
            layers: Vec::new(),
            channels: vec![3],
            real: vec![false],
        })
    }

    fn node(&mut self, index: usize, node: &'a NodeProto) {
        debug_assert_eq!(index, self.fates.len());
        let layers = self.layers.len();
        let result = match self.refused.get(output(node)) {
            Some(reason) => Err(reason.clone()),
            None => self.value(node),
        };
        let fate = match result {
            Ok(value) => {
                let fate = match (&value, self.layers.get(layers)) {
                    (_, Some(layer)) => Fate::Layer(layer.name.clone()),
                    (Value::Sum(..), None) => Fate::Layer(layer_name(output(node)).to_owned()),
                    _ => Fate::Free,
                };
                self.values.insert(output(node), value);
                fate
            }
            Err(reason) => Fate::Plain(reason),
        };
        self.fates.push(fate);
    }

    fn value(&mut self, node: &'a NodeProto) -> Step<Value> {
        if node.output.len() != 1 {
            return Err(format!("it has {} outputs", node.output.len()));
        }
        match node.op_type.as_str() {
            "Transpose" => match (self.input(node, 0)?, ints(node, "perm").as_deref()) {
                // Tensors are channels last already.
                (value @ Value::Quantized { tensor: PICTURE, .. }, Some([0, 3, 1, 2])) => Ok(value),
                _ => Err("only the picture's NHWC to NCHW costs nothing".into()),
            },
            "Flatten" => match self.input(node, 0)? {
                Value::Quantized { tensor, quantization, flat: true } => {
                    Ok(Value::Quantized { tensor, quantization, flat: true })
                }
                Value::Real { tensor, quantization, flat: true } => {
                    Ok(Value::Real { tensor, quantization, flat: true })
                }
                _ => Err("only a pooled tensor can be flattened".into()),
            },
            "DequantizeLinear" => self.dequantized(node),
            "QuantizeLinear" => self.quantized(node),
            "Conv" => self.convolution(node),
            "Gemm" => self.product(node),
            "Add" => {
                let [a, b] = [self.real(node, 0)?, self.real(node, 1)?];
                if self.channels[a.0] != self.channels[b.0] {
                    return Err("its operands have different channels".into());
                }
                Ok(Value::Sum(Sum::Add([(a.0, a.1), (b.0, b.1)]), UNLIMITED))
            }
            "GlobalAveragePool" => {
                let (tensor, quantization, _) = self.real(node, 0)?;
                Ok(Value::Sum(Sum::Pool(tensor, quantization), UNLIMITED))
            }
            "Relu" => self.limited(node, Limits { low: 0.0, high: f32::INFINITY }),
            "Clip" => {
                let bound = |n: usize, default: f32| match node.input.get(n).filter(|name| !name.is_empty()) {
                    Some(_) => {
                        self.floats(node, n).and_then(|of| of.first().copied().ok_or("no limit".into()))
                    }
                    None => Ok(default),
                };
                let limits = Limits { low: bound(1, f32::NEG_INFINITY)?, high: bound(2, f32::INFINITY)? };
                self.limited(node, limits)
            }
            "MaxPool" => self.max_pooled(node),
            "Resize" => self.upsampled(node),
            other => Err(format!("{other} has no int8 operator")),
        }
    }

    fn input(&self, node: &NodeProto, n: usize) -> Step<Value> {
        let name = node.input.get(n).ok_or_else(|| format!("it has no input {n}"))?;
        self.values.get(name.as_str()).cloned().ok_or_else(|| format!("{name} is computed in plain tract"))
    }

    fn real(&self, node: &NodeProto, n: usize) -> Step<(TensorId, Quantization, bool)> {
        match self.input(node, n)? {
            Value::Real { tensor, quantization, flat } => Ok((tensor, quantization, flat)),
            _ => Err(format!("{} is not a dequantised tensor", node.input[n])),
        }
    }

    fn constant(&self, node: &NodeProto, n: usize) -> Step<Arc<Tensor>> {
        match self.input(node, n)? {
            Value::Constant(tensor) => Ok(tensor),
            _ => Err(format!("{} is not a constant", node.input[n])),
        }
    }

    fn floats(&self, node: &NodeProto, n: usize) -> Step<Vec<f32>> {
        let tensor = self.constant(node, n)?;
        numbers::<f32>(&tensor)
    }

    /// The scale and zero point of a quantisation to u8 by one pair for the whole tensor.
    fn quantization(&self, node: &NodeProto) -> Step<Quantization> {
        let (scales, zero_point) = (self.floats(node, 1)?, self.constant(node, 2)?);
        if zero_point.datum_type() != u8::datum_type() {
            return Err(format!("its zero point is {:?}, not u8", zero_point.datum_type()));
        }
        match (scales.as_slice(), numbers::<u8>(&zero_point)?.as_slice()) {
            (&[scale], &[zero_point]) if scale > 0.0 => Ok(Quantization { scale, zero_point }),
            _ => Err("a tensor needs one scale and one zero point".into()),
        }
    }

    fn dequantized(&self, node: &NodeProto) -> Step<Value> {
        match self.input(node, 0)? {
            Value::Constant(whole) => {
                if node.input.len() > 2 {
                    let zero_points = self.constant(node, 2)?;
                    let zero_points = zero_points.cast_to::<i32>().map_err(|e| e.to_string())?;
                    if numbers::<i32>(&zero_points)?.iter().any(|&zero_point| zero_point != 0) {
                        return Err("constants need the zero point 0".into());
                    }
                }
                let scales = self.floats(node, 1)?;
                if scales.len() > 1 && int(node, "axis").unwrap_or(1) != 0 {
                    return Err("constants need their scales along the first axis".into());
                }
                Ok(Value::Scaled { whole, scales })
            }
            Value::Quantized { tensor, quantization, flat } => {
                let said = self.quantization(node)?;
                if quantization.is_some_and(|known| known != said) {
                    return Err("it was quantised by another scale or zero point".into());
                }
                Ok(Value::Real { tensor, quantization: said, flat })
            }
            _ => Err("it reads numbers that are not quantised".into()),
        }
    }

    fn limited(&self, node: &NodeProto, by: Limits) -> Step<Value> {
        match self.input(node, 0)? {
            Value::Sum(sum, limits) => {
                let limits = Limits { low: limits.low.max(by.low), high: limits.high.min(by.high) };
                Ok(Value::Sum(sum, limits))
            }
            _ => Err("only what a convolution, sum or pool gives can be limited".into()),
        }
    }

    pub(super) fn new_tensor(&mut self, channels: usize, real: bool) -> TensorId {
        self.channels.push(channels);
        self.real.push(real);
        self.channels.len() - 1
    }

    fn quantized(&mut self, node: &NodeProto) -> Step<Value> {
        let Value::Sum(sum, limits) = self.input(node, 0)? else {
            return Err("only what a convolution, sum or pool gives can be quantised".into());
        };
        let to = self.quantization(node)?;
        let Quantization { scale, zero_point } = to;
        // What u8 can't say anyway needs no limit.
        let least = -f32::from(zero_point) - 0.5;
        if limits.low / scale > least + 0.5 || limits.high / scale < least + 255.0 {
            return Err("its limits lie within what its quantisation can say".into());
        }
        let name = layer_name(&node.input[0]).to_owned();
        let (inputs, operation, channels, flat) = match sum {
            Sum::Convolution(convolution) => {
                let operation = convolution.quantized(self.set, to)?;
                (vec![convolution.input], operation, convolution.bias.len(), convolution.form.flat)
            }
            Sum::Add([(a, a_quantization), (b, b_quantization)]) => {
                let addition = Addition {
                    a_factor: a_quantization.scale / scale,
                    b_factor: b_quantization.scale / scale,
                    b_zero_point: b_quantization.zero_point,
                    zero_point,
                };
                let operation = Operation::Add { addition, a_zero_point: a_quantization.zero_point };
                (vec![a, b], operation, self.channels[a], false)
            }
            Sum::Pool(tensor, quantization) => {
                let operation = Operation::Pool {
                    multiplier: quantization.scale / scale,
                    input_zero_point: quantization.zero_point,
                    zero_point,
                };
                (vec![tensor], operation, self.channels[tensor], true)
            }
        };
        let tensor = self.new_tensor(channels, false);
        self.layers.push(Layer { name, operation, inputs, output: tensor });
        Ok(Value::Quantized { tensor, quantization: Some(to), flat })
    }

    fn max_pooled(&mut self, node: &NodeProto) -> Step<Value> {
        let halves = |name: &str| ints(node, name).is_some_and(|sides| sides == [2, 2]);
        let ones = |name: &str| ints(node, name).is_none_or(|values| values.iter().all(|&value| value == 1));
        let unpadded = ints(node, "pads").is_none_or(|pads| pads.iter().all(|&pad| pad == 0))
            && text(node, "auto_pad").is_none_or(|mode| matches!(mode.as_str(), "NOTSET" | "VALID"));
        let whole = int(node, "ceil_mode").unwrap_or(0) == 0;
        if !(halves("kernel_shape") && halves("strides") && ones("dilations") && unpadded && whole) {
            return Err("only the largest of 2×2 pixels is known".into());
        }
        self.rearranged(node, Operation::MaxPool)
    }

    fn upsampled(&mut self, node: &NodeProto) -> Step<Value> {
        let scales = self.floats(node, 2)?;
        let text = |name: &str, default: &str| text(node, name).unwrap_or_else(|| default.to_owned());
        let (mode, at) = (text("mode", "nearest"), text("coordinate_transformation_mode", "half_pixel"));
        let nearest = text("nearest_mode", "round_prefer_floor");
        let doubles = matches!(
            (at.as_str(), nearest.as_str()),
            ("asymmetric", "floor") | ("half_pixel", "round_prefer_floor")
        );
        if scales != [1.0, 1.0, 2.0, 2.0] || mode != "nearest" || !doubles {
            return Err("only nearest-neighbour enlargement by 2 is known".into());
        }
        self.rearranged(node, Operation::Upsample)
    }

    /// A layer that makes none but values it reads.
    fn rearranged(&mut self, node: &NodeProto, operation: Operation) -> Step<Value> {
        let (tensor, quantization) = match self.input(node, 0)? {
            Value::Quantized { tensor: PICTURE, .. } => return Err("it reads the picture".into()),
            Value::Quantized { tensor, quantization, flat: false } => (tensor, quantization),
            _ => return Err("it reads numbers that are not quantised".into()),
        };
        let output = self.new_tensor(self.channels[tensor], false);
        let name = layer_name(&node.output[0]).to_owned();
        self.layers.push(Layer { name, operation, inputs: vec![tensor], output });
        Ok(Value::Quantized { tensor: output, quantization, flat: false })
    }

    fn convolution(&self, node: &NodeProto) -> Step<Value> {
        let (input, quantization, _) = self.real(node, 0)?;
        let (whole, scales) = self.weights(node, 1)?;
        let &[outputs, inputs, side, other] = whole.shape() else {
            return Err(format!("its weights have the shape {:?}", whole.shape()));
        };
        let groups = int(node, "group").unwrap_or(1) as usize;
        let strides = ints(node, "strides").unwrap_or_else(|| vec![1, 1]);
        let dilations = ints(node, "dilations").unwrap_or_else(|| vec![1, 1]);
        let pads = ints(node, "pads").unwrap_or_else(|| vec![0; 4]);
        if side != other || strides[0] != strides[1] || dilations != [1, 1] || pads.len() != 4 {
            return Err("only square windows with one step and no dilation are known".into());
        }
        if text(node, "auto_pad").is_some_and(|mode| mode != "NOTSET") {
            return Err("its padding is not written out".into());
        }
        if pads.iter().any(|&pad| pad < 0 || pad as usize >= side.max(1)) {
            return Err("its padding is as wide as its window".into());
        }
        let geometry = Geometry {
            side,
            step: strides[0] as usize,
            padding: [pads[0], pads[1], pads[2], pads[3]].map(|pad| pad as usize),
        };
        if inputs * groups != self.channels[input] {
            return Err(format!("it takes {} channels of {}", inputs * groups, self.channels[input]));
        }
        let depthwise = groups == outputs && inputs == 1 && matches!((side, geometry.step), (3 | 5, 1 | 2));
        if groups != 1 && !(depthwise && input != PICTURE) {
            return Err(format!("{groups} groups of {side}×{side} windows have no int8 operator"));
        }
        let form = Form { inputs: inputs * groups, groups, geometry, flat: false };
        self.convolved(node, (input, quantization), (whole, scales), form)
    }

    fn product(&self, node: &NodeProto) -> Step<Value> {
        let (input, quantization, flat) = self.real(node, 0)?;
        let (whole, scales) = self.weights(node, 1)?;
        let plain = |name: &str, default: f32| float(node, name).unwrap_or(default) == 1.0;
        if int(node, "transB") != Some(1) || int(node, "transA").unwrap_or(0) != 0 {
            return Err("only weights of the shape [outputs, inputs] are known".into());
        }
        if !plain("alpha", 1.0) || !plain("beta", 1.0) || !flat {
            return Err("only a plain product of a flattened tensor is known".into());
        }
        let &[_, inputs] = whole.shape() else {
            return Err(format!("its weights have the shape {:?}", whole.shape()));
        };
        if inputs != self.channels[input] {
            return Err(format!("it takes {inputs} channels of {}", self.channels[input]));
        }
        let geometry = Geometry { side: 1, step: 1, padding: [0; 4] };
        let form = Form { inputs, groups: 1, geometry, flat: true };
        self.convolved(node, (input, quantization), (whole, scales), form)
    }

    fn weights(&self, node: &NodeProto, n: usize) -> Step<(Arc<Tensor>, Vec<f32>)> {
        match self.input(node, n)? {
            Value::Scaled { whole, scales } if whole.datum_type() == i8::datum_type() => Ok((whole, scales)),
            _ => Err(format!("{} is not made of i8 constants", node.input[n])),
        }
    }

    fn convolved(
        &self,
        node: &NodeProto,
        (input, quantization): (TensorId, Quantization),
        (whole, scales): (Arc<Tensor>, Vec<f32>),
        form: Form,
    ) -> Step<Value> {
        let outputs = whole.shape()[0];
        let scales: Vec<f32> = match scales.len() {
            1 => vec![scales[0] * quantization.scale; outputs],
            n if n == outputs => scales.iter().map(|scale| scale * quantization.scale).collect(),
            n => return Err(format!("{n} scales for {outputs} outputs")),
        };
        let bias = if node.input.len() > 2 {
            let real = match self.input(node, 2)? {
                Value::Constant(tensor) => numbers::<f32>(&tensor)?,
                Value::Scaled { whole, scales } => {
                    let whole = whole.cast_to::<i32>().map_err(|e| e.to_string())?;
                    let whole = numbers::<i32>(&whole)?;
                    let scale = |n: usize| f64::from(scales[if scales.len() == 1 { 0 } else { n }]);
                    whole.iter().enumerate().map(|(n, &whole)| (f64::from(whole) * scale(n)) as f32).collect()
                }
                _ => return Err("its bias is not a constant".into()),
            };
            if real.len() != outputs {
                return Err(format!("{} biases for {outputs} outputs", real.len()));
            }
            real.iter().zip(&scales).map(|(bias, scale)| (bias / scale).round() as i32).collect()
        } else {
            vec![0; outputs]
        };
        let convolution = Convolution {
            name: layer_name(output(node)).to_owned(),
            input,
            quantization,
            weights: numbers::<i8>(&whole)?,
            scales,
            bias,
            form,
        };
        Ok(Value::Sum(Sum::Convolution(Arc::new(convolution)), UNLIMITED))
    }
}

/// The name of a node's only output.
pub(super) fn output(node: &NodeProto) -> &str {
    node.output.first().map_or("", String::as_str)
}

/// Our exporter calls a convolution's f32 result NAME/f32.
fn layer_name(output: &str) -> &str {
    output.strip_suffix("/f32").or_else(|| output.strip_suffix("/out")).unwrap_or(output)
}

fn numbers<T: Datum + Copy>(tensor: &Tensor) -> Step<Vec<T>> {
    let plain = tensor.try_as_plain_ram().map_err(|e| e.to_string())?;
    Ok(plain.as_slice::<T>().map_err(|e| e.to_string())?.to_vec())
}

fn attribute<'n>(node: &'n NodeProto, name: &str) -> Option<&'n tract_onnx::pb::AttributeProto> {
    node.attribute.iter().find(|attribute| attribute.name == name)
}

fn int(node: &NodeProto, name: &str) -> Option<i64> {
    attribute(node, name).map(|attribute| attribute.i)
}

fn ints(node: &NodeProto, name: &str) -> Option<Vec<i64>> {
    attribute(node, name).map(|attribute| attribute.ints.clone())
}

fn float(node: &NodeProto, name: &str) -> Option<f32> {
    attribute(node, name).map(|attribute| attribute.f)
}

fn text(node: &NodeProto, name: &str) -> Option<String> {
    attribute(node, name).map(|attribute| String::from_utf8_lossy(&attribute.s).into_owned())
}
