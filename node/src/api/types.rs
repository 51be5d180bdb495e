//! What goes over the control API, as JSON. Ids are text in full; models pass by path, never in a body.

mod audit;
mod bundle;
mod evaluation;
mod external;
mod history;
mod node;
mod people;
mod policy;
mod privacy;
mod review;
mod setup;
mod simulation;
mod step;
mod store;
mod work;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use audit::{Audit, AuditPerson, AuditRequest, AuditStep};
pub use bundle::{BundleApplied, BundleContent, BundleCreate, BundleRequest};
pub use evaluation::{
    EvaluateRequest, Evaluation, Evaluations, EvaluationsRequest, Measured, SealRequest, Sealed, ToEvaluate,
    Trial, TrialRequest,
};
pub use external::{ExternalBase, ExternalBaseRequest, PinRequest};
pub use history::{
    AggregateInput, AggregateRequest, Aggregated, Claim, Diff, DiffRequest, DiffTotal, FetchRequest, Log,
    LogEntry, LogRequest, ShowRequest, Shown, TensorDiff, Verified, VerifyRequest, VerifyRow,
};
pub use node::{Event, ExportRequest, Identity, NodeStatus, Peer, PeerRequest, Repository, SeedRequest};
pub use people::{Approval, Branch, BranchCreateRequest, BranchRequest, GrantRequest, Member, RevokeRequest};
pub use policy::{Delegate, PolicyChoice, PolicyProposal, PolicyRevision, PolicyShown, Protection};
pub use privacy::{Dp, PrivacyClaim, PrivacyLedger, PrivacyRelease, PrivacySpent, PrivateDraft};
pub use review::{Review, ReviewRequest, Reviewed};
pub use setup::{
    CloneRepository, Cloned, ImportRequest, Imported, ImportedFile, Init, Initialised, Join, Joined, LeftOut,
    MakeTicket, Prefix, RoleCount, TicketMade, TiedTensor,
};
pub use simulation::{RuleChoice, SimulateRequest, Simulated, SimulatedRule};
pub use step::{MergeRequest, Merged, RevertRequest, Stepped, Taken, TakenUpdate};
pub use store::{BranchUsage, Collected, Damage, Du, DuRequest, Fsck, FsckRequest, RepositoryUsage};
pub use work::{
    Change, CheckoutRequest, CommitRequest, Committed, Draft, EgressBlob, EgressField, ExternalRequest,
    JoinWaiting, MetricValue, Moved, PullRequest, PushRequest, Pushed, ResetDone, ResetRequest, Status,
    UpdateNote, WorkStatus,
};

/// Which repository a request is about: that of a working folder, or one named by id, prefix or name.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Place {
    /// A working folder (absolute), or a folder below one.
    #[schema(value_type = Option<String>)]
    pub folder: Option<PathBuf>,
    /// A repository, where no folder is meant.
    pub repo: Option<String>,
}

/// A request that is about a place and nothing else.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct At {
    /// The repository.
    pub place: Place,
}

/// What went wrong, for people and scripts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// A stable word for scripts, see [`Code`].
    pub code: Code,
    /// What happened, and to which thing.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

/// The kinds of failure. The command's exit code follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// A flag, file or id that can't be used. Exit code 2.
    Invalid,
    /// No such repository, branch, commit or file. Exit code 3.
    NotFound,
    /// This person may not do that. Exit code 4.
    Denied,
    /// The state of folder or repository does not allow it now. Exit code 5.
    Conflict,
    /// Needs a running node, or a peer that can't be reached. Exit code 6.
    Offline,
    /// The disk is full. Exit code 7.
    Full,
    /// A check failed: a result that does not hold, a damaged blob. Exit code 8.
    Unverified,
    /// Anything else. Exit code 1.
    Internal,
}

/// Something was done.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// In words, a sentence each.
    pub words: Vec<String>,
}
