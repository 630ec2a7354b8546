//! 6 pixels × 16 channels in 12 registers, or 12 × 8.
//!
//! `vpmaddwd` adds two products of words without loss, where `vpmaddubsw` would saturate. The inputs are widened to
//! words before the products, once for a tile; the weights on the way, once for all pixels of a tile.

use std::{arch::x86_64::*, mem::MaybeUninit};

use super::{Kernel, Output, Tile, Tiles};

pub(super) static KERNEL: Kernel = Kernel {
    lanes: 8,
    vectors: 2,
    pixels: &[12, 6],
    group: 2,
    overlap: false,
    signed: false,
    order: |_, vector, lane| 8 * vector + lane,
    run,
};

/// Inputs that are widened at a time.
const CHUNK: usize = 512;

unsafe fn run(tiles: &Tiles, pixels: usize, vectors: usize) {
    macro_rules! dispatch {
        ($($vectors:literal: $($pixels:literal)*;)*) => {
            match (vectors, pixels) {
                // SAFETY: the caller promises the instruction set and the tiles' pointers.
                $($(($vectors, $pixels) => {
                    tiles.for_each($pixels, |tile| unsafe { product::<$pixels, $vectors>(tile) })
                })*)*
                _ => unreachable!("no tile has {pixels} pixels by {vectors} vectors"),
            }
        };
    }
    dispatch! {
        1: 1 2 3 4 5 6 7 8 9 10 11 12;
        2: 1 2 3 4 5 6;
    }
}

#[target_feature(enable = "avx2")]
unsafe fn product<const PIXELS: usize, const VECTORS: usize>(tile: &Tile) {
    // SAFETY: the caller promises that the tile's pointers reach as far as its fields say.
    unsafe {
        let bias: [__m256i; VECTORS] =
            std::array::from_fn(|v| _mm256_loadu_si256(tile.bias.add(8 * v).cast()));
        let mut sums = [bias; PIXELS];
        let mut weights = tile.weights;
        let mut words = [const { MaybeUninit::<[i16; CHUNK]>::uninit() }; PIXELS];
        for line in 0..tile.lines {
            let line = tile.input.add(line * tile.line_stride);
            for first in (0..tile.inputs).step_by(CHUNK) {
                let inputs = CHUNK.min(tile.inputs - first);
                let words = words.as_mut_ptr().cast::<i16>();
                widen::<PIXELS>(line.add(first), tile.input_stride, inputs, words);
                for input in (0..inputs).step_by(2) {
                    let columns: [__m256i; VECTORS] = std::array::from_fn(|v| {
                        _mm256_cvtepi8_epi16(_mm_loadu_si128(weights.add(16 * v).cast()))
                    });
                    for (pixel, sums) in sums.iter_mut().enumerate() {
                        let two = words.add(pixel * CHUNK + input).cast::<i32>().read_unaligned();
                        let two = _mm256_set1_epi32(two);
                        for v in 0..VECTORS {
                            sums[v] = _mm256_add_epi32(sums[v], _mm256_madd_epi16(two, columns[v]));
                        }
                    }
                    weights = weights.add(16 * VECTORS);
                }
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

/// Rows of bytes to rows of `CHUNK` words; `inputs` is a multiple of four.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen<const PIXELS: usize>(bytes: *const u8, stride: usize, inputs: usize, words: *mut i16) {
    // SAFETY: the caller promises that each row has so many bytes, and room for as many words.
    unsafe {
        let sixteens = inputs / 16 * 16;
        for input in (0..sixteens).step_by(16) {
            for pixel in 0..PIXELS {
                let sixteen = _mm_loadu_si128(bytes.add(pixel * stride + input).cast());
                _mm256_storeu_si256(words.add(pixel * CHUNK + input).cast(), _mm256_cvtepu8_epi16(sixteen));
            }
        }
        for input in (sixteens..inputs).step_by(4) {
            for pixel in 0..PIXELS {
                let four = bytes.add(pixel * stride + input).cast::<i32>().read_unaligned();
                let four = _mm_cvtepu8_epi16(_mm_cvtsi32_si128(four));
                _mm_storel_epi64(words.add(pixel * CHUNK + input).cast(), four);
            }
        }
    }
}

/// What becomes of a tile's sums, eight channels a vector.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) unsafe fn finish<const PIXELS: usize, const VECTORS: usize>(
    tile: &Tile,
    sums: &[[__m256i; VECTORS]; PIXELS],
) {
    // SAFETY: the caller promises that the tile's pointers reach as far as its fields say.
    unsafe {
        let multipliers: [__m256; VECTORS] =
            std::array::from_fn(|v| _mm256_loadu_ps(tile.multipliers.add(8 * v)));
        match tile.output {
            Output::Quantized { to, zero_point, .. } => {
                let zero_point = _mm256_set1_epi16(i16::from(zero_point));
                for (pixel, sums) in sums.iter().enumerate() {
                    let whole: [__m256i; VECTORS] = std::array::from_fn(|v| scaled(sums[v], multipliers[v]));
                    store(to.add(pixel * tile.output_stride), pack(whole, zero_point), tile.channels);
                }
            }
            Output::Added { to, zero_point, other, other_stride, addition } => {
                let zero = i32::from(zero_point);
                let (low, high) = (_mm256_set1_epi32(-zero), _mm256_set1_epi32(255 - zero));
                let a_factor = _mm256_set1_ps(addition.a_factor);
                let b_factor = _mm256_set1_ps(addition.b_factor);
                let b_zero_point = _mm256_set1_epi32(i32::from(addition.b_zero_point));
                let zero_point = _mm256_set1_epi16(i16::from(addition.zero_point));
                for (pixel, sums) in sums.iter().enumerate() {
                    let other = load(other.add(pixel * other_stride), tile.channels);
                    let other =
                        [_mm256_cvtepu8_epi32(other), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(other))];
                    let whole: [__m256i; VECTORS] = std::array::from_fn(|v| {
                        let a = scaled(sums[v], multipliers[v]);
                        let a = _mm256_cvtepi32_ps(_mm256_min_epi32(_mm256_max_epi32(a, low), high));
                        let b = _mm256_cvtepi32_ps(_mm256_sub_epi32(other[v], b_zero_point));
                        let sum = _mm256_add_ps(_mm256_mul_ps(a, a_factor), _mm256_mul_ps(b, b_factor));
                        _mm256_cvtps_epi32(sum)
                    });
                    store(to.add(pixel * tile.output_stride), pack(whole, zero_point), tile.channels);
                }
            }
            Output::Real(to) => {
                for (pixel, sums) in sums.iter().enumerate() {
                    let mut reals = [[0f32; 8]; VECTORS];
                    for v in 0..VECTORS {
                        let real = _mm256_mul_ps(_mm256_cvtepi32_ps(sums[v]), multipliers[v]);
                        _mm256_storeu_ps(reals[v].as_mut_ptr(), real);
                    }
                    let to = to.add(pixel * tile.output_stride);
                    to.copy_from_nonoverlapping(reals.as_ptr().cast(), tile.channels);
                }
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn scaled(sums: __m256i, multipliers: __m256) -> __m256i {
    _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_cvtepi32_ps(sums), multipliers))
}

/// Adds the zero point (i16) and saturates to bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn pack<const VECTORS: usize>(whole: [__m256i; VECTORS], zero_point: __m256i) -> __m128i {
    let words = _mm256_adds_epi16(_mm256_packs_epi32(whole[0], whole[VECTORS - 1]), zero_point);
    // Packing works within lanes: the vectors' first halves lie before their second halves.
    let words = _mm256_permute4x64_epi64::<0b11_01_10_00>(words);
    _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256::<1>(words))
}

/// Stores the first `channels` bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(to: *mut u8, bytes: __m128i, channels: usize) {
    // SAFETY: the caller promises room for `channels` bytes.
    unsafe {
        match channels {
            16 => _mm_storeu_si128(to.cast(), bytes),
            8 => _mm_storel_epi64(to.cast(), bytes),
            _ => {
                let mut all = [0u8; 16];
                _mm_storeu_si128(all.as_mut_ptr().cast(), bytes);
                to.copy_from_nonoverlapping(all.as_ptr(), channels);
            }
        }
    }
}

/// Loads `channels` bytes, zeros after them.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load(from: *const u8, channels: usize) -> __m128i {
    // SAFETY: the caller promises `channels` bytes.
    unsafe {
        match channels {
            16 => _mm_loadu_si128(from.cast()),
            8 => _mm_loadl_epi64(from.cast()),
            _ => {
                let mut all = [0u8; 16];
                all.as_mut_ptr().copy_from_nonoverlapping(from, channels);
                _mm_loadu_si128(all.as_ptr().cast())
            }
        }
    }
}
