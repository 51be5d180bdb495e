//! What things *are* in Flair: identity, encoding, signed operations, commits, authority, branches and heads,
//! and the sync engine that replicates operations between nodes.
//!
//! This crate is pure. It may not read a file, open a socket, look at a clock or draw a random number: whatever
//! it needs from the world comes in as an argument, so that every node computes the same state from the same
//! operations and a simulator can drive it by a seed. It knows `flair-tensors` and nothing else of Flair.
//!
//! Read top-down: [`operation`] is what is signed and replicated, [`commit`] what a publish operation carries,
//! [`graph`] a set of operations, [`state`] what such a set means, [`engine`] how sets grow alike.

mod bits;
pub mod cbor;
pub mod commit;
#[cfg(feature = "document")]
pub mod document;
pub mod engine;
pub mod graph;
pub mod id;
pub mod key;
pub mod limits;
pub mod model;
pub mod operation;
pub mod policy;
#[cfg(feature = "sim")]
pub mod sim;
pub mod state;
pub mod ticket;
pub mod wire;
