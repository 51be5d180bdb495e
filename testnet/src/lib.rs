//! Many nodes on one machine: demo, faults, containers, benchmarks.
//!
//! What is real here stays real: the nodes are `flair-node` processes, the commands are the `flair` binary, the
//! data is the UCI handwritten digits. The [`trainer`] stands for a user's own training script, so it reads and
//! writes model files with the public `safetensors` crate and knows nothing of Flair. [`study`] alone has no nodes: it asks
//! what the rules of aggregation do.

pub mod bench;
pub mod cluster;
pub mod containers;
pub mod demo;
pub mod digits;
pub mod study;
pub mod trainer;
