//! What the protocol promises, as tests.
// Clippy's leave for tests covers functions marked as tests, not the helpers they share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod authority;
#[cfg(feature = "document")]
mod document;
mod engine;
mod evaluate;
mod heads;
mod large;
mod model;
mod naive;
mod operation;
mod order;
mod people;
mod policy;
mod review;
mod second;
mod sim;
mod steps;
mod ticket;
mod vectors;
mod wire;
mod world;
