//! Counters: the largest of several integers.

use flair_tensors::dtype::DType;

/// Raises every element of `counts` to that of `other` where the other is larger. Both hold little-endian integers
/// of the dtype; for other dtypes nothing happens.
pub fn raise(dtype: DType, counts: &mut [u8], other: &[u8]) {
    macro_rules! each {
        ($integer:ty) => {{
            let others = other.as_chunks().0;
            for (count, other) in counts.as_chunks_mut().0.iter_mut().zip(others) {
                *count =
                    <$integer>::from_le_bytes(*count).max(<$integer>::from_le_bytes(*other)).to_le_bytes();
            }
        }};
    }
    match dtype {
        DType::U8 => each!(u8),
        DType::I8 => each!(i8),
        DType::U16 => each!(u16),
        DType::I16 => each!(i16),
        DType::U32 => each!(u32),
        DType::I32 => each!(i32),
        DType::U64 => each!(u64),
        DType::I64 => each!(i64),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_type_is_compared_as_what_it_is() {
        let mut counts = [1i64.to_le_bytes(), (-5i64).to_le_bytes()].concat();
        raise(DType::I64, &mut counts, &[(-1i64).to_le_bytes(), (-4i64).to_le_bytes()].concat());
        assert_eq!(counts, [1i64.to_le_bytes(), (-4i64).to_le_bytes()].concat());
        let mut counts = [1, 0xff, 7];
        raise(DType::I8, &mut counts, &[0x80, 2, 7]);
        assert_eq!(counts, [1, 2, 7]);
        let mut counts = [1, 0xff, 7];
        raise(DType::U8, &mut counts, &[0x80, 2, 7]);
        assert_eq!(counts, [0x80, 0xff, 7]);
    }
}
