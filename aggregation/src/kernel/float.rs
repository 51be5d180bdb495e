//! The float formats: exact widening to `f64`, and one correct rounding back.
//!
//! The `half` crate is not used for rounding: its conversion from 64 to 16 bits goes through 32 bits where the
//! processor helps and drops low bits where it does not, so it rounds some numbers twice, and not the same
//! numbers everywhere.

use flair_tensors::dtype::DType;

/// Calls a function generic over the format, for the format at hand.
macro_rules! dispatch {
    ($float:expr, $function:ident ( $($argument:expr),* )) => {{
        use $crate::kernel::float::{BF16, F16, F32, F64, Float};
        match $float {
            Float::F16 => $function::<F16, 2>($($argument),*),
            Float::BF16 => $function::<BF16, 2>($($argument),*),
            Float::F32 => $function::<F32, 4>($($argument),*),
            Float::F64 => $function::<F64, 8>($($argument),*),
        }
    }};
}
pub(crate) use dispatch;

/// A float format the kernels compute with. Eight-bit floats are not among them: their tensors are compared,
/// not averaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float {
    /// IEEE 754 binary16: 10 bits of fraction, largest number 65,504.
    F16,
    /// bfloat16: the upper half of a binary32.
    BF16,
    /// IEEE 754 binary32.
    F32,
    /// IEEE 754 binary64.
    F64,
}

impl Float {
    /// The float format of a dtype, if it is one of the four.
    pub fn of(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F16 => Some(Self::F16),
            DType::BF16 => Some(Self::BF16),
            DType::F32 => Some(Self::F32),
            DType::F64 => Some(Self::F64),
            _ => None,
        }
    }

    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F16 | Self::BF16 => 2,
            Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// Whether an aggregate keeps an `f32` master beside a tensor of this format. Small steps vanish when they
    /// are rounded to 16 bits each time; with a master they add up.
    pub fn has_master(self) -> bool {
        self.size() == 2
    }

    /// The largest finite number of the format.
    pub fn max(self) -> f64 {
        match self {
            Self::F16 => F16::MAX,
            Self::BF16 => BF16::MAX,
            Self::F32 => F32::MAX,
            Self::F64 => F64::MAX,
        }
    }

    /// Appends the elements in `bytes` to `out`, widened to `f64`, which is exact for all four formats. Bytes
    /// after the last whole element are ignored.
    pub fn widen_into(self, bytes: &[u8], out: &mut Vec<f64>) {
        fn widen<F: Format<N>, const N: usize>(bytes: &[u8], out: &mut Vec<f64>) {
            out.extend(bytes.as_chunks::<N>().0.iter().map(|element| F::widen(*element)));
        }
        dispatch!(self, widen(bytes, out));
    }

    /// Appends `values` to `out`, each rounded once to this format. Numbers beyond the format's range become its
    /// largest finite number, so that an aggregate never holds an infinity.
    pub fn round_into(self, values: &[f64], out: &mut Vec<u8>) {
        fn round<F: Format<N>, const N: usize>(values: &[f64], out: &mut Vec<u8>) {
            out.extend(values.iter().flat_map(|value| F::round(*value)));
        }
        dispatch!(self, round(values, out));
    }
}

/// One float format as the loops see it: `N` little-endian bytes per element.
pub(crate) trait Format<const N: usize> {
    /// The largest finite number.
    const MAX: f64;
    /// The value as `f64`; exact.
    fn widen(bytes: [u8; N]) -> f64;
    /// The nearest number of this format, ties to even, held within ±[`Self::MAX`]; any NaN becomes the one
    /// quiet NaN, because what processors do with the others' bits differs.
    fn round(value: f64) -> [u8; N];
}

pub(crate) struct F16;
pub(crate) struct BF16;
pub(crate) struct F32;
pub(crate) struct F64;

impl Format<2> for F16 {
    const MAX: f64 = 65504.0;

    #[inline]
    fn widen(bytes: [u8; 2]) -> f64 {
        let bits = u32::from(u16::from_le_bytes(bytes));
        let magnitude = bits & 0x7fff;
        // Exponent 5 bits → 8 bits: add the difference of the biases (112), and again for infinities and NaN.
        let bias = if magnitude >= 0x7c00 { 224 << 23 } else { 112 << 23 };
        let normal = f32::from_bits((magnitude << 13) + bias);
        // Subnormals count in steps of 2⁻²⁴, which is what one unit of f32 is just above one half.
        let subnormal = f32::from_bits(0x3f00_0000 + magnitude) - 0.5;
        let value = if magnitude < 0x0400 { subnormal } else { normal };
        f64::from(f32::from_bits(value.to_bits() | ((bits & 0x8000) << 16)))
    }

    #[inline]
    fn round(value: f64) -> [u8; 2] {
        narrow::<10, -14>(value, Self::MAX, 0x7e00).to_le_bytes()
    }
}

impl Format<2> for BF16 {
    const MAX: f64 = f32::from_bits(0x7f7f_0000) as f64;

    #[inline]
    fn widen(bytes: [u8; 2]) -> f64 {
        f64::from(f32::from_bits(u32::from(u16::from_le_bytes(bytes)) << 16))
    }

    #[inline]
    fn round(value: f64) -> [u8; 2] {
        narrow::<7, -126>(value, Self::MAX, 0x7fc0).to_le_bytes()
    }
}

impl Format<4> for F32 {
    const MAX: f64 = f32::MAX as f64;

    #[inline]
    fn widen(bytes: [u8; 4]) -> f64 {
        f64::from(f32::from_le_bytes(bytes))
    }

    #[inline]
    fn round(value: f64) -> [u8; 4] {
        let bits = (value.clamp(-Self::MAX, Self::MAX) as f32).to_bits();
        (if value.is_nan() { 0x7fc0_0000 } else { bits }).to_le_bytes()
    }
}

impl Format<8> for F64 {
    const MAX: f64 = f64::MAX;

    #[inline]
    fn widen(bytes: [u8; 8]) -> f64 {
        f64::from_le_bytes(bytes)
    }

    #[inline]
    fn round(value: f64) -> [u8; 8] {
        let bits = value.clamp(-Self::MAX, Self::MAX).to_bits();
        (if value.is_nan() { 0x7ff8_0000_0000_0000 } else { bits }).to_le_bytes()
    }
}

/// Rounds to a 16-bit float with `FRACTION` bits of fraction, whose smallest normal exponent is `LOWEST`.
///
/// The magnitude is scaled by a power of two so that the last kept bit has weight one, which is exact; adding 2⁵²
/// then rounds it to an integer, ties to even, and leaves that integer in the sum's lowest bits. It runs over into
/// the exponent field by itself when it reaches the next power of two.
#[inline]
fn narrow<const FRACTION: i64, const LOWEST: i64>(value: f64, max: f64, nan: u16) -> u16 {
    const TWO_52: f64 = 4_503_599_627_370_496.0;
    let magnitude = value.abs().min(max);
    let exponent = ((magnitude.to_bits() >> 52).cast_signed() - 1023).max(LOWEST);
    let scale = f64::from_bits((1023 + FRACTION - exponent).cast_unsigned() << 52);
    let units = (magnitude * scale + TWO_52).to_bits();
    let bits = ((exponent - LOWEST).cast_unsigned() << FRACTION).wrapping_add(units) as u16;
    let sign = ((value.to_bits() >> 48) & 0x8000) as u16;
    if value.is_nan() { nan } else { bits | sign }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The nearest of all 16-bit numbers, ties to the even pattern, by looking at every one of them.
    fn nearest<F: Format<2>>(value: f64) -> u16 {
        let finite = (0..=u16::MAX).filter(|bits| F::widen(bits.to_le_bytes()).is_finite());
        let same_sign = finite.filter(|bits| (bits >> 15 == 1) == value.is_sign_negative());
        // Differences of these magnitudes are exact in f64 near the value, where it matters.
        same_sign
            .min_by(|a, b| {
                let (x, y) = (F::widen(a.to_le_bytes()), F::widen(b.to_le_bytes()));
                (x - value).abs().total_cmp(&(y - value).abs()).then((a & 1).cmp(&(b & 1)))
            })
            .unwrap()
    }

    fn every_number_survives<F: Format<2>>() {
        for bits in 0..=u16::MAX {
            let value = F::widen(bits.to_le_bytes());
            if value.is_finite() {
                assert_eq!(u16::from_le_bytes(F::round(value)), bits, "{value}");
            }
        }
    }

    #[test]
    fn every_16_bit_number_survives_widening_and_rounding() {
        every_number_survives::<F16>();
        every_number_survives::<BF16>();
    }

    #[test]
    fn widening_agrees_with_the_half_crate_on_every_number() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (F16::widen(bits.to_le_bytes()), half::f16::from_bits(bits).to_f64());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#06x}");
            let (ours, theirs) = (BF16::widen(bits.to_le_bytes()), half::bf16::from_bits(bits).to_f64());
            assert!(ours.to_bits() == theirs.to_bits() || (ours.is_nan() && theirs.is_nan()), "{bits:#06x}");
        }
    }

    #[test]
    fn a_tie_goes_to_even_and_the_least_excess_breaks_it() {
        let tie = 1.0 + 2f64.powi(-11);
        assert_eq!(F16::round(tie), half::f16::from_f32(1.0).to_le_bytes());
        // Through f32 this excess would be lost and the tie wrongly rounded down.
        assert_eq!(F16::round(tie + 2f64.powi(-52)), half::f16::from_bits(0x3c01).to_le_bytes());
        assert_eq!(BF16::round(-(1.0 + 3.0 * 2f64.powi(-8))), half::bf16::from_bits(0xbf82).to_le_bytes());
    }

    #[test]
    fn what_is_out_of_range_becomes_the_largest_finite_number() {
        assert_eq!(F16::round(1e300), 0x7bff_u16.to_le_bytes());
        assert_eq!(F16::round(f64::NEG_INFINITY), 0xfbff_u16.to_le_bytes());
        assert_eq!(BF16::round(f64::INFINITY), 0x7f7f_u16.to_le_bytes());
        assert_eq!(F32::round(-1e300), (-f32::MAX).to_le_bytes());
        assert_eq!(F64::round(f64::INFINITY), f64::MAX.to_le_bytes());
    }

    #[test]
    fn any_nan_becomes_the_one_quiet_nan() {
        let odd = f64::from_bits(0xfff4_dead_beef_0001);
        assert_eq!(F16::round(odd), 0x7e00_u16.to_le_bytes());
        assert_eq!(BF16::round(odd), 0x7fc0_u16.to_le_bytes());
        assert_eq!(F32::round(odd), 0x7fc0_0000_u32.to_le_bytes());
        assert_eq!(F64::round(odd), 0x7ff8_0000_0000_0000_u64.to_le_bytes());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn rounding_finds_the_nearest_16_bit_number(bits: u64, near in any::<u16>(), excess in -2i64..3) {
            // Anything at all, and numbers next to the middle between two neighbours.
            let anything = f64::from_bits(bits);
            let low = F16::widen((near & 0xfbff).to_le_bytes());
            let middle = f64::midpoint(low, F16::widen(((near & 0xfbff) ^ 1).to_le_bytes()));
            let beside = f64::from_bits(middle.to_bits().wrapping_add_signed(excess));
            for value in [anything, beside, anything % 7.0] {
                if value.is_finite() {
                    let clamped = value.clamp(-65504.0, 65504.0);
                    prop_assert_eq!(u16::from_le_bytes(F16::round(value)), nearest::<F16>(clamped));
                    let clamped = value.clamp(-BF16::MAX, BF16::MAX);
                    prop_assert_eq!(u16::from_le_bytes(BF16::round(value)), nearest::<BF16>(clamped));
                }
            }
        }
    }
}
