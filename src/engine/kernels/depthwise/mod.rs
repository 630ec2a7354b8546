//! Depthwise convolution, 3×3 and 5×5 at stride 1 and 2.
//!
//! Computed in strips: one or two rows of the output by a chunk of channels. The rows of the input that a strip reads
//! are first copied (to scratch memory, which stays in the first-level cache), most often interleaved four by four, so
//! that the four bytes of a vector's lane are one channel's values in four rows; a column of the window is then one dot
//! product of four bytes for each channel. Two rows of the output read nearly the same four rows of the input, so they
//! share them.

use super::{Aligned, InstructionSet, is_rectified, signed_bias, stride};

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
#[cfg(target_arch = "x86_64")]
mod ymm;

/// How an instruction set wants its weights, and the function that computes a strip.
pub(super) struct Kernel {
    /// Channels of a chunk that it knows, widest first.
    widths: &'static [usize],
    /// Rows of the input that it interleaves.
    group: usize,
    /// Bytes of a channel's values in so many rows.
    group_bytes: usize,
    /// Whether it multiplies inputs less 128, as signed bytes.
    signed: bool,
    /// Which channel of a chunk is at a slot of the interleaved rows: `(width, slot)`.
    order: fn(usize, usize) -> usize,
    /// # Safety
    /// The CPU has the instruction set, and the pointers of the strip reach as far as its fields say.
    run: unsafe fn(&Strip, &Window, usize),
}

/// The side of the window, its step, and what follows from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub side: usize,
    pub step: usize,
}

impl Window {
    /// Rows of the output that are computed together.
    const fn rows(&self) -> usize {
        if self.side == 3 && self.step == 2 { 1 } else { 2 }
    }

    /// Groups of so many rows of the input that these read.
    const fn groups(&self, group: usize) -> usize {
        (self.side + self.step * (self.rows() - 1)).div_ceil(group)
    }
}

/// The most rows of the input that a strip reads, padding included.
const ROWS: usize = 8;

/// What portable code does not ask for is there for the other kernels.
#[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(dead_code))]
pub(super) struct Strip {
    /// Rows of the input, at the chunk's first channel; a padding row has the step 0.
    input: [*const u8; ROWS],
    /// Bytes from one pixel to the next.
    steps: [usize; ROWS],
    columns: usize,
    /// Columns of padding.
    left: usize,
    right: usize,
    /// The input's zero point, which is what padding holds.
    padding: u8,
    /// `[left + columns + right][groups][width]` groups
    scratch: *mut u8,
    /// `[rows][side][groups][width][group]`
    weights: *const i8,
    /// `[width]` in the kernel's order, as are the multipliers.
    bias: *const i32,
    multipliers: *const f32,
    /// Channels of the chunk that there are, at most its width.
    channels: usize,
    /// Rows of the output, at the chunk's first channel; the second is null where there is none.
    output: [*mut u8; 2],
    output_stride: usize,
    output_columns: usize,
    zero_point: u8,
    /// As [`is_rectified`] says.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    rectified: bool,
}

/// Height and width of a picture.
pub type Size = [usize; 2];

/// A depthwise convolution, its weights packed for one instruction set.
pub struct Depthwise {
    channels: usize,
    window: Window,
    /// Padding above and to the left; below and to the right there is as much as is needed.
    above: usize,
    left: usize,
    padding: u8,
    zero_point: u8,
    rectified: bool,
    kernel: &'static Kernel,
    /// Widths of the chunks.
    chunks: Vec<usize>,
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
        InstructionSet::AvxVnni => &avxvnni::vex::KERNEL,
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

/// The parameters of a depthwise convolution. `weights` `[channels, side, side]`; `bias` `[channels]` with the input's
/// zero point folded in, as if padding were multiplied as well.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a> {
    pub window: Window,
    /// Padding above and to the left.
    pub above: usize,
    pub left: usize,
    pub weights: &'a [i8],
    pub bias: &'a [i32],
    pub multipliers: &'a [f32],
    /// The input's zero point.
    pub padding: u8,
    /// The output's zero point.
    pub zero_point: u8,
}

impl Depthwise {
    pub fn new(set: InstructionSet, parameters: Parameters) -> Self {
        Self::pack(kernel(set, parameters.weights), parameters)
    }

    fn pack(kernel: &'static Kernel, parameters: Parameters) -> Self {
        let Parameters { window, above, left, weights, bias, multipliers, padding, zero_point } = parameters;
        let Window { side, step } = window;
        let channels = bias.len();
        assert!(matches!((side, step), (3 | 5, 1 | 2)) && above < side && left < side);
        assert_eq!((weights.len(), multipliers.len()), (channels * side * side, channels));
        let (mut packed_weights, mut packed_bias, mut packed_multipliers) =
            (Vec::new(), Vec::new(), Vec::new());
        let mut chunks = Vec::new();
        let mut first = 0;
        while first < channels {
            let rest = channels - first;
            let width = kernel.widths.iter().copied().find(|&width| width <= rest);
            let width = width.unwrap_or_else(|| kernel.widths[kernel.widths.len() - 1]);
            let channel = |slot: usize| {
                let channel = first + (kernel.order)(width, slot);
                (channel < channels).then_some(channel)
            };
            for row in 0..window.rows() {
                for column in 0..side {
                    for group in 0..window.groups(kernel.group) {
                        for slot in 0..width {
                            packed_weights.extend((0..kernel.group).map(|n| {
                                // The row of the window that falls on this row of the input.
                                let at = (kernel.group * group + n)
                                    .checked_sub(step * row)
                                    .filter(|&at| at < side);
                                match (channel(slot), at) {
                                    (Some(channel), Some(at)) => {
                                        weights[(channel * side + at) * side + column]
                                    }
                                    _ => 0,
                                }
                            }));
                        }
                    }
                }
            }
            packed_bias.extend((0..width).map(|slot| {
                channel(slot).map_or(0, |channel| {
                    let weights = &weights[channel * side * side..][..side * side];
                    if kernel.signed { signed_bias(bias[channel], weights) } else { bias[channel] }
                })
            }));
            packed_multipliers
                .extend((0..width).map(|slot| channel(slot).map_or(0.0, |channel| multipliers[channel])));
            chunks.push(width);
            first += width;
        }
        Self {
            channels,
            window,
            above,
            left,
            padding,
            zero_point,
            rectified: is_rectified(zero_point, weights, bias, multipliers),
            kernel,
            chunks,
            weights: packed_weights.into(),
            bias: packed_bias.into(),
            multipliers: packed_multipliers.into(),
        }
    }

    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Bytes of scratch memory for a picture with so many columns.
    pub fn scratch(&self, columns: usize, output_columns: usize) -> usize {
        let widest = self.chunks.iter().copied().max().unwrap_or(0);
        let groups = self.window.groups(self.kernel.group);
        self.left_and_more(columns, output_columns) * groups * widest * self.kernel.group_bytes
    }

    /// Columns that the windows cover, padding included, and at least the picture's own.
    fn left_and_more(&self, columns: usize, output_columns: usize) -> usize {
        let covered = output_columns.saturating_sub(1) * self.window.step + self.window.side;
        covered.max(self.left + columns)
    }

    /// `input` `[height, width, channels]` and `output`, pixels [`stride`] bytes apart; `scratch` of at least
    /// [`Depthwise::scratch`] bytes.
    ///
    /// # Panics
    /// When a buffer is too small, or the output reaches further than a window beyond the input.
    pub fn run(&self, input: &[u8], size: Size, output: &mut [u8], output_size: Size, scratch: &mut [u8]) {
        let ([height, columns], [output_rows, output_columns]) = (size, output_size);
        let Window { side, step } = self.window;
        if output_rows == 0 || output_columns == 0 {
            return;
        }
        let pixel = stride(self.channels);
        assert!(
            input.len() >= height * columns * pixel && output.len() >= output_rows * output_columns * pixel
        );
        assert!(scratch.len() >= self.scratch(columns, output_columns));
        let (output, scratch) = (output.as_mut_ptr(), scratch.as_mut_ptr());
        let padding = [self.padding; 64];
        let right = self.left_and_more(columns, output_columns) - self.left - columns;

        let rows = self.window.groups(self.kernel.group) * self.kernel.group;
        let (mut first, mut at) = (0, 0);
        for &width in &self.chunks {
            for row in (0..output_rows).step_by(self.window.rows()) {
                let mut strip = Strip {
                    input: [padding.as_ptr(); ROWS],
                    steps: [0; ROWS],
                    columns,
                    left: self.left,
                    right,
                    padding: self.padding,
                    scratch,
                    weights: self.weights[at * self.window.rows() * side * rows..].as_ptr(),
                    bias: self.bias[at..].as_ptr(),
                    multipliers: self.multipliers[at..].as_ptr(),
                    channels: width.min(self.channels - first),
                    output: [std::ptr::null_mut(); 2],
                    output_stride: pixel,
                    output_columns,
                    zero_point: self.zero_point,
                    rectified: self.rectified,
                };
                for n in 0..rows {
                    if let Some(y) = (row * step + n).checked_sub(self.above).filter(|&y| y < height) {
                        strip.input[n] = input[y * columns * pixel + first..].as_ptr();
                        strip.steps[n] = pixel;
                    }
                }
                for n in 0..self.window.rows().min(output_rows - row) {
                    // SAFETY: the output is as large as asserted above.
                    strip.output[n] = unsafe { output.add((row + n) * output_columns * pixel + first) };
                }
                // SAFETY: the buffers are as large as asserted above, and the kernel was chosen among those that the
                // CPU supports.
                unsafe { (self.kernel.run)(&strip, &self.window, width) };
            }
            first += width;
            at += width;
        }
    }
}
