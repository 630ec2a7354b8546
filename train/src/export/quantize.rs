//! Post-training quantisation: uint8 values per tensor, int8 weights per output channel, int32 biases.
//!
//! Channels are equalised first ([`equalize`]). Ranges come from calibration pictures by four rules (Nagel et al.
//! 2021, arXiv:2106.08295, section 3.1), with bias correction (Nagel et al. 2019, arXiv:1906.04721, section 4.2);
//! the rule whose outputs come nearest to the float network's is kept.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use log::info;
use tch::{Kind, Tensor, no_grad};

use super::{
    calibrate::{Range, Seen, observe},
    equalize::equalize,
    graph::{Graph, IMAGE, Layer, Op, Parameters},
};

/// How a uint8 `q` is read: `(q − zero_point) × scale`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    pub scale: f32,
    pub zero_point: u8,
}

impl Affine {
    /// How the networks read pixels.
    pub const PIXELS: Affine = Affine { scale: 1.0 / 128.0, zero_point: 128 };

    /// Covers `low..=high` and zero, which is met exactly: padding is zero.
    pub fn covering(low: f64, high: f64) -> Affine {
        let (low, high) = (low.min(0.0), high.max(0.0));
        let scale = ((high - low) / 255.0).max(1e-8);
        Affine { scale: scale as f32, zero_point: (-low / scale).round() as u8 }
    }

    /// The nearest values that uint8 can hold.
    pub fn round(self, x: &Tensor) -> Tensor {
        x.fake_quantize_per_tensor_affine(f64::from(self.scale), i64::from(self.zero_point), 0, 255)
    }
}

/// A layer's parameters as integers.
#[derive(Debug)]
pub struct Integers {
    /// int8, as the float weight is laid out; −127 to 127.
    pub weight: Tensor,
    /// f32 `[out]`: `weight × weight_scale` is the float weight.
    pub weight_scale: Tensor,
    /// int32 `[out]`.
    pub bias: Tensor,
    /// f32 `[out]`, the input's scale × `weight_scale`.
    pub bias_scale: Tensor,
}

impl Integers {
    pub fn new(float: &Parameters, input_scale: f32) -> Integers {
        let Parameters { weight, bias } = float;
        let input_scale = f64::from(input_scale);
        let largest = weight.abs().flatten(1, -1).amax([1].as_slice(), false);
        // A channel of nearly no weight needs a scale that still lets its bias fit int32.
        let least = bias.abs() / (input_scale * f64::from(1 << 30));
        let weight_scale = (largest / 127.0).maximum(&least).clamp_min(1e-12);
        let bias_scale = &weight_scale * input_scale;
        Integers {
            weight: (weight / per_channel(&weight_scale, weight.dim())).round().to_kind(Kind::Int8),
            bias: (bias.to_kind(Kind::Double) / &bias_scale).round().to_kind(Kind::Int),
            weight_scale,
            bias_scale,
        }
    }

    /// The parameters that the integers stand for.
    pub fn float(&self) -> Parameters {
        Parameters {
            weight: self.weight.to_kind(Kind::Float) * per_channel(&self.weight_scale, self.weight.dim()),
            bias: self.bias.to_kind(Kind::Float) * &self.bias_scale,
        }
    }
}

/// A per-channel vector, shaped to multiply a weight.
fn per_channel(vector: &Tensor, dims: usize) -> Tensor {
    let mut shape = vec![1; dims];
    shape[0] = -1;
    vector.view(shape.as_slice())
}

/// A graph in integers.
#[derive(Debug)]
pub struct Quantized {
    /// The rule by which ranges were chosen.
    pub range: Range,
    /// How each of the graph's values is stored; outputs stay f32.
    pub values: Vec<Option<Affine>>,
    /// Parameters of each layer that has any.
    pub parameters: Vec<Option<Integers>>,
    /// The error of the outputs by each rule for ranges, relative to their variance, on pictures of its own.
    pub errors: BTreeMap<&'static str, f64>,
}

impl Quantized {
    /// Rounds the graph's parameters, layer by layer. With `image` (normalised pictures) each bias is corrected by the
    /// mean error that its channel shows on it once everything before it is rounded.
    fn new(graph: &Graph, range: Range, seen: &[Seen], image: Option<&Tensor>) -> Result<Quantized> {
        let parameters = Vec::with_capacity(graph.layers.len());
        let values = affines(graph, seen, range);
        let mut quantized = Quantized { range, values, parameters, errors: BTreeMap::new() };
        let exact = image.map(|image| graph.values(image));
        let mut rounded: Vec<Tensor> = image.iter().map(|image| image.shallow_clone()).collect();
        for (index, layer) in graph.layers.iter().enumerate() {
            let integers = match layer.op.parameters() {
                None => None,
                Some(float) => {
                    let input_scale = quantized.input_scale(layer)?;
                    let first = Integers::new(float, input_scale);
                    Some(match &exact {
                        None => first,
                        Some(exact) => {
                            let error =
                                layer.forward(exact, None) - layer.forward(&rounded, Some(&first.float()));
                            let dims: Vec<i64> = (0..error.dim() as i64).filter(|&d| d != 1).collect();
                            let bias = &float.bias + error.mean_dim(dims.as_slice(), false, None);
                            let corrected = Parameters { weight: float.weight.shallow_clone(), bias };
                            Integers::new(&corrected, input_scale)
                        }
                    })
                }
            };
            quantized.parameters.push(integers);
            if image.is_some() {
                let value = quantized.layer(graph, index, &rounded);
                rounded.push(value);
            }
        }
        Ok(quantized)
    }

    /// The scale of the value that a layer with parameters reads.
    fn input_scale(&self, layer: &Layer) -> Result<f32> {
        let affine = self.values[layer.inputs[0]];
        let affine =
            affine.with_context(|| format!("layer {}: its input is an output and stays f32", layer.name))?;
        Ok(affine.scale)
    }

    /// What the quantised layer makes.
    fn layer(&self, graph: &Graph, index: usize, values: &[Tensor]) -> Tensor {
        let layer = &graph.layers[index];
        let float = self.parameters[index].as_ref().map(Integers::float);
        let value = layer.op.activation().apply(layer.forward(values, float.as_ref()));
        match self.values[index + 1] {
            Some(affine) => affine.round(&value),
            None => value,
        }
    }

    /// The outputs for normalised pictures `[n, 3, h, w]`: the reference for programs that run the integers.
    pub fn run(&self, graph: &Graph, image: &Tensor) -> Vec<Tensor> {
        let mut values = vec![image.shallow_clone()];
        for index in 0..graph.layers.len() {
            values.push(self.layer(graph, index, &values));
        }
        graph.outputs_of(&values)
    }
}

/// Quantises a network by what it does on calibration pictures. The graph's parameters change, what it computes
/// does not.
///
/// `batches` are normalised pictures `[n, 3, h, w]`; the last is kept for choosing the ranges' rule, so there are
/// at least two.
pub fn quantize(graph: &mut Graph, batches: &[Tensor]) -> Result<Quantized> {
    let (held_out, seen_batches) = calibration(batches)?;
    no_grad(|| {
        equalize(graph, &seen_batches[0]);
        let seen = observe(graph, seen_batches);
        let exact = graph.run(held_out);
        let mut best: Option<(f64, Quantized)> = None;
        let mut errors = BTreeMap::new();
        for range in Range::ALL {
            let quantized = Quantized::new(graph, range, &seen, Some(&seen_batches[0]))?;
            let error = relative_error(&exact, &quantized.run(graph, held_out));
            info!("{}: ranges by {}: relative error {error:.5}", graph.name, range.name());
            errors.insert(range.name(), error);
            if best.as_ref().is_none_or(|(least, _)| error < *least) {
                best = Some((error, quantized));
            }
        }
        best.map(|(_, quantized)| Quantized { errors, ..quantized }).context("no rule for ranges")
    })
}

/// A network in int8 with a part only of what [`quantize`] does.
#[derive(Debug)]
pub struct Partial {
    /// What was done, as `percentile, channels equalised`.
    pub name: String,
    pub graph: Graph,
    pub quantized: Quantized,
}

/// What [`quantize`] comes to step by step: ranges alone, by each rule, then by the rule `chosen` with equalised
/// channels. The next step, corrected biases, is [`quantize`]'s own result. `graph` is as it was before that, `batches`
/// are the same.
pub fn partial(graph: &Graph, batches: &[Tensor], chosen: Range) -> Result<Vec<Partial>> {
    let (_, seen_batches) = calibration(batches)?;
    no_grad(|| {
        let seen = observe(graph, seen_batches);
        let mut steps = Vec::new();
        for range in Range::ALL {
            let quantized = Quantized::new(graph, range, &seen, None)?;
            steps.push(Partial { name: range.name().to_owned(), graph: graph.clone(), quantized });
        }
        let mut graph = graph.clone();
        equalize(&mut graph, &seen_batches[0]);
        let quantized = Quantized::new(&graph, chosen, &observe(&graph, seen_batches), None)?;
        steps.push(Partial { name: format!("{}, channels equalised", chosen.name()), graph, quantized });
        Ok(steps)
    })
}

/// The batch on which rules are compared, and those from which ranges are chosen.
fn calibration(batches: &[Tensor]) -> Result<(&Tensor, &[Tensor])> {
    ensure!(batches.len() >= 2, "calibration needs at least two batches of pictures, not {}", batches.len());
    batches.split_last().context("no calibration pictures")
}

/// How each value is stored.
fn affines(graph: &Graph, seen: &[Seen], range: Range) -> Vec<Option<Affine>> {
    let mut affines = vec![None; seen.len()];
    affines[IMAGE] = Some(Affine::PIXELS);
    for (index, layer) in graph.layers.iter().enumerate() {
        let value = index + 1;
        if graph.output_name(value).is_none() {
            affines[value] = match layer.op {
                Op::MaxPool2x | Op::Upsample2x => affines[layer.inputs[0]],
                _ => Some(seen[value].affine(range)),
            };
        }
    }
    affines
}

/// Mean over the outputs of the squared error over the variance.
fn relative_error(exact: &[Tensor], found: &[Tensor]) -> f64 {
    let errors = exact.iter().zip(found).map(|(exact, found)| {
        let variance = exact.var(false).double_value(&[]).max(1e-12);
        (exact - found).square().mean(None).double_value(&[]) / variance
    });
    errors.sum::<f64>() / exact.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_exact_and_the_ends_are_covered() {
        for (low, high) in [(-1.0, 2.0), (0.0, 6.0), (0.5, 6.0), (-3.0, -1.0), (-0.01, 5.0)] {
            let affine = Affine::covering(low, high);
            let ends = Tensor::from_slice(&[low, 0.0, high]).to_kind(Kind::Float);
            let rounded = affine.round(&ends);
            assert_eq!(rounded.double_value(&[1]), 0.0);
            let worst = (&rounded - &ends).abs().max().double_value(&[]);
            assert!(worst <= f64::from(affine.scale) / 2.0 + 1e-6, "{low}..{high}: {worst}");
        }
    }

    #[test]
    fn clipping_ranges_start_at_zero_point_zero() {
        assert_eq!(Affine::covering(0.0, 6.0), Affine { scale: 6.0 / 255.0, zero_point: 0 });
    }

    #[test]
    fn integers_stand_for_their_parameters() {
        let weight = Tensor::from_slice(&[0.5f32, -1.0, 1e-12, 0.0]).view([2, 2]);
        let bias = Tensor::from_slice(&[0.25f32, 3.0]);
        let float = Parameters { weight, bias };
        let back = Integers::new(&float, 0.02).float();
        let error = |a: &Tensor, b: &Tensor| (a - b).abs().max().double_value(&[]);
        assert!(error(&back.weight, &float.weight) < 1.0 / 254.0);
        // The second channel has no weight to speak of, and its bias must not overflow.
        assert!(error(&back.bias, &float.bias) < 1e-3);
    }
}
