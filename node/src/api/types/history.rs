//! Looking back, and running recipes: log, show, diff, verify, aggregate.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Place;
use super::evaluation::Evaluation;
use super::review::Review;
use super::work::{EgressField, MetricValue};

/// Compare two models.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DiffRequest {
    /// The repository.
    pub place: Place,
    /// A commit, branch, draft, or none for the folder's base.
    pub a: Option<String>,
    /// A commit, branch, draft, or none for the folder's files.
    pub b: Option<String>,
}

/// How two models differ. Never raw numbers.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Diff {
    /// The first model.
    pub a: String,
    /// The second model.
    pub b: String,
    /// A row for each tensor that differs.
    pub rows: Vec<TensorDiff>,
    /// Tensors that are equal.
    pub same: u64,
    /// All tensors that differ, together; none where there are none.
    pub total: Option<DiffTotal>,
    /// Tensors that only the first model has.
    pub only_a: Vec<String>,
    /// Tensors that only the second model has.
    pub only_b: Vec<String>,
    /// Tensors of another type or shape, in words.
    pub reshaped: Vec<String>,
    /// Why one can't be aggregated onto the other; none when it can.
    pub incompatible: Option<String>,
}

/// How all tensors differ together.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct DiffTotal {
    /// L2 norm of the difference.
    pub l2: f64,
    /// Largest absolute difference.
    pub max: f64,
    /// Share of all elements that changed, those of equal tensors counted, 0 to 1.
    pub changed: f64,
}

/// How a tensor differs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TensorDiff {
    /// The tensor.
    pub name: String,
    /// Its dtype.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// L2 norm of the difference.
    pub l2: f64,
    /// The same divided by the first model's norm; none where that is 0.
    pub relative: Option<f64>,
    /// Cosine of the two; none where one is 0.
    pub cosine: Option<f64>,
    /// Largest absolute difference.
    pub max: f64,
    /// Share of elements that changed, 0 to 1.
    pub changed: f64,
    /// Elements that are a NaN or an infinity on either side, which the figures leave out.
    pub not_finite: u64,
}

/// History.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogRequest {
    /// The repository.
    pub place: Place,
    /// The branch; none takes the folder's.
    pub branch: Option<String>,
    /// Entries at most.
    pub limit: u64,
}

/// History, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Log {
    /// The branch.
    pub branch: String,
    /// Its head.
    pub head: Option<String>,
    /// The entries.
    pub entries: Vec<LogEntry>,
}

/// One commit in a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// The commit.
    pub commit: String,
    /// `initial`, `update` or `aggregate`.
    pub kind: String,
    /// Key of the author, or of an aggregate's first publisher.
    pub author: String,
    /// The name that member has.
    pub name: String,
    /// Milliseconds since 1970 by the author's clock.
    pub time: u64,
    /// The message; what an aggregate does, in words.
    pub message: String,
    /// Base or parent.
    pub parent: Option<String>,
    /// An aggregate's inputs.
    pub inputs: Vec<String>,
    /// Examples, as the author says.
    pub examples: u64,
    /// Measurements, as the author says.
    pub metrics: Vec<MetricValue>,
    /// What its author claims of privacy, in words; none where nothing is claimed.
    pub privacy: Option<String>,
    /// What people measured of it on their own data.
    pub evaluations: Vec<Evaluation>,
    /// On the head's path (or an input of it).
    pub in_head: bool,
    /// `head`, `in-head`, `pending`, `dropped`, `void`, `other-path`.
    pub state: String,
    /// Persons who attest an aggregate's result.
    pub attestations: u64,
    /// Persons who refute it.
    pub refutations: u64,
}

/// One commit.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ShowRequest {
    /// The repository.
    pub place: Place,
    /// The commit: an id, an unambiguous prefix, a branch for its head; else the head of the folder's branch.
    pub commit: Option<String>,
}

/// One commit in full.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Shown {
    /// As in the log.
    pub entry: LogEntry,
    /// Whether only who has a role may read the repository.
    pub private: bool,
    /// The model, where it is known.
    pub model: Option<String>,
    /// The branch.
    pub branch: String,
    /// Its size as files, in bytes.
    pub bytes: u64,
    /// Bytes its pack takes.
    pub pack_bytes: u64,
    /// Whether its blobs are here.
    pub here: bool,
    /// Whether this node ran it itself.
    pub verified: bool,
    /// Training as the author says, field and value.
    pub training: Vec<EgressField>,
    /// For an aggregate: each input, its weight and what became of it.
    pub inputs: Vec<AggregateInput>,
    /// For an aggregate: claims, with who stands behind them.
    pub claims: Vec<Claim>,
    /// What people say of it.
    pub reviews: Vec<Review>,
    /// What became of it, in words.
    pub words: String,
}

/// A claimed result.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Claim {
    /// The model claimed.
    pub model: String,
    /// The state claimed.
    pub state: String,
    /// Names of who attest it.
    pub supporters: Vec<String>,
    /// Names of who refute it.
    pub refuters: Vec<String>,
}

/// Run a recipe again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VerifyRequest {
    /// The repository.
    pub place: Place,
    /// The aggregate; none takes every aggregate on the head's path.
    pub commit: Option<String>,
}

/// What running recipes again gave.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Verified {
    /// A row for each aggregate.
    pub rows: Vec<VerifyRow>,
    /// Whether every claim holds.
    pub holds: bool,
    /// Aggregates that could not be run: what they are made of is not here.
    pub absent: u64,
}

/// Get what is not here yet.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct FetchRequest {
    /// The repository.
    pub place: Place,
    /// All history, for a repository that was cloned without it.
    pub full: bool,
    /// Seconds to wait.
    pub timeout: u64,
}

/// One recipe run again.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct VerifyRow {
    /// The aggregate.
    pub commit: String,
    /// The model that others claim.
    pub claimed: String,
    /// The model that came out.
    pub found: String,
    /// Whether they are the same.
    pub holds: bool,
    /// Milliseconds it took.
    pub millis: u64,
}

/// Aggregate now.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AggregateRequest {
    /// The repository.
    pub place: Place,
    /// The branch; none takes the folder's.
    pub branch: Option<String>,
    /// Write nothing, only tell.
    pub dry_run: bool,
    /// With fewer persons than needed (delegates only).
    pub flush: bool,
}

/// An aggregate, made or planned.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Aggregated {
    /// The aggregate.
    pub commit: String,
    /// The branch.
    pub branch: String,
    /// Its parent.
    pub parent: String,
    /// Its inputs.
    pub inputs: Vec<AggregateInput>,
    /// Persons among the inputs.
    pub persons: u64,
    /// Persons needed.
    pub needed: u64,
    /// Dishonest persons among them that the rule withstands; none where it promises nothing of the kind.
    pub withstands: Option<u64>,
    /// The resulting model; none for a dry run.
    pub model: Option<String>,
    /// Whether it was published.
    pub published: bool,
    /// The rule in words.
    pub rule: String,
}

/// One input of an aggregate.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AggregateInput {
    /// The update.
    pub commit: String,
    /// Key of the person.
    pub person: String,
    /// Their name.
    pub name: String,
    /// Aggregates behind.
    pub staleness: u64,
    /// Its weight, where it was computed and the rule has one for the whole of it.
    pub weight: Option<f64>,
    /// Norm of its author's whole change, where it was computed.
    pub norm: Option<f64>,
    /// What that was multiplied by because it was far larger than is usual; none if it was not.
    pub shortened: Option<f64>,
    /// Why it was skipped.
    pub skipped: Option<String>,
}
