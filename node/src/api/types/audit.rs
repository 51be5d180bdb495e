//! Everything behind a model, checked again.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Place;
use super::history::LogEntry;
use super::people::Approval;
use super::policy::PolicyRevision;
use super::review::Review;

/// Check everything behind a model again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditRequest {
    /// The repository.
    pub place: Place,
    /// The commit: an id, the start of one, or a branch for its head; else the head of the folder's branch.
    pub commit: Option<String>,
}

/// What an audit found.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Audit {
    /// The repository.
    pub repo: String,
    /// Its name.
    pub name: String,
    /// The branch.
    pub branch: String,
    /// The commit.
    pub commit: String,
    /// Its model, where it is here.
    pub model: Option<String>,
    /// Milliseconds since 1970 by this machine's clock.
    pub time: u64,
    /// The version of Flair that checked.
    pub version: String,
    /// Operations whose signatures were checked.
    pub operations: u64,
    /// Bytes that were read and compared with their hashes.
    pub bytes: u64,
    /// Every commit behind the model, and the commit itself, oldest first.
    pub steps: Vec<AuditStep>,
    /// Everybody whose updates are in the model, who accepted, evaluated or decided.
    pub people: Vec<AuditPerson>,
    /// The policies in force from the first on.
    pub policies: Vec<PolicyRevision>,
    /// Licences that go with the model, as its side files say.
    pub licences: Vec<String>,
    /// What speaks against trusting the model; nothing if all holds.
    pub doubts: Vec<String>,
    /// What a reader should know besides.
    pub notes: Vec<String>,
    /// Milliseconds it took.
    pub millis: u64,
}

/// A commit behind a model.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditStep {
    /// The commit, with metrics as its author says and evaluations by others.
    pub entry: LogEntry,
    /// Its model, where it is here.
    pub model: Option<String>,
    /// What was checked, in words.
    pub checked: String,
    /// Privacy as the author claims it; none where no claim was made.
    pub privacy: Option<String>,
    /// Reviews.
    pub reviews: Vec<Review>,
    /// What speaks against it.
    pub doubts: Vec<String>,
}

/// A person behind a model.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AuditPerson {
    /// Their key.
    pub person: String,
    /// Their name.
    pub name: String,
    /// Their role now; `none` where it was taken away.
    pub role: String,
    /// Their updates in the model.
    pub updates: u64,
    /// What allows them to take part, as who granted the role says.
    pub approval: Option<Approval>,
}
