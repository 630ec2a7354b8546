//! Pairs of rows, widened to words: `vpmaddwd` adds two products of words without loss.

use std::arch::x86_64::*;

use super::{Kernel, Strip, Window};

const GROUP: usize = 2;

super::ymm::kernel!("avx2");

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn weights(from: *const i8) -> __m256i {
    // SAFETY: the caller promises 16 weights.
    unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(from.cast())) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn dot(sums: __m256i, values: __m256i, weights: __m256i) -> __m256i {
    _mm256_add_epi32(sums, _mm256_madd_epi16(values, weights))
}

#[inline]
#[target_feature(enable = "avx2")]
fn interleave([a, b]: [__m256i; GROUP], high: bool) -> [__m256i; 2] {
    let zero = _mm256_setzero_si256();
    let bytes = if high { _mm256_unpackhi_epi8(a, b) } else { _mm256_unpacklo_epi8(a, b) };
    [_mm256_unpacklo_epi8(bytes, zero), _mm256_unpackhi_epi8(bytes, zero)]
}
