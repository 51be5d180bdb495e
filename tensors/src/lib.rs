//! Bytes of models: ids, dtypes, safetensors headers, roles, blocks, codecs, encodings and packs.
//!
//! This crate turns the bytes of a model into content-addressed pieces and back, bit for bit. It does no I/O, reads
//! no clock and knows no other part of Flair: every function takes slices and gives bytes or an error, the same on any
//! number of threads.
//!
//! - [`mod@id`]: BLAKE3 digests and the newtypes over them;
//! - [`dtype`], [`header`], [`role`]: what a safetensors file says it holds, checked, and how each tensor is treated;
//! - [`block`]: the 1 MiB pieces everything works in;
//! - [`checkpoint`]: what is in a PyTorch checkpoint, read without running it;
//! - [`codec`]: how one block is compressed, alone or against the same block of a base tensor;
//! - [`encoding`]: the blob that holds all coded blocks of one tensor, with random access;
//! - [`mod@line`]: blocks on several threads, their results in order;
//! - [`pack`]: the index that says which blob holds which tensor of a model.

pub mod block;
pub mod checkpoint;
pub mod codec;
pub mod dtype;
pub mod encoding;
pub mod header;
pub mod id;
pub mod line;
pub mod pack;
pub mod role;

pub use block::BLOCK;
pub use codec::{Codec, CodecError};
pub use dtype::DType;
pub use encoding::{Encoder, Encoding, EncodingError, EncodingHead};
pub use header::{Header, HeaderError, TensorInfo};
pub use id::{Digest, Hasher, TensorId};
pub use line::Line;
pub use pack::{PackBuilder, PackError, PackIndex, Row};
pub use role::Role;

/// What the [`id!`] macro needs in the crates that use it.
#[doc(hidden)]
pub use serde as __serde;
