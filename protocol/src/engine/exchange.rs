//! What goes into an engine, and what it wants done.

use crate::graph::GraphError;
use crate::id::OperationId;
use crate::key::PublicKey;
use crate::operation::Operation;
use crate::ticket::JoinRequest;
use crate::wire::{Announcement, PeerAddress, Request, Response};

/// Another node, by its key.
pub type Peer = PublicKey;

/// Names something the caller wants an answer to: a request that came in, or a gossiped message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Names a request the engine made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// What happened. Whatever comes from a peer was decoded, and so checked, by `wire` before.
#[derive(Clone, Debug)]
pub enum Input {
    /// An operation signed here, at the position that [`Engine::graph`](super::Engine::graph) gave. Sign one at a
    /// time: the next only when this one is in the graph.
    Local {
        /// The operation.
        operation: Box<Operation>,
        /// Whether the caller has it on disk already, so that no `Store` is needed.
        stored: bool,
    },
    /// An operation that came in a file: others signed it, no peer is to blame for it. Its dependencies come first.
    Brought(Box<Operation>),
    /// A peer can be reached.
    Up {
        /// Which.
        peer: Peer,
    },
    /// A peer is gone.
    Down {
        /// Which.
        peer: Peer,
    },
    /// Heard by gossip.
    Announcement {
        /// The peer that passed it on.
        peer: Peer,
        /// Answered by one [`Output::Verdict`].
        token: Token,
        /// What was announced.
        announcement: Box<Announcement>,
    },
    /// A peer asks.
    Request {
        /// Who.
        peer: Peer,
        /// Answered by one [`Output::Respond`].
        token: Token,
        /// What.
        request: Request,
    },
    /// A peer answered.
    Response {
        /// Who.
        peer: Peer,
        /// Which request.
        id: RequestId,
        /// The answer.
        response: Response,
    },
    /// No answer came, or one that could not be decoded.
    Failed {
        /// Who.
        peer: Peer,
        /// Which request.
        id: RequestId,
    },
    /// Operations from [`Output::Store`] are on disk: an fsync came back.
    Stored {
        /// Which.
        ids: Vec<OperationId>,
    },
    /// Operations from [`Output::Store`] are certainly *not* on disk. When that is uncertain, stop and start again
    /// from what is on disk.
    StoreFailed {
        /// Which.
        ids: Vec<OperationId>,
    },
    /// This node asks for a role.
    Join(Box<JoinRequest>),
    /// What to tell others about where this node and others can be reached.
    Addresses {
        /// Addresses of this node's blob endpoint.
        blobs: Vec<String>,
        /// Other nodes that have the repository.
        peers: Vec<PeerAddress>,
    },
    /// Time passed: due at [`Engine::deadline`](super::Engine::deadline).
    Tick,
}

/// What to tell gossip about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it on: the operation is stored here, so whoever hears of it from us can get it from us.
    Accept,
    /// Nobody should have passed it on.
    Reject,
    /// Don't pass it on, nobody is to blame.
    Ignore,
}

/// What the engine wants done.
#[derive(Clone, Debug)]
pub enum Output {
    /// Ask a peer.
    Request {
        /// Whom.
        peer: Peer,
        /// Comes back with the answer.
        id: RequestId,
        /// What.
        request: Request,
    },
    /// Answer a peer.
    Respond {
        /// From [`Input::Request`].
        token: Token,
        /// The answer.
        response: Response,
    },
    /// Gossip this.
    Announce(Box<Announcement>),
    /// Answer gossip.
    Verdict {
        /// From [`Input::Announcement`].
        token: Token,
        /// The answer.
        verdict: Verdict,
    },
    /// Write these to disk in one transaction, then say `Stored` or `StoreFailed`. Each comes after its
    /// dependencies, and no further batch comes until this one is answered.
    Store(Vec<Operation>),
    /// A peer did what no honest one does.
    Penalise {
        /// Who.
        peer: Peer,
        /// What.
        offence: Offence,
    },
    /// For whoever watches.
    Notify(Event),
}

/// What whoever watches may want to know.
#[derive(Clone, Debug)]
pub enum Event {
    /// These operations are on disk and in the set now.
    Operations {
        /// Which, each after its dependencies.
        ids: Vec<OperationId>,
    },
    /// Everything this peer has is here.
    CaughtUp {
        /// Who.
        peer: Peer,
    },
    /// This peer has something that is not here.
    Behind {
        /// Who.
        peer: Peer,
        /// How many operations it has.
        theirs: u64,
    },
    /// This peer does not have the repository, or does not let this node know.
    Unknown {
        /// Who.
        peer: Peer,
    },
    /// Where a peer's blobs can be fetched, and which other nodes it knows.
    Addresses {
        /// Who.
        peer: Peer,
        /// Addresses of its blob endpoint.
        blobs: Vec<String>,
        /// Other nodes.
        peers: Vec<PeerAddress>,
    },
    /// Somebody asks for a role.
    Join(Box<JoinRequest>),
    /// What became of a join request that was passed to a peer.
    Joined {
        /// Who answered.
        peer: Peer,
        /// The answer.
        joined: crate::wire::Joined,
    },
    /// A local operation, or one that came in a file, did not enter the set.
    Refused {
        /// Which.
        id: OperationId,
        /// Why.
        why: Refusal,
    },
}

/// Why an operation is not taken into the set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It contradicts its dependencies, or lacks some that should be here.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// Nobody gave its author a role in its past.
    #[error("operation {}: {author} has no role in this repository: ask for one with `flair join`", id.short())]
    Stranger {
        /// The operation.
        id: OperationId,
        /// Its author.
        author: PublicKey,
    },
    /// The disk did not take it.
    #[error("operation {}: it could not be written to disk; nothing was published", .0.short())]
    NotStored(OperationId),
    /// It follows an operation that was refused.
    #[error("operation {}: it follows an operation that was refused", .0.short())]
    Follows(OperationId),
}

/// What no honest peer does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Offence {
    /// It served an operation that can't enter the set.
    #[error("it served what can't be taken in: {0}")]
    Refused(Refusal),
    /// It served operations nobody asked for.
    #[error("it served operations nobody asked for")]
    Unasked,
    /// It served an operation, but not what that operation follows.
    #[error("it served operations without the ones they follow")]
    Unfounded,
    /// It names heads that it does not serve.
    #[error("it says it has operations that it does not serve")]
    Heads,
    /// It pages without end.
    #[error("it keeps answering with pages that hold nothing new")]
    Endless,
    /// It answered another question.
    #[error("its answer does not fit the question")]
    Answer,
}
