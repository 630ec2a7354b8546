//! Pointwise convolution: a product of matrices, `[pixels, inputs] × [inputs, outputs]`; and convolution with a window, as
//! one whose inputs are the lines of the window, each a run of bytes in its own line of the picture.
//!
//! The outputs are cut into panels of a few vectors each, as even as they come (80 outputs are 48 + 32, not 64 + 16),
//! and the pixels into tiles, so that all sums of a tile stay in registers. Weights are packed once, in the order in
//! which a tile reads them.

use super::{Aligned, InstructionSet, is_rectified, round, signed_bias, stride};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512vnni;
#[cfg(target_arch = "x86_64")]
mod avxvnni;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dot;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm;
mod portable;
#[cfg(test)]
mod tests;

/// How an instruction set wants its weights, and the function that computes a tile.
pub(super) struct Kernel {
    /// Sums in a vector.
    lanes: usize,
    /// The most vectors of a panel.
    vectors: usize,
    /// The most pixels of a tile, for panels of 1, 2, … vectors.
    pixels: &'static [usize],
    /// Inputs that stand side by side in the packed weights of an output.
    group: usize,
    /// Whether the last inputs, where they are not a whole group but more than one, are taken as the last `group` ones:
    /// those that were in the group before have zeros for weights.
    overlap: bool,
    /// Whether it multiplies inputs less 128, as signed bytes.
    signed: bool,
    /// Which output channel of a panel a lane holds: `(vectors, vector, lane)`.
    order: fn(usize, usize, usize) -> usize,
    /// Computes `(tiles, pixels of each, vectors)`.
    ///
    /// # Safety
    /// The CPU has the instruction set, and the pointers of the tiles reach as far as their fields say.
    run: unsafe fn(&Tiles, usize, usize),
}

/// Tiles of equally many pixels one after the other, by one panel.
pub(super) struct Tiles {
    count: usize,
    first: Tile,
}

/// A few pixels by one panel.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// For each pixel, `input_stride` bytes apart, `lines` runs of `inputs` bytes, `line_stride` apart. `inputs` is a
    /// multiple of four, and of `group` where there is more than one line.
    input: *const u8,
    input_stride: usize,
    lines: usize,
    line_stride: usize,
    inputs: usize,
    /// `[lines][inputs / group, rounded up][vectors × lanes][group]`
    weights: *const i8,
    /// `[vectors × lanes]` in the panel's order, as are the multipliers.
    bias: *const i32,
    multipliers: *const f32,
    /// The panel's outputs, at most `vectors × lanes`.
    channels: usize,
    output: Output,
    output_stride: usize,
}

impl Tiles {
    /// Calls `compute` with each tile of so many pixels.
    #[inline(always)]
    fn for_each(&self, pixels: usize, compute: impl Fn(&Tile)) {
        let mut tile = self.first;
        for _ in 0..self.count {
            compute(&tile);
            tile.step(pixels);
        }
    }
}

impl Tile {
    /// Goes on by so many pixels.
    #[inline(always)]
    fn step(&mut self, pixels: usize) {
        self.input = self.input.wrapping_add(pixels * self.input_stride);
        self.output = self.output.at(pixels * self.output_stride);
    }
}

/// Where the sums of a tile go.
#[derive(Clone, Copy)]
enum Output {
    Quantized {
        to: *mut u8,
        zero_point: u8,
        /// As [`is_rectified`] says.
        #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
        rectified: bool,
    },
    /// Quantised, then added to what is there, and quantised again.
    Added { to: *mut u8, zero_point: u8, other: *const u8, other_stride: usize, addition: Addition },
    /// `sum × multiplier`
    Real(*mut f32),
}

/// The sum of two quantised pictures: `clamp(round_ties_even(a × a_factor + b × b_factor) + zero point, 0, 255)`,
/// where a and b are without their zero points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Addition {
    /// Scale of the first operand over that of the sum.
    pub a_factor: f32,
    /// Scale of the second operand over that of the sum.
    pub b_factor: f32,
    /// Zero point of the second operand.
    pub b_zero_point: u8,
    /// Zero point of the sum.
    pub zero_point: u8,
}

impl Addition {
    /// The sum of `a`, without its zero point, and `b`, with it.
    #[inline(always)]
    pub fn of(&self, a: i32, b: u8) -> u8 {
        let b = i32::from(b) - i32::from(self.b_zero_point);
        let sum = round(a as f32 * self.a_factor + b as f32 * self.b_factor);
        (sum + i32::from(self.zero_point)).clamp(0, 255) as u8
    }
}

/// What the sums become.
pub enum Target<'a> {
    /// `[pixels, outputs]`, a pixel every [`stride`] bytes.
    Quantized(&'a mut [u8]),
    /// The same, with another picture of that shape added to the quantised result.
    Added { to: &'a mut [u8], other: &'a [u8], addition: Addition },
    /// `[pixels, outputs]`, `sum × multiplier`.
    Real(&'a mut [f32]),
}

/// A pointwise convolution, its weights packed for one instruction set.
pub struct Pointwise {
    /// Of each line.
    inputs: usize,
    /// Bytes of a line that the kernel takes.
    padded: usize,
    lines: usize,
    outputs: usize,
    zero_point: u8,
    rectified: bool,
    kernel: &'static Kernel,
    /// Vectors of each panel.
    panels: Vec<usize>,
    weights: Aligned<i8>,
    bias: Aligned<i32>,
    multipliers: Aligned<f32>,
}

#[cfg_attr(not(target_arch = "aarch64"), allow(unused_variables))]
fn kernel(set: InstructionSet, weights: &[i8]) -> &'static Kernel {
    assert!(set.is_supported(), "this CPU lacks {set}");
    match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 => &avx2::KERNEL,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::AvxVnni => &avxvnni::KERNEL,
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512Vnni => &avx512vnni::KERNEL,
        #[cfg(target_arch = "aarch64")]
        InstructionSet::Neon if weights.contains(&i8::MIN) => &neon::FULL_RANGE,
        #[cfg(target_arch = "aarch64")]
        InstructionSet::Neon => &neon::KERNEL,
        #[cfg(target_arch = "aarch64")]
        InstructionSet::NeonDot => &neon_dot::KERNEL,
        #[cfg(target_arch = "aarch64")]
        InstructionSet::NeonI8mm => &neon_i8mm::KERNEL,
        _ => &portable::KERNEL,
    }
}

/// Bytes after a line of a window that may be read, though they count for nothing.
pub const SLACK: usize = 16;

/// Where a convolution with a window finds its inputs.
pub struct Windows<'a> {
    /// The lines of the picture that the windows cover, with what lies beside it.
    pub lines: &'a [u8],
    /// Bytes from one line to the next.
    pub line_stride: usize,
    /// Bytes from one window to the next.
    pub step: usize,
}

impl Pointwise {
    /// `weights` `[outputs, inputs]`; `bias` `[outputs]` with the input's zero point folded in.
    pub fn new(
        set: InstructionSet,
        weights: &[i8],
        bias: &[i32],
        multipliers: &[f32],
        zero_point: u8,
    ) -> Self {
        Self::pack(kernel(set, weights), None, weights, bias, multipliers, zero_point)
    }

    /// The same for a window of so many lines: `weights` `[outputs, lines, inputs of a line]`.
    pub fn with_window(
        set: InstructionSet,
        lines: usize,
        weights: &[i8],
        bias: &[i32],
        multipliers: &[f32],
        zero_point: u8,
    ) -> Self {
        Self::pack(kernel(set, weights), Some(lines), weights, bias, multipliers, zero_point)
    }

    fn pack(
        kernel: &'static Kernel,
        window: Option<usize>,
        weights: &[i8],
        bias: &[i32],
        multipliers: &[f32],
        zero_point: u8,
    ) -> Self {
        let (outputs, lines) = (bias.len(), window.unwrap_or(1));
        let inputs = weights.len() / (outputs * lines).max(1);
        assert_eq!((weights.len(), multipliers.len()), (outputs * lines * inputs, outputs));
        let vectors = outputs.div_ceil(kernel.lanes);
        let count = vectors.div_ceil(kernel.vectors);
        let panels: Vec<usize> =
            (0..count).map(|n| (vectors * (n + 1)) / count - vectors * n / count).collect();

        let padded = stride(inputs);
        let padded = if window.is_some() { padded.next_multiple_of(kernel.group) } else { padded };
        let groups = padded.div_ceil(kernel.group);
        let overlap = if kernel.overlap && groups > 1 { groups * kernel.group - padded } else { 0 };
        // Which input stands at a place of a group.
        let input = |group: usize, n: usize| match group + 1 == groups {
            true if n < overlap => None,
            true => Some(group * kernel.group + n - overlap),
            false => Some(group * kernel.group + n),
        };
        let width = vectors * kernel.lanes;
        let (mut packed_weights, mut packed_bias, mut packed_multipliers) = (
            Vec::with_capacity(width * lines * groups * kernel.group),
            Vec::with_capacity(width),
            Vec::with_capacity(width),
        );
        let mut first = 0;
        for &vectors in &panels {
            let channel = |slot: usize| {
                let channel = first + (kernel.order)(vectors, slot / kernel.lanes, slot % kernel.lanes);
                (channel < outputs).then_some(channel)
            };
            let slots = 0..vectors * kernel.lanes;
            for (line, group) in (0..lines).flat_map(|line| (0..groups).map(move |group| (line, group))) {
                for slot in slots.clone() {
                    let weight = |n: usize| match (channel(slot), input(group, n)) {
                        (Some(channel), Some(input)) if input < inputs => {
                            weights[(channel * lines + line) * inputs + input]
                        }
                        _ => 0,
                    };
                    packed_weights.extend((0..kernel.group).map(weight));
                }
            }
            packed_bias.extend(slots.clone().map(|slot| {
                channel(slot).map_or(0, |channel| {
                    let weights = &weights[channel * lines * inputs..][..lines * inputs];
                    if kernel.signed { signed_bias(bias[channel], weights) } else { bias[channel] }
                })
            }));
            packed_multipliers
                .extend(slots.map(|slot| channel(slot).map_or(0.0, |channel| multipliers[channel])));
            first += vectors * kernel.lanes;
        }
        Self {
            inputs,
            padded,
            lines,
            outputs,
            zero_point,
            rectified: is_rectified(zero_point, weights, bias, multipliers),
            kernel,
            panels,
            weights: packed_weights.into(),
            bias: packed_bias.into(),
            multipliers: packed_multipliers.into(),
        }
    }

    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `input` `[pixels, inputs]`, a pixel every [`stride`] bytes; for a convolution without a window.
    ///
    /// # Panics
    /// When a buffer is too small for so many pixels.
    pub fn run(&self, input: &[u8], pixels: usize, target: Target) {
        let windows = Windows { lines: input, line_stride: 0, step: stride(self.inputs) };
        self.run_windows(&windows, pixels, target);
    }

    /// A row of `pixels` windows.
    ///
    /// # Panics
    /// When a buffer is too small for so many pixels, and [`SLACK`] bytes after the last window.
    pub fn run_windows(&self, windows: &Windows, pixels: usize, mut target: Target) {
        if pixels == 0 {
            return;
        }
        let &Windows { lines: input, line_stride, step: input_stride } = windows;
        let quantized = pixels * stride(self.outputs);
        let taken = if self.lines > 1 { self.inputs + SLACK } else { self.padded };
        assert!(input.len() >= (self.lines - 1) * line_stride + (pixels - 1) * input_stride + taken);
        let (output, output_stride) = match &mut target {
            Target::Quantized(to) => {
                assert!(to.len() >= quantized);
                let Self { zero_point, rectified, .. } = *self;
                (Output::Quantized { to: to.as_mut_ptr(), zero_point, rectified }, stride(self.outputs))
            }
            Target::Added { to, other, addition } => {
                assert!(to.len() >= quantized && other.len() >= quantized);
                let output = Output::Added {
                    to: to.as_mut_ptr(),
                    zero_point: self.zero_point,
                    other: other.as_ptr(),
                    other_stride: stride(self.outputs),
                    addition: *addition,
                };
                (output, stride(self.outputs))
            }
            Target::Real(to) => {
                assert!(to.len() >= pixels * self.outputs);
                (Output::Real(to.as_mut_ptr()), self.outputs)
            }
        };
        let packed_inputs = self.lines * self.padded.next_multiple_of(self.kernel.group);
        let mut slot = 0;
        for &vectors in &self.panels {
            let width = vectors * self.kernel.lanes;
            let most = self.kernel.pixels[vectors - 1];
            let tiles = pixels.div_ceil(most);
            let (size, longer) = (pixels / tiles, pixels % tiles);
            let second = longer * (size + 1);
            for (first, size, count) in [(0, size + 1, longer), (second, size, tiles - longer)] {
                if count == 0 {
                    continue;
                }
                // SAFETY: the buffers hold all pixels, as asserted above; weights, bias and multipliers hold
                // `width` slots for each panel from `slot` on.
                let first = unsafe {
                    Tile {
                        input: input.as_ptr().add(first * input_stride),
                        input_stride,
                        lines: self.lines,
                        line_stride,
                        inputs: self.padded,
                        weights: self.weights.as_ptr().add(slot * packed_inputs),
                        bias: self.bias.as_ptr().add(slot),
                        multipliers: self.multipliers.as_ptr().add(slot),
                        channels: width.min(self.outputs - slot),
                        output: output.at(first * output_stride + slot),
                        output_stride,
                    }
                };
                // SAFETY: `kernel` is chosen among those that the CPU supports, and the tiles are whole.
                unsafe { (self.kernel.run)(&Tiles { count, first }, size, vectors) };
            }
            slot += width;
        }
    }
}

impl Output {
    /// The same, `offset` values further on.
    #[inline(always)]
    fn at(self, offset: usize) -> Self {
        match self {
            Self::Quantized { to, zero_point, rectified } => {
                Self::Quantized { to: to.wrapping_add(offset), zero_point, rectified }
            }
            Self::Added { to, zero_point, other, other_stride, addition } => Self::Added {
                to: to.wrapping_add(offset),
                zero_point,
                other: other.wrapping_add(offset),
                other_stride,
                addition,
            },
            Self::Real(to) => Self::Real(to.wrapping_add(offset)),
        }
    }
}
