//! The node itself: identity, peers, repositories, events.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Place;
use super::people::Branch;

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

/// A repository this node has.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Repository {
    /// Its id.
    pub repo: String,
    /// Its name.
    pub name: String,
    /// Whether only who has a role may read.
    pub private: bool,
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

/// Write a commit's files, or the repository document.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExportRequest {
    /// The repository.
    pub place: Place,
    /// A commit, branch or draft; none takes the folder's base, or the branch.
    pub commit: Option<String>,
    /// Where to write its files: a folder, or a `.safetensors` file where the model is one (absolute).
    #[schema(value_type = Option<String>)]
    pub output: Option<PathBuf>,
    /// The model that the commit, an adapter, was trained on: a folder or file (absolute). The adapter is merged into it, and
    /// that is written.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub onto: Option<PathBuf>,
    /// Replace files that exist.
    pub force: bool,
    /// With what the working folder has of its own in tensors whose role is `local`, which no commit has.
    #[serde(default)]
    pub local: bool,
    /// The automerge file to write (absolute).
    #[schema(value_type = Option<String>)]
    pub automerge: Option<PathBuf>,
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
