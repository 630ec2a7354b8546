use std::mem::ManuallyDrop;

use proptest::prelude::*;

use super::super::testing::{EDGES, Edge, Guarded, Random, Values, values, zero_point};
use super::*;

#[derive(Debug, Clone)]
struct Case {
    /// Of each line.
    inputs: usize,
    /// Number of lines and the step of a window.
    window: Option<(usize, usize)>,
    outputs: usize,
    pixels: usize,
    values: Values,
    zero_point: u8,
    kind: Kind,
    seed: u64,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Quantized,
    Added(Addition),
    Real,
}

fn kind() -> impl Strategy<Value = Kind> {
    let addition = (0.01f32..3.0, 0.01f32..3.0, zero_point(), zero_point());
    prop_oneof![
        Just(Kind::Quantized),
        addition.prop_map(|(a_factor, b_factor, b_zero_point, zero_point)| {
            Kind::Added(Addition { a_factor, b_factor, b_zero_point, zero_point })
        }),
        Just(Kind::Real),
    ]
}

fn case() -> impl Strategy<Value = Case> {
    let sizes = (1..300usize, 1..150usize, prop_oneof![Just(1), 1..40usize]);
    let window = prop_oneof![2 => Just(None), 1 => (1..5usize, 1..50usize).prop_map(Some)];
    (sizes, window, values(), zero_point(), kind(), any::<u64>()).prop_map(
        |((inputs, outputs, pixels), window, values, zero_point, kind, seed)| Case {
            inputs: if window.is_some() { 1 + inputs % 60 } else { inputs },
            window,
            outputs,
            pixels,
            values,
            zero_point,
            kind,
            seed,
        },
    )
}

struct Numbers {
    input: Vec<u8>,
    other: Vec<u8>,
    weights: Vec<i8>,
    bias: Vec<i32>,
    multipliers: Vec<f32>,
}

impl Case {
    fn lines(&self) -> usize {
        self.window.map_or(1, |(lines, _)| lines)
    }

    /// Bytes from one pixel's inputs to the next.
    fn step(&self) -> usize {
        self.window.map_or(stride(self.inputs), |(_, step)| step)
    }

    /// Bytes of a line.
    fn line(&self) -> usize {
        match self.window {
            None => self.pixels * stride(self.inputs),
            Some((_, step)) => (self.pixels - 1) * step + self.inputs,
        }
    }

    fn numbers(&self) -> Numbers {
        let mut random = Random::new(self.seed);
        let inputs = self.lines() * self.inputs;
        let slack = if self.window.is_some() { SLACK } else { 0 };
        Numbers {
            input: random.inputs(self.lines() * self.line() + slack, self.values),
            other: random.inputs(self.pixels * stride(self.outputs), self.values),
            weights: random.weights(self.outputs * inputs, self.values),
            bias: random.biases(self.outputs),
            multipliers: random.multipliers(self.outputs, inputs),
        }
    }

    /// The definition, as the module's documentation has it: the bits of `[pixels, outputs]`.
    fn expected(&self, numbers: &Numbers) -> Vec<u32> {
        let quantized = |real: f32, zero_point: u8| {
            (real.round_ties_even() as i64 + i64::from(zero_point)).clamp(0, 255) as u8
        };
        let value = |pixel: usize, output: usize| {
            let products = (0..self.lines() * self.inputs).map(|n| {
                let (line, at) = (n / self.inputs, n % self.inputs);
                i64::from(numbers.input[line * self.line() + pixel * self.step() + at])
                    * i64::from(numbers.weights[output * self.lines() * self.inputs + n])
            });
            let sum = i64::from(numbers.bias[output]) + products.sum::<i64>();
            let real = sum as f32 * numbers.multipliers[output];
            match self.kind {
                Kind::Quantized => quantized(real, self.zero_point).into(),
                Kind::Added(Addition { a_factor, b_factor, b_zero_point, zero_point }) => {
                    let a = f32::from(quantized(real, self.zero_point)) - f32::from(self.zero_point);
                    let b = numbers.other[pixel * stride(self.outputs) + output];
                    let b = f32::from(b) - f32::from(b_zero_point);
                    quantized(a * a_factor + b * b_factor, zero_point).into()
                }
                Kind::Real => real.to_bits(),
            }
        };
        (0..self.pixels).flat_map(|pixel| (0..self.outputs).map(move |output| value(pixel, output))).collect()
    }

    fn computed(&self, numbers: &Numbers, kernel: &'static Kernel, edge: Edge) -> Vec<u32> {
        let Numbers { input, other, weights, bias, multipliers } = numbers;
        let mut packed = ManuallyDrop::new(Pointwise::pack(
            kernel,
            self.window.map(|(lines, _)| lines),
            weights,
            bias,
            multipliers,
            self.zero_point,
        ));
        // SAFETY: `packed` is never dropped, and goes out of use before these.
        let _guards = unsafe {
            (
                Guarded::replace(&mut packed.weights, edge),
                Guarded::replace(&mut packed.bias, edge),
                Guarded::replace(&mut packed.multipliers, edge),
            )
        };
        let (input, other) = (Guarded::new(input, edge), Guarded::new(other, edge));
        let mut bytes = Guarded::new(&vec![0xA5; self.pixels * stride(self.outputs)], edge);
        let mut reals = Guarded::new(&vec![f32::NAN; self.pixels * self.outputs], edge);
        let target = match self.kind {
            Kind::Quantized => Target::Quantized(&mut bytes),
            Kind::Added(addition) => Target::Added { to: &mut bytes, other: &other, addition },
            Kind::Real => Target::Real(&mut reals),
        };
        match self.window {
            None => packed.run(&input, self.pixels, target),
            Some((_, step)) => {
                let windows = Windows { lines: &input, line_stride: self.line(), step };
                packed.run_windows(&windows, self.pixels, target);
            }
        }
        if let Kind::Real = self.kind {
            return reals.iter().map(|real| real.to_bits()).collect();
        }
        bytes
            .chunks(stride(self.outputs))
            .flat_map(|pixel| &pixel[..self.outputs])
            .map(|&byte| byte.into())
            .collect()
    }
}

/// All kernels that this CPU can run.
fn kernels(weights: &[i8]) -> Vec<(&'static str, &'static Kernel)> {
    let supported = InstructionSet::supported().map(|set| (set.name(), kernel(set, weights)));
    #[cfg(target_arch = "x86_64")]
    let supported = supported.chain(
        InstructionSet::Avx512Vnni
            .is_supported()
            .then_some(("avxvnni in AVX-512's encoding", &avxvnni::EVEX)),
    );
    supported.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Exact to the bit, without touching a byte outside of the buffers.
    #[test]
    fn every_instruction_set_gives_what_the_definition_gives(case in case()) {
        let numbers = case.numbers();
        let expected = case.expected(&numbers);
        for (name, kernel) in kernels(&numbers.weights) {
            for edge in EDGES {
                prop_assert_eq!(&case.computed(&numbers, kernel, edge), &expected, "{}, {:?}", name, edge);
            }
        }
    }
}
