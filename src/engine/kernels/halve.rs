//! A picture at half its size: what a camera of 640×480 needs for a detector that sees 320×240. Plain code, compiled for
//! each instruction set.

/// Height and width, in pixels.
type Size = [usize; 2];

/// Halves an RGB picture of even sides with the triangle filter, `[1 3 3 1] / 8` down and across; edge pixels count
/// twice. The result's lines start every `line` bytes of `to`.
///
/// # Panics
/// When a side is odd or 0, or a buffer is too small.
pub fn halve(from: &[u8], [height, width]: Size, to: &mut [u8], line: usize) {
    assert!(height.is_multiple_of(2) && width.is_multiple_of(2) && height.min(width) > 0);
    assert!(from.len() >= 3 * width * height && line >= 3 * width / 2);
    assert!(to.len() >= (height / 2 - 1) * line + 3 * width / 2);
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the CPU has the instruction set.
            return unsafe { avx512(from, [height, width], to, line) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has the instruction set.
            return unsafe { avx2(from, [height, width], to, line) };
        }
    }
    portable(from, [height, width], to, line);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn avx512(from: &[u8], size: Size, to: &mut [u8], line: usize) {
    portable(from, size, to, line);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(from: &[u8], size: Size, to: &mut [u8], line: usize) {
    portable(from, size, to, line);
}

/// Bytes of a pixel.
const RGB: usize = 3;

#[inline(always)]
fn portable(from: &[u8], [height, width]: Size, to: &mut [u8], line: usize) {
    let bytes = RGB * width;
    // Four lines down, with one more pixel at each end.
    let mut sums = vec![0u16; bytes + 2 * RGB];
    // At every pixel, though only every other is wanted: so it is one loop over vectors.
    let mut means = vec![0u8; bytes];
    for (y, to) in to.chunks_mut(line).take(height / 2).enumerate() {
        let row = |y: usize| &from[y * bytes..][..bytes];
        let (first, last) = (row((2 * y).saturating_sub(1)), row((2 * y + 2).min(height - 1)));
        let inner = row(2 * y).iter().zip(row(2 * y + 1));
        for (((sum, &first), (&a, &b)), &last) in
            sums[RGB..bytes + RGB].iter_mut().zip(first).zip(inner).zip(last)
        {
            *sum = u16::from(first) + 3 * (u16::from(a) + u16::from(b)) + u16::from(last);
        }
        sums.copy_within(RGB..2 * RGB, 0);
        sums.copy_within(bytes..bytes + RGB, bytes + RGB);

        let wanted = bytes - RGB;
        let sum = |pixel: usize| &sums[pixel * RGB..][..wanted];
        let (first, a, b, last) = (sum(0), sum(1), sum(2), sum(3));
        for ((((mean, &first), &a), &b), &last) in
            means[..wanted].iter_mut().zip(first).zip(a).zip(b).zip(last)
        {
            *mean = ((first + 3 * (a + b) + last + 32) >> 6) as u8;
        }
        every_other(&means, &mut to[..bytes / 2]);
    }
}

/// Takes every other pixel, four of them as three words where there are so many.
#[inline(always)]
fn every_other(from: &[u8], to: &mut [u8]) {
    let (eights, rest) = from.as_chunks::<{ 8 * RGB }>();
    let (fours, last) = to.as_chunks_mut::<{ 4 * RGB }>();
    for (eight, four) in eights.iter().zip(fours) {
        // Not by `map`, whose closure would be a function without the instruction set.
        let word = |at: usize| u32::from_le_bytes([eight[at], eight[at + 1], eight[at + 2], eight[at + 3]]);
        let (a, b, c, d) = (word(0), word(6), word(12), word(18));
        let words = [a & 0xFF_FFFF | b << 24, b >> 8 & 0xFFFF | c << 16, c >> 16 & 0xFF | d << 8];
        for (word, to) in words.iter().zip(four.as_chunks_mut::<4>().0) {
            *to = word.to_le_bytes();
        }
    }
    for (pixel, to) in rest.chunks_exact(2 * RGB).zip(last.chunks_exact_mut(RGB)) {
        to.copy_from_slice(&pixel[..RGB]);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::testing::Random, super::testing::Values, *};
    use proptest::prelude::*;

    /// A pixel's channel by the definition.
    fn expected(from: &[u8], [height, width]: Size, [y, x]: [usize; 2], channel: usize) -> u8 {
        let weighed = |at: usize, length: usize| {
            [(-1, 1), (0, 3), (1, 3), (2, 1)].map(|(offset, weight): (isize, u32)| {
                ((2 * at).checked_add_signed(offset).unwrap_or(0).min(length - 1), weight)
            })
        };
        let mut sum = 32;
        for (y, down) in weighed(y, height) {
            for (x, across) in weighed(x, width) {
                sum += down * across * u32::from(from[(y * width + x) * RGB + channel]);
            }
        }
        (sum >> 6) as u8
    }

    proptest! {
        #[test]
        fn all_instruction_sets_agree(half in (1..9usize, 1..40usize), more in 0..7usize, seed: u64) {
            let [height, width] = [2 * half.0, 2 * half.1];
            let line = RGB * half.1 + more;
            let from = Random::new(seed).inputs(RGB * height * width, Values::Any);
            let mut wanted = vec![9; line * half.0];
            for (y, x) in (0..half.0).flat_map(|y| (0..half.1).map(move |x| (y, x))) {
                for channel in 0..RGB {
                    wanted[y * line + x * RGB + channel] = expected(&from, [height, width], [y, x], channel);
                }
            }
            let fresh = || vec![9; line * half.0];
            let mut found = fresh();
            halve(&from, [height, width], &mut found, line);
            prop_assert_eq!(&found, &wanted);
            let mut found = fresh();
            portable(&from, [height, width], &mut found, line);
            prop_assert_eq!(&found, &wanted);
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx2") {
                let mut found = fresh();
                // SAFETY: the CPU has the instruction set.
                unsafe { avx2(&from, [height, width], &mut found, line) };
                prop_assert_eq!(&found, &wanted);
            }
        }
    }
}
