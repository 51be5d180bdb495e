//! Weighted sums over contributions, per coordinate, and the one rounding at their end.

use super::float::{BF16, F16, F32, Float, Format, dispatch};

/// Adds `weight · (input − base)` to the running sums, element by element.
///
/// `input` and `base` hold little-endian elements of `float`; the shortest of the three decides.
pub fn add_difference(float: Float, sums: &mut [f64], weight: f64, input: &[u8], base: &[u8]) {
    fn add<F: Format<N>, const N: usize>(sums: &mut [f64], weight: f64, input: &[u8], base: &[u8]) {
        let elements = input.as_chunks::<N>().0.iter().zip(base.as_chunks::<N>().0);
        for (sum, (input, base)) in sums.iter_mut().zip(elements) {
            *sum += weight * (F::widen(*input) - F::widen(*base));
        }
    }
    dispatch!(float, add(sums, weight, input, base));
}

/// Adds `weight · input` to the running sums, element by element.
pub fn add_value(float: Float, sums: &mut [f64], weight: f64, input: &[u8]) {
    fn add<F: Format<N>, const N: usize>(sums: &mut [f64], weight: f64, input: &[u8]) {
        for (sum, input) in sums.iter_mut().zip(input.as_chunks::<N>().0) {
            *sum += weight * F::widen(*input);
        }
    }
    dispatch!(float, add(sums, weight, input));
}

/// Appends `round(parent + rate · (sum / divisor))` to `out` for every element.
///
/// A coordinate whose sum is zero keeps the parent's value, −0 included.
pub fn step(float: Float, parent: &[u8], sums: &[f64], rate: f64, divisor: f64, out: &mut Vec<u8>) {
    fn each<F: Format<N>, const N: usize>(
        parent: &[u8],
        sums: &[f64],
        rate: f64,
        divisor: f64,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        out.resize(start + sums.len() * N, 0);
        let places = out.get_mut(start..).map_or(&mut [][..], |rest| rest.as_chunks_mut::<N>().0);
        let elements = parent.as_chunks::<N>().0.iter().zip(sums);
        for (place, (parent, sum)) in places.iter_mut().zip(elements) {
            *place = F::round(moved(F::widen(*parent), *sum, rate, divisor));
        }
    }
    dispatch!(float, each(parent, sums, rate, divisor, out));
}

/// Like [`step`] for a 16-bit tensor with a master: `master` holds the parent's `f32` values, `master_out` gets
/// the new ones, and `out` gets those rounded to 16 bits.
///
/// The 16-bit values are rounded from the rounded master, so that a model can be checked against its state; and
/// the master is held within the 16-bit range, so that it cannot wander off where the model cannot follow.
pub fn step_master(
    float: Float,
    master: &[u8],
    sums: &[f64],
    rate: f64,
    divisor: f64,
    out: &mut Vec<u8>,
    master_out: &mut Vec<u8>,
) {
    fn each<F: Format<2>>(
        master: &[u8],
        sums: &[f64],
        rate: f64,
        divisor: f64,
        out: &mut Vec<u8>,
        master_out: &mut Vec<u8>,
    ) {
        for (master, sum) in master.as_chunks::<4>().0.iter().zip(sums) {
            let value = moved(F32::widen(*master), *sum, rate, divisor).clamp(-F::MAX, F::MAX);
            let rounded = F32::round(value);
            master_out.extend_from_slice(&rounded);
            out.extend_from_slice(&F::round(F32::widen(rounded)));
        }
    }
    out.reserve(sums.len() * 2);
    master_out.reserve(sums.len() * 4);
    match float {
        Float::F16 => each::<F16>(master, sums, rate, divisor, out, master_out),
        Float::BF16 => each::<BF16>(master, sums, rate, divisor, out, master_out),
        Float::F32 | Float::F64 => {}
    }
}

/// Appends `round(sum / divisor)` to `out` for every element: a weighted mean of values.
///
/// Only `f64` values near the end of the range can make the sum meaningless; such a coordinate keeps the
/// parent's value.
pub fn mean(float: Float, parent: &[u8], sums: &[f64], divisor: f64, out: &mut Vec<u8>) {
    fn each<F: Format<N>, const N: usize>(parent: &[u8], sums: &[f64], divisor: f64, out: &mut Vec<u8>) {
        for (parent, sum) in parent.as_chunks::<N>().0.iter().zip(sums) {
            let value = sum / divisor;
            out.extend_from_slice(&F::round(if value.is_nan() { F::widen(*parent) } else { value }));
        }
    }
    out.reserve(parent.len());
    dispatch!(float, each(parent, sums, divisor, out));
}

/// Appends the `f32` values of 16-bit (or `f32`) elements to `out`; exact.
pub fn widen_master(float: Float, bytes: &[u8], out: &mut Vec<u8>) {
    fn each<F: Format<N>, const N: usize>(bytes: &[u8], out: &mut Vec<u8>) {
        for element in bytes.as_chunks::<N>().0 {
            out.extend_from_slice(&F32::round(F::widen(*element)));
        }
    }
    out.reserve(bytes.len() / float.size() * 4);
    dispatch!(float, each(bytes, out));
}

/// Where one coordinate goes. A sum of zero moves nothing; a sum that is not a number (infinities of both signs,
/// possible with `f64` tensors only) moves nothing either.
#[inline]
fn moved(parent: f64, sum: f64, rate: f64, divisor: f64) -> f64 {
    let value = parent + rate * (sum / divisor);
    if sum == 0.0 || sum.is_nan() { parent } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn an_unmoved_coordinate_keeps_its_bits() {
        let parent = bytes(&[-0.0, f32::from_bits(1), 3.0]);
        let mut sums = [0.0; 3];
        add_difference(Float::F32, &mut sums, 0.5, &parent, &parent);
        let mut out = Vec::new();
        step(Float::F32, &parent, &sums, 1.0, 3.0, &mut out);
        assert_eq!(out, parent);
    }

    #[test]
    fn the_sum_is_rounded_once() {
        // 1 + 2⁻²⁴ is a tie; the second, tiny difference must still be there when it is broken.
        let (base, parent) = (bytes(&[0.0]), bytes(&[1.0]));
        let mut sums = [0.0];
        add_difference(Float::F32, &mut sums, 1.0, &bytes(&[2f32.powi(-24)]), &base);
        add_difference(Float::F32, &mut sums, 1.0, &bytes(&[2f32.powi(-50)]), &base);
        let mut out = Vec::new();
        step(Float::F32, &parent, &sums, 1.0, 1.0, &mut out);
        assert_eq!(out, bytes(&[1.0 + f32::EPSILON]));
    }

    #[test]
    fn big_terms_that_cancel_leave_the_small_one() {
        let base = bytes(&[0.0]);
        let mut sums = [0.0];
        for value in [1e8, 1.0, -1e8] {
            add_difference(Float::F32, &mut sums, 1.0, &bytes(&[value]), &base);
        }
        assert_eq!(sums.map(f64::to_bits), [1.0f64.to_bits()]);
    }

    #[test]
    fn model_and_master_agree_and_stay_in_range() {
        let (mut out, mut master) = (Vec::new(), Vec::new());
        step_master(Float::F16, &bytes(&[65000.0, 1.0]), &[1e9, 1e-4], 1.0, 1.0, &mut out, &mut master);
        assert_eq!(master, bytes(&[65504.0, 1.0001]));
        assert_eq!(out, [0xff, 0x7b, 0x00, 0x3c]);
    }

    #[test]
    fn a_hopeless_f64_sum_keeps_the_parents_value() {
        let parent = 7.0f64.to_le_bytes();
        let mut out = Vec::new();
        step(Float::F64, &parent, &[f64::NAN], 1.0, 1.0, &mut out);
        mean(Float::F64, &parent, &[f64::NAN], 1.0, &mut out);
        step(Float::F64, &parent, &[f64::INFINITY], 1.0, 1.0, &mut out);
        assert_eq!(out.as_chunks::<8>().0, [parent, parent, f64::MAX.to_le_bytes()]);
    }
}
