//! A convolution as the graph says it, and the layers that it may become.

use super::{
    super::kernels::{
        InstructionSet,
        depthwise::{Depthwise, Parameters, Window},
        pointwise::Pointwise,
    },
    program::{Geometry, Operation, PICTURE, Patch, Quantization, TensorId},
    recognize::Step,
};

/// A convolution, or a matrix product as one of a single pixel.
pub struct Convolution {
    pub name: String,
    pub input: TensorId,
    pub quantization: Quantization,
    /// `[outputs, inputs of a group, side, side]`
    pub weights: Vec<i8>,
    /// Scale of each output's sums.
    pub scales: Vec<f32>,
    /// In units of `scales`, without the input's zero point.
    pub bias: Vec<i32>,
    pub form: Form,
}

/// How a convolution's weights lie over its input.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub inputs: usize,
    pub groups: usize,
    pub geometry: Geometry,
    /// A matrix product of a flattened tensor.
    pub flat: bool,
}

impl Convolution {
    /// The bias with the input's zero point in it, and the largest sum that is possible.
    fn folded(&self) -> Step<(Vec<i32>, Vec<i64>)> {
        let per_output = self.weights.len() / self.bias.len().max(1);
        let mut folded = Vec::with_capacity(self.bias.len());
        let mut largest = Vec::with_capacity(self.bias.len());
        for (&bias, weights) in self.bias.iter().zip(self.weights.chunks_exact(per_output.max(1))) {
            let sum: i64 = weights.iter().map(|&weight| i64::from(weight)).sum();
            let reach: i64 = weights.iter().map(|&weight| 255 * i64::from(weight).abs()).sum();
            let bias = i64::from(bias) - i64::from(self.quantization.zero_point) * sum;
            largest.push(bias.abs() + reach);
            folded.push(i32::try_from(bias).map_err(|_| "its bias is too large".to_owned())?);
        }
        if largest.iter().any(|&sum| sum > i64::from(i32::MAX)) {
            return Err("its sums may not fit in 32 bits".into());
        }
        Ok((folded, largest))
    }

    /// With a result in u8.
    pub fn quantized(&self, set: InstructionSet, to: Quantization) -> Step<Operation> {
        let multipliers: Vec<f32> = self.scales.iter().map(|scale| scale / to.scale).collect();
        let (bias, largest) = self.folded()?;
        if largest.iter().zip(&multipliers).any(|(&sum, multiplier)| sum as f32 * multiplier >= 2e9) {
            return Err("its scaled sums may not fit in 32 bits".into());
        }
        let Geometry { side, step, padding } = self.form.geometry;
        if self.form.groups == 1 {
            return Ok(self.product(set, &bias, &multipliers, to.zero_point));
        }
        let kernel = Depthwise::new(
            set,
            Parameters {
                window: Window { side, step },
                above: padding[0],
                left: padding[1],
                weights: &self.weights,
                bias: &bias,
                multipliers: &multipliers,
                padding: self.quantization.zero_point,
                zero_point: to.zero_point,
            },
        );
        Ok(Operation::Depthwise { kernel, geometry: self.form.geometry })
    }

    /// With a result in f32.
    pub fn real(&self, set: InstructionSet) -> Step<Operation> {
        if self.form.groups != 1 {
            return Err("a depthwise result has to be quantised".into());
        }
        Ok(self.product(set, &self.folded()?.0, &self.scales, 0))
    }

    fn product(&self, set: InstructionSet, bias: &[i32], multipliers: &[f32], zero_point: u8) -> Operation {
        let Geometry { side, step, padding } = self.form.geometry;
        if (side, step, padding) == (1, 1, [0; 4]) && self.input != PICTURE {
            return Operation::Pointwise(Pointwise::new(set, &self.weights, bias, multipliers, zero_point));
        }
        // [outputs, inputs, side, side] to [outputs, side, side, inputs].
        let window = side * side;
        let mut turned = Vec::with_capacity(self.weights.len());
        for weights in self.weights.chunks_exact(self.form.inputs * window) {
            for at in 0..window {
                turned.extend((0..self.form.inputs).map(|input| weights[input * window + at]));
            }
        }
        let window = Patch {
            geometry: self.form.geometry,
            channels: self.form.inputs,
            padding: self.quantization.zero_point,
        };
        let product = Pointwise::with_window(set, side, &turned, bias, multipliers, zero_point);
        Operation::Dense { window, product }
    }
}
