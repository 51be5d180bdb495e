//! Bundles: a repository, or what somebody lacks of it, in a file.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Place;

/// Write a bundle.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BundleCreate {
    /// The repository.
    pub place: Place,
    /// The file to write (absolute).
    #[schema(value_type = String)]
    pub file: PathBuf,
    /// What the reader has: bundles (absolute paths), operations, commits or branches. None: nothing.
    pub since: Vec<String>,
    /// Without the history: the newest models, and old aggregates as members attest them.
    pub latest: bool,
    /// Replace a file that exists.
    pub force: bool,
}

/// Read a bundle.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BundleRequest {
    /// The file (absolute).
    #[schema(value_type = String)]
    pub file: PathBuf,
    /// The repository that it must be of, by id, start of an id, or name.
    pub repo: Option<String>,
}

/// What a bundle has.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BundleContent {
    /// The file.
    pub file: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// The repository.
    pub repo: String,
    /// Its name, where the bundle or this home has it.
    pub name: String,
    /// Operations that it follows: its reader must have them. Empty when it stands alone.
    pub since: Vec<String>,
    /// The newest operations of its maker.
    pub heads: Vec<String>,
    /// How many operations it has.
    pub operations: u64,
    /// How many commits it has the models of.
    pub commits: u64,
    /// Bytes of these models' blobs.
    pub model_bytes: u64,
    /// Up to which generation aggregates are taken over as attested; none when all history is in it.
    pub attested: Option<u64>,
    /// Whether the repository is private.
    pub private: bool,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// What was taken over from a bundle.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct BundleApplied {
    /// The repository.
    pub repo: String,
    /// Its name.
    pub name: String,
    /// How many operations are new here.
    pub operations: u64,
    /// How many commits' models are new here.
    pub commits: u64,
    /// How many aggregates were run.
    pub aggregates: u64,
    /// How many commits are still to come.
    pub missing: u64,
    /// What is worth knowing.
    pub notes: Vec<String>,
    /// Why not all of it was taken over. What was stays.
    pub problem: Option<String>,
}
