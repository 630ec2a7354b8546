//! A trained network as a list of layers in the order they run, batch norm folded into the convolutions.
//!
//! Values are numbered: 0 is the picture, `i + 1` is what layer `i` makes. All are f32, NCHW; the fully connected
//! layer's are `[n, out]`.

use tch::{Device, Tensor};

/// The picture among a graph's values.
pub const IMAGE: usize = 0;

/// What clips a convolution's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    None,
    Relu,
    Relu6,
}

impl Activation {
    pub fn apply(self, x: Tensor) -> Tensor {
        match self {
            Activation::None => x,
            Activation::Relu => x.relu(),
            Activation::Relu6 => x.clamp(0.0, 6.0),
        }
    }
}

#[derive(Debug)]
pub struct Parameters {
    /// `[out, in / groups, height, width]` of a convolution, `[out, in]` of a fully connected layer.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Tensor,
}

/// How a convolution moves over its input.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub stride: i64,
    /// Rows or columns of zeros: top, left, bottom, right (ONNX's order).
    pub pads: [i64; 4],
    pub groups: i64,
}

#[derive(Debug, Clone)]
pub enum Op {
    Conv(Parameters, Window, Activation),
    /// A fully connected layer over the channels of a 1×1 value.
    Linear(Parameters),
    Add,
    /// Of every 2×2 pixels the largest value.
    MaxPool2x,
    /// Every pixel becomes 2×2 of the same.
    Upsample2x,
    GlobalAveragePool,
}

#[derive(Debug, Clone)]
pub struct Layer {
    pub name: String,
    pub op: Op,
    /// The values it reads.
    pub inputs: Vec<usize>,
}

/// A network of one picture of uint8 pixels, read as `(x − 128) / 128`.
#[derive(Debug, Clone)]
pub struct Graph {
    pub name: String,
    /// Height and width of the picture.
    pub size: [i64; 2],
    pub layers: Vec<Layer>,
    /// Names and values of the outputs; no layer reads these values.
    pub outputs: Vec<(String, usize)>,
}

impl Op {
    pub fn parameters(&self) -> Option<&Parameters> {
        match self {
            Op::Conv(parameters, ..) | Op::Linear(parameters) => Some(parameters),
            _ => None,
        }
    }

    pub fn activation(&self) -> Activation {
        match self {
            Op::Conv(_, _, activation) => *activation,
            _ => Activation::None,
        }
    }
}

impl Layer {
    /// What it makes before the activation, given all values before it; `parameters` in place of its own.
    pub fn forward(&self, values: &[Tensor], parameters: Option<&Parameters>) -> Tensor {
        let x = &values[self.inputs[0]];
        match &self.op {
            Op::Conv(own, window, _) => {
                let Parameters { weight, bias } = parameters.unwrap_or(own);
                let [top, left, bottom, right] = window.pads;
                x.constant_pad_nd([left, right, top, bottom]).conv2d(
                    weight,
                    Some(bias),
                    [window.stride; 2],
                    [0; 2],
                    [1; 2],
                    window.groups,
                )
            }
            Op::Linear(own) => {
                let Parameters { weight, bias } = parameters.unwrap_or(own);
                x.flatten(1, -1).linear(weight, Some(bias))
            }
            Op::Add => x + &values[self.inputs[1]],
            Op::MaxPool2x => x.max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false),
            Op::Upsample2x => {
                let [height, width] = [x.size()[2], x.size()[3]];
                x.upsample_nearest2d([height * 2, width * 2], None, None)
            }
            Op::GlobalAveragePool => x.mean_dim([2, 3].as_slice(), true, None),
        }
    }
}

/// Shares the tensors: nothing changes a graph's tensors in place.
impl Clone for Parameters {
    fn clone(&self) -> Self {
        Self { weight: self.weight.shallow_clone(), bias: self.bias.shallow_clone() }
    }
}

impl Graph {
    pub fn new(name: &str, size: [i64; 2]) -> Graph {
        Graph { name: name.to_owned(), size, layers: Vec::new(), outputs: Vec::new() }
    }

    /// Appends a layer and returns the value it makes.
    pub fn push(&mut self, name: impl Into<String>, op: Op, inputs: &[usize]) -> usize {
        self.layers.push(Layer { name: name.into(), op, inputs: inputs.to_vec() });
        self.layers.len()
    }

    /// The same graph on another device.
    pub fn to_device(&self, device: Device) -> Graph {
        let mut graph = self.clone();
        for layer in &mut graph.layers {
            if let Op::Conv(own, ..) | Op::Linear(own) = &mut layer.op {
                *own = Parameters { weight: own.weight.to_device(device), bias: own.bias.to_device(device) };
            }
        }
        graph
    }

    /// All values for normalised pictures `[n, 3, h, w]`.
    pub fn values(&self, image: &Tensor) -> Vec<Tensor> {
        let mut values = vec![image.shallow_clone()];
        for layer in &self.layers {
            values.push(layer.op.activation().apply(layer.forward(&values, None)));
        }
        values
    }

    /// The outputs for normalised pictures `[n, 3, h, w]`.
    pub fn run(&self, image: &Tensor) -> Vec<Tensor> {
        self.outputs_of(&self.values(image))
    }

    /// The outputs among all values.
    pub fn outputs_of(&self, values: &[Tensor]) -> Vec<Tensor> {
        self.outputs.iter().map(|&(_, value)| values[value].shallow_clone()).collect()
    }

    /// The name of an output, if the value is one.
    pub fn output_name(&self, value: usize) -> Option<&str> {
        self.outputs.iter().find(|&&(_, v)| v == value).map(|(name, _)| name.as_str())
    }
}

/// What a batch norm does at inference: `(x − mean) / √(var + eps) × scale + shift`, all tensors `[channels]`.
#[derive(Debug)]
pub struct BatchNorm<'a> {
    pub scale: &'a Tensor,
    pub shift: &'a Tensor,
    pub mean: &'a Tensor,
    pub var: &'a Tensor,
    pub eps: f64,
}

impl BatchNorm<'_> {
    /// The parameters of a convolution `[out, …]` and this norm after it, as one convolution.
    pub fn fold(&self, weight: &Tensor) -> Parameters {
        let factor = self.scale / (self.var + self.eps).sqrt();
        let mut per_channel = vec![1; weight.dim()];
        per_channel[0] = -1;
        Parameters {
            weight: weight * factor.view(per_channel.as_slice()),
            bias: self.shift - self.mean * factor,
        }
    }
}
