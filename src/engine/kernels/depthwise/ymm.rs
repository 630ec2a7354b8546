//! What AVX2 and AVX-VNNI share: 32 channels in four vectors of 256 bits, 16 in two.

/// Defines `KERNEL` for an instruction set which has defined, besides `GROUP`,
/// - `weights(*const i8) -> __m256i`, which loads those of eight channels by `GROUP` rows,
/// - `dot(sums, values, weights) -> __m256i`, which adds their products, and
/// - `interleave(rows: [__m256i; GROUP], high) -> [__m256i; 2]`, which makes such values of the lower or the higher
///   eight bytes of the rows' lanes.
macro_rules! kernel {
    ($features:literal) => {
        pub(in super::super) static KERNEL: Kernel =
            Kernel { widths: &[32, 16], group: GROUP, group_bytes: 4, signed: false, order, run };

        /// Interleaving works within lanes, each of which holds half of the channels.
        fn order(width: usize, slot: usize) -> usize {
            let (vector, at) = (slot / 8, slot % 8);
            width / 2 * (at / 4) + 4 * vector + at % 4
        }

        unsafe fn run(strip: &Strip, window: &Window, width: usize) {
            // SAFETY: the caller promises the instruction set and the strip's pointers.
            unsafe {
                match (width, window.side, window.step) {
                    (32, 3, 1) => convolve::<32, 3, 1, 2>(strip),
                    (32, 3, 2) => convolve::<32, 3, 2, 1>(strip),
                    (32, 5, 1) => convolve::<32, 5, 1, 2>(strip),
                    (32, 5, 2) => convolve::<32, 5, 2, 2>(strip),
                    (16, 3, 1) => convolve::<16, 3, 1, 2>(strip),
                    (16, 3, 2) => convolve::<16, 3, 2, 1>(strip),
                    (16, 5, 1) => convolve::<16, 5, 1, 2>(strip),
                    (16, 5, 2) => convolve::<16, 5, 2, 2>(strip),
                    _ => unreachable!("no window of {window:?} by {width} channels"),
                }
            }
        }

        #[target_feature(enable = $features)]
        unsafe fn convolve<const WIDTH: usize, const SIDE: usize, const STEP: usize, const ROWS: usize>(
            strip: &Strip,
        ) {
            // SAFETY: the caller promises that the strip's pointers reach as far as its fields say.
            unsafe {
                let groups = const { Window { side: SIDE, step: STEP }.groups(GROUP) };
                fill::<WIDTH>(strip, groups);
                for pair in 0..WIDTH / 16 {
                    let mut column = 0;
                    while column + 2 <= strip.output_columns {
                        columns::<WIDTH, SIDE, STEP, ROWS, 2>(strip, column, pair);
                        column += 2;
                    }
                    if column < strip.output_columns {
                        columns::<WIDTH, SIDE, STEP, ROWS, 1>(strip, column, pair);
                    }
                }
            }
        }

        /// A few columns of the output from `first` on, and the channels of two vectors.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn columns<
            const WIDTH: usize,
            const SIDE: usize,
            const STEP: usize,
            const ROWS: usize,
            const COLUMNS: usize,
        >(
            strip: &Strip,
            first: usize,
            pair: usize,
        ) {
            // SAFETY: as for `convolve`.
            unsafe {
                let groups = const { Window { side: SIDE, step: STEP }.groups(GROUP) };
                let group_bytes = 4 * WIDTH;
                let values = strip.scratch.add(first * STEP * groups * group_bytes + 64 * pair);
                let taps = strip.weights.add(16 * GROUP * pair);
                let bias: [__m256i; 2] =
                    std::array::from_fn(|v| _mm256_loadu_si256(strip.bias.add(16 * pair + 8 * v).cast()));
                let mut sums = [[bias; COLUMNS]; ROWS];
                for across in 0..SIDE {
                    for group in 0..groups {
                        for v in 0..2 {
                            let value: [__m256i; COLUMNS] = std::array::from_fn(|c| {
                                let at = (c * STEP + across) * groups + group;
                                _mm256_loadu_si256(values.add(at * group_bytes + 32 * v).cast())
                            });
                            for row in 0..ROWS {
                                if GROUP * (group + 1) <= row * STEP || GROUP * group >= row * STEP + SIDE {
                                    continue;
                                }
                                let tap = (row * SIDE + across) * groups + group;
                                let weight = weights(taps.add((tap * WIDTH + 8 * v) * GROUP));
                                for c in 0..COLUMNS {
                                    sums[row][c][v] = dot(sums[row][c][v], value[c], weight);
                                }
                            }
                        }
                    }
                }
                let multipliers: [__m256; 2] =
                    std::array::from_fn(|v| _mm256_loadu_ps(strip.multipliers.add(16 * pair + 8 * v)));
                let zero_point = _mm256_set1_epi16(i16::from(strip.zero_point));
                for row in 0..ROWS {
                    if strip.output[row].is_null() {
                        continue;
                    }
                    for c in 0..COLUMNS {
                        let whole: [__m256i; 2] = std::array::from_fn(|v| {
                            let real = _mm256_cvtepi32_ps(sums[row][c][v]);
                            _mm256_cvtps_epi32(_mm256_mul_ps(real, multipliers[v]))
                        });
                        let words = _mm256_adds_epi16(_mm256_packs_epi32(whole[0], whole[1]), zero_point);
                        let bytes = _mm256_packus_epi16(words, words);
                        let to = strip.output[row].add((first + c) * strip.output_stride);
                        let (low, high) = (8 * pair, WIDTH / 2 + 8 * pair);
                        store(to, _mm256_castsi256_si128(bytes), low, strip.channels);
                        store(to, _mm256_extracti128_si256::<1>(bytes), high, strip.channels);
                    }
                }
            }
        }

        /// Stores eight channels from `first` on, or as many of them as there are.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn store(to: *mut u8, bytes: __m128i, first: usize, channels: usize) {
            // SAFETY: the caller promises room for so many channels.
            unsafe {
                if first + 8 <= channels {
                    _mm_storel_epi64(to.add(first).cast(), bytes);
                } else if first < channels {
                    let mut eight = [0u8; 8];
                    _mm_storel_epi64(eight.as_mut_ptr().cast(), bytes);
                    to.add(first).copy_from_nonoverlapping(eight.as_ptr(), channels - first);
                }
            }
        }

        /// Fills the scratch memory.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn fill<const WIDTH: usize>(strip: &Strip, groups: usize) {
            // SAFETY: as for `convolve`.
            unsafe {
                let column_bytes = groups * 4 * WIDTH;
                let put = |rows: [__m256i; GROUP], to: *mut u8| {
                    for pair in 0..WIDTH / 16 {
                        let [first, second] = interleave(rows, pair == 1);
                        _mm256_storeu_si256(to.add(64 * pair).cast(), first);
                        _mm256_storeu_si256(to.add(64 * pair + 32).cast(), second);
                    }
                };
                let padding = [_mm256_set1_epi8(strip.padding as i8); GROUP];
                let end = strip.left + strip.columns;
                for column in (0..strip.left).chain(end..end + strip.right) {
                    for group in 0..groups {
                        put(padding, strip.scratch.add(column * column_bytes + group * 4 * WIDTH));
                    }
                }
                for group in 0..groups {
                    let mut rows: [*const u8; GROUP] =
                        std::array::from_fn(|n| strip.input[GROUP * group + n]);
                    let steps: [usize; GROUP] = std::array::from_fn(|n| strip.steps[GROUP * group + n]);
                    let mut to = strip.scratch.add(strip.left * column_bytes + group * 4 * WIDTH);
                    for _ in 0..strip.columns {
                        put(rows.map(|row| load::<WIDTH>(row, strip.channels)), to);
                        for (row, step) in rows.iter_mut().zip(steps) {
                            *row = row.add(step);
                        }
                        to = to.add(column_bytes);
                    }
                }
            }
        }

        /// Loads the channels of a pixel, a half of `WIDTH` to each lane.
        #[inline]
        #[target_feature(enable = $features)]
        unsafe fn load<const WIDTH: usize>(from: *const u8, channels: usize) -> __m256i {
            // SAFETY: the caller promises so many channels.
            unsafe {
                if channels < WIDTH {
                    let mut all = [0u8; WIDTH];
                    all.as_mut_ptr().copy_from_nonoverlapping(from, channels);
                    load::<WIDTH>(all.as_ptr(), WIDTH)
                } else if WIDTH == 32 {
                    _mm256_loadu_si256(from.cast())
                } else {
                    let bytes = _mm256_castsi128_si256(_mm_loadu_si128(from.cast()));
                    _mm256_permute4x64_epi64::<0b01_01_00_00>(bytes)
                }
            }
        }
    };
}

pub(super) use kernel;
