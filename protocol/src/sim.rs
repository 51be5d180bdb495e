//! A seeded simulator: real engines on simulated disks and a simulated network, to show that sets become equal
//! whatever happens, and that nothing published is lost.
//!
//! Messages are lost, delayed, reordered and repeated; nodes are cut off from one another; disks are slow, full at
//! times, and forget what was not flushed when their node crashes. Honest authors sign upon what their engine says
//! is in the set. Then the world calms down, and everything that somebody was told is stored must be everywhere,
//! in equal sets and states, with no author having signed two operations with one number, and every update in the
//! head or pending.
//!
//! Liars may be among the nodes: whatever they do, the honest ones end up alike, and never blame one another.
//!
//! A run is decided by its seed: a failure prints it, and [`run`] with that seed fails again.

mod bodies;
mod lie;
mod node;
mod world;

use crate::id::Digest;

/// What a run consists of.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How many nodes, at least 1.
    pub nodes: usize,
    /// How many things go wrong or are signed before the world calms down.
    pub steps: usize,
    /// Whether nodes wait for the disk before they count an operation as stored. Without it the run is to fail
    /// for some seeds: that is how we know that it would notice.
    pub wait_for_stored: bool,
    /// How many more nodes lie about what they have, serve what does not hold, and sign two operations with one
    /// number.
    pub liars: usize,
    /// Whether messages go through their encoding and every signature is checked: slower.
    pub wire: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: 4, steps: 60, wait_for_stored: true, liars: 0, wire: false }
    }
}

/// What a run that held was like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Operations in the set at the end, the same on every node.
    pub operations: usize,
    /// Aggregates that the branch's head stands on.
    pub aggregates: usize,
    /// Nodes that crashed.
    pub crashes: usize,
    /// Messages that were lost.
    pub lost: usize,
    /// Times that nodes were cut off from one another.
    pub partitions: usize,
    /// Lies told.
    pub lies: usize,
    /// Times that a disk was full.
    pub full: usize,
    /// Simulated milliseconds from calm to equal sets.
    pub settled: u64,
    /// The heads at the end.
    pub digest: Option<Digest>,
}

/// What did not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("seed {seed}: {what}")]
pub struct Failure {
    /// Runs into it again.
    pub seed: u64,
    /// What happened.
    pub what: String,
}

/// Runs one world.
///
/// # Errors
/// What did not hold at its end.
pub fn run(seed: u64, options: Options) -> Result<Report, Failure> {
    world::World::new(seed, options).and_then(world::World::run).map_err(|what| Failure { seed, what })
}
