//! 2 pixels × 8 channels in 16 registers, each of which gathers the products of four inputs in sixteen.
//!
//! Two products of signed bytes fit into a word, unless all four factors are −128: SMULL, SMLAL2 and SADALP are three
//! instructions for sixteen products. Weights that have a −128 take a fourth.

use std::arch::{aarch64::*, asm};

use super::{Kernel, Output, Tile, Tiles};

/// For weights without −128.
pub(super) static KERNEL: Kernel = Kernel { run: run::<false>, ..FULL_RANGE };

/// For all weights.
pub(super) static FULL_RANGE: Kernel = Kernel {
    lanes: 8,
    vectors: 1,
    pixels: &[2],
    group: 16,
    overlap: true,
    signed: true,
    order: |_, _, lane| lane,
    run: run::<true>,
};

unsafe fn run<const FULL_RANGE: bool>(tiles: &Tiles, pixels: usize, _vectors: usize) {
    // SAFETY: the caller promises the instruction set and the tile's pointers.
    unsafe {
        match pixels {
            1 => product::<1, FULL_RANGE>(tiles),
            2 => product::<2, FULL_RANGE>(tiles),
            _ => unreachable!("no tile has {pixels} pixels"),
        }
    }
}

#[target_feature(enable = "neon")]
unsafe fn product<const PIXELS: usize, const FULL_RANGE: bool>(tiles: &Tiles) {
    // SAFETY: the caller promises that the tile's pointers reach as far as its fields say.
    unsafe {
        let mut tile = tiles.first;
        for _ in 0..tiles.count {
            let mut sums = [[vdupq_n_s32(0); 8]; PIXELS];
            let mut weights = tile.weights;
            let whole = tile.inputs / 16 * 16;
            for line in 0..tile.lines {
                let line = tile.input.add(line * tile.line_stride);
                for input in (0..whole).step_by(16) {
                    let values = std::array::from_fn(|pixel| {
                        signed(vld1q_u8(line.add(pixel * tile.input_stride + input)))
                    });
                    multiply::<PIXELS, FULL_RANGE>(&mut sums, values, weights);
                    weights = weights.add(8 * 16);
                }
                if whole < tile.inputs {
                    let values = std::array::from_fn(|pixel| {
                        let row = line.add(pixel * tile.input_stride);
                        if tile.inputs >= 16 {
                            return signed(vld1q_u8(row.add(tile.inputs - 16)));
                        }
                        let mut few = [0; 16];
                        few.as_mut_ptr().copy_from_nonoverlapping(row, tile.inputs);
                        signed(vld1q_u8(few.as_ptr()))
                    });
                    multiply::<PIXELS, FULL_RANGE>(&mut sums, values, weights);
                    weights = weights.add(8 * 16);
                }
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
            finish(&tile, &totals);
            tile.step(PIXELS);
        }
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
    // SAFETY: the caller promises 8 × 16 weights.
    let weights: [int8x16_t; 8] =
        std::array::from_fn(|channel| unsafe { vld1q_s8(weights.add(16 * channel)) });
    for first in (0..8 * PIXELS).step_by(4) {
        let at = |n: usize| ((first + n) % PIXELS, (first + n) / PIXELS);
        let mut four = std::array::from_fn(|n| sums[at(n).0][at(n).1]);
        let values = std::array::from_fn(|n| values[at(n).0]);
        let weights = std::array::from_fn(|n| weights[at(n).1]);
        if FULL_RANGE {
            four_products_of_full_range(&mut four, values, weights);
        } else {
            four_products(&mut four, values, weights);
        }
        for (n, sum) in four.into_iter().enumerate() {
            sums[at(n).0][at(n).1] = sum;
        }
    }
}

/// Four vectors of sums, `s0` to `s3`, by as many values `x` and weights `w`, with temporary registers `t`. The order
/// is ours, because the compiler's keeps more products at a time than there are registers.
macro_rules! four_times {
    ($name:ident: $($instruction:literal),*) => {
        #[inline]
        #[target_feature(enable = "neon")]
        fn $name(sums: &mut [int32x4_t; 4], values: [int8x16_t; 4], weights: [int8x16_t; 4]) {
            let [s0, s1, s2, s3] = sums;
            let [x0, x1, x2, x3] = values;
            let [w0, w1, w2, w3] = weights;
            // SAFETY: works on these registers only.
            unsafe {
                asm!(
                    $($instruction,)*
                    s0 = inout(vreg) *s0, s1 = inout(vreg) *s1, s2 = inout(vreg) *s2, s3 = inout(vreg) *s3,
                    x0 = in(vreg) x0, x1 = in(vreg) x1, x2 = in(vreg) x2, x3 = in(vreg) x3,
                    w0 = in(vreg) w0, w1 = in(vreg) w1, w2 = in(vreg) w2, w3 = in(vreg) w3,
                    t0 = out(vreg) _, t1 = out(vreg) _, t2 = out(vreg) _, t3 = out(vreg) _,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
        }
    };
}

four_times!(
    four_products:
    "smull {t0:v}.8h, {x0:v}.8b, {w0:v}.8b",
    "smull {t1:v}.8h, {x1:v}.8b, {w1:v}.8b",
    "smull {t2:v}.8h, {x2:v}.8b, {w2:v}.8b",
    "smull {t3:v}.8h, {x3:v}.8b, {w3:v}.8b",
    "smlal2 {t0:v}.8h, {x0:v}.16b, {w0:v}.16b",
    "smlal2 {t1:v}.8h, {x1:v}.16b, {w1:v}.16b",
    "smlal2 {t2:v}.8h, {x2:v}.16b, {w2:v}.16b",
    "smlal2 {t3:v}.8h, {x3:v}.16b, {w3:v}.16b",
    "sadalp {s0:v}.4s, {t0:v}.8h",
    "sadalp {s1:v}.4s, {t1:v}.8h",
    "sadalp {s2:v}.4s, {t2:v}.8h",
    "sadalp {s3:v}.4s, {t3:v}.8h"
);

four_times!(
    four_products_of_full_range:
    "smull {t0:v}.8h, {x0:v}.8b, {w0:v}.8b",
    "smull {t1:v}.8h, {x1:v}.8b, {w1:v}.8b",
    "smull {t2:v}.8h, {x2:v}.8b, {w2:v}.8b",
    "smull {t3:v}.8h, {x3:v}.8b, {w3:v}.8b",
    "sadalp {s0:v}.4s, {t0:v}.8h",
    "sadalp {s1:v}.4s, {t1:v}.8h",
    "sadalp {s2:v}.4s, {t2:v}.8h",
    "sadalp {s3:v}.4s, {t3:v}.8h",
    "smull2 {t0:v}.8h, {x0:v}.16b, {w0:v}.16b",
    "smull2 {t1:v}.8h, {x1:v}.16b, {w1:v}.16b",
    "smull2 {t2:v}.8h, {x2:v}.16b, {w2:v}.16b",
    "smull2 {t3:v}.8h, {x3:v}.16b, {w3:v}.16b",
    "sadalp {s0:v}.4s, {t0:v}.8h",
    "sadalp {s1:v}.4s, {t1:v}.8h",
    "sadalp {s2:v}.4s, {t2:v}.8h",
    "sadalp {s3:v}.4s, {t3:v}.8h"
);

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
        if tile.channels == 8 * PAIRS {
            finish_channels::<PIXELS, PAIRS, true>(tile, sums);
        } else {
            finish_channels::<PIXELS, PAIRS, false>(tile, sums);
        }
    }
}

/// `WHOLE`: all channels are there.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn finish_channels<const PIXELS: usize, const PAIRS: usize, const WHOLE: bool>(
    tile: &Tile,
    sums: &[[[int32x4_t; 2]; PAIRS]; PIXELS],
) {
    // SAFETY: the caller promises that the tile's pointers reach as far as its fields say.
    unsafe {
        let multipliers: [[float32x4_t; 2]; PAIRS] = std::array::from_fn(|pair| {
            [vld1q_f32(tile.multipliers.add(8 * pair)), vld1q_f32(tile.multipliers.add(8 * pair + 4))]
        });
        match tile.output {
            Output::Quantized { to, zero_point, .. } => {
                for pixel in 0..PIXELS {
                    let bytes = std::array::from_fn(|pair| {
                        pack(scaled(sums[pixel][pair], multipliers[pair]), zero_point)
                    });
                    store::<PAIRS, WHOLE>(to.add(pixel * tile.output_stride), bytes, tile.channels);
                }
            }
            Output::Added { to, zero_point, other, other_stride, addition } => {
                let zero = i32::from(zero_point);
                let (low, high) = (vdupq_n_s32(-zero), vdupq_n_s32(255 - zero));
                let b_zero_point = vdupq_n_s32(i32::from(addition.b_zero_point));
                for pixel in 0..PIXELS {
                    let others = load::<PAIRS, WHOLE>(other.add(pixel * other_stride), tile.channels);
                    let bytes = std::array::from_fn(|pair| {
                        let whole = scaled(sums[pixel][pair], multipliers[pair]);
                        let other = widened(others[pair]);
                        let sum = std::array::from_fn(|half| {
                            let a = vcvtq_f32_s32(vminq_s32(vmaxq_s32(whole[half], low), high));
                            let b = vcvtq_f32_s32(vsubq_s32(other[half], b_zero_point));
                            let a = vmulq_n_f32(a, addition.a_factor);
                            vcvtnq_s32_f32(vaddq_f32(a, vmulq_n_f32(b, addition.b_factor)))
                        });
                        pack(sum, addition.zero_point)
                    });
                    store::<PAIRS, WHOLE>(to.add(pixel * tile.output_stride), bytes, tile.channels);
                }
            }
            Output::Real(to) => {
                for pixel in 0..PIXELS {
                    let to = to.add(pixel * tile.output_stride);
                    let mut reals = [[[0f32; 4]; 2]; PAIRS];
                    for pair in 0..PAIRS {
                        for half in 0..2 {
                            let real = vcvtq_f32_s32(sums[pixel][pair][half]);
                            let real = vmulq_f32(real, multipliers[pair][half]);
                            vst1q_f32(reals[pair][half].as_mut_ptr(), real);
                        }
                    }
                    to.copy_from_nonoverlapping(reals.as_ptr().cast(), tile.channels);
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

#[inline]
#[target_feature(enable = "neon")]
fn widened(bytes: uint8x8_t) -> [int32x4_t; 2] {
    let words = vreinterpretq_s16_u16(vmovl_u8(bytes));
    [vmovl_s16(vget_low_s16(words)), vmovl_high_s16(words)]
}

/// Stores the first `channels` bytes; all of them if they are `WHOLE`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn store<const PAIRS: usize, const WHOLE: bool>(
    to: *mut u8,
    bytes: [uint8x8_t; PAIRS],
    channels: usize,
) {
    // SAFETY: the caller promises room for `channels` bytes.
    unsafe {
        match (WHOLE, &bytes[..]) {
            (true, &[one]) => vst1_u8(to, one),
            (true, &[one, two]) => vst1q_u8(to, vcombine_u8(one, two)),
            _ => to.copy_from_nonoverlapping(bytes.as_ptr().cast(), channels),
        }
    }
}

/// Loads `channels` bytes, zeros after them; all if they are `WHOLE`.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load<const PAIRS: usize, const WHOLE: bool>(
    from: *const u8,
    channels: usize,
) -> [uint8x8_t; PAIRS] {
    let mut bytes = [vdup_n_u8(0); PAIRS];
    // SAFETY: the caller promises `channels` bytes.
    unsafe {
        let count = if WHOLE { 8 * PAIRS } else { channels };
        bytes.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(from, count);
    }
    bytes
}
