//! 16 channels of two rows by two columns in 16 registers.
//!
//! Two products of signed bytes fit into a word, unless all four factors are −128: the taps are taken two by two, and
//! one by one where there are such weights.

use std::arch::aarch64::*;

use super::{Kernel, Strip, Window};

/// For weights without −128.
pub(super) static KERNEL: Kernel = Kernel { run: run::<false>, ..FULL_RANGE };

/// For all weights.
pub(super) static FULL_RANGE: Kernel = Kernel {
    widths: &[WIDTH],
    group: 1,
    group_bytes: 1,
    signed: true,
    order: |_, slot| slot,
    run: run::<true>,
};

const WIDTH: usize = 16;

unsafe fn run<const FULL_RANGE: bool>(strip: &Strip, window: &Window, _width: usize) {
    // SAFETY: the caller promises the instruction set and the strip's pointers.
    unsafe {
        match (window.side, window.step) {
            (3, 1) => convolve::<3, 1, 2, FULL_RANGE>(strip),
            (3, 2) => convolve::<3, 2, 1, FULL_RANGE>(strip),
            (5, 1) => convolve::<5, 1, 2, FULL_RANGE>(strip),
            (5, 2) => convolve::<5, 2, 2, FULL_RANGE>(strip),
            _ => unreachable!("no window of {window:?}"),
        }
    }
}

#[target_feature(enable = "neon")]
unsafe fn convolve<const SIDE: usize, const STEP: usize, const ROWS: usize, const FULL_RANGE: bool>(
    strip: &Strip,
) {
    // SAFETY: the caller promises that the strip's pointers reach as far as its fields say.
    unsafe {
        fill(strip, const { Window { side: SIDE, step: STEP }.groups(1) });
        let mut column = 0;
        while column + 2 <= strip.output_columns {
            columns::<SIDE, STEP, ROWS, 2, FULL_RANGE>(strip, column);
            column += 2;
        }
        if column < strip.output_columns {
            columns::<SIDE, STEP, ROWS, 1, FULL_RANGE>(strip, column);
        }
    }
}

/// A few columns of the output from `first` on.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn columns<
    const SIDE: usize,
    const STEP: usize,
    const ROWS: usize,
    const COLUMNS: usize,
    const FULL_RANGE: bool,
>(
    strip: &Strip,
    first: usize,
) {
    // SAFETY: as for `convolve`.
    unsafe {
        let input_rows = const { Window { side: SIDE, step: STEP }.groups(1) };
        let values = strip.scratch.add(first * STEP * input_rows * WIDTH).cast::<i8>();
        let bias: [int32x4_t; 4] = std::array::from_fn(|n| vld1q_s32(strip.bias.add(4 * n)));
        let mut sums = [[bias; COLUMNS]; ROWS];
        for across in 0..SIDE {
            let values = values.add(across * input_rows * WIDTH);
            // Those of the first row of the output serve the second one too.
            let weights = strip.weights.add(across * input_rows * WIDTH);
            for down in (0..SIDE).step_by(2) {
                let two = down + 1 < SIDE;
                let a_weights = vld1q_s8(weights.add(down * WIDTH));
                let b_weights = if two { vld1q_s8(weights.add((down + 1) * WIDTH)) } else { a_weights };
                for row in 0..ROWS {
                    for c in 0..COLUMNS {
                        let values = values.add((c * STEP * input_rows + row * STEP + down) * WIDTH);
                        let sums = &mut sums[row][c];
                        let [low, high] = multiply(vld1q_s8(values), a_weights);
                        if !two {
                            *sums = widen_and_add(*sums, [low, high]);
                            continue;
                        }
                        let b = vld1q_s8(values.add(WIDTH));
                        if FULL_RANGE {
                            *sums = widen_and_add(*sums, [low, high]);
                            *sums = widen_and_add(*sums, multiply(b, b_weights));
                        } else {
                            let low = vmlal_s8(low, vget_low_s8(b), vget_low_s8(b_weights));
                            *sums = widen_and_add(*sums, [low, vmlal_high_s8(high, b, b_weights)]);
                        }
                    }
                }
            }
        }
        for row in 0..ROWS {
            for c in 0..COLUMNS {
                finish(strip, row, first + c, sums[row][c]);
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn multiply(values: int8x16_t, weights: int8x16_t) -> [int16x8_t; 2] {
    [vmull_s8(vget_low_s8(values), vget_low_s8(weights)), vmull_high_s8(values, weights)]
}

#[inline]
#[target_feature(enable = "neon")]
fn widen_and_add([a, b, c, d]: [int32x4_t; 4], [low, high]: [int16x8_t; 2]) -> [int32x4_t; 4] {
    [
        vaddw_s16(a, vget_low_s16(low)),
        vaddw_high_s16(b, low),
        vaddw_s16(c, vget_low_s16(high)),
        vaddw_high_s16(d, high),
    ]
}

/// Fills the scratch memory with bytes less 128.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn fill(strip: &Strip, input_rows: usize) {
    // SAFETY: as for `convolve`.
    unsafe {
        let column_bytes = input_rows * WIDTH;
        let padding = vdupq_n_u8(strip.padding ^ 0x80);
        let end = strip.left + strip.columns;
        for column in (0..strip.left).chain(end..end + strip.right) {
            for row in 0..input_rows {
                vst1q_u8(strip.scratch.add(column * column_bytes + row * WIDTH), padding);
            }
        }
        for row in 0..input_rows {
            let mut from = strip.input[row];
            let mut to = strip.scratch.add(strip.left * column_bytes + row * WIDTH);
            for _ in 0..strip.columns {
                vst1q_u8(to, veorq_u8(load(from, strip.channels), vdupq_n_u8(0x80)));
                from = from.add(strip.steps[row]);
                to = to.add(column_bytes);
            }
        }
    }
}

/// Loads the channels of a pixel, zeros after them.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn load(from: *const u8, channels: usize) -> uint8x16_t {
    // SAFETY: the caller promises so many channels.
    unsafe {
        if channels == WIDTH {
            vld1q_u8(from)
        } else {
            let mut all = [0; WIDTH];
            all.as_mut_ptr().copy_from_nonoverlapping(from, channels);
            vld1q_u8(all.as_ptr())
        }
    }
}

/// What becomes of the sums of a pixel, if there is such a row.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn finish(strip: &Strip, row: usize, column: usize, sums: [int32x4_t; 4]) {
    if strip.output[row].is_null() {
        return;
    }
    // SAFETY: the caller promises that the strip's pointers reach as far as its fields say.
    unsafe {
        let [a, b, c, d] = std::array::from_fn(|n| {
            let multipliers = vld1q_f32(strip.multipliers.add(4 * n));
            vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums[n]), multipliers))
        });
        let zero_point = vdupq_n_s16(i16::from(strip.zero_point));
        let low = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(a), b), zero_point);
        let high = vqaddq_s16(vqmovn_high_s32(vqmovn_s32(c), d), zero_point);
        let bytes = vqmovun_high_s16(vqmovun_s16(low), high);
        let to = strip.output[row].add(column * strip.output_stride);
        if strip.channels == WIDTH {
            vst1q_u8(to, bytes);
        } else {
            let mut all = [0; WIDTH];
            vst1q_u8(all.as_mut_ptr(), bytes);
            to.copy_from_nonoverlapping(all.as_ptr(), strip.channels);
        }
    }
}
