//! Converting between float types, one rounding each, to the nearest, ties to even.

use flair_tensors::dtype::DType;
use half::{bf16, f16};

/// Whether values of type `from` can be converted to `to` here.
pub fn possible(from: DType, to: DType) -> bool {
    let known = |dtype| matches!(dtype, DType::F64 | DType::F32 | DType::F16 | DType::BF16);
    known(from) && known(to)
}

/// Converts whole elements in `raw`; `out` has room for as many.
pub fn convert(from: DType, to: DType, raw: &[u8], out: &mut [u8]) {
    let values = raw.chunks_exact(from.size()).map(|bytes| read(from, bytes));
    for (value, place) in values.zip(out.chunks_exact_mut(to.size())) {
        match to {
            DType::F64 => place.copy_from_slice(&value.to_le_bytes()),
            DType::F32 => place.copy_from_slice(&(value as f32).to_le_bytes()),
            DType::F16 => place.copy_from_slice(&f16::from_f64(value).to_le_bytes()),
            DType::BF16 => place.copy_from_slice(&bf16::from_f64(value).to_le_bytes()),
            _ => {}
        }
    }
}

/// The value of one element of a float type.
pub fn read(dtype: DType, bytes: &[u8]) -> f64 {
    let mut wide = [0; 8];
    wide[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    let [a, b, c, d, ..] = wide;
    match dtype {
        DType::F64 => f64::from_le_bytes(wide),
        DType::F32 => f64::from(f32::from_le_bytes([a, b, c, d])),
        DType::F16 => f16::from_le_bytes([a, b]).to_f64(),
        DType::BF16 => bf16::from_le_bytes([a, b]).to_f64(),
        _ => 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cast_rounds_once_to_the_nearest() {
        let value = 1.0f32 + f32::EPSILON;
        let mut out = [0; 2];
        convert(DType::F32, DType::BF16, &value.to_le_bytes(), &mut out);
        assert_eq!(bf16::from_le_bytes(out), bf16::ONE);
        let mut back = [0; 4];
        convert(DType::BF16, DType::F32, &out, &mut back);
        assert_eq!(f32::from_le_bytes(back).to_bits(), 1.0f32.to_bits());
    }
}
