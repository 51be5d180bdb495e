//! Getting started: init, ticket, clone, join.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Place;

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
    /// Roles set by hand: a tensor's name, or a pattern of several with `*` and `?` → role.
    pub roles: BTreeMap<String, String>,
    /// A fixed number of persons per aggregate, instead of three quarters of the active ones.
    pub every: Option<u32>,
    /// The aggregation rule; `fedbuff` if none is given.
    pub aggregation: Option<String>,
    /// The rule's settings; those that are not given have their defaults.
    pub settings: BTreeMap<String, String>,
    /// Whether whoever asks becomes a contributor.
    pub open: bool,
    /// Whether only who has a role may read, for good.
    pub private: bool,
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
    /// The model's files.
    pub files: Vec<String>,
    /// Small files that go with them.
    pub side: Vec<String>,
    /// Other `.safetensors` files in the folder, which are not of the model.
    pub others: Vec<String>,
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
    /// Whether only who has a role may read.
    pub private: bool,
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
    /// A ticket, a multiaddr ending in `/p2p/…`, or a bundle (absolute path).
    pub source: String,
    /// The repository, when the source is a multiaddr; with a bundle, the repository that it must be of.
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
    /// Get and check all history, instead of starting from what members attest.
    pub full: bool,
    /// Without `full`: how many of the newest aggregates to run here all the same.
    pub depth: u64,
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

/// Convert a PyTorch checkpoint to safetensors.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportRequest {
    /// The checkpoint, or a folder with one or with the shards of one (absolute).
    #[schema(value_type = String)]
    pub source: PathBuf,
    /// The file to write, or the folder when the source is one (absolute); none writes beside the source.
    #[schema(value_type = Option<String>)]
    pub output: Option<PathBuf>,
    /// Where in the checkpoint the state dict is, keys joined by dots; none takes the only one.
    pub key: Option<String>,
    /// Take off what wrappers put before names: `module.`, `_orig_mod.`.
    pub strip: bool,
    /// Write tied tensors one by one.
    pub untie: bool,
    /// Replace a file that exists.
    pub force: bool,
}

/// A checkpoint was converted.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// What was written.
    pub files: Vec<ImportedFile>,
}

/// A file that an import wrote.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportedFile {
    /// Where it is.
    pub output: String,
    /// Where in the checkpoint its tensors were; none when they are all of it.
    pub key: Option<String>,
    /// How many tensors it holds.
    pub tensors: u64,
    /// Bytes of the tensors.
    pub bytes: u64,
    /// Their names, in the order of the file.
    pub names: Vec<String>,
    /// Tied tensors, written once.
    pub tied: Vec<TiedTensor>,
    /// What wrappers put before names.
    pub prefixes: Vec<Prefix>,
    /// What the checkpoint holds beside them, the first few.
    pub left: Vec<LeftOut>,
    /// How much more was left out.
    pub more: u64,
}

/// A tensor that is another one.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct TiedTensor {
    /// Its name.
    pub name: String,
    /// The name that both are written under.
    pub kept: String,
}

/// What a wrapper put before names.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Prefix {
    /// `module.`, say.
    pub prefix: String,
    /// How many tensors have it.
    pub tensors: u64,
    /// Whether it was taken off.
    pub stripped: bool,
}

/// Something in a checkpoint that is not of the model.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LeftOut {
    /// Where it was.
    pub key: String,
    /// What it was.
    pub what: String,
}
