//! 16 channels of two rows by three columns in 24 registers.

use std::arch::{aarch64::*, asm};

/// Defines `KERNEL` for an instruction that adds dot products of four bytes; `signed` ones want inputs less 128.
macro_rules! kernel {
    ($features:literal, $instruction:literal, signed: $signed:literal) => {
        pub(super) static KERNEL: Kernel = Kernel {
            widths: &[WIDTH],
            group: GROUP,
            group_bytes: GROUP,
            signed: $signed,
            order: |_, slot| slot,
            run,
        };

        const WIDTH: usize = 16;
        const GROUP: usize = 4;

        unsafe fn run(strip: &Strip, window: &Window, _width: usize) {
            // SAFETY: the caller promises the instruction set and the strip's pointers.
            unsafe {
                match (window.side, window.step) {
                    (3, 1) => convolve::<3, 1, 2>(strip),
                    (3, 2) => convolve::<3, 2, 1>(strip),
                    (5, 1) => convolve::<5, 1, 2>(strip),
                    (5, 2) => convolve::<5, 2, 2>(strip),
                    _ => unreachable!("no window of {window:?}"),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn convolve<const SIDE: usize, const STEP: usize, const ROWS: usize>(strip: &Strip) {
            // SAFETY: the caller promises that the strip's pointers reach as far as its fields say.
            unsafe {
                fill(strip, const { Window { side: SIDE, step: STEP }.groups(GROUP) });
                let mut column = 0;
                while column + 3 <= strip.output_columns {
                    columns::<SIDE, STEP, ROWS, 3>(strip, column);
                    column += 3;
                }
                match strip.output_columns - column {
                    2 => columns::<SIDE, STEP, ROWS, 2>(strip, column),
                    1 => columns::<SIDE, STEP, ROWS, 1>(strip, column),
                    _ => {}
                }
            }
        }

        /// A few columns of the output from `first` on.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn columns<const SIDE: usize, const STEP: usize, const ROWS: usize, const COLUMNS: usize>(
            strip: &Strip,
            first: usize,
        ) {
            // SAFETY: as for `convolve`.
            unsafe {
                let groups = const { Window { side: SIDE, step: STEP }.groups(GROUP) };
                let group_bytes = WIDTH * GROUP;
                let values = strip.scratch.add(first * STEP * groups * group_bytes);
                let bias: [int32x4_t; 4] = std::array::from_fn(|n| vld1q_s32(strip.bias.add(4 * n)));
                let mut sums = [[bias; COLUMNS]; ROWS];
                for tap in 0..SIDE * groups {
                    for n in 0..4 {
                        let value: [uint8x16_t; COLUMNS] = std::array::from_fn(|c| {
                            vld1q_u8(values.add((c * STEP * groups + tap) * group_bytes + 16 * n))
                        });
                        for row in 0..ROWS {
                            let weights = strip.weights.add((row * SIDE * groups + tap) * group_bytes);
                            let weights = vld1q_s8(weights.add(16 * n));
                            for c in 0..COLUMNS {
                                sums[row][c][n] = dot(sums[row][c][n], value[c], weights);
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
        #[target_feature(enable = $features)]
        fn dot(mut sums: int32x4_t, values: uint8x16_t, weights: int8x16_t) -> int32x4_t {
            // SAFETY: works on these registers only.
            unsafe {
                asm!(
                    concat!($instruction, " {0:v}.4s, {1:v}.16b, {2:v}.16b"),
                    inout(vreg) sums,
                    in(vreg) values,
                    in(vreg) weights,
                    options(pure, nomem, nostack, preserves_flags),
                );
            }
            sums
        }

        /// Fills the scratch memory.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn fill(strip: &Strip, groups: usize) {
            // SAFETY: as for `convolve`.
            unsafe {
                let (group_bytes, column_bytes) = (WIDTH * GROUP, groups * WIDTH * GROUP);
                let flip = if $signed { 0x80 } else { 0 };
                let padding = vdupq_n_u8(strip.padding ^ flip);
                let end = strip.left + strip.columns;
                for column in (0..strip.left).chain(end..end + strip.right) {
                    for n in 0..groups * GROUP {
                        vst1q_u8(strip.scratch.add(column * column_bytes + n * WIDTH), padding);
                    }
                }
                let flip = vdupq_n_u8(flip);
                for group in 0..groups {
                    let mut rows: [*const u8; GROUP] = std::array::from_fn(|n| strip.input[GROUP * group + n]);
                    let steps: [usize; GROUP] = std::array::from_fn(|n| strip.steps[GROUP * group + n]);
                    let mut to = strip.scratch.add(strip.left * column_bytes + group * group_bytes);
                    for _ in 0..strip.columns {
                        let [a, b, c, d] = std::array::from_fn(|n| load(rows[n], strip.channels));
                        let pairs = [(vzip1q_u8(a, b), vzip1q_u8(c, d)), (vzip2q_u8(a, b), vzip2q_u8(c, d))];
                        for (n, (ab, cd)) in pairs.into_iter().enumerate() {
                            let (ab, cd) = (vreinterpretq_u16_u8(ab), vreinterpretq_u16_u8(cd));
                            let fours = [vzip1q_u16(ab, cd), vzip2q_u16(ab, cd)];
                            for (half, four) in fours.into_iter().enumerate() {
                                let four = veorq_u8(vreinterpretq_u8_u16(four), flip);
                                vst1q_u8(to.add(32 * n + 16 * half), four);
                            }
                        }
                        for (row, step) in rows.iter_mut().zip(steps) {
                            *row = row.add(step);
                        }
                        to = to.add(column_bytes);
                    }
                }
            }
        }
    };
}

pub(super) use kernel;

use super::{
    Kernel, Strip, Window,
    neon::{finish, load},
};

kernel!("neon,dotprod", "sdot", signed: true);
