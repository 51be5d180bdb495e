//! What goes over the control API, as JSON. Ids are text in full; models pass by path, never in a body.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

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

/// Who this node is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    /// This person and device, as `did:key:z6Mk…`.
    pub key: String,
    /// The home folder.
    pub home: String,
    /// Whether a node is running (else the command worked by itself, offline).
    pub node: bool,
    /// The version of Flair.
    pub version: String,
}

/// The running node.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Who it is.
    pub identity: Identity,
    /// Multiaddrs others can dial, with `/p2p/…`.
    pub addresses: Vec<String>,
    /// Socket addresses of the blob endpoint.
    pub blobs: Vec<String>,
    /// Peers connected now.
    pub peers: u64,
    /// Repositories it has.
    pub repositories: u64,
    /// Bytes of blobs sent since start.
    pub sent: u64,
    /// Bytes of blobs received since start.
    pub received: u64,
    /// What the worker is doing, in words.
    pub work: Vec<String>,
}

/// A peer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Its key.
    pub key: String,
    /// The name it has as a member somewhere.
    pub name: Option<String>,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Whether it is connected now.
    pub connected: bool,
    /// Whether it was banned for provably wrong messages.
    pub banned: bool,
    /// Its score; below 0 is bad.
    pub score: i64,
}

/// Dial an address, or lift a ban.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PeerRequest {
    /// A multiaddr to dial.
    pub connect: Option<String>,
    /// A peer whose ban is lifted.
    pub lift: Option<String>,
}

/// Start a repository.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Init {
    /// The model: a `.safetensors` file, or a folder with several and their side files (absolute).
    #[schema(value_type = String)]
    pub model: PathBuf,
    /// The repository's name.
    pub name: String,
    /// The first commit's message.
    pub message: String,
    /// The first branch's name.
    pub branch: String,
    /// Roles set by hand: tensor name → role.
    pub roles: BTreeMap<String, String>,
    /// A fixed number of persons per aggregate, instead of three quarters of the active ones.
    pub every: Option<u32>,
    /// Whether whoever asks becomes a contributor.
    pub open: bool,
    /// What to call this person.
    pub person: String,
}

/// A repository was started.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Initialised {
    /// The repository.
    pub repo: String,
    /// Its name.
    pub name: String,
    /// Its first branch.
    pub branch: String,
    /// The first commit.
    pub commit: String,
    /// The model.
    pub model: String,
    /// The working folder.
    pub folder: String,
    /// How tensors will be treated.
    pub roles: Vec<RoleCount>,
    /// The policy in words, a sentence each.
    pub policy: Vec<String>,
}

/// Tensors of one role.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RoleCount {
    /// The role.
    pub role: String,
    /// How many tensors have it.
    pub tensors: u64,
    /// How many numbers they hold.
    pub elements: u64,
    /// One of them.
    pub example: String,
    /// What aggregation does with them, in words.
    pub treatment: String,
}

/// Make a ticket.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MakeTicket {
    /// The repository.
    pub place: Place,
    /// Invite into this role.
    pub role: Option<String>,
    /// How many persons may use the invite.
    pub uses: u64,
    /// For whom it is meant.
    pub label: String,
}

/// A ticket was made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TicketMade {
    /// The one string.
    pub ticket: String,
    /// The repository's name.
    pub name: String,
    /// The invite's role.
    pub role: Option<String>,
    /// The invite's uses.
    pub uses: Option<u64>,
    /// Addresses in the ticket.
    pub addresses: Vec<String>,
    /// What to mind: no node runs, say, so the ticket names no address.
    pub warnings: Vec<String>,
}

/// Get a repository from a peer.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CloneRepository {
    /// A ticket, or a multiaddr ending in `/p2p/…`.
    pub source: String,
    /// The repository, when the source is a multiaddr.
    pub repo: Option<String>,
    /// The working folder to make (absolute); none picks `<current>/<repository name>`.
    #[schema(value_type = Option<String>)]
    pub folder: Option<PathBuf>,
    /// The folder the command was given in (absolute).
    #[schema(value_type = String)]
    pub current: PathBuf,
    /// The branch to check out; none takes `main`, else the first.
    pub branch: Option<String>,
    /// What to call this person when an invite is redeemed.
    pub person: String,
    /// Seconds to wait for the network.
    pub timeout: u64,
}

/// A repository was cloned.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Cloned {
    /// The repository.
    pub repo: String,
    /// Its name.
    pub name: String,
    /// The working folder.
    pub folder: String,
    /// The branch checked out.
    pub branch: String,
    /// The commit checked out.
    pub commit: String,
    /// The role this person has now.
    pub role: String,
    /// What the invite brought, in words.
    pub join: Option<String>,
    /// What else to know: the head is not verified yet, say.
    pub notes: Vec<String>,
}

/// Ask to contribute.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Join {
    /// The repository.
    pub place: Place,
    /// What to call this person.
    pub person: String,
    /// A ticket with an invite.
    pub ticket: Option<String>,
    /// Seconds to wait for an answer.
    pub timeout: u64,
}

/// How a join request stands.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Joined {
    /// The role now.
    pub role: String,
    /// Whether the request still waits for a delegate.
    pub waiting: bool,
    /// In words.
    pub words: String,
}

/// Where folder and repository stand.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// The repository.
    pub repo: String,
    /// Its name.
    pub name: String,
    /// This person's role.
    pub role: String,
    /// Whether a node is running.
    pub node: bool,
    /// Peers connected for this repository.
    pub peers: u64,
    /// The branch (of the folder, else `main`).
    pub branch: String,
    /// The branch's head.
    pub head: Option<String>,
    /// Whether this node has run or checked the head itself.
    pub head_verified: bool,
    /// The folder's side of things; none without a folder.
    pub work: Option<WorkStatus>,
    /// This person's last update, and what became of it.
    pub last_update: Option<UpdateNote>,
    /// Updates that wait for the next aggregate.
    pub pending: u64,
    /// Persons among them.
    pub persons: u64,
    /// Persons the next aggregate needs.
    pub needed: u64,
    /// Join requests that wait for this person.
    pub joins: Vec<JoinWaiting>,
    /// Privacy spent, in words.
    pub privacy: String,
    /// Anything wrong, in words.
    pub warnings: Vec<String>,
}

/// The folder's side of the status.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkStatus {
    /// The working folder.
    pub folder: String,
    /// The commit the folder stands on.
    pub base: String,
    /// Aggregates the base is behind the head; none when it is not on the head's path.
    pub behind: Option<u64>,
    /// Files and tensors that differ from base and drafts.
    pub changes: Vec<Change>,
    /// Drafts, oldest first.
    pub drafts: Vec<Draft>,
    /// Updates that are signed and wait for a peer.
    pub queued: Vec<String>,
}

/// A file that differs.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// The file.
    pub file: String,
    /// `modified`, `missing`, or why it can't be committed.
    pub state: String,
    /// Names of tensors that differ, at most 20.
    pub tensors: Vec<String>,
    /// How many differ.
    pub count: u64,
    /// Of how many.
    pub total: u64,
}

/// A local commit that was not pushed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Draft {
    /// The draft's id.
    pub id: String,
    /// Its message.
    pub message: String,
    /// Its examples.
    pub examples: u64,
    /// Tensors that it changes.
    pub changed: u64,
    /// Milliseconds since 1970.
    pub time: u64,
}

/// An update and what became of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct UpdateNote {
    /// The update.
    pub commit: String,
    /// `in-head`, `pending`, `skipped`, `dropped`, `void`, `queued`.
    pub state: String,
    /// In words, with the reason.
    pub words: String,
}

/// Somebody asks to join.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct JoinWaiting {
    /// Who.
    pub person: String,
    /// What they call themselves.
    pub name: String,
    /// Milliseconds since 1970 by their clock.
    pub time: u64,
}

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
    /// Why one can't be aggregated onto the other; none when it can.
    pub incompatible: Option<String>,
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
}

/// Make a draft from the folder.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CommitRequest {
    /// The working folder.
    pub place: Place,
    /// The message.
    pub message: String,
    /// Examples trained on; none when not said.
    pub examples: Option<u64>,
    /// Optimiser steps.
    pub steps: Option<u64>,
    /// Passes over the data.
    pub epochs: Option<u64>,
    /// Random seed.
    pub seed: Option<u64>,
    /// Measurements.
    pub metrics: Vec<MetricValue>,
    /// Convert dtypes to those of the branch.
    pub cast: bool,
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MetricValue {
    /// The split, `val` say.
    pub split: String,
    /// The metric, `loss` say.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// On how many examples; 0 when not said.
    pub n: u64,
}

/// A draft was made.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Committed {
    /// The draft.
    pub draft: Draft,
    /// Tensors in the model.
    pub total: u64,
    /// What to mind before pushing.
    pub warnings: Vec<String>,
}

/// Publish the drafts as one update.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PushRequest {
    /// The working folder.
    pub place: Place,
    /// Only list what would leave.
    pub dry_run: bool,
    /// Keep the drafts.
    pub keep_drafts: bool,
}

/// What left, or would leave.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Pushed {
    /// The update; none for a dry run.
    pub commit: Option<String>,
    /// Its base.
    pub base: String,
    /// Peers that were told; 0 means it waits for the next connection.
    pub peers: u64,
    /// Every blob.
    pub blobs: Vec<EgressBlob>,
    /// Every stated field.
    pub fields: Vec<EgressField>,
    /// Bytes of all blobs.
    pub bytes: u64,
    /// What to mind.
    pub warnings: Vec<String>,
}

/// A blob that leaves.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EgressBlob {
    /// Its id.
    pub id: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// What it holds, in words.
    pub what: String,
}

/// A field that leaves.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct EgressField {
    /// The field.
    pub name: String,
    /// Its value as text.
    pub value: String,
}

/// Move the folder to the newest head.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PullRequest {
    /// The working folder.
    pub place: Place,
    /// Carry local training over onto the new head.
    pub rebase: bool,
    /// Seconds to wait for the head to be fetched and checked.
    pub timeout: u64,
}

/// Where the folder stands after a move.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Moved {
    /// The branch.
    pub branch: String,
    /// The commit it stood on.
    pub from: String,
    /// The commit it stands on.
    pub to: String,
    /// The model it holds.
    pub model: String,
    /// Files that were written.
    pub files: Vec<String>,
    /// In words.
    pub words: String,
    /// What to mind.
    pub warnings: Vec<String>,
}

/// Move the folder to a branch or commit.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct CheckoutRequest {
    /// The working folder.
    pub place: Place,
    /// A branch or a commit.
    pub target: String,
    /// Even if local training is lost.
    pub force: bool,
}

/// Undo drafts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResetRequest {
    /// The working folder.
    pub place: Place,
    /// Drafts to undo, newest first; none undoes all.
    pub drafts: Option<u64>,
    /// Also set the files back.
    pub hard: bool,
}

/// Drafts were undone.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ResetDone {
    /// The drafts that were undone.
    pub undone: Vec<Draft>,
    /// Drafts that are left.
    pub left: u64,
    /// Whether files were written.
    pub restored: bool,
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
    /// The commit: an id, an unambiguous prefix, a branch, a draft.
    pub commit: String,
}

/// One commit in full.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Shown {
    /// As in the log.
    pub entry: LogEntry,
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
    /// Its weight, where it was computed.
    pub weight: Option<f64>,
    /// Its norm, where it was computed.
    pub norm: Option<f64>,
    /// Why it was skipped.
    pub skipped: Option<String>,
}

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

/// Something was done.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Done {
    /// In words, a sentence each.
    pub words: Vec<String>,
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

/// A repository this node has.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Repository {
    /// Its id.
    pub repo: String,
    /// Its name.
    pub name: String,
    /// This person's role.
    pub role: String,
    /// Whether this node follows it: fetches and serves what is new.
    pub seeding: bool,
    /// Operations it holds.
    pub operations: u64,
    /// The state fingerprint: equal on nodes that hold the same operations.
    pub fingerprint: String,
    /// Its branches.
    pub branches: Vec<Branch>,
    /// Working folders on this machine.
    pub folders: Vec<String>,
}

/// Follow a repository or stop.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct SeedRequest {
    /// The repository.
    pub place: Place,
    /// Follow it, or stop.
    pub seed: bool,
}

/// Write the repository document.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExportRequest {
    /// The repository.
    pub place: Place,
    /// The automerge file to write (absolute).
    #[schema(value_type = String)]
    pub automerge: PathBuf,
}

/// Something happened: sent as server-sent events.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// `progress`, `network`, `repository`, `work`.
    pub kind: String,
    /// The repository it is about.
    pub repo: Option<String>,
    /// In words.
    pub text: String,
    /// Progress: how much is done.
    pub done: Option<u64>,
    /// Progress: of how much.
    pub total: Option<u64>,
}
