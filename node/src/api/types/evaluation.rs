//! Evaluations of commits on people's own data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Place;

/// Ask what is to be evaluated.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EvaluationsRequest {
    /// The repository, with a working folder.
    pub place: Place,
    /// The commit: an id, the start of one, or a branch for its head; none for all updates of others that wait on the
    /// folder's branch and that this person has not evaluated on the set.
    pub commit: Option<String>,
    /// What this person calls the data.
    pub set: String,
}

/// What is to be evaluated.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Evaluations {
    /// The repository.
    pub repo: String,
    /// The working folder.
    #[schema(value_type = String)]
    pub folder: PathBuf,
    /// The commits, each with what it is compared with.
    pub commits: Vec<ToEvaluate>,
}

/// A commit to be evaluated.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ToEvaluate {
    /// The commit.
    pub commit: String,
    /// Its author's name; empty for an aggregate.
    pub by: String,
    /// An update's base, an aggregate's parent; none for a first commit.
    pub base: Option<String>,
}

/// Hash what models are evaluated on, and by what.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SealRequest {
    /// The repository.
    pub place: Place,
    /// What this person calls the data.
    pub set: String,
    /// The files and folders that are the data (absolute). They are read and never sent.
    #[schema(value_type = Vec<String>)]
    pub data: Vec<PathBuf>,
    /// The files and folders that define the metrics (absolute).
    #[schema(value_type = Vec<String>)]
    pub code: Vec<PathBuf>,
}

/// Hashes of data and code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sealed {
    /// Hash of the data with the home's salt, for this repository and set.
    pub data: String,
    /// Hash of the code; none where no file is named.
    pub code: Option<String>,
}

/// Publish what was measured.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EvaluateRequest {
    /// The repository.
    pub place: Place,
    /// The commit.
    pub commit: String,
    /// What this person calls the data.
    pub set: String,
    /// Examples; 0 when not said.
    pub n: u64,
    /// What was measured of the commit and of its base.
    pub metrics: Vec<Measured>,
    /// Salted hash of the data.
    pub data: String,
    /// Hash of the code that measured.
    pub code: Option<String>,
}

/// A metric of a commit's model and of its base's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Measured {
    /// The metric.
    pub name: String,
    /// `higher` or `lower`.
    pub better: String,
    /// The commit's value.
    pub value: f64,
    /// The base's value; none for a first commit, which has no base.
    pub base: Option<f64>,
}

/// Somebody's evaluation of a commit.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Evaluation {
    /// The operation.
    pub operation: String,
    /// Who measured, by name.
    pub by: String,
    /// Their key.
    pub person: String,
    /// What they call the data. Figures of different sets, or persons, are never put together.
    pub set: String,
    /// Examples; 0 when not said.
    pub n: u64,
    /// What was compared with.
    pub base: Option<String>,
    /// The figures.
    pub metrics: Vec<Measured>,
    /// Salted hash of the data: the same for the same data of this person.
    pub data: String,
    /// Hash of the code that measured, where it was named.
    pub code: Option<String>,
    /// Milliseconds since 1970 by their clock.
    pub time: u64,
}

/// Run the next aggregate without publishing it, perhaps without one of its inputs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TrialRequest {
    /// The repository.
    pub place: Place,
    /// The branch; none takes the folder's.
    pub branch: Option<String>,
    /// An update to leave out, with those that stand on it.
    pub without: Option<String>,
    /// A folder to write the model's files to (absolute); it must not exist.
    #[schema(value_type = String)]
    pub output: PathBuf,
}

/// An aggregate that was tried.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Trial {
    /// What it continues.
    pub parent: String,
    /// The updates it takes in; none where nothing was left, and the model is the parent's.
    pub inputs: Vec<ToEvaluate>,
    /// The resulting model.
    pub model: String,
}
