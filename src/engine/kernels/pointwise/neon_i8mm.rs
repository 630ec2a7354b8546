//! 6 pixels × 16 channels in 24 registers, or 10 × 8 in 20, each of 2 × 2 sums.

use std::arch::{aarch64::*, asm};

use super::{Kernel, Tiles, neon::finish};

pub(super) static KERNEL: Kernel = Kernel {
    lanes: 8,
    vectors: 2,
    pixels: &[10, 6],
    group: 8,
    overlap: true,
    signed: false,
    order: |_, vector, lane| 8 * vector + lane,
    run,
};

unsafe fn run(tiles: &Tiles, pixels: usize, vectors: usize) {
    macro_rules! dispatch {
        ($($vectors:literal: $($pixels:literal)*;)*) => {
            match (vectors, pixels) {
                // SAFETY: the caller promises the instruction set and the tiles' pointers.
                $($(($vectors, $pixels) => unsafe {
                    product::<$pixels, { usize::div_ceil($pixels, 2) }, $vectors>(tiles)
                },)*)*
                _ => unreachable!("no tile has {pixels} pixels by {vectors} pairs of vectors"),
            }
        };
    }
    dispatch! {
        1: 1 2 3 4 5 6 7 8 9 10;
        2: 1 2 3 4 5 6;
    }
}

/// `COUPLES` of pixels, in the last of which one may stand twice.
#[target_feature(enable = "neon,i8mm")]
unsafe fn product<const PIXELS: usize, const COUPLES: usize, const PAIRS: usize>(tiles: &Tiles) {
    // SAFETY: the caller promises that the tile's pointers reach as far as its fields say.
    unsafe {
        let mut tile = tiles.first;
        for _ in 0..tiles.count {
            let mut sums = [[[vdupq_n_s32(0); 4]; PAIRS]; COUPLES];
            let mut weights = tile.weights;
            let whole = tile.inputs / 8 * 8;
            for line in 0..tile.lines {
                let line = tile.input.add(line * tile.line_stride);
                let row = |pixel: usize| line.add(pixel.min(PIXELS - 1) * tile.input_stride);
                for input in (0..whole).step_by(8) {
                    let values = std::array::from_fn(|couple| {
                        vcombine_u8(
                            vld1_u8(row(2 * couple).add(input)),
                            vld1_u8(row(2 * couple + 1).add(input)),
                        )
                    });
                    multiply(&mut sums, values, weights);
                    weights = weights.add(64 * PAIRS);
                }
                if whole < tile.inputs {
                    let rest = |pixel| match tile.inputs {
                        4 => vcreate_u8(u64::from(row(pixel).cast::<u32>().read_unaligned())),
                        inputs => vld1_u8(row(pixel).add(inputs - 8)),
                    };
                    let values =
                        std::array::from_fn(|couple| vcombine_u8(rest(2 * couple), rest(2 * couple + 1)));
                    multiply(&mut sums, values, weights);
                    weights = weights.add(64 * PAIRS);
                }
            }
            let bias: [[int32x4_t; 2]; PAIRS] = std::array::from_fn(|pair| {
                [vld1q_s32(tile.bias.add(8 * pair)), vld1q_s32(tile.bias.add(8 * pair + 4))]
            });
            let mut totals = [bias; PIXELS];
            for pixel in 0..PIXELS {
                for pair in 0..PAIRS {
                    for half in 0..2 {
                        let [a, b] = std::array::from_fn(|n| {
                            vreinterpretq_s64_s32(sums[pixel / 2][pair][2 * half + n])
                        });
                        let four = if pixel % 2 == 0 { vzip1q_s64(a, b) } else { vzip2q_s64(a, b) };
                        totals[pixel][pair][half] = vaddq_s32(bias[pair][half], vreinterpretq_s32_s64(four));
                    }
                }
            }
            finish(&tile, &totals);
            tile.step(PIXELS);
        }
    }
}

/// Eight inputs of each pixel by as many weights of the channels.
#[inline]
#[target_feature(enable = "neon,i8mm")]
unsafe fn multiply<const COUPLES: usize, const PAIRS: usize>(
    sums: &mut [[[int32x4_t; 4]; PAIRS]; COUPLES],
    values: [uint8x16_t; COUPLES],
    weights: *const i8,
) {
    for pair in 0..PAIRS {
        for two in 0..4 {
            // SAFETY: the caller promises eight weights for each channel.
            let weights = unsafe { vld1q_s8(weights.add(64 * pair + 16 * two)) };
            for couple in 0..COUPLES {
                let sums = &mut sums[couple][pair][two];
                *sums = product_of_matrices(*sums, values[couple], weights);
            }
        }
    }
}

/// Adds the products of each row of `values` and each row of `weights`, both 2 × 8.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn product_of_matrices(mut sums: int32x4_t, values: uint8x16_t, weights: int8x16_t) -> int32x4_t {
    // SAFETY: works on these registers only.
    unsafe {
        asm!(
            "usmmla {0:v}.4s, {1:v}.16b, {2:v}.16b",
            inout(vreg) sums,
            in(vreg) values,
            in(vreg) weights,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
