//! What this crate promises, one module for each part.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod checkpoint;
mod codec;
mod encoding;
mod header;
mod ids;
mod line;
mod noise;
mod pack;
mod role;
mod vectors;
