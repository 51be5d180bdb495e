//! Ids: BLAKE3 digests, shown in lower-case base32.

use std::fmt;
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Characters of a digest in base32 without padding.
const TEXT: usize = 52;
/// Characters of a digest's short form.
const SHORT: usize = 10;

/// A 32-byte BLAKE3 digest.
///
/// Shown and parsed as 52 characters of lower-case base32 (RFC 4648 alphabet, no padding). Human-readable formats
/// carry that text, binary formats a byte string of exactly 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The plain BLAKE3 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }

    /// A digest from its 32 bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes, borrowed.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 32 bytes.
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// The first 10 characters of the text: enough to tell ids apart on a screen.
    pub fn short(&self) -> String {
        self.text().iter().take(SHORT).map(|&byte| char::from(byte)).collect()
    }

    fn text(&self) -> [u8; TEXT] {
        let mut text = [0; TEXT];
        BASE32_NOPAD.encode_mut(&self.0, &mut text);
        text.make_ascii_lowercase();
        text
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(str::from_utf8(&self.text()).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DigestError {
    /// The text has the wrong number of characters.
    #[error("an id has {TEXT} characters, this has {found}")]
    Length {
        /// Bytes found in the text.
        found: usize,
    },
    /// A character outside `a-z2-7`, or a last character that no digest ends in.
    #[error("\"{text}\" is not an id: only the characters a-z and 2-7 occur in one, and the last is a or q")]
    Text {
        /// The text as given.
        text: String,
    },
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        if text.len() != TEXT {
            return Err(DigestError::Length { found: text.len() });
        }
        let wrong = || DigestError::Text { text: text.to_owned() };
        if text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(wrong());
        }
        // The decoder refuses trailing bits that are not zero, so each digest has one text only.
        let mut bytes = [0; 32];
        BASE32_NOPAD.decode_mut(text.to_ascii_uppercase().as_bytes(), &mut bytes).map_err(|_| wrong())?;
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_bytes(&self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(TextVisitor)
        } else {
            deserializer.deserialize_bytes(BytesVisitor)
        }
    }
}

struct TextVisitor;

impl Visitor<'_> for TextVisitor {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an id of {TEXT} base32 characters")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Digest, E> {
        text.parse().map_err(E::custom)
    }
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Digest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a byte string of 32 bytes")
    }

    fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Digest, E> {
        bytes.try_into().map(Digest).map_err(|_| E::invalid_length(bytes.len(), &self))
    }
}

/// BLAKE3 over bytes that come in pieces.
#[derive(Debug, Clone, Default)]
pub struct Hasher(blake3::Hasher);

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(bytes);
        self
    }

    /// The digest of everything added so far.
    pub fn finalize(&self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// Makes a newtype over [`Digest`] that shows, parses, compares and serialises as one.
///
/// There is no `of` on it: some ids hash with a domain, and each type says for itself what it is the hash of.
///
/// ```
/// flair_tensors::id!(
///     /// The id of a shoe.
///     pub struct ShoeId;
/// );
/// let id = ShoeId::from_digest(flair_tensors::Digest::of(b"left"));
/// assert_eq!(id.to_string().parse(), Ok(id));
/// ```
#[macro_export]
macro_rules! id {
    ($(#[$attribute:meta])* $visibility:vis struct $name:ident;) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $visibility struct $name($crate::id::Digest);

        #[allow(dead_code)]
        impl $name {
            /// The id with this digest.
            pub const fn from_digest(digest: $crate::id::Digest) -> Self {
                Self(digest)
            }

            /// The id with these 32 bytes.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self($crate::id::Digest::from_bytes(bytes))
            }

            /// The digest.
            pub const fn digest(self) -> $crate::id::Digest {
                self.0
            }

            /// The 32 bytes, borrowed.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                self.0.as_bytes()
            }

            /// The 32 bytes.
            pub const fn to_bytes(self) -> [u8; 32] {
                self.0.to_bytes()
            }

            /// The first 10 characters of the text.
            pub fn short(&self) -> ::std::string::String {
                self.0.short()
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(&self.0, f)
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::id::DigestError;

            fn from_str(text: &str) -> ::std::result::Result<Self, Self::Err> {
                ::std::str::FromStr::from_str(text).map(Self)
            }
        }

        impl ::std::convert::From<$name> for $crate::id::Digest {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl $crate::__serde::Serialize for $name {
            fn serialize<S: $crate::__serde::Serializer>(
                &self,
                serializer: S,
            ) -> ::std::result::Result<S::Ok, S::Error> {
                $crate::__serde::Serialize::serialize(&self.0, serializer)
            }
        }

        impl<'de> $crate::__serde::Deserialize<'de> for $name {
            fn deserialize<D: $crate::__serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::std::result::Result<Self, D::Error> {
                <$crate::id::Digest as $crate::__serde::Deserialize>::deserialize(deserializer).map(Self)
            }
        }
    };
}

id!(
    /// The id of a tensor: plain BLAKE3 of its raw little-endian bytes.
    ///
    /// It says nothing of name, dtype, shape or compression, so equal bytes are stored once and packing them again
    /// never changes an id.
    pub struct TensorId;
);

impl TensorId {
    /// The id of the tensor with these raw little-endian bytes.
    pub fn of(raw: &[u8]) -> Self {
        Self(Digest::of(raw))
    }
}
