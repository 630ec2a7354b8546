//! A quantised network whose parameters and ranges can learn (Jacob et al. 2018, arXiv:1712.05877).
//!
//! The forward pass rounds as the file does; gradients pass through the rounding as if it were not there (the
//! straight-through estimator, Bengio et al. 2013, arXiv:1308.3432). A weight's scale is its channel's largest weight,
//! as ever; a value's scale learns (LSQ, Esser et al. 2020, arXiv:1902.08153), its zero point stays.
//!
//! Variables are relative: a weight is a part of its channel's first largest weight, a bias a part of its layer's first
//! output range, a scale the logarithm of its ratio to the first. So one learning rate suits them all, however
//! equalisation has scaled the channels.

use anyhow::{Context, Result};
use tch::{Device, Tensor, nn, no_grad};

use super::{
    graph::{Activation, Graph, IMAGE, Op, Parameters},
    quantize::{Affine, Integers, Quantized},
};

/// uint8 of a value.
const LARGEST: i64 = 255;

/// A network in training. Values are as in [`Graph`].
#[derive(Debug)]
pub struct Learnt<'g> {
    graph: &'g Graph,
    vs: nn::VarStore,
    parameters: Vec<Option<Relative>>,
    values: Vec<Stored>,
}

/// Parameters as parts of what they were like at first.
#[derive(Debug)]
struct Relative {
    weight: Tensor,
    /// `[out, 1, …]`.
    weight_unit: Tensor,
    bias: Tensor,
    bias_unit: f64,
}

/// How a value is stored.
#[derive(Debug)]
enum Stored {
    /// Not at all: an output.
    Float,
    /// By what is given, or as the value that it repeats.
    Fixed(Affine),
    As(usize),
    Learnt {
        /// Logarithm of the scale over `first`, `[1]`.
        log: Tensor,
        first: Affine,
        /// The largest scale: where the file leaves an activation out, the range clips as it does.
        largest: f64,
    },
}

impl<'g> Learnt<'g> {
    /// Starts as `quantized` is, `graph`'s weights unrounded; both stay as they are. The graph is on `device`.
    pub fn new(graph: &'g Graph, quantized: &Quantized, device: Device) -> Result<Learnt<'g>> {
        let vs = nn::VarStore::new(device);
        let mut values = vec![Stored::Fixed(Affine::PIXELS)];
        let mut parameters = Vec::new();
        for (index, layer) in graph.layers.iter().enumerate() {
            let path = vs.root() / index.to_string();
            let affine = quantized.values[index + 1];
            values.push(match (affine, &layer.op) {
                (None, _) => Stored::Float,
                (Some(_), Op::MaxPool2x | Op::Upsample2x) => Stored::As(layer.inputs[0]),
                (Some(first), op) => Stored::Learnt {
                    log: path.var("scale", &[1], nn::Init::Const(0.0)),
                    first,
                    largest: if op.activation() == Activation::Relu6 {
                        6.0 / LARGEST as f64
                    } else {
                        f64::INFINITY
                    },
                },
            });
            let own = layer.op.parameters();
            parameters.push(own.zip(quantized.parameters[index].as_ref()).map(|(own, integers)| {
                let dims: Vec<i64> = (1..own.weight.dim() as i64).collect();
                let weight_unit = own.weight.detach().abs().amax(dims.as_slice(), true).clamp_min(1e-12);
                let bias_unit = affine.map_or(1.0, |affine| f64::from(affine.scale) * LARGEST as f64);
                // Bias correction has moved the biases; the weights have only been rounded.
                let bias = integers.float().bias.to_device(device) / bias_unit;
                Relative {
                    weight: path.var_copy("weight", &(&own.weight / &weight_unit)),
                    weight_unit,
                    bias: path.var_copy("bias", &bias),
                    bias_unit,
                }
            }));
        }
        Ok(Learnt { graph, vs, parameters, values })
    }

    /// The variables, for an optimiser.
    pub fn variables(&self) -> &nn::VarStore {
        &self.vs
    }

    /// The outputs for normalised pictures `[n, 3, h, w]`, which are rounded to bytes.
    pub fn run(&self, image: &Tensor) -> Result<Vec<Tensor>> {
        let mut values = vec![self.values[IMAGE].round(image.shallow_clone())];
        for (index, layer) in self.graph.layers.iter().enumerate() {
            let rounded = match &self.parameters[index] {
                None => None,
                Some(relative) => {
                    let own = relative.absolute();
                    let input_scale = self.input_scale(index)?;
                    let exact = no_grad(|| Integers::new(&own, input_scale).float());
                    Some(Parameters {
                        weight: passed_through(&own.weight, &exact.weight),
                        bias: passed_through(&own.bias, &exact.bias),
                    })
                }
            };
            let value = layer.op.activation().apply(layer.forward(&values, rounded.as_ref()));
            values.push(self.values[index + 1].round(value));
        }
        Ok(self.graph.outputs_of(&values))
    }

    /// The network as it now is, on the CPU; it computes what [`Learnt::run`] does.
    pub fn quantized(&self, from: Quantized) -> Result<Quantized> {
        no_grad(|| {
            let values = (0..self.values.len()).map(|value| self.affine(value)).collect();
            let parameters = self.parameters.iter().enumerate().map(|(index, relative)| {
                let Some(relative) = relative else { return Ok(None) };
                let Parameters { weight, bias } = relative.absolute();
                let on_cpu = |t: Tensor| t.to_device(Device::Cpu);
                let own = Parameters { weight: on_cpu(weight), bias: on_cpu(bias) };
                Ok(Some(Integers::new(&own, self.input_scale(index)?)))
            });
            Ok(Quantized { values, parameters: parameters.collect::<Result<_>>()?, ..from })
        })
    }

    fn affine(&self, value: usize) -> Option<Affine> {
        match &self.values[value] {
            Stored::Float => None,
            Stored::Fixed(affine) => Some(*affine),
            Stored::As(other) => self.affine(*other),
            Stored::Learnt { first, .. } => {
                let scale = self.values[value].scale().double_value(&[0]) as f32;
                Some(Affine { scale, ..*first })
            }
        }
    }

    /// The scale of what a layer with parameters reads.
    fn input_scale(&self, index: usize) -> Result<f32> {
        let layer = &self.graph.layers[index];
        let affine = self.affine(layer.inputs[0]);
        Ok(affine
            .with_context(|| format!("layer {}: its input is an output and stays f32", layer.name))?
            .scale)
    }
}

impl Relative {
    fn absolute(&self) -> Parameters {
        Parameters { weight: &self.weight * &self.weight_unit, bias: &self.bias * self.bias_unit }
    }
}

impl Stored {
    /// `[1]`, f32; only of a scale that learns.
    fn scale(&self) -> Tensor {
        let Stored::Learnt { log, first, largest } = self else {
            unreachable!("asked of learnt scales alone")
        };
        (log.exp() * f64::from(first.scale)).clamp_max(*largest)
    }

    /// The nearest values that uint8 can hold.
    fn round(&self, x: Tensor) -> Tensor {
        match self {
            // What is repeated is rounded already.
            Stored::Float | Stored::As(_) => x,
            Stored::Fixed(affine) => affine.round(&x),
            Stored::Learnt { first, .. } => {
                let zero_point = Tensor::from_slice(&[f32::from(first.zero_point)]).to_device(x.device());
                // The step size's gradient over √(elements × levels), as LSQ has it.
                let factor = 1.0 / (x.numel() as f64 * LARGEST as f64).sqrt();
                x.internal_fake_quantize_learnable_per_tensor_affine(
                    &self.scale(),
                    &zero_point,
                    0,
                    LARGEST,
                    factor,
                )
            }
        }
    }
}

/// `rounded`, bit by bit, with the gradient going to `exact`.
fn passed_through(exact: &Tensor, rounded: &Tensor) -> Tensor {
    rounded + (exact - exact.detach())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_pass_through_the_rounding() {
        let exact = Tensor::from_slice(&[0.3f32, -0.7]).set_requires_grad(true);
        let rounded = passed_through(&exact, &Tensor::from_slice(&[0.25f32, -0.75]));
        assert_eq!(Vec::<f32>::try_from(&rounded).unwrap(), [0.25, -0.75]);
        (rounded * Tensor::from_slice(&[2.0f32, 3.0])).sum(None).backward();
        assert_eq!(Vec::<f32>::try_from(exact.grad()).unwrap(), [2.0, 3.0]);
    }

    #[test]
    fn a_range_widens_for_what_it_clips_and_keeps_to_its_activation() {
        let vs = nn::VarStore::new(Device::Cpu);
        let first = Affine { scale: 1.0 / 255.0, zero_point: 0 };
        let stored = |largest| Stored::Learnt { log: vs.root().zeros("log", &[1]), first, largest };
        let value = stored(f64::INFINITY);
        // Four values, one beyond the range: the error falls when the scale grows.
        let x = Tensor::from_slice(&[0.1f32, 0.2, 0.3, 4.0]);
        (value.round(x.shallow_clone()) - x).square().sum(None).backward();
        let Stored::Learnt { log, .. } = &value else { unreachable!() };
        assert!(log.grad().double_value(&[0]) < 0.0);
        assert!((stored(0.001).scale().double_value(&[0]) - 0.001).abs() < 1e-9);
    }
}
