//! 64 channels in four vectors of 512 bits, 32 in four of 256, 16 in one of 512.

use std::arch::x86_64::*;

use super::{super::FLOAT_SUMS, Kernel, Strip, Window};

pub(super) static KERNEL: Kernel =
    Kernel { widths: &[64, 32, 16], group: 4, group_bytes: 4, signed: false, order, run };

/// Interleaving bytes and then words, which works within lanes of 16 bytes, leaves four channels of each lane in each
/// of the four vectors.
fn order(width: usize, slot: usize) -> usize {
    let (vector, at) = (slot / (width / 4), slot % (width / 4));
    16 * (at / 4) + 4 * vector + at % 4
}

unsafe fn run(strip: &Strip, window: &Window, width: usize) {
    macro_rules! dispatch {
        ($($width:literal: $module:ident),*) => {
            match (width, window.side, window.step) {
                // SAFETY: the caller promises the instruction set and the strip's pointers.
                $(
                    ($width, 3, 1) => unsafe { $module::strip::<3, 1, 2, 1>(strip) },
                    ($width, 3, 2) => unsafe { $module::strip::<3, 2, 1, 1>(strip) },
                    ($width, 5, 1) => unsafe { $module::strip::<5, 1, 2, 2>(strip) },
                    ($width, 5, 2) => unsafe { $module::strip::<5, 2, 2, 2>(strip) },
                )*
                _ => unreachable!("no window of {window:?} by {width} channels"),
            }
        };
    }
    dispatch!(64: zmm, 32: ymm, 16: column);
}

macro_rules! module {
    (
        $module:ident, $width:literal, $vector:ty, $floats:ty, $mask:ty,
        load $load:ident, maskz_load $maskz_load:ident, store $store:ident, mask_store $mask_store:ident,
        splat8 $splat8:ident, splat16 $splat16:ident, splat32 $splat32:ident,
        unpack $low8:ident $high8:ident $low16:ident $high16:ident,
        dot $dot:ident, real $to_real:ident, whole $to_whole:ident, multiply $multiply:ident,
        multiply_subtract $multiply_subtract:ident, as_real $as_real:ident, add32 $add32:ident, load_real $load_real:ident,
        pack $pack32:ident $add16:ident $pack16:ident
    ) => {
        mod $module {
            use super::*;

            const WIDTH: usize = $width;
            /// Bytes of a vector: `WIDTH / 4` lanes.
            const VECTOR: usize = $width;

            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
            pub(super) unsafe fn strip<
                const SIDE: usize,
                const STEP: usize,
                const ROWS: usize,
                const QUADS: usize,
            >(
                strip: &Strip,
            ) {
                // SAFETY: the caller promises that the strip's pointers reach as far as its fields say.
                unsafe {
                    interleave::<QUADS>(strip);
                    let mut column = 0;
                    while column + 2 <= strip.output_columns {
                        columns::<SIDE, STEP, ROWS, QUADS, 2>(strip, column);
                        column += 2;
                    }
                    if column < strip.output_columns {
                        columns::<SIDE, STEP, ROWS, QUADS, 1>(strip, column);
                    }
                }
            }

            /// A few columns of the output from `first` on; more than one so that weights are loaded less often.
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
            unsafe fn columns<
                const SIDE: usize,
                const STEP: usize,
                const ROWS: usize,
                const QUADS: usize,
                const COLUMNS: usize,
            >(
                strip: &Strip,
                first: usize,
            ) {
                // SAFETY: as for `strip`.
                unsafe {
                    let at = |of: *const i8, vector: usize| $load(of.add(vector * VECTOR).cast());
                    let two_to_23 = $splat32(FLOAT_SUMS);
                    let bias: [$vector; 4] = std::array::from_fn(|v| {
                        let bias = at(strip.bias.cast(), v);
                        if strip.rectified { $add32(bias, two_to_23) } else { bias }
                    });
                    let values = strip.scratch.add(first * STEP * QUADS * 4 * VECTOR).cast::<i8>();
                    let mut sums = [[bias; COLUMNS]; ROWS];
                    for tap in 0..SIDE * QUADS {
                        for v in 0..4 {
                            let value: [$vector; COLUMNS] =
                                std::array::from_fn(|c| at(values, 4 * (c * STEP * QUADS + tap) + v));
                            for (row, sums) in sums.iter_mut().enumerate() {
                                let weight = at(strip.weights, 4 * (row * SIDE * QUADS + tap) + v);
                                for c in 0..COLUMNS {
                                    sums[c][v] = $dot(sums[c][v], value[c], weight);
                                }
                            }
                        }
                    }
                    let multipliers: [$floats; 4] =
                        std::array::from_fn(|v| $load_real(strip.multipliers.add(v * WIDTH / 4)));
                    let offsets: [$floats; 4] =
                        std::array::from_fn(|v| $multiply(multipliers[v], $as_real(two_to_23)));
                    let zero_point = $splat16(i16::from(strip.zero_point));
                    for (sums, output) in sums.iter().zip(strip.output) {
                        if output.is_null() {
                            continue;
                        }
                        for (c, sums) in sums.iter().enumerate() {
                            let bytes = if strip.rectified {
                                let whole: [$vector; 4] = std::array::from_fn(|v| {
                                    let sums = $as_real(sums[v]);
                                    $to_whole($multiply_subtract(sums, multipliers[v], offsets[v]))
                                });
                                $pack16($pack32(whole[0], whole[1]), $pack32(whole[2], whole[3]))
                            } else {
                                let whole: [$vector; 4] = std::array::from_fn(|v| {
                                    $to_whole($multiply($to_real(sums[v]), multipliers[v]))
                                });
                                let low = $add16($pack32(whole[0], whole[1]), zero_point);
                                let high = $add16($pack32(whole[2], whole[3]), zero_point);
                                $pack16(low, high)
                            };
                            let to = output.add((first + c) * strip.output_stride);
                            if strip.channels == WIDTH {
                                $store(to.cast(), bytes);
                            } else {
                                $mask_store(to.cast(), mask(strip.channels), bytes);
                            }
                        }
                    }
                }
            }

            fn mask(channels: usize) -> $mask {
                <$mask>::MAX >> (WIDTH - channels)
            }

            /// Fills the scratch memory.
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
            unsafe fn interleave<const QUADS: usize>(strip: &Strip) {
                // SAFETY: as for `strip`.
                unsafe {
                    let padding = $splat8(strip.padding as i8);
                    let column_bytes = QUADS * 4 * VECTOR;
                    for column in (0..strip.left)
                        .chain(strip.left + strip.columns..strip.left + strip.columns + strip.right)
                    {
                        for n in 0..4 * QUADS {
                            $store(strip.scratch.add(column * column_bytes + n * VECTOR).cast(), padding);
                        }
                    }
                    let (full, mask) = (strip.channels == WIDTH, mask(strip.channels));
                    for quad in 0..QUADS {
                        let mut rows: [*const u8; 4] = std::array::from_fn(|n| strip.input[4 * quad + n]);
                        let steps: [usize; 4] = std::array::from_fn(|n| strip.steps[4 * quad + n]);
                        let mut to = strip.scratch.add(strip.left * column_bytes + quad * 4 * VECTOR);
                        for _ in 0..strip.columns {
                            let [a, b, c, d] = if full {
                                rows.map(|row| $load(row.cast()))
                            } else {
                                rows.map(|row| $maskz_load(mask, row.cast()))
                            };
                            let (ab_low, ab_high) = ($low8(a, b), $high8(a, b));
                            let (cd_low, cd_high) = ($low8(c, d), $high8(c, d));
                            let four = [
                                $low16(ab_low, cd_low),
                                $high16(ab_low, cd_low),
                                $low16(ab_high, cd_high),
                                $high16(ab_high, cd_high),
                            ];
                            for (v, vector) in four.into_iter().enumerate() {
                                $store(to.add(v * VECTOR).cast(), vector);
                            }
                            for (row, step) in rows.iter_mut().zip(steps) {
                                *row = row.add(step);
                            }
                            to = to.add(column_bytes);
                        }
                    }
                }
            }
        }
    };
}

module!(
    zmm, 64, __m512i, __m512, u64,
    load _mm512_loadu_si512, maskz_load _mm512_maskz_loadu_epi8, store _mm512_storeu_si512,
    mask_store _mm512_mask_storeu_epi8, splat8 _mm512_set1_epi8, splat16 _mm512_set1_epi16, splat32 _mm512_set1_epi32,
    unpack _mm512_unpacklo_epi8 _mm512_unpackhi_epi8 _mm512_unpacklo_epi16 _mm512_unpackhi_epi16,
    dot _mm512_dpbusd_epi32, real _mm512_cvtepi32_ps, whole _mm512_cvtps_epi32, multiply _mm512_mul_ps,
    multiply_subtract _mm512_fmsub_ps, as_real _mm512_castsi512_ps, add32 _mm512_add_epi32,
    load_real _mm512_loadu_ps, pack _mm512_packs_epi32 _mm512_adds_epi16 _mm512_packus_epi16
);
module!(
    ymm, 32, __m256i, __m256, u32,
    load _mm256_loadu_si256, maskz_load _mm256_maskz_loadu_epi8, store _mm256_storeu_si256,
    mask_store _mm256_mask_storeu_epi8, splat8 _mm256_set1_epi8, splat16 _mm256_set1_epi16, splat32 _mm256_set1_epi32,
    unpack _mm256_unpacklo_epi8 _mm256_unpackhi_epi8 _mm256_unpacklo_epi16 _mm256_unpackhi_epi16,
    dot _mm256_dpbusd_epi32, real _mm256_cvtepi32_ps, whole _mm256_cvtps_epi32, multiply _mm256_mul_ps,
    multiply_subtract _mm256_fmsub_ps, as_real _mm256_castsi256_ps, add32 _mm256_add_epi32,
    load_real _mm256_loadu_ps, pack _mm256_packs_epi32 _mm256_adds_epi16 _mm256_packus_epi16
);

/// 16 channels: what four vectors of 128 bits would hold, a column of four interleaved rows, is one of 512.
mod column {
    use super::*;

    const WIDTH: usize = 16;
    /// Bytes of 16 channels in four rows.
    const VECTOR: usize = 64;
    /// Columns whose sums are computed together, and which one vector of a row of nothing but 16 channels holds.
    const COLUMNS: usize = 4;

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
    pub(super) unsafe fn strip<
        const SIDE: usize,
        const STEP: usize,
        const ROWS: usize,
        const QUADS: usize,
    >(
        strip: &Strip,
    ) {
        // SAFETY: the caller promises that the strip's pointers reach as far as its fields say.
        unsafe {
            interleave::<QUADS>(strip);
            let mut column = 0;
            while column + COLUMNS <= strip.output_columns {
                columns::<SIDE, STEP, ROWS, QUADS, COLUMNS>(strip, column);
                column += COLUMNS;
            }
            while column < strip.output_columns {
                columns::<SIDE, STEP, ROWS, QUADS, 1>(strip, column);
                column += 1;
            }
        }
    }

    /// A few columns of the output from `first` on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
    unsafe fn columns<
        const SIDE: usize,
        const STEP: usize,
        const ROWS: usize,
        const QUADS: usize,
        const COLUMNS: usize,
    >(
        strip: &Strip,
        first: usize,
    ) {
        // SAFETY: as for `strip`.
        unsafe {
            let at = |of: *const i8, vector: usize| _mm512_loadu_si512(of.add(vector * VECTOR).cast());
            let two_to_23 = _mm512_set1_epi32(FLOAT_SUMS);
            let bias = _mm512_loadu_si512(strip.bias.cast());
            let bias = if strip.rectified { _mm512_add_epi32(bias, two_to_23) } else { bias };
            let values = strip.scratch.add(first * STEP * QUADS * VECTOR).cast::<i8>();
            let mut sums = [[bias; COLUMNS]; ROWS];
            for tap in 0..SIDE * QUADS {
                let value: [__m512i; COLUMNS] = std::array::from_fn(|c| at(values, c * STEP * QUADS + tap));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let weight = at(strip.weights, row * SIDE * QUADS + tap);
                    for c in 0..COLUMNS {
                        sums[c] = _mm512_dpbusd_epi32(sums[c], value[c], weight);
                    }
                }
            }
            let multipliers = _mm512_loadu_ps(strip.multipliers);
            let offsets = _mm512_mul_ps(multipliers, _mm512_castsi512_ps(two_to_23));
            let zero_point = _mm512_set1_epi32(i32::from(strip.zero_point));
            // So that adding the zero point stays within 32 bits.
            let most = _mm512_set1_epi32(i32::from(u16::MAX));
            for (sums, output) in sums.iter().zip(strip.output) {
                if output.is_null() {
                    continue;
                }
                for (c, &sums) in sums.iter().enumerate() {
                    let whole = if strip.rectified {
                        _mm512_cvtps_epi32(_mm512_fmsub_ps(_mm512_castsi512_ps(sums), multipliers, offsets))
                    } else {
                        let whole = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), multipliers));
                        _mm512_add_epi32(_mm512_min_epi32(whole, most), zero_point)
                    };
                    let bytes = _mm512_cvtusepi32_epi8(_mm512_max_epi32(whole, _mm512_setzero_si512()));
                    let to = output.add((first + c) * strip.output_stride);
                    if strip.channels == WIDTH {
                        _mm_storeu_si128(to.cast(), bytes);
                    } else {
                        _mm_mask_storeu_epi8(to.cast(), mask(strip.channels), bytes);
                    }
                }
            }
        }
    }

    fn mask(channels: usize) -> u16 {
        u16::MAX >> (WIDTH - channels)
    }

    /// Fills the scratch memory.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni,fma")]
    unsafe fn interleave<const QUADS: usize>(strip: &Strip) {
        // SAFETY: as for `strip`.
        unsafe {
            let padding = _mm512_set1_epi8(strip.padding as i8);
            let end = strip.left + strip.columns;
            for column in (0..strip.left).chain(end..end + strip.right) {
                for quad in 0..QUADS {
                    let to = strip.scratch.add((column * QUADS + quad) * VECTOR);
                    _mm512_storeu_si512(to.cast(), padding);
                }
            }
            for quad in 0..QUADS {
                let rows: [*const u8; 4] = std::array::from_fn(|n| strip.input[4 * quad + n]);
                let steps: [usize; 4] = std::array::from_fn(|n| strip.steps[4 * quad + n]);
                let to = |column: usize| strip.scratch.add(((strip.left + column) * QUADS + quad) * VECTOR);
                let mut column = 0;
                // Pixels of 16 channels lie side by side; a row of padding is one pixel.
                if strip.channels == WIDTH && steps.iter().all(|&step| step == WIDTH || step == 0) {
                    while column + COLUMNS <= strip.columns {
                        let [a, b, c, d] = std::array::from_fn(|n| match steps[n] {
                            0 => _mm512_broadcast_i32x4(_mm_loadu_si128(rows[n].cast())),
                            step => _mm512_loadu_si512(rows[n].add(column * step).cast()),
                        });
                        let (ab_low, ab_high) = (_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b));
                        let (cd_low, cd_high) = (_mm512_unpacklo_epi8(c, d), _mm512_unpackhi_epi8(c, d));
                        // Four channels in four rows to a lane, a column for each lane.
                        let v0 = _mm512_unpacklo_epi16(ab_low, cd_low);
                        let v1 = _mm512_unpackhi_epi16(ab_low, cd_low);
                        let v2 = _mm512_unpacklo_epi16(ab_high, cd_high);
                        let v3 = _mm512_unpackhi_epi16(ab_high, cd_high);
                        // A vector for each column.
                        let low = (
                            _mm512_shuffle_i32x4::<0b01_00_01_00>(v0, v1),
                            _mm512_shuffle_i32x4::<0b01_00_01_00>(v2, v3),
                        );
                        let high = (
                            _mm512_shuffle_i32x4::<0b11_10_11_10>(v0, v1),
                            _mm512_shuffle_i32x4::<0b11_10_11_10>(v2, v3),
                        );
                        let columns = [
                            _mm512_shuffle_i32x4::<0b10_00_10_00>(low.0, low.1),
                            _mm512_shuffle_i32x4::<0b11_01_11_01>(low.0, low.1),
                            _mm512_shuffle_i32x4::<0b10_00_10_00>(high.0, high.1),
                            _mm512_shuffle_i32x4::<0b11_01_11_01>(high.0, high.1),
                        ];
                        for (n, vector) in columns.into_iter().enumerate() {
                            _mm512_storeu_si512(to(column + n).cast(), vector);
                        }
                        column += COLUMNS;
                    }
                }
                let mask = mask(strip.channels);
                for column in column..strip.columns {
                    let [a, b, c, d] = std::array::from_fn(|n| {
                        _mm_maskz_loadu_epi8(mask, rows[n].add(column * steps[n]).cast())
                    });
                    let (ab_low, ab_high) = (_mm_unpacklo_epi8(a, b), _mm_unpackhi_epi8(a, b));
                    let (cd_low, cd_high) = (_mm_unpacklo_epi8(c, d), _mm_unpackhi_epi8(c, d));
                    let four = [
                        _mm_unpacklo_epi16(ab_low, cd_low),
                        _mm_unpackhi_epi16(ab_low, cd_low),
                        _mm_unpacklo_epi16(ab_high, cd_high),
                        _mm_unpackhi_epi16(ab_high, cd_high),
                    ];
                    for (v, vector) in four.into_iter().enumerate() {
                        _mm_storeu_si128(to(column).add(v * WIDTH).cast(), vector);
                    }
                }
            }
        }
    }
}
