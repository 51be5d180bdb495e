//! Safetensors headers: parsed strictly, kept verbatim, built canonically.
//!
//! A safetensors file is an 8-byte little-endian length, that many bytes of JSON, and the tensors' bytes. The JSON of
//! one model differs between saves (key order, padding, metadata), so a header is kept byte for byte. What the
//! reference reader lets pass but two readers could understand differently (duplicate names, holes, unknown keys) is
//! refused here.

mod json;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use thiserror::Error;

use crate::dtype::DType;

/// Most bytes of JSON in a header: 16 MiB.
pub const MAX_HEADER: u64 = 16 << 20;
/// Most tensors in one file.
pub const MAX_TENSORS: usize = 100_000;
/// Most dimensions of a tensor.
pub const MAX_RANK: usize = 16;
/// Most bytes in a tensor's name.
pub const MAX_NAME: usize = 255;
/// Bytes of the length before the JSON.
pub const PREFIX: usize = 8;

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, of `[A-Za-z0-9._/-]`.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// Its dimensions, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Where its bytes start in the data area.
    pub start: u64,
    /// Where its bytes end in the data area.
    pub end: u64,
}

impl TensorInfo {
    /// Raw bytes of the tensor.
    pub const fn length(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

/// Why bytes are not a header we accept.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Python pickle.
    #[error("this is a pickle (PyTorch .pt/.bin), not safetensors: `flair import` converts it")]
    Pickle,
    /// A zip file, as `torch.save` writes.
    #[error("this is a zip file (PyTorch .pt/.bin or similar), not safetensors: `flair import` converts it")]
    Zip,
    /// Some other model format.
    #[error("this is a {format} file, not safetensors: convert it first")]
    Format {
        /// The format's name.
        format: &'static str,
    },
    /// The length prefix is over the cap.
    #[error(
        "the header claims {length} bytes, at most {MAX_HEADER} are accepted: this is not safetensors, or damaged"
    )]
    TooLong {
        /// Bytes claimed.
        length: u64,
    },
    /// Fewer bytes than the length prefix claims, or more.
    #[error("the header should have {expected} bytes and has {found}: the file is cut or damaged")]
    Cut {
        /// Bytes claimed.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
    /// The header is not the JSON it should be.
    #[error("the header is not valid safetensors JSON: {reason}")]
    Json {
        /// What the JSON parser says, with line and column.
        reason: String,
    },
    /// More tensors than accepted.
    #[error("the header names more than {MAX_TENSORS} tensors: split the model")]
    TooMany,
    /// One name twice.
    #[error(
        "the header names \"{name}\" twice: readers would disagree on which one counts, save the model again"
    )]
    Duplicate {
        /// The name.
        name: String,
    },
    /// A name outside the accepted characters, or one that could be a path out of a folder.
    #[error("tensor name \"{name}\" is refused: {reason}")]
    Name {
        /// The name, shortened and escaped.
        name: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// An unknown dtype.
    #[error("tensor \"{name}\" has dtype \"{dtype}\", which is not supported")]
    DType {
        /// The tensor.
        name: String,
        /// The dtype, shortened and escaped.
        dtype: String,
    },
    /// More dimensions than accepted.
    #[error("tensor \"{name}\" has more than {MAX_RANK} dimensions")]
    Rank {
        /// The tensor.
        name: String,
    },
    /// Shape times element size does not fit 64 bits.
    #[error("tensor \"{name}\" is too large: its shape overflows")]
    Overflow {
        /// The tensor.
        name: String,
    },
    /// Offsets do not span what shape and dtype need.
    #[error(
        "tensor \"{name}\" needs {expected} bytes by its shape and dtype, its offsets are {start} to {end}"
    )]
    Length {
        /// The tensor.
        name: String,
        /// Bytes by shape and dtype.
        expected: u64,
        /// First offset.
        start: u64,
        /// Second offset.
        end: u64,
    },
    /// A tensor starts before the one before it ends.
    #[error("tensor \"{name}\" starts at {start}, inside the tensor before it, which ends at {end}")]
    Overlap {
        /// The tensor.
        name: String,
        /// Where it starts.
        start: u64,
        /// Where the one before ends.
        end: u64,
    },
    /// Bytes that belong to no tensor.
    #[error("{} bytes before tensor \"{name}\" belong to no tensor", start - end)]
    Hole {
        /// The tensor after the hole.
        name: String,
        /// Where it starts.
        start: u64,
        /// Where the one before ends.
        end: u64,
    },
    /// The data area is shorter or longer than the tensors.
    #[error("the tensors take {expected} bytes, the file has {found} after its header: it is cut or damaged")]
    Data {
        /// Bytes the tensors take.
        expected: u64,
        /// Bytes there.
        found: u64,
    },
}

/// A checked safetensors header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    bytes: Vec<u8>,
    tensors: Vec<TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl Header {
    /// The length of the JSON, from the first 8 bytes of a file.
    ///
    /// # Errors
    /// If the length is over [`MAX_HEADER`]; pickles, zip files and some other formats are named as what they are.
    pub fn prefix_len(first: [u8; PREFIX]) -> Result<u64, HeaderError> {
        let length = u64::from_le_bytes(first);
        if length <= MAX_HEADER {
            return Ok(length);
        }
        // Only now: a short header's length may begin with the same bytes as another format.
        Err(match first {
            [b'P', b'K', 3 | 5, 4 | 6, ..] => HeaderError::Zip,
            [0x80, 1..=5, ..] => HeaderError::Pickle,
            [b'G', b'G', b'U', b'F', ..] => HeaderError::Format { format: "GGUF" },
            [0x89, b'H', b'D', b'F', ..] => HeaderError::Format { format: "HDF5 (Keras)" },
            [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => HeaderError::Format { format: "NumPy" },
            [b'{', ..] => HeaderError::Format { format: "JSON" },
            _ => HeaderError::TooLong { length },
        })
    }

    /// Checks the JSON of a header, without the 8 bytes before it.
    ///
    /// `data_len` is how many bytes follow the header, where known.
    ///
    /// # Errors
    /// If any rule of this module is broken: see [`HeaderError`].
    pub fn parse(json: &[u8], data_len: Option<u64>) -> Result<Self, HeaderError> {
        let length = json.len() as u64;
        if length > MAX_HEADER {
            return Err(HeaderError::TooLong { length });
        }
        let parsed = json::parse(json)?;
        let mut tensors = parsed
            .tensors
            .into_iter()
            .map(|entry| {
                check_name(&entry.name)?;
                entry.check()
            })
            .collect::<Result<Vec<_>, _>>()?;
        // Stable, so that empty tensors at one offset keep the order they are written in.
        tensors.sort_by_key(|tensor| (tensor.start, tensor.end));
        check_layout(&tensors, data_len)?;
        let mut bytes = Vec::with_capacity(PREFIX + json.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(json);
        Ok(Self { bytes, tensors, metadata: parsed.metadata })
    }

    /// Checks a header with its 8 bytes of length, as [`Header::bytes`] gives it.
    ///
    /// # Errors
    /// As [`Header::parse`], and if the length is not that of the bytes.
    pub fn from_bytes(bytes: &[u8], data_len: Option<u64>) -> Result<Self, HeaderError> {
        let cut = |expected: u64| HeaderError::Cut { expected, found: bytes.len() as u64 };
        let (first, json) = bytes.split_first_chunk::<PREFIX>().ok_or_else(|| cut(PREFIX as u64))?;
        let length = Self::prefix_len(*first)?;
        if length != json.len() as u64 {
            return Err(cut(PREFIX as u64 + length));
        }
        Self::parse(json, data_len)
    }

    /// Writes a header for tensors laid out back to back in the given order, in one canonical form: metadata first,
    /// no white space, padded with spaces to a multiple of 8 bytes. Gives all bytes, the length included.
    ///
    /// # Errors
    /// If the result would not be accepted by [`Header::parse`].
    pub fn build<'a>(
        tensors: impl IntoIterator<Item = (&'a str, DType, &'a [u64])>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Vec<u8>, HeaderError> {
        #[derive(Serialize)]
        struct Entry<'a> {
            dtype: DType,
            shape: &'a [u64],
            data_offsets: [u64; 2],
        }
        let reason = |error: serde_json::Error| HeaderError::Json { reason: error.to_string() };
        let mut json = String::from("{");
        let key = |json: &mut String, key: &str| -> Result<(), HeaderError> {
            if json.len() > 1 {
                json.push(',');
            }
            json.push_str(&serde_json::to_string(key).map_err(reason)?);
            json.push(':');
            Ok(())
        };
        if !metadata.is_empty() {
            key(&mut json, json::METADATA)?;
            json.push_str(&serde_json::to_string(metadata).map_err(reason)?);
        }
        let mut start = 0_u64;
        for (name, dtype, shape) in tensors {
            let overflow = || HeaderError::Overflow { name: shown(name) };
            let end =
                byte_len(dtype, shape).and_then(|length| start.checked_add(length)).ok_or_else(overflow)?;
            key(&mut json, name)?;
            let entry = Entry { dtype, shape, data_offsets: [start, end] };
            json.push_str(&serde_json::to_string(&entry).map_err(reason)?);
            start = end;
        }
        json.push('}');
        while !json.len().is_multiple_of(8) {
            json.push(' ');
        }
        Self::parse(json.as_bytes(), Some(start)).map(|header| header.bytes)
    }

    /// The tensors in the order of their bytes in the file.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The names of all tensors, as [`crate::Role::infer`] takes them.
    pub fn names(&self) -> BTreeSet<&str> {
        self.tensors.iter().map(|tensor| tensor.name.as_str()).collect()
    }

    /// The `__metadata__` map.
    pub const fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// The header as it stands in the file, the 8 bytes of length included: where the data area starts is their
    /// number.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes of the data area.
    pub fn data_len(&self) -> u64 {
        self.tensors.last().map_or(0, |tensor| tensor.end)
    }
}

/// Bytes of a tensor, if they can be counted in 64 bits.
pub fn byte_len(dtype: DType, shape: &[u64]) -> Option<u64> {
    // Sizes are multiplied before a zero can hide an overflow that another reader would stumble on.
    let mut elements = 1_u64;
    for &size in shape.iter().filter(|&&size| size != 0) {
        elements = elements.checked_mul(size)?;
    }
    let bytes = elements.checked_mul(dtype.size() as u64)?;
    Some(if shape.contains(&0) { 0 } else { bytes })
}

/// Checks that a tensor's name is safe in paths, logs and URLs.
///
/// # Errors
/// If it is empty, over [`MAX_NAME`] bytes, starts with `/`, has a `..` segment or other characters than
/// `[A-Za-z0-9._/-]`.
pub fn check_name(name: &str) -> Result<(), HeaderError> {
    let refused = |reason| Err(HeaderError::Name { name: shown(name), reason });
    if name.is_empty() {
        return refused("it is empty");
    }
    if name.len() > MAX_NAME {
        return refused("it is longer than 255 bytes");
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-')) {
        return refused("only A-Z, a-z, 0-9 and . _ / - may occur");
    }
    if name.starts_with('/') {
        return refused("it starts with /");
    }
    if name.split('/').any(|segment| segment == "..") {
        return refused("it has a .. segment");
    }
    Ok(())
}

/// A foreign text made fit for a message: short, and without control characters.
fn shown(text: &str) -> String {
    text.chars().take(64).flat_map(char::escape_default).collect()
}

/// Checks that tensors, sorted by offset, cover the data area exactly once.
fn check_layout(tensors: &[TensorInfo], data_len: Option<u64>) -> Result<(), HeaderError> {
    let mut end = 0;
    for tensor in tensors {
        let (name, start) = (|| tensor.name.clone(), tensor.start);
        if start < end {
            return Err(HeaderError::Overlap { name: name(), start, end });
        }
        if start > end {
            return Err(HeaderError::Hole { name: name(), start, end });
        }
        end = tensor.end;
    }
    match data_len {
        Some(found) if found != end => Err(HeaderError::Data { expected: end, found }),
        _ => Ok(()),
    }
}
