//! The sum of two quantised pictures, element by element. Plain code, compiled for each instruction set.

use super::{InstructionSet, pointwise::Addition};

/// `to[i] = a[i] + b[i]` as [`Addition`] has it; `a_zero_point` is that of `a`. As many as the shortest has.
pub fn add(set: InstructionSet, a: &[u8], a_zero_point: u8, b: &[u8], addition: Addition, to: &mut [u8]) {
    match set {
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx512Vnni => {
            assert!(set.is_supported(), "this CPU lacks {set}");
            // SAFETY: the CPU has the instruction set.
            unsafe { avx512(a, a_zero_point, b, addition, to) }
        }
        #[cfg(target_arch = "x86_64")]
        InstructionSet::Avx2 | InstructionSet::AvxVnni => {
            assert!(set.is_supported(), "this CPU lacks {set}");
            // SAFETY: the CPU has the instruction set.
            unsafe { avx2(a, a_zero_point, b, addition, to) }
        }
        _ => portable(a, a_zero_point, b, addition, to),
    }
}

#[inline(always)]
fn portable(a: &[u8], a_zero_point: u8, b: &[u8], addition: Addition, to: &mut [u8]) {
    for ((&a, &b), to) in a.iter().zip(b).zip(to) {
        *to = addition.of(i32::from(a) - i32::from(a_zero_point), b);
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn avx512(a: &[u8], a_zero_point: u8, b: &[u8], addition: Addition, to: &mut [u8]) {
    portable(a, a_zero_point, b, addition, to);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn avx2(a: &[u8], a_zero_point: u8, b: &[u8], addition: Addition, to: &mut [u8]) {
    portable(a, a_zero_point, b, addition, to);
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Random, Values, zero_point},
        *,
    };
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_instruction_sets_agree(
            length in 0..200usize,
            factors in (0.01f32..3.0, 0.01f32..3.0),
            zero_points in (zero_point(), zero_point(), zero_point()),
            seed: u64,
        ) {
            let mut random = Random::new(seed);
            let (a, b) = (random.inputs(length, Values::Any), random.inputs(length, Values::Any));
            let (a_zero_point, b_zero_point, zero_point) = zero_points;
            let (a_factor, b_factor) = factors;
            let addition = Addition { a_factor, b_factor, b_zero_point, zero_point };
            let expected: Vec<u8> = a
                .iter()
                .zip(&b)
                .map(|(&a, &b)| {
                    let real = (f32::from(a) - f32::from(a_zero_point)) * a_factor
                        + (f32::from(b) - f32::from(b_zero_point)) * b_factor;
                    (real.round_ties_even() as i32 + i32::from(zero_point)).clamp(0, 255) as u8
                })
                .collect();
            for set in InstructionSet::supported() {
                let mut found = vec![7; length + 1];
                add(set, &a, a_zero_point, &b, addition, &mut found);
                prop_assert_eq!(&found[..length], &expected[..], "{}", set);
                prop_assert_eq!(found[length], 7);
            }
        }
    }
}
