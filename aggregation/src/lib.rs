//! What is computed: exact kernels, policies, diffs, over streams of blocks.
//!
//! Concurrent training is not a conflict but the input of an *aggregate*: a function of the parent's model, a set
//! of updates, and a policy, whose result is the same bit for bit on every machine, so that anybody can compute it
//! and anybody can check it. This crate is that function. It knows tensors and nothing else: it reads through a
//! [`Source`], writes through a [`Sink`], and has no clock, no randomness and no I/O of its own.
//!
//! - [`policy`]: the rules by name, with staleness, bounds, optimisers and settings
//! - [`plan`]: how one person's updates become one movement
//! - [`run`]: the passes that carry out a [`Request`]
//! - [`kernel`]: the arithmetic, in an order that is part of the format
//! - [`merge`]: one model of two branches', by a method of the literature
//! - [`diff`]: how far two models are apart
//! - [`memory`]: models in memory
//! - [`privacy`]: clipping and noise for one update, and what they cost

pub mod diff;
pub mod kernel;
pub mod memory;
pub mod merge;
pub mod plan;
pub mod policy;
pub mod privacy;
pub mod run;

pub use kernel::{KERNEL_VERSION, MODE};
pub use plan::{Base, Contribution, Skip};
pub use policy::{Policy, PolicyError};
pub use run::{
    Carried, Error, Mover, Outcome, Part, Progress, Request, Sink, Source, Step, TensorError, TensorSpec,
    Written, aggregate,
};
