//! Integer kernels: what the int8 engine spends its time in.
//!
//! Pictures are channels last, `[pixels, channels]` of u8, and a pixel starts every [`stride`] bytes. A value `q`
//! stands for `scale × (q − zero point)`; the scales are folded into one multiplier for each output channel and the
//! input's zero point into the bias, so that a kernel sees whole numbers only:
//!
//! ```text
//! sum     = bias + Σ input × weight                                (i32, exact)
//! output  = clamp(round_ties_even(sum as f32 × multiplier) + zero point, 0, 255)
//! ```
//!
//! Sums and `sum × multiplier` must stay below 2³¹.
//!
//! Every instruction set gives the same bytes as the portable kernels. One operator has one folder here, one
//! instruction set one file in it.

use std::{fmt, str::FromStr};

pub mod addition;
mod aligned;
pub mod depthwise;
pub mod halve;
pub mod pointwise;
#[cfg(test)]
mod testing;

/// What a kernel may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InstructionSet {
    Portable,
    /// x86-64 with AVX2.
    Avx2,
    /// x86-64 with AVX-VNNI: dot products of bytes in 256 bits.
    AvxVnni,
    /// x86-64 with AVX-512 F, BW, VL and VNNI.
    Avx512Vnni,
    /// aarch64: Raspberry Pi 3 and 4, Jetson Nano.
    Neon,
    /// aarch64 with dot products of bytes: Raspberry Pi 5, Jetson Orin.
    NeonDot,
    /// aarch64 with products of byte matrices.
    NeonI8mm,
}

pub use aligned::Aligned;

use InstructionSet::*;

impl InstructionSet {
    pub const ALL: [Self; 7] = [Portable, Avx2, AvxVnni, Avx512Vnni, Neon, NeonDot, NeonI8mm];

    pub fn name(self) -> &'static str {
        match self {
            Portable => "portable",
            Avx2 => "avx2",
            AvxVnni => "avxvnni",
            Avx512Vnni => "avx512vnni",
            Neon => "neon",
            NeonDot => "neon_dot",
            NeonI8mm => "neon_i8mm",
        }
    }

    /// Whether this build holds kernels for it.
    pub fn is_built(self) -> bool {
        match self {
            Portable => true,
            Avx2 | AvxVnni | Avx512Vnni => cfg!(target_arch = "x86_64"),
            Neon | NeonDot | NeonI8mm => cfg!(target_arch = "aarch64"),
        }
    }

    /// Whether this build holds kernels for it and this CPU has it.
    pub fn is_supported(self) -> bool {
        match self {
            Portable => true,
            #[cfg(target_arch = "x86_64")]
            Avx2 => is_x86_feature_detected!("avx2"),
            #[cfg(target_arch = "x86_64")]
            AvxVnni => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("avxvnni"),
            #[cfg(target_arch = "x86_64")]
            Avx512Vnni => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
                    && is_x86_feature_detected!("fma")
            }
            #[cfg(target_arch = "aarch64")]
            Neon => true,
            #[cfg(target_arch = "aarch64")]
            NeonDot => std::arch::is_aarch64_feature_detected!("dotprod"),
            #[cfg(target_arch = "aarch64")]
            NeonI8mm => {
                std::arch::is_aarch64_feature_detected!("dotprod")
                    && std::arch::is_aarch64_feature_detected!("i8mm")
            }
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }

    /// All that this build holds.
    pub fn built() -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_built())
    }

    /// All that this CPU has, slowest first.
    pub fn supported() -> impl DoubleEndedIterator<Item = Self> {
        Self::ALL.into_iter().filter(|set| set.is_supported())
    }

    /// The fastest that this CPU has.
    pub fn best() -> Self {
        Self::supported().next_back().unwrap_or(Portable)
    }

    /// What the environment variable `MIEN_KERNELS` names, else the fastest.
    ///
    /// # Errors
    /// When it names none, or one that this CPU lacks.
    pub fn chosen() -> Result<Self, KernelChoiceError> {
        match std::env::var("MIEN_KERNELS") {
            Ok(name) => name.parse(),
            Err(_) => Ok(Self::best()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("MIEN_KERNELS={name}: this CPU has {available}")]
pub struct KernelChoiceError {
    name: String,
    available: String,
}

impl FromStr for InstructionSet {
    type Err = KernelChoiceError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::supported().find(|set| set.name() == name).ok_or_else(|| KernelChoiceError {
            name: name.to_owned(),
            available: Self::supported().map(Self::name).collect::<Vec<_>>().join(", "),
        })
    }
}

impl fmt::Display for InstructionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes from one pixel to the next: the channels, rounded up so that weights can be taken four inputs at a time.
/// The bytes after the channels hold anything.
pub const fn stride(channels: usize) -> usize {
    channels.next_multiple_of(4)
}

/// Rounds to the nearest whole number, ties to even, as adding and taking away 1.5 × 2²³ does for anything below 2²²
/// (what lies beyond is limited to ±4 million): CPUs without a rounding instruction do it as fast as those with one.
#[inline(always)]
fn round(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0;
    (x.clamp(-4e6, 4e6) + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32
}

/// `round_ties_even(sum × multiplier)`, limited to what the output holds, less its zero point.
#[inline(always)]
pub(super) fn requantize(sum: i32, multiplier: f32, zero_point: u8) -> i32 {
    let zero = i32::from(zero_point);
    round(sum as f32 * multiplier).clamp(-zero, 255 - zero)
}

/// Bits of 2²³ as f32. Added to a whole number from 0 up to 2²³, they make the bits of 2²³ plus that number: a sum that
/// starts so needs no conversion, and `sum × multiplier` is one fused multiply-add, `f × multiplier − 2²³ × multiplier`,
/// whose second product is exact. Numbers below zero come out as numbers below zero, though not the right ones, as long
/// as the bits don't go below zero.
const FLOAT_SUMS: i32 = 0x4B00_0000;

/// Whether sums may start at [`FLOAT_SUMS`]: what is below zero becomes 0, nothing reaches 2²³. `weights` are those of
/// each output in turn.
fn is_rectified(zero_point: u8, weights: &[i8], bias: &[i32], multipliers: &[f32]) -> bool {
    let per_output = weights.len() / bias.len().max(1);
    let fits = |(weights, &bias): (&[i8], &i32)| {
        let reach = |sign: i64| -> i64 {
            weights.iter().map(|&weight| (sign * i64::from(weight)).max(0) * 255).sum()
        };
        let bias = i64::from(bias);
        bias + reach(1) < 1 << 23 && bias - reach(-1) > -i64::from(FLOAT_SUMS)
    };
    zero_point == 0
        && multipliers.iter().all(|multiplier| (0.0..1e6).contains(multiplier))
        && weights.chunks_exact(per_output.max(1)).zip(bias).all(fits)
}

/// The bias of a kernel that multiplies inputs less 128.
fn signed_bias(bias: i32, weights: &[i8]) -> i32 {
    weights.iter().fold(bias, |bias, &weight| bias.wrapping_add(128 * i32::from(weight)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn rounding_is_to_even() {
        for x in [-2.5f32, -1.5, -0.5, 0.0, 0.5, 1.5, 2.4999998, 7.0, 1e6, -1e6 - 0.5] {
            assert_eq!(super::round(x), x.round_ties_even() as i32, "{x}");
        }
        assert!(super::round(3e9) > 255 && super::round(-3e9) < -255);
    }
}
