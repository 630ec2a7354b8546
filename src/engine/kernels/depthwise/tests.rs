use std::mem::ManuallyDrop;

use proptest::prelude::*;

use super::super::testing::{EDGES, Edge, Guarded, Random, Values, values, zero_point};
use super::*;

#[derive(Debug, Clone)]
struct Case {
    window: Window,
    channels: usize,
    size: Size,
    output_size: Size,
    above: usize,
    left: usize,
    values: Values,
    padding: u8,
    zero_point: u8,
    seed: u64,
}

fn case() -> impl Strategy<Value = Case> {
    let window = (prop_oneof![Just(3), Just(5)], 1..3usize).prop_map(|(side, step)| Window { side, step });
    let side = || prop_oneof![Just(1), 1..12usize];
    (
        window,
        prop_oneof![Just(16), 1..150usize],
        [side(), side()],
        values(),
        zero_point(),
        zero_point(),
        any::<u64>(),
    )
        .prop_flat_map(|(window, channels, size, values, padding, zero_point, seed)| {
            let before = 0..window.side;
            // An output that needs at most a window less one of padding after the input.
            let most = move |size: usize, before: usize| (size + before - 1) / window.step + 1;
            (before.clone(), before).prop_flat_map(move |(above, left)| {
                (1..=most(size[0], above), 1..=most(size[1], left)).prop_map(move |(rows, columns)| Case {
                    window,
                    channels,
                    size,
                    output_size: [rows, columns],
                    above,
                    left,
                    values,
                    padding,
                    zero_point,
                    seed,
                })
            })
        })
}

struct Numbers {
    input: Vec<u8>,
    weights: Vec<i8>,
    bias: Vec<i32>,
    multipliers: Vec<f32>,
}

impl Case {
    fn numbers(&self) -> Numbers {
        let mut random = Random::new(self.seed);
        let taps = self.window.side * self.window.side;
        Numbers {
            input: random.inputs(self.size[0] * self.size[1] * stride(self.channels), self.values),
            weights: random.weights(self.channels * taps, self.values),
            bias: random.biases(self.channels),
            multipliers: random.multipliers(self.channels, taps),
        }
    }

    /// The definition, as the module's documentation has it: `[rows, columns, channels]`.
    fn expected(&self, numbers: &Numbers) -> Vec<u8> {
        let ([height, width], Window { side, step }) = (self.size, self.window);
        let input = |y: usize, x: usize, channel: usize| match (
            y.checked_sub(self.above),
            x.checked_sub(self.left),
        ) {
            (Some(y), Some(x)) if y < height && x < width => {
                numbers.input[(y * width + x) * stride(self.channels) + channel]
            }
            _ => self.padding,
        };
        let value = |row: usize, column: usize, channel: usize| {
            let products = (0..side * side).map(|tap| {
                i64::from(input(row * step + tap / side, column * step + tap % side, channel))
                    * i64::from(numbers.weights[channel * side * side + tap])
            });
            let sum = i64::from(numbers.bias[channel]) + products.sum::<i64>();
            let real = sum as f32 * numbers.multipliers[channel];
            (real.round_ties_even() as i64 + i64::from(self.zero_point)).clamp(0, 255) as u8
        };
        let mut values = Vec::new();
        for row in 0..self.output_size[0] {
            for column in 0..self.output_size[1] {
                values.extend((0..self.channels).map(|channel| value(row, column, channel)));
            }
        }
        values
    }

    fn computed(&self, numbers: &Numbers, kernel: &'static Kernel, edge: Edge) -> Vec<u8> {
        let Numbers { input, weights, bias, multipliers } = numbers;
        let &Self { window, above, left, padding, zero_point, .. } = self;
        let parameters = Parameters { window, above, left, weights, bias, multipliers, padding, zero_point };
        let mut packed = ManuallyDrop::new(Depthwise::pack(kernel, parameters));
        // SAFETY: `packed` is never dropped, and goes out of use before these.
        let _guards = unsafe {
            (
                Guarded::replace(&mut packed.weights, edge),
                Guarded::replace(&mut packed.bias, edge),
                Guarded::replace(&mut packed.multipliers, edge),
            )
        };
        let input = Guarded::new(input, edge);
        let pixels = self.output_size[0] * self.output_size[1];
        let mut output = Guarded::new(&vec![0xA5; pixels * stride(self.channels)], edge);
        let scratch = packed.scratch(self.size[1], self.output_size[1]);
        let mut scratch = Guarded::new(&vec![0xA5; scratch], edge);
        packed.run(&input, self.size, &mut output, self.output_size, &mut scratch);
        output.chunks(stride(self.channels)).flat_map(|pixel| &pixel[..self.channels]).copied().collect()
    }
}

/// All kernels that this CPU can run.
fn kernels(weights: &[i8]) -> Vec<(&'static str, &'static Kernel)> {
    let supported = InstructionSet::supported().map(|set| (set.name(), kernel(set, weights)));
    #[cfg(target_arch = "x86_64")]
    let supported = supported.chain(
        InstructionSet::Avx512Vnni
            .is_supported()
            .then_some(("avxvnni in AVX-512's encoding", &avxvnni::evex::KERNEL)),
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
