//! Members and branches.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Place;

/// A member.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Key of the person.
    pub person: String,
    /// Their name.
    pub name: String,
    /// Their role; `none` once revoked.
    pub role: String,
    /// Updates published.
    pub updates: u64,
    /// What allows them to take part, as who granted the role says.
    pub approval: Option<Approval>,
    /// Whether it is this person.
    pub me: bool,
}

/// Give a role.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct GrantRequest {
    /// The repository.
    pub place: Place,
    /// Who: a key, or the name in a waiting join request.
    pub person: String,
    /// Which role.
    pub role: String,
    /// What to call them.
    pub name: Option<String>,
    /// What allows them to take part: `IRB 2026-114`.
    pub approval: Option<String>,
    /// The approval's document (absolute). Its hash is signed; it stays here.
    #[schema(value_type = Option<String>)]
    pub document: Option<PathBuf>,
}

/// What allows somebody to take part.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Approval {
    /// What it is called.
    pub reference: String,
    /// BLAKE3 of the document, where one was given.
    pub document: Option<String>,
    /// Who says so, by name: who granted the role.
    pub by: String,
}

/// Take a role away.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RevokeRequest {
    /// The repository.
    pub place: Place,
    /// Who: a key, an unambiguous end of one, or a name.
    pub person: String,
    /// Why.
    pub reason: String,
    /// Only tell what would happen.
    pub dry_run: bool,
}

/// A branch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Branch {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its head.
    pub head: Option<String>,
    /// The head's model.
    pub model: Option<String>,
    /// Aggregates on the head's path.
    pub aggregates: u64,
    /// Updates that wait.
    pub pending: u64,
    /// Whether the folder is on it.
    pub current: bool,
}

/// Create a branch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BranchCreateRequest {
    /// The repository.
    pub place: Place,
    /// The new branch's name.
    pub name: String,
    /// A commit or branch it starts from; none takes the folder's branch's head.
    pub from: Option<String>,
}

/// Rename or delete a branch.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BranchRequest {
    /// The repository.
    pub place: Place,
    /// The branch.
    pub branch: String,
    /// Its new name, when it is renamed.
    pub name: Option<String>,
}
