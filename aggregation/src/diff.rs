//! How far two models are apart, tensor by tensor.
//!
//! All figures come from sums in the fixed shape of [`crate::kernel::norm`], so two people who compare the same
//! models read the same numbers. Elements that are not finite on either side are counted and otherwise left out.

use crate::kernel::norm::{Stream, Tree, dot};
use flair_tensors::dtype::DType;

/// Compares two tensors of one type that arrive in pieces.
#[derive(Clone, Debug)]
pub struct Comparison {
    dtype: DType,
    change: Change,
    pieces: Stream,
    sums: Sums,
}

/// The trees of the four sums.
#[derive(Clone, Debug, Default)]
struct Sums {
    old: Tree,
    new: Tree,
    product: Tree,
    difference: Tree,
}

/// How one tensor, or several together, changed. The default is the change of nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Change {
    /// Elements compared.
    pub count: u64,
    /// Elements whose bits differ.
    pub changed: u64,
    /// Elements that are a NaN or an infinity on either side.
    pub not_finite: u64,
    /// The largest absolute difference.
    pub largest: f64,
    /// Σ old².
    pub old: f64,
    /// Σ new².
    pub new: f64,
    /// Σ old · new.
    pub product: f64,
    /// Σ (new − old)².
    pub difference: f64,
}

impl Comparison {
    /// Begins to compare two tensors of this type.
    pub fn new(dtype: DType) -> Self {
        Self { dtype, change: Change::default(), pieces: Stream::default(), sums: Sums::default() }
    }

    /// Takes the next piece of both tensors: whole little-endian elements, of which any that only one side has
    /// are ignored. The lengths of the pieces do not influence the result.
    pub fn push(&mut self, old: &[u8], new: &[u8]) {
        let size = self.dtype.size();
        let (mut olds, mut news) = (Vec::new(), Vec::new());
        for (old, new) in old.chunks_exact(size).zip(new.chunks_exact(size)) {
            self.change.count += 1;
            self.change.changed += u64::from(old != new);
            let (old, new) = (number(self.dtype, old), number(self.dtype, new));
            if old.is_finite() && new.is_finite() {
                self.change.largest = self.change.largest.max((new - old).abs());
                olds.push(old);
                news.push(new);
            } else {
                self.change.not_finite += 1;
                olds.push(0.0);
                news.push(0.0);
            }
        }
        let Self { pieces, sums, .. } = self;
        pieces.push(&olds, &news, |old, new| sums.add(old, new));
    }

    /// The figures.
    pub fn finish(mut self) -> Change {
        let Self { pieces, sums, .. } = &mut self;
        pieces.finish(|old, new| sums.add(old, new));
        Change {
            old: sums.old.take(),
            new: sums.new.take(),
            product: sums.product.take(),
            difference: sums.difference.take(),
            ..self.change
        }
    }
}

impl Sums {
    /// Adds one run.
    fn add(&mut self, old: &[f64], new: &[f64]) {
        let difference: Vec<f64> = new.iter().zip(old).map(|(new, old)| new - old).collect();
        self.old.push(dot(old, old));
        self.new.push(dot(new, new));
        self.product.push(dot(old, new));
        self.difference.push(dot(&difference, &difference));
    }
}

impl Change {
    /// This change and another tensor's as one. To get the same figures as everyone, add in file order.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            changed: self.changed + other.changed,
            not_finite: self.not_finite + other.not_finite,
            largest: self.largest.max(other.largest),
            old: self.old + other.old,
            new: self.new + other.new,
            product: self.product + other.product,
            difference: self.difference + other.difference,
        }
    }

    /// The Euclidean length of the difference (L2).
    pub fn distance(&self) -> f64 {
        self.difference.sqrt()
    }

    /// The length of the difference over the length of the old values: 0 if nothing changed, infinite if the old
    /// values were all zero and the new ones are not.
    pub fn relative(&self) -> f64 {
        if self.difference == 0.0 { 0.0 } else { self.difference.sqrt() / self.old.sqrt() }
    }

    /// The cosine of the angle between old and new, between −1 and 1; `None` where either is all zero.
    pub fn cosine(&self) -> Option<f64> {
        let lengths = self.old.sqrt() * self.new.sqrt();
        (lengths > 0.0).then(|| (self.product / lengths).clamp(-1.0, 1.0))
    }

    /// The share of elements whose bits differ: 0 to 1, and 0 if there are none.
    pub fn share_changed(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.changed as f64 / self.count as f64 }
    }
}

/// One element as `f64`; 64-bit integers beyond 2⁵³ are rounded.
fn number(dtype: DType, bytes: &[u8]) -> f64 {
    let wide = |size: usize| {
        let mut wide = [0; 8];
        wide.iter_mut().zip(bytes).take(size).for_each(|(wide, byte)| *wide = *byte);
        u64::from_le_bytes(wide)
    };
    match dtype {
        DType::Bool | DType::U8 | DType::U16 | DType::U32 | DType::U64 => wide(dtype.size()) as f64,
        DType::I8 => f64::from((wide(1) as u8).cast_signed()),
        DType::I16 => f64::from((wide(2) as u16).cast_signed()),
        DType::I32 => f64::from((wide(4) as u32).cast_signed()),
        DType::I64 => wide(8).cast_signed() as f64,
        DType::F8E5M2 => half_float(wide(1) << 8),
        DType::F8E4M3 => eight_bit_float(wide(1) as u8),
        DType::F16 => half_float(wide(2)),
        DType::BF16 => f64::from(f32::from_bits((wide(2) as u32) << 16)),
        DType::F32 => f64::from(f32::from_bits(wide(4) as u32)),
        DType::F64 => f64::from_bits(wide(8)),
    }
}

fn half_float(bits: u64) -> f64 {
    use crate::kernel::float::{F16, Format};
    F16::widen((bits as u16).to_le_bytes())
}

/// The 8-bit float with 4 bits of exponent: no infinities, and NaN where all seven low bits are set.
fn eight_bit_float(byte: u8) -> f64 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 15), f64::from(byte & 7));
    let magnitude = match (exponent, byte & 0x7f) {
        (_, 0x7f) => f64::NAN,
        (0, _) => fraction / 512.0,
        // 2^(exponent − 7), as a quotient of exact powers.
        _ => (1.0 + fraction / 8.0) * f64::from(1 << exponent) / 128.0,
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "these figures are exact")]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn compare(dtype: DType, old: &[u8], new: &[u8]) -> Change {
        let mut comparison = Comparison::new(dtype);
        comparison.push(old, new);
        comparison.finish()
    }

    #[test]
    fn figures_are_those_of_the_textbook() {
        let change = compare(DType::F32, &bytes(&[3.0, 0.0, 1.0, 4.0]), &bytes(&[0.0, 4.0, 1.0, 4.0]));
        assert_eq!((change.count, change.changed, change.not_finite), (4, 2, 0));
        assert_eq!([change.distance(), change.largest, change.share_changed()], [5.0, 4.0, 0.5]);
        assert_eq!(change.relative(), 5.0 / 26f64.sqrt());
        assert!((change.cosine().unwrap() - 17.0 / (26f64 * 33.0).sqrt()).abs() < 1e-15);
    }

    #[test]
    fn pieces_of_any_length_give_the_same_figures() {
        let old: Vec<u8> = bytes(&(0..20_000).map(|k| (k as f32 * 0.7).sin()).collect::<Vec<_>>());
        let new: Vec<u8> =
            bytes(&(0..20_000).map(|k| (k as f32 * 0.7).sin() * 1.01 + 1e-3).collect::<Vec<_>>());
        let whole = compare(DType::F32, &old, &new);
        for piece in [4, 28, 4096 * 4, 5000 * 4] {
            let mut comparison = Comparison::new(DType::F32);
            old.chunks(piece).zip(new.chunks(piece)).for_each(|(old, new)| comparison.push(old, new));
            assert_eq!(comparison.finish(), whole);
        }
    }

    #[test]
    fn what_is_not_finite_is_counted_and_left_out() {
        let change = compare(DType::F32, &bytes(&[1.0, f32::NAN, 2.0]), &bytes(&[1.0, 1.0, f32::INFINITY]));
        assert_eq!((change.not_finite, change.changed, change.difference), (2, 2, 0.0));
    }

    #[test]
    fn nothing_and_zeros_have_sensible_figures() {
        let nothing = compare(DType::F32, &[], &[]);
        assert_eq!((nothing.share_changed(), nothing.relative(), nothing.cosine()), (0.0, 0.0, None));
        let from_zero = compare(DType::F32, &bytes(&[0.0]), &bytes(&[1.0]));
        assert_eq!((from_zero.relative(), from_zero.cosine()), (f64::INFINITY, None));
    }

    #[test]
    fn every_type_is_read_as_what_it_is() {
        let one = |dtype, bytes: &[u8]| number(dtype, bytes);
        assert_eq!(one(DType::I8, &[0xff]), -1.0);
        assert_eq!(one(DType::U8, &[0xff]), 255.0);
        assert_eq!(one(DType::Bool, &[1]), 1.0);
        assert_eq!(one(DType::I16, &(-300i16).to_le_bytes()), -300.0);
        assert_eq!(one(DType::U16, &65535u16.to_le_bytes()), 65535.0);
        assert_eq!(one(DType::I32, &(-7i32).to_le_bytes()), -7.0);
        assert_eq!(one(DType::U32, &u32::MAX.to_le_bytes()), 4_294_967_295.0);
        assert_eq!(one(DType::I64, &i64::MIN.to_le_bytes()), -(2f64.powi(63)));
        assert_eq!(one(DType::U64, &7u64.to_le_bytes()), 7.0);
        assert_eq!(one(DType::F16, &[0x00, 0xc0]), -2.0);
        assert_eq!(one(DType::BF16, &[0x80, 0x3f]), 1.0);
        assert_eq!(one(DType::F64, &0.1f64.to_le_bytes()), 0.1);
        assert_eq!(one(DType::F8E5M2, &[0xc0]), -2.0);
        assert_eq!(
            [0x01, 0x08, 0x38, 0xb8, 0x7e].map(|byte| one(DType::F8E4M3, &[byte])),
            [2f64.powi(-9), 2f64.powi(-6), 1.0, -1.0, 448.0]
        );
        assert!(one(DType::F8E4M3, &[0x7f]).is_nan() && one(DType::F8E5M2, &[0x7f]).is_nan());
    }
}
