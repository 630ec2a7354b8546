//! 5 pixels × 16 channels in 20 registers, or 8 × 8 in 16; sixteen inputs of a pixel stay in one.

use std::arch::{aarch64::*, asm};

use super::{
    Kernel, Tiles,
    neon::{finish, signed},
};

pub(super) static KERNEL: Kernel = Kernel {
    lanes: 8,
    vectors: 2,
    pixels: &[8, 5],
    group: 4,
    overlap: false,
    signed: true,
    order: |_, vector, lane| 8 * vector + lane,
    run,
};

unsafe fn run(tiles: &Tiles, pixels: usize, vectors: usize) {
    macro_rules! dispatch {
        ($($vectors:literal: $($pixels:literal)*;)*) => {
            match (vectors, pixels) {
                // SAFETY: the caller promises the instruction set and the tiles' pointers.
                $($(($vectors, $pixels) => unsafe { product::<$pixels, $vectors>(tiles) },)*)*
                _ => unreachable!("no tile has {pixels} pixels by {vectors} pairs of vectors"),
            }
        };
    }
    dispatch! {
        1: 1 2 3 4 5 6 7 8;
        2: 1 2 3 4 5;
    }
}

#[target_feature(enable = "neon,dotprod")]
unsafe fn product<const PIXELS: usize, const PAIRS: usize>(tiles: &Tiles) {
    // SAFETY: the caller promises that the tile's pointers reach as far as its fields say.
    unsafe {
        let mut tile = tiles.first;
        for _ in 0..tiles.count {
            let bias: [[int32x4_t; 2]; PAIRS] = std::array::from_fn(|pair| {
                [vld1q_s32(tile.bias.add(8 * pair)), vld1q_s32(tile.bias.add(8 * pair + 4))]
            });
            let mut sums = [bias; PIXELS];
            let mut weights = tile.weights;
            let whole = tile.inputs / 16 * 16;
            for line in 0..tile.lines {
                let line = tile.input.add(line * tile.line_stride);
                for input in (0..whole).step_by(16) {
                    let values: [int8x16_t; PIXELS] = std::array::from_fn(|pixel| {
                        signed(vld1q_u8(line.add(pixel * tile.input_stride + input)))
                    });
                    multiply::<0, PIXELS, PAIRS>(&mut sums, values, weights);
                    multiply::<1, PIXELS, PAIRS>(&mut sums, values, weights.add(32 * PAIRS));
                    multiply::<2, PIXELS, PAIRS>(&mut sums, values, weights.add(64 * PAIRS));
                    multiply::<3, PIXELS, PAIRS>(&mut sums, values, weights.add(96 * PAIRS));
                    weights = weights.add(128 * PAIRS);
                }
                let rest = (tile.inputs - whole) / 4;
                if rest == 0 {
                    continue;
                }
                // The last sixteen bytes, the first of which are done with; or those of a window's line, and more.
                let (from, done) = match () {
                    () if tile.lines > 1 => (whole, 0),
                    () if tile.inputs >= 16 => (tile.inputs - 16, 4 - rest),
                    () => (0, 0),
                };
                let values: [int8x16_t; PIXELS] = std::array::from_fn(|pixel| {
                    let row = line.add(pixel * tile.input_stride + from);
                    if tile.lines > 1 || tile.inputs >= 16 {
                        return signed(vld1q_u8(row));
                    }
                    let mut few = [0; 16];
                    few.as_mut_ptr().copy_from_nonoverlapping(row, tile.inputs);
                    signed(vld1q_u8(few.as_ptr()))
                });
                let parts = done..done + rest;
                macro_rules! multiply_parts {
                    ($($part:literal)*) => {
                        $(if parts.contains(&$part) {
                            multiply::<$part, PIXELS, PAIRS>(&mut sums, values, weights);
                            weights = weights.add(32 * PAIRS);
                        })*
                    };
                }
                multiply_parts!(0 1 2 3);
            }
            finish(&tile, &sums);
            tile.step(PIXELS);
        }
    }
}

/// Four inputs of each pixel, the `PART`th of its vector, by as many weights of the channels.
#[inline]
#[target_feature(enable = "neon,dotprod")]
unsafe fn multiply<const PART: usize, const PIXELS: usize, const PAIRS: usize>(
    sums: &mut [[[int32x4_t; 2]; PAIRS]; PIXELS],
    values: [int8x16_t; PIXELS],
    weights: *const i8,
) {
    // SAFETY: the caller promises four weights for each channel.
    let weights: [[int8x16_t; 2]; PAIRS] = std::array::from_fn(|pair| unsafe {
        [vld1q_s8(weights.add(32 * pair)), vld1q_s8(weights.add(32 * pair + 16))]
    });
    for pixel in 0..PIXELS {
        for pair in 0..PAIRS {
            for half in 0..2 {
                let sum = &mut sums[pixel][pair][half];
                *sum = dot::<PART>(*sum, weights[pair][half], values[pixel]);
            }
        }
    }
}

/// Adds the products of each four weights and the `PART`th four values.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot<const PART: usize>(mut sums: int32x4_t, weights: int8x16_t, values: int8x16_t) -> int32x4_t {
    // SAFETY: works on these registers only.
    unsafe {
        asm!(
            "sdot {0:v}.4s, {1:v}.16b, {2:v}.4b[{part}]",
            inout(vreg) sums,
            in(vreg) weights,
            in(vreg) values,
            part = const PART,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sums
}
