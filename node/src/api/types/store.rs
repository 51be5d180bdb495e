//! The store: what takes space, what is damaged.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What takes how much of the disk.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct DuRequest {
    /// One repository; none means all.
    pub repo: Option<String>,
}

/// What takes how much of the disk. All sizes are in bytes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Du {
    /// Each repository.
    pub repositories: Vec<RepositoryUsage>,
    /// All files of the store.
    pub disk: u64,
    /// What repositories refer to, each blob counted once.
    pub referenced: u64,
    /// What nothing refers to: `flair gc` gives it back.
    pub reclaimable: u64,
    /// Free on the disk.
    pub free: u64,
    /// Most bytes to keep of all repositories together, if that is limited.
    pub quota: Option<u64>,
}

/// What a repository takes. Each blob counts for the first that needs it, in the order of the fields.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RepositoryUsage {
    /// Its id.
    pub repo: String,
    /// Its name.
    pub name: String,
    /// All of it. What other repositories refer to as well counts for each.
    pub bytes: u64,
    /// Most bytes to keep of it.
    pub quota: u64,
    /// Its branches.
    pub branches: Vec<BranchUsage>,
    /// Commits that are on no branch: dropped updates, sides that lost.
    pub other_bytes: u64,
    /// Drafts of the working folders.
    pub draft_bytes: u64,
    /// Its operations.
    pub operation_bytes: u64,
}

/// What a branch takes.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BranchUsage {
    /// The branch.
    pub branch: String,
    /// Its head.
    pub head: Option<String>,
    /// What the head's model needs.
    pub head_bytes: u64,
    /// What led to it, beyond that.
    pub history_bytes: u64,
    /// How many commits of it are here.
    pub commits: u64,
    /// Updates that wait for an aggregate.
    pub pending_bytes: u64,
}

/// What was given back.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Collected {
    /// Bytes freed.
    pub freed: u64,
    /// Bytes that nothing refers to and that are still in use by work under way.
    pub left: u64,
    /// All files of the store now.
    pub disk: u64,
}

/// Read everything that is kept.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FsckRequest {
    /// Get again what is damaged.
    pub mend: bool,
    /// Seconds to try that.
    pub timeout: u64,
}

/// What was read, and what is wrong.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Fsck {
    /// Bytes of blobs that were read.
    pub bytes: u64,
    /// Operations that were checked.
    pub operations: u64,
    /// Commits of which something was damaged.
    pub commits: u64,
    /// What was.
    pub damage: Vec<Damage>,
}

/// Something that was missing or damaged.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Damage {
    /// The blob, or the operation.
    pub blob: String,
    /// What it belongs to, in words.
    pub of: String,
    /// What is wrong with it.
    pub problem: String,
    /// Whether it is here again.
    pub mended: bool,
    /// Why not, or what to do.
    pub why: Option<String>,
}
