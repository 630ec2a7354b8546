//! 6 pixels × 16 channels in 12 registers, or 12 × 8.

use std::arch::x86_64::*;

use super::{Kernel, Tile, Tiles, avx2::finish};

macro_rules! kernel {
    ($kernel:ident, $run:ident, $product:ident, $features:literal, $dot:ident, $($vectors:literal: $($pixels:literal)*;)*) => {
        pub(super) static $kernel: Kernel = Kernel {
            lanes: 8,
            vectors: 2,
            pixels: &[12, 6],
            group: 4, overlap: false,
            signed: false,
            order: |_, vector, lane| 8 * vector + lane,
            run: $run,
        };

        unsafe fn $run(tiles: &Tiles, pixels: usize, vectors: usize) {
            match (vectors, pixels) {
                // SAFETY: the caller promises the instruction set and the tiles' pointers.
                $($(($vectors, $pixels) => {
                    tiles.for_each($pixels, |tile| unsafe { $product::<$pixels, $vectors>(tile) })
                })*)*
                _ => unreachable!("no tile has {pixels} pixels by {vectors} vectors"),
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn $product<const PIXELS: usize, const VECTORS: usize>(tile: &Tile) {
            // SAFETY: the caller promises that the tile's pointers reach as far as its fields say.
            unsafe {
                let bias: [__m256i; VECTORS] =
                    std::array::from_fn(|v| _mm256_loadu_si256(tile.bias.add(8 * v).cast()));
                let mut sums = [bias; PIXELS];
                let mut weights = tile.weights;
                for line in 0..tile.lines {
                    let line = tile.input.add(line * tile.line_stride);
                    for input in (0..tile.inputs).step_by(4) {
                        let columns: [__m256i; VECTORS] =
                            std::array::from_fn(|v| _mm256_loadu_si256(weights.add(32 * v).cast()));
                        for (pixel, sums) in sums.iter_mut().enumerate() {
                            let four = line.add(pixel * tile.input_stride + input);
                            let four = _mm256_set1_epi32(four.cast::<i32>().read_unaligned());
                            for v in 0..VECTORS {
                                sums[v] = $dot(sums[v], four, columns[v]);
                            }
                        }
                        weights = weights.add(32 * VECTORS);
                    }
                }
                // A copy, so that the sums themselves, whose places are all known when compiling, stay in registers.
                let mut stored = [bias; PIXELS];
                for (stored, sums) in stored.iter_mut().zip(sums) {
                    *stored = sums;
                }
                finish(tile, &stored);
            }
        }
    };
    ($kernel:ident, $run:ident, $product:ident, $features:literal, $dot:ident) => {
        kernel!(
            $kernel, $run, $product, $features, $dot,
            1: 1 2 3 4 5 6 7 8 9 10 11 12;
            2: 1 2 3 4 5 6;
        );
    };
}

kernel!(KERNEL, run, product, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);
// The same kernel in AVX-512's encoding, for tests on a CPU that has only that.
#[cfg(test)]
kernel!(EVEX, run_evex, product_evex, "avx2,avx512vl,avx512vnni", _mm256_dpbusd_epi32);
