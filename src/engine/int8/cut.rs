//! Where plain tract takes over: the program's exits, its last touches, and the graph that is left.

use std::collections::{HashMap, HashSet};

use tract_onnx::pb::{GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, type_proto};

use super::{
    super::kernels::pointwise::Addition,
    program::{Exit, Layer, Operation, PICTURE, Program, TensorId},
    recognize::{Fate, Reader, Recognized, Sum, Value, output},
};

impl Reader<'_> {
    /// Cuts the graph where plain tract takes over; or names a node that has to stay plain, and why.
    pub(super) fn cut(mut self, proto: &ModelProto) -> Result<Recognized, (String, String)> {
        let makers: HashMap<&str, usize> =
            self.graph.node.iter().enumerate().map(|(index, node)| (output(node), index)).collect();
        // From the outputs back to what the program can give.
        let (mut exits, mut plain, mut seen) = (Vec::<&str>::new(), HashSet::new(), HashSet::new());
        let mut wanted: Vec<&str> = self.graph.output.iter().map(|output| output.name.as_str()).collect();
        while let Some(name) = wanted.pop() {
            if name.is_empty() || !seen.insert(name) {
                continue;
            }
            let maker = makers.get(name).copied();
            let gives = match self.values.get(name) {
                Some(Value::Real { tensor, .. }) => *tensor != PICTURE,
                Some(Value::Sum(..)) => true,
                // What only changes the order or number of u8 values may as well happen outside.
                Some(Value::Quantized { .. }) => {
                    maker.is_some_and(|maker| self.graph.node[maker].op_type == "QuantizeLinear")
                }
                Some(Value::Constant(_) | Value::Scaled { .. }) | None => false,
            };
            if gives {
                exits.push(name);
            } else if let Some(maker) = maker {
                plain.insert(maker);
                wanted.extend(self.graph.node[maker].input.iter().map(String::as_str));
            }
        }
        let picture_is_read = seen.contains("image");

        let mut program_exits = Vec::new();
        let mut requantized = Vec::new();
        for name in exits {
            let (tensor, quantization, flat) = match self.values[name].clone() {
                Value::Real { tensor, quantization, flat } => (tensor, Some(quantization), flat),
                Value::Quantized { tensor, quantization, flat } => {
                    requantized.push((name, makers[name]));
                    (tensor, quantization, flat)
                }
                Value::Sum(Sum::Convolution(convolution), limits)
                    if limits.low == f32::NEG_INFINITY && limits.high == f32::INFINITY =>
                {
                    let operation = convolution.real(self.set).map_err(|reason| (name.to_owned(), reason))?;
                    let tensor = self.new_tensor(convolution.bias.len(), true);
                    self.layers.push(Layer {
                        name: convolution.name.clone(),
                        operation,
                        inputs: vec![convolution.input],
                        output: tensor,
                    });
                    (tensor, None, convolution.form.flat)
                }
                _ => return Err((name.to_owned(), "its result is not quantised".into())),
            };
            program_exits.push(Exit { name: name.to_owned(), tensor, quantization, flat });
        }
        self.keep_what_is_read(&program_exits);
        self.fuse_additions(&program_exits);

        let rest = (!plain.is_empty() || !requantized.is_empty())
            .then(|| self.rest(proto, &plain, &mut program_exits, &requantized, picture_is_read));
        let named = |(node, fate): (&NodeProto, Fate)| (output(node).to_owned(), node.op_type.clone(), fate);
        let fates = self.graph.node.iter().zip(self.fates).map(named).collect();
        let program = (!self.layers.is_empty()).then_some(Program {
            set: self.set,
            layers: self.layers,
            channels: self.channels,
            real: self.real,
            exits: program_exits,
        });
        // A program of nothing but exits of the picture would only copy it.
        let rest = if program.is_none() { Some(proto.clone()) } else { rest };
        Ok(Recognized { program, rest, fates })
    }

    fn keep_what_is_read(&mut self, exits: &[Exit]) {
        let mut read: HashSet<TensorId> = exits.iter().map(|exit| exit.tensor).collect();
        let mut kept: Vec<Layer> = Vec::new();
        for layer in std::mem::take(&mut self.layers).into_iter().rev() {
            if read.contains(&layer.output) {
                read.extend(&layer.inputs);
                kept.push(layer);
            }
        }
        kept.reverse();
        self.layers = kept;
    }

    /// Adds where a pointwise convolution writes, if nobody else reads what it gives.
    fn fuse_additions(&mut self, exits: &[Exit]) {
        let mut index = 0;
        while index < self.layers.len() {
            if let Operation::Add { addition, a_zero_point } = self.layers[index].operation
                && let Some((at, other)) = self.fusible(index, exits)
            {
                let swapped = self.layers[index].inputs[1] != other;
                let addition = if swapped {
                    Addition {
                        a_factor: addition.b_factor,
                        b_factor: addition.a_factor,
                        b_zero_point: a_zero_point,
                        zero_point: addition.zero_point,
                    }
                } else {
                    addition
                };
                let sum = self.layers.remove(index);
                let mut product = self.layers.remove(at);
                if let Operation::Pointwise(pointwise) = product.operation {
                    product.operation = Operation::PointwiseAdd(pointwise, addition);
                    product.inputs.push(other);
                    product.output = sum.output;
                    product.name = format!("{} + {}", product.name, sum.name);
                    // Where the sum was: by then the other operand is there.
                    self.layers.insert(index - 1, product);
                    continue;
                }
                unreachable!("only a pointwise convolution is fusible");
            }
            index += 1;
        }
    }

    /// The pointwise convolution before the addition at `index` that may take it over, and the other operand.
    fn fusible(&self, index: usize, exits: &[Exit]) -> Option<(usize, TensorId)> {
        let &[a, b] = self.layers[index].inputs.as_slice() else { return None };
        let candidates = [(a, b), (b, a)].into_iter().filter_map(|(mine, other)| {
            let at = self.layers[..index].iter().rposition(|layer| layer.output == mine)?;
            let readers = self.layers.iter().filter(|layer| layer.inputs.contains(&mine)).count();
            let alone = readers == 1 && !exits.iter().any(|exit| exit.tensor == mine);
            let pointwise = matches!(self.layers[at].operation, Operation::Pointwise(_));
            (alone && pointwise && a != b && other != PICTURE).then_some((at, other))
        });
        candidates.max_by_key(|(at, _)| *at)
    }

    /// The graph without what the program does.
    fn rest(
        &self,
        proto: &ModelProto,
        plain: &HashSet<usize>,
        exits: &mut [Exit],
        requantized: &[(&str, usize)],
        picture_is_read: bool,
    ) -> ModelProto {
        let mut nodes: Vec<NodeProto> = Vec::new();
        for &(name, maker) in requantized {
            // The program's exits are f32; this makes u8 of them again, without loss.
            let real = format!("{name}/exit");
            for exit in exits.iter_mut().filter(|exit| exit.name == name) {
                exit.name.clone_from(&real);
            }
            let mut node = self.graph.node[maker].clone();
            if node.op_type == "QuantizeLinear" {
                node.input[0] = real;
            }
            nodes.push(node);
        }
        let mut indices: Vec<&usize> = plain.iter().collect();
        indices.sort_unstable();
        nodes.extend(indices.into_iter().map(|&index| self.graph.node[index].clone()));
        let read: HashSet<&str> = nodes.iter().flat_map(|node| &node.input).map(String::as_str).collect();
        let input = |name: &str| ValueInfoProto {
            name: name.to_owned(),
            r#type: Some(TypeProto {
                denotation: String::new(),
                value: Some(type_proto::Value::TensorType(type_proto::Tensor { elem_type: 1, shape: None })),
            }),
            doc_string: String::new(),
        };
        let mut inputs: Vec<ValueInfoProto> =
            self.graph.input.iter().filter(|_| picture_is_read).cloned().collect();
        inputs.extend(
            exits.iter().filter(|exit| read.contains(exit.name.as_str())).map(|exit| input(&exit.name)),
        );
        let initializer = self
            .graph
            .initializer
            .iter()
            .filter(|tensor| read.contains(tensor.name.as_str()))
            .cloned()
            .collect();
        let made: HashSet<&str> = nodes.iter().map(output).collect();
        let outputs =
            self.graph.output.iter().filter(|output| made.contains(output.name.as_str())).cloned().collect();
        let graph = GraphProto {
            initializer,
            input: inputs,
            output: outputs,
            value_info: Vec::new(),
            node: nodes,
            ..self.graph.clone()
        };
        ModelProto { graph: Some(graph), ..proto.clone() }
    }
}
