//! 3 pixels × 8 channels in 24 registers, each of which gathers the products of four inputs in sixteen.
//!
//! Two products of signed bytes fit into a word, unless all four factors are −128: SMULL, SMLAL2 and SADALP are three
//! instructions for sixteen products. Weights that have a −128 take a fourth.

use std::arch::aarch64::*;

use super::{Kernel, Output, Tile};

/// For weights without −128.
pub(super) static KERNEL: Kernel = Kernel { run: run::<false>, ..FULL_RANGE };

/// For all weights.
pub(super) static FULL_RANGE: Kernel = Kernel {
    lanes: 8,
    vectors: 1,
    pixels: &[3],
    group: 16,
    signed: true,
    order: |_, _, lane| lane,
    run: run::<true>,
};

unsafe fn run<const FULL_RANGE: bool>(tile: &Tile, pixels: usize, _vectors: usize) {
    // SAFETY: the caller promises the instruction set and the tile's pointers.
    unsafe {
        match pixels {
            1 => product::<1, FULL_RANGE>(tile),
            2 => product::<2, FULL_RANGE>(tile),
            3 => product::<3, FULL_RANGE>(tile),
            _ => unreachable!("no tile has {pixels} pixels"),
        }
    }
}

#[target_feature(enable = "neon")]
unsafe fn product<const PIXELS: usize, const FULL_RANGE: bool>(tile: &Tile) {
    // SAFETY: the caller promises that the tile's pointers reach as far as its fields say.
    unsafe {
        let mut sums = [[vdupq_n_s32(0); 8]; PIXELS];
        let mut weights = tile.weights;
        let whole = tile.inputs / 16 * 16;
        for input in (0..whole).step_by(16) {
            let values = std::array::from_fn(|pixel| {
                signed(vld1q_u8(tile.input.add(pixel * tile.input_stride + input)))
            });
            multiply::<PIXELS, FULL_RANGE>(&mut sums, values, weights);
            weights = weights.add(8 * 16);
        }
        if whole < tile.inputs {
            let values = std::array::from_fn(|pixel| {
                let mut rest = [0; 16];
                let from = tile.input.add(pixel * tile.input_stride + whole);
                rest.as_mut_ptr().copy_from_nonoverlapping(from, tile.inputs - whole);
                signed(vld1q_u8(rest.as_ptr()))
            });
            multiply::<PIXELS, FULL_RANGE>(&mut sums, values, weights);
        }
        let bias = [vld1q_s32(tile.bias), vld1q_s32(tile.bias.add(4))];
        let mut totals = [[bias]; PIXELS];
        for pixel in 0..PIXELS {
            for half in 0..2 {
                let [a, b, c, d] = std::array::from_fn(|n| sums[pixel][4 * half + n]);
                let four = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
                totals[pixel][0][half] = vaddq_s32(bias[half], four);
            }
        }
        finish(tile, &totals);
    }
}

/// Sixteen inputs of each pixel by as many weights of eight channels.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn multiply<const PIXELS: usize, const FULL_RANGE: bool>(
    sums: &mut [[int32x4_t; 8]; PIXELS],
    values: [int8x16_t; PIXELS],
    weights: *const i8,
) {
    for channel in 0..8 {
        // SAFETY: the caller promises 8 × 16 weights.
        let weights = unsafe { vld1q_s8(weights.add(16 * channel)) };
        for pixel in 0..PIXELS {
            let sum = &mut sums[pixel][channel];
            let low = vmull_s8(vget_low_s8(values[pixel]), vget_low_s8(weights));
            *sum = if FULL_RANGE {
                vpadalq_s16(vpadalq_s16(*sum, low), vmull_high_s8(values[pixel], weights))
            } else {
                vpadalq_s16(*sum, vmlal_high_s8(low, values[pixel], weights))
            };
        }
    }
}

/// Bytes less 128.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn signed(bytes: uint8x16_t) -> int8x16_t {
    vreinterpretq_s8_u8(veorq_u8(bytes, vdupq_n_u8(0x80)))
}

/// What becomes of a tile's sums, eight channels a pair of vectors.
#[inline]
#[target_feature(enable = "neon")]
pub(super) unsafe fn finish<const PIXELS: usize, const PAIRS: usize>(
    tile: &Tile,
    sums: &[[[int32x4_t; 2]; PAIRS]; PIXELS],
) {
    // SAFETY: the caller promises that the tile's pointers reach as far as its fields say.
    unsafe {
        for pair in 0..PAIRS {
            let channels = (tile.channels - 8 * pair).min(8);
            let multipliers = tile.multipliers.add(8 * pair);
            let multipliers = [vld1q_f32(multipliers), vld1q_f32(multipliers.add(4))];
            let at = |pixel: usize| pixel * tile.output_stride + 8 * pair;
            match tile.output {
                Output::Quantized { to, zero_point } => {
                    for pixel in 0..PIXELS {
                        let whole = scaled(sums[pixel][pair], multipliers);
                        store(to.add(at(pixel)), pack(whole, zero_point), channels);
                    }
                }
                Output::Added { to, zero_point, other, other_stride, addition } => {
                    let zero = i32::from(zero_point);
                    let (low, high) = (vdupq_n_s32(-zero), vdupq_n_s32(255 - zero));
                    let b_zero_point = vdupq_n_s32(i32::from(addition.b_zero_point));
                    for pixel in 0..PIXELS {
                        let whole = scaled(sums[pixel][pair], multipliers);
                        let other = load(other.add(pixel * other_stride + 8 * pair), channels);
                        let whole = std::array::from_fn(|half| {
                            let a = vcvtq_f32_s32(vminq_s32(vmaxq_s32(whole[half], low), high));
                            let b = vcvtq_f32_s32(vsubq_s32(other[half], b_zero_point));
                            let a = vmulq_n_f32(a, addition.a_factor);
                            vcvtnq_s32_f32(vaddq_f32(a, vmulq_n_f32(b, addition.b_factor)))
                        });
                        store(to.add(at(pixel)), pack(whole, addition.zero_point), channels);
                    }
                }
                Output::Real(to) => {
                    for pixel in 0..PIXELS {
                        let mut eight = [0f32; 8];
                        for half in 0..2 {
                            let real = vmulq_f32(vcvtq_f32_s32(sums[pixel][pair][half]), multipliers[half]);
                            vst1q_f32(eight.as_mut_ptr().add(4 * half), real);
                        }
                        to.add(at(pixel)).copy_from_nonoverlapping(eight.as_ptr(), channels);
                    }
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn scaled(sums: [int32x4_t; 2], multipliers: [float32x4_t; 2]) -> [int32x4_t; 2] {
    std::array::from_fn(|half| vcvtnq_s32_f32(vmulq_f32(vcvtq_f32_s32(sums[half]), multipliers[half])))
}

/// Adds the zero point and saturates to bytes.
#[inline]
#[target_feature(enable = "neon")]
fn pack([a, b]: [int32x4_t; 2], zero_point: u8) -> uint8x8_t {
    let words = vqmovn_high_s32(vqmovn_s32(a), b);
    vqmovun_s16(vqaddq_s16(words, vdupq_n_s16(i16::from(zero_point))))
}

/// Stores the first `channels` bytes.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store(to: *mut u8, bytes: uint8x8_t, channels: usize) {
    // SAFETY: the caller promises room for `channels` bytes.
    unsafe {
        if channels == 8 {
            vst1_u8(to, bytes);
        } else {
            let mut eight = [0; 8];
            vst1_u8(eight.as_mut_ptr(), bytes);
            to.copy_from_nonoverlapping(eight.as_ptr(), channels);
        }
    }
}

/// Loads `channels` bytes, zeros after them.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(from: *const u8, channels: usize) -> [int32x4_t; 2] {
    // SAFETY: the caller promises `channels` bytes.
    let bytes = unsafe {
        if channels == 8 {
            vld1_u8(from)
        } else {
            let mut eight = [0; 8];
            eight.as_mut_ptr().copy_from_nonoverlapping(from, channels);
            vld1_u8(eight.as_ptr())
        }
    };
    let words = vreinterpretq_s16_u16(vmovl_u8(bytes));
    [vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words)]
}
