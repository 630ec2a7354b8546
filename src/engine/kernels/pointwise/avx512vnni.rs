//! 6 pixels × 64 channels in 24 registers, or as many of narrower panels.

use std::arch::x86_64::*;

use super::{super::FLOAT_SUMS, Kernel, Output, Tile, Tiles};

pub(super) static KERNEL: Kernel = Kernel {
    lanes: 16,
    vectors: 4,
    pixels: &[16, 12, 8, 6],
    group: 4,
    overlap: false,
    signed: false,
    order,
    run,
};

/// Vectors are packed to bytes four lanes at a time: those of the first vector, the second, and so on.
fn order(vectors: usize, vector: usize, lane: usize) -> usize {
    4 * (vectors * (lane / 4) + vector) + lane % 4
}

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
        1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16;
        2: 1 2 3 4 5 6 7 8 9 10 11 12;
        3: 1 2 3 4 5 6 7 8;
        4: 1 2 3 4 5 6;
    }
}

/// Does the same for each pixel of a tile, its number written out: sums in an array whose places are not all known when
/// compiling would leave the registers.
macro_rules! for_each_pixel {
    ($count:ident, |$pixel:ident| $body:expr) => {
        for_each_pixel!($count, $pixel, $body, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($count:ident, $pixel:ident, $body:expr, $($number:literal)*) => {
        $(if $number < $count {
            // The modulus is for arrays shorter than the numbers that are never reached.
            let $pixel = $number % $count;
            $body
        })*
    };
}

/// Makes bytes of all sums of a tile and stores them. Pixels of 16 or 32 channels that lie side by side fill one vector
/// together.
macro_rules! store_quantized {
    ($sums:ident, $whole:ident, $zero_point:expr, $tile:ident, $to:ident, $mask:ident) => {
        let together = 4 / VECTORS;
        let side_by_side =
            VECTORS <= 2 && $tile.channels == 16 * VECTORS && $tile.output_stride == 16 * VECTORS;
        if side_by_side {
            for_each_pixel!(PIXELS, |pixel| {
                let to = $to.add(pixel * $tile.output_stride);
                if pixel / together < PIXELS / together {
                    if pixel % together == 0 {
                        let whole: [__m512i; 4] = std::array::from_fn(|n| {
                            $whole($sums[(pixel + n / VECTORS) % PIXELS][n % VECTORS], n % VECTORS)
                        });
                        _mm512_storeu_si512(to.cast(), pack_pixels::<VECTORS>(whole, $zero_point));
                    }
                } else {
                    let whole: [__m512i; VECTORS] = std::array::from_fn(|v| $whole($sums[pixel][v], v));
                    _mm512_mask_storeu_epi8(to.cast(), $mask, pack(whole, $zero_point));
                }
            });
        } else {
            for_each_pixel!(PIXELS, |pixel| {
                let whole: [__m512i; VECTORS] = std::array::from_fn(|v| $whole($sums[pixel][v], v));
                let to = $to.add(pixel * $tile.output_stride);
                _mm512_mask_storeu_epi8(to.cast(), $mask, pack(whole, $zero_point));
            });
        }
    };
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn product<const PIXELS: usize, const VECTORS: usize>(tile: &Tile) {
    // SAFETY: the caller promises that the tile's pointers reach as far as its fields say.
    unsafe {
        let rectified = matches!(tile.output, Output::Quantized { rectified: true, .. });
        let start = _mm512_set1_epi32(if rectified { FLOAT_SUMS } else { 0 });
        let bias: [__m512i; VECTORS] = std::array::from_fn(|v| {
            _mm512_add_epi32(_mm512_loadu_si512(tile.bias.add(16 * v).cast()), start)
        });
        let mut sums = [bias; PIXELS];
        let mut weights = tile.weights;
        for line in 0..tile.lines {
            let mut input = tile.input.add(line * tile.line_stride);
            for _ in 0..tile.inputs / 4 {
                let columns: [__m512i; VECTORS] =
                    std::array::from_fn(|v| _mm512_loadu_si512(weights.add(64 * v).cast()));
                for_each_pixel!(PIXELS, |pixel| {
                    let four = input.add(pixel * tile.input_stride).cast::<i32>().read_unaligned();
                    let four = _mm512_set1_epi32(four);
                    sums[pixel] =
                        std::array::from_fn(|v| _mm512_dpbusd_epi32(sums[pixel][v], four, columns[v]));
                });
                weights = weights.add(64 * VECTORS);
                input = input.add(4);
            }
        }

        let multipliers: [__m512; VECTORS] =
            std::array::from_fn(|v| _mm512_loadu_ps(tile.multipliers.add(16 * v)));
        let mask = u64::MAX >> (64 - tile.channels);
        match tile.output {
            Output::Quantized { to, rectified: true, .. } => {
                let two_to_23 = _mm512_castsi512_ps(_mm512_set1_epi32(FLOAT_SUMS));
                let offsets: [__m512; VECTORS] =
                    std::array::from_fn(|v| _mm512_mul_ps(multipliers[v], two_to_23));
                let whole = |sums: __m512i, v: usize| {
                    let sums = _mm512_castsi512_ps(sums);
                    _mm512_cvtps_epi32(_mm512_fmsub_ps(sums, multipliers[v], offsets[v]))
                };
                store_quantized!(sums, whole, None, tile, to, mask);
            }
            Output::Quantized { to, zero_point, .. } => {
                let zero_point = _mm512_set1_epi16(i16::from(zero_point));
                let whole = |sums: __m512i, v: usize| scaled(sums, multipliers[v]);
                store_quantized!(sums, whole, Some(zero_point), tile, to, mask);
            }
            Output::Added { to, zero_point, other, other_stride, addition } => {
                let zero = i32::from(zero_point);
                let (low, high) = (_mm512_set1_epi32(-zero), _mm512_set1_epi32(255 - zero));
                let a_factor = _mm512_set1_ps(addition.a_factor);
                let b_factor = _mm512_set1_ps(addition.b_factor);
                let b_zero_point = _mm512_set1_epi32(i32::from(addition.b_zero_point));
                let zero_point = _mm512_set1_epi16(i16::from(addition.zero_point));
                for_each_pixel!(PIXELS, |pixel| {
                    let other = _mm512_maskz_loadu_epi8(mask, other.add(pixel * other_stride).cast());
                    let other = unpack::<VECTORS>(other);
                    let whole: [__m512i; VECTORS] = std::array::from_fn(|v| {
                        let a = scaled(sums[pixel][v], multipliers[v]);
                        let a = _mm512_cvtepi32_ps(_mm512_min_epi32(_mm512_max_epi32(a, low), high));
                        let b = _mm512_cvtepi32_ps(_mm512_sub_epi32(other[v], b_zero_point));
                        let sum = _mm512_add_ps(_mm512_mul_ps(a, a_factor), _mm512_mul_ps(b, b_factor));
                        _mm512_cvtps_epi32(sum)
                    });
                    let bytes = pack(whole, Some(zero_point));
                    _mm512_mask_storeu_epi8(to.add(pixel * tile.output_stride).cast(), mask, bytes);
                });
            }
            Output::Real(to) => {
                for_each_pixel!(PIXELS, |pixel| {
                    let to = to.add(pixel * tile.output_stride);
                    for v in 0..VECTORS {
                        let real = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[pixel][v]), multipliers[v]);
                        let quarters = [
                            _mm512_extractf32x4_ps::<0>(real),
                            _mm512_extractf32x4_ps::<1>(real),
                            _mm512_extractf32x4_ps::<2>(real),
                            _mm512_extractf32x4_ps::<3>(real),
                        ];
                        for (n, quarter) in quarters.into_iter().enumerate() {
                            let channel = order(VECTORS, v, 4 * n);
                            let there = tile.channels.saturating_sub(channel).min(4);
                            _mm_mask_storeu_ps(to.add(channel), (1u8 << there) - 1, quarter);
                        }
                    }
                });
            }
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn scaled(sums: __m512i, multipliers: __m512) -> __m512i {
    _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), multipliers))
}

/// The dwords of packed bytes that hold channels, lane by lane.
const fn gathered(vectors: usize) -> [i32; 16] {
    let mut dwords = [0; 16];
    let mut n = 0;
    while n < 4 * vectors {
        dwords[n] = (n / vectors * 4 + n % vectors) as i32;
        n += 1;
    }
    dwords
}

/// Where [`gathered`] dwords come from.
const fn spread(vectors: usize) -> [i32; 16] {
    let mut dwords = [0; 16];
    let mut n = 0;
    while n < 4 * vectors {
        dwords[n / vectors * 4 + n % vectors] = n as i32;
        n += 1;
    }
    dwords
}

/// Adds the zero point (i16) and saturates to bytes, in the channels' order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack<const VECTORS: usize>(whole: [__m512i; VECTORS], zero_point: Option<__m512i>) -> __m512i {
    let words = |a: usize, b: usize| {
        let at = |v: usize| whole[if v < VECTORS { v } else { 0 }];
        let words = _mm512_packs_epi32(at(a), at(b));
        zero_point.map_or(words, |zero_point| _mm512_adds_epi16(words, zero_point))
    };
    let low = words(0, 1);
    let high = if VECTORS > 2 { words(2, 3) } else { low };
    let bytes = _mm512_packus_epi16(low, high);
    if VECTORS == 4 {
        return bytes;
    }
    // SAFETY: 16 dwords are 64 bytes.
    let order = unsafe { _mm512_loadu_si512(const { gathered(VECTORS) }.as_ptr().cast()) };
    _mm512_permutexvar_epi32(order, bytes)
}

/// Where the dwords of packed bytes come from when each pixel has `vectors` of the four vectors.
const fn by_pixel(vectors: usize) -> [i32; 16] {
    let mut dwords = [0; 16];
    let mut n = 0;
    while n < 16 {
        let (pixel, within) = (n / (4 * vectors), n % (4 * vectors));
        dwords[n] = (4 * (within / vectors) + pixel * vectors + within % vectors) as i32;
        n += 1;
    }
    dwords
}

/// As [`pack`], for pixels of `VECTORS` vectors, one after the other.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_pixels<const VECTORS: usize>(whole: [__m512i; 4], zero_point: Option<__m512i>) -> __m512i {
    // SAFETY: 16 dwords are 64 bytes.
    unsafe {
        let order = _mm512_loadu_si512(const { by_pixel(VECTORS) }.as_ptr().cast());
        _mm512_permutexvar_epi32(order, pack(whole, zero_point))
    }
}

/// Bytes in the channels' order as vectors of i32: the opposite of [`pack`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn unpack<const VECTORS: usize>(bytes: __m512i) -> [__m512i; VECTORS] {
    // SAFETY: 16 dwords are 64 bytes.
    let spread = unsafe { _mm512_loadu_si512(const { spread(VECTORS) }.as_ptr().cast()) };
    let bytes = if VECTORS == 4 { bytes } else { _mm512_permutexvar_epi32(spread, bytes) };
    std::array::from_fn(|v| {
        // Each dword takes the byte with its number within dword v of its lane, and zeros above it.
        let chosen = _mm_setr_epi32(
            (0x8080_8000u32 | (4 * v) as u32) as i32,
            (0x8080_8000u32 | (4 * v + 1) as u32) as i32,
            (0x8080_8000u32 | (4 * v + 2) as u32) as i32,
            (0x8080_8000u32 | (4 * v + 3) as u32) as i32,
        );
        _mm512_shuffle_epi8(bytes, _mm512_broadcast_i32x4(chosen))
    })
}
