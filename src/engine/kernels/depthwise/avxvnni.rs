//! Fours of rows, as in the kernels for AVX-512, with half of the registers.

use std::arch::x86_64::*;

macro_rules! module {
    ($module:ident, $features:literal, $dot:ident) => {
        pub(super) mod $module {
            use super::{
                super::{Kernel, Strip, Window},
                *,
            };

            const GROUP: usize = 4;

            super::super::ymm::kernel!($features);

            #[inline]
            #[target_feature(enable = $features)]
            unsafe fn weights(from: *const i8) -> __m256i {
                // SAFETY: the caller promises 32 weights.
                unsafe { _mm256_loadu_si256(from.cast()) }
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn dot(sums: __m256i, values: __m256i, weights: __m256i) -> __m256i {
                $dot(sums, values, weights)
            }

            #[inline]
            #[target_feature(enable = $features)]
            fn interleave([a, b, c, d]: [__m256i; GROUP], high: bool) -> [__m256i; 2] {
                let (ab, cd) = if high {
                    (_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d))
                } else {
                    (_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d))
                };
                [_mm256_unpacklo_epi16(ab, cd), _mm256_unpackhi_epi16(ab, cd)]
            }
        }
    };
}

module!(vex, "avx2,avxvnni", _mm256_dpbusd_avx_epi32);
// The same kernel in AVX-512's encoding, for tests on a CPU that has only that.
#[cfg(test)]
module!(evex, "avx2,avx512vl,avx512vnni", _mm256_dpbusd_epi32);
