//! Elements as words, and the difference of two as a small number.

/// An element's bits as an unsigned integer.
pub(super) trait Word: Copy + Default + Eq {
    /// Bytes of one.
    const SIZE: usize;

    /// The word of the first [`SIZE`](Self::SIZE) bytes, little-endian.
    fn load(bytes: &[u8]) -> Self;

    /// Writes it to the first [`SIZE`](Self::SIZE) bytes, little-endian.
    fn store(self, bytes: &mut [u8]);

    /// Without the `shift` lowest bits.
    fn above(self, shift: u32) -> u64;

    /// Bits of a float to an integer ordered as the floats are, and back: it is its own inverse.
    fn order(self) -> Self;

    /// The folded difference of two integers: 0 exactly where they are equal.
    fn minus(self, base: Self) -> Self;

    /// What [`minus`](Self::minus) was made of.
    fn plus(self, base: Self) -> Self;

    /// The folded difference of two floats, as integers ordered as the floats are: 0 exactly where their bits are equal.
    fn minus_float(self, base: Self) -> Self {
        self.order().minus(base.order())
    }

    /// What [`minus_float`](Self::minus_float) was made of.
    fn plus_float(self, base: Self) -> Self {
        self.plus(base.order()).order()
    }
}

macro_rules! word {
    ($word:ty, $signed:ty) => {
        impl Word for $word {
            const SIZE: usize = size_of::<$word>();

            fn load(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.first_chunk().copied().unwrap_or_default())
            }

            fn store(self, bytes: &mut [u8]) {
                if let Some(place) = bytes.first_chunk_mut() {
                    *place = self.to_le_bytes();
                }
            }

            fn above(self, shift: u32) -> u64 {
                u64::from(self >> shift)
            }

            fn order(self) -> Self {
                let signed = self.cast_signed();
                (signed ^ ((signed >> (Self::BITS - 1)) & <$signed>::MAX)).cast_unsigned()
            }

            fn minus(self, base: Self) -> Self {
                // Small differences of either sign to small numbers: 0, −1, 1, −2, … to 0, 1, 2, 3, …
                let difference = self.wrapping_sub(base).cast_signed();
                ((difference << 1) ^ (difference >> (Self::BITS - 1))).cast_unsigned()
            }

            fn plus(self, base: Self) -> Self {
                ((self >> 1) ^ (self & 1).wrapping_neg()).wrapping_add(base)
            }
        }
    };
}

word!(u8, i8);
word!(u16, i16);
word!(u32, i32);
word!(u64, i64);
