//! Element types, named as safetensors names them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

/// The type of a tensor's elements, stored little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DType {
    /// One byte, 0 or 1.
    Bool = 0,
    /// Unsigned, 8 bits.
    U8 = 1,
    /// Signed, 8 bits.
    I8 = 2,
    /// Float with 5 exponent and 2 mantissa bits.
    F8E5M2 = 3,
    /// Float with 4 exponent and 3 mantissa bits.
    F8E4M3 = 4,
    /// Signed, 16 bits.
    I16 = 5,
    /// Unsigned, 16 bits.
    U16 = 6,
    /// IEEE half precision.
    F16 = 7,
    /// The upper half of an IEEE single.
    BF16 = 8,
    /// Signed, 32 bits.
    I32 = 9,
    /// Unsigned, 32 bits.
    U32 = 10,
    /// IEEE single precision.
    F32 = 11,
    /// IEEE double precision.
    F64 = 12,
    /// Signed, 64 bits.
    I64 = 13,
    /// Unsigned, 64 bits.
    U64 = 14,
}

impl DType {
    /// Every dtype, in the order of [`DType::number`].
    pub const ALL: [Self; 15] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::F8E5M2,
        Self::F8E4M3,
        Self::I16,
        Self::U16,
        Self::F16,
        Self::BF16,
        Self::I32,
        Self::U32,
        Self::F32,
        Self::F64,
        Self::I64,
        Self::U64,
    ];

    /// Bytes of one element: 1, 2, 4 or 8.
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E5M2 | Self::F8E4M3 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::BF16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// Whether elements are floating-point numbers, the two 8-bit formats included.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F8E5M2 | Self::F8E4M3 | Self::F16 | Self::BF16 | Self::F32 | Self::F64)
    }

    /// The number that stands for this dtype in encodings and packs. Never reused.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The dtype with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether elements hold no NaN and no infinity: a float is neither unless its exponent is all ones. (The 8-bit
    /// format with 4 exponent bits has numbers there too, of which only the largest is a NaN.)
    pub fn all_finite(self, bytes: &[u8]) -> bool {
        fn sound<const N: usize>(bytes: &[u8], exponent: u64) -> bool {
            bytes.as_chunks::<N>().0.iter().all(|chunk| {
                let mut wide = [0; 8];
                wide[..N].copy_from_slice(chunk);
                u64::from_le_bytes(wide) & exponent != exponent
            })
        }
        match self {
            Self::F64 => sound::<8>(bytes, 0x7ff0_0000_0000_0000),
            Self::F32 => sound::<4>(bytes, 0x7f80_0000),
            Self::BF16 => sound::<2>(bytes, 0x7f80),
            Self::F16 => sound::<2>(bytes, 0x7c00),
            Self::F8E5M2 => sound::<1>(bytes, 0x7c),
            Self::F8E4M3 => sound::<1>(bytes, 0x7f),
            _ => true,
        }
    }

    /// The name in a safetensors header.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::F8E5M2 => "F8_E5M2",
            Self::F8E4M3 => "F8_E4M3",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F32 => "F32",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::U64 => "U64",
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A dtype name that is not known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "unknown dtype \"{name}\": known are BOOL, U8 to U64, I8 to I64, F8_E5M2, F8_E4M3, F16, BF16, F32 and F64"
)]
pub struct DTypeError {
    /// The name as given, shortened to 32 characters.
    pub name: String,
}

impl FromStr for DType {
    type Err = DTypeError;

    fn from_str(name: &str) -> Result<Self, DTypeError> {
        Self::ALL
            .into_iter()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| DTypeError { name: name.chars().take(32).collect() })
    }
}

impl Serialize for DType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for DType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Name;

        impl de::Visitor<'_> for Name {
            type Value = DType;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a dtype")
            }

            fn visit_str<E: de::Error>(self, name: &str) -> Result<DType, E> {
                name.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Name)
    }
}
