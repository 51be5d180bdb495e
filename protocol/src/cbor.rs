//! Deterministic CBOR: the DAG-CBOR profile (keys sorted length-first, shortest integers, 64-bit floats, no NaN).
//!
//! A value has exactly one encoding. Whatever comes in is decoded, encoded again and compared; bytes that differ
//! are refused, so that an id names one thing.

use serde::{Serialize, de::DeserializeOwned};

/// Why bytes were refused, or a value could not be encoded.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum CborError {
    /// Larger than this kind of object may be.
    #[error("{what} has {size} bytes; at most {limit} are allowed")]
    Size {
        /// The kind of object.
        what: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The most it may have.
        limit: usize,
    },
    /// Not CBOR, or not of the expected shape.
    #[error("{what} can't be read: {why}")]
    Shape {
        /// The kind of object.
        what: &'static str,
        /// What the decoder said.
        why: String,
    },
    /// Readable, but not the one canonical encoding.
    #[error("{0} is not in canonical form: decoding and encoding it again gives other bytes")]
    Canonical(&'static str),
    /// The value holds something the profile can't express (NaN or infinity, say).
    #[error("{what} can't be encoded: {why}")]
    Encode {
        /// The kind of object.
        what: &'static str,
        /// What the encoder said.
        why: String,
    },
}

/// The canonical bytes of `value`.
///
/// # Errors
/// [`CborError::Encode`] where the value holds a NaN or infinity.
pub fn encode<T: Serialize>(what: &'static str, value: &T) -> Result<Vec<u8>, CborError> {
    serde_ipld_dagcbor::to_vec(value).map_err(|error| CborError::Encode { what, why: error.to_string() })
}

/// Reads `bytes`, of at most `limit`, and checks that they are canonical.
///
/// # Errors
/// By size, then shape, then canonical form.
pub fn decode<T: Serialize + DeserializeOwned>(
    what: &'static str,
    bytes: &[u8],
    limit: usize,
) -> Result<T, CborError> {
    if bytes.len() > limit {
        return Err(CborError::Size { what, size: bytes.len(), limit });
    }
    let value: T = serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|error| CborError::Shape { what, why: error.to_string() })?;
    if encode(what, &value)? != bytes {
        return Err(CborError::Canonical(what));
    }
    Ok(value)
}

/// Encodes an object that can be fetched as a blob by its id: a two-element array of type tag and value.
///
/// # Errors
/// As [`encode`].
pub fn encode_tagged<T: Serialize>(tag: &'static str, value: &T) -> Result<Vec<u8>, CborError> {
    encode(tag, &(tag, value))
}

/// Reads what [`encode_tagged`] wrote; another tag is refused.
///
/// # Errors
/// As [`decode`].
pub fn decode_tagged<T: Serialize + DeserializeOwned>(
    tag: &'static str,
    bytes: &[u8],
    limit: usize,
) -> Result<T, CborError> {
    let (found, value): (String, T) = decode(tag, bytes, limit)?;
    if found != tag {
        let found: String = found.chars().take(40).collect();
        return Err(CborError::Shape { what: tag, why: format!("its type tag is `{found}`") });
    }
    Ok(value)
}
