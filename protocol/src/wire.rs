//! What nodes say to one another about a repository: announcements by gossip, requests and responses between two.
//!
//! Every message starts with the version of this exchange, is canonical CBOR within its size limit, and what it
//! carries is checked as it is decoded (size, encoding, signature, in that order): the engine only ever sees
//! checked operations and checked join requests. Checking signatures takes time, so decode on a worker.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::cbor::{self, CborError};
use crate::graph::Graph;
use crate::id::{Digest, OperationId, RepositoryId};
use crate::key::{PublicKey, Signature};
use crate::limits;
use crate::operation::{Envelope, Header, Operation, OperationError};
use crate::ticket::{JoinError, JoinRequest};

/// Version of the exchange between nodes: the first field of every message.
pub const VERSION: u64 = 1;

/// Why a message was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum WireError {
    /// Size or encoding.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Another version of the exchange.
    #[error(
        "the peer speaks version {0} of the exchange, this build version {VERSION}: install the newer version of Flair"
    )]
    Version(u64),
    /// An operation inside does not hold.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// A join request inside does not hold.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// A list is longer than it may be, or out of order.
    #[error("the message's {0}")]
    Bounds(&'static str),
}

/// An operation exists: its signed header, without the body. Only [`of`](Self::of) and
/// [`decode`](Self::decode) make one, so its signature holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Announcement {
    id: OperationId,
    header: Header,
    envelope: Envelope,
}

impl Announcement {
    /// Announces `operation`.
    pub fn of(operation: &Operation) -> Self {
        let (id, header) = (operation.id(), operation.header().clone());
        Self { id, header, envelope: operation.envelope().clone() }
    }

    /// The announced operation.
    pub fn id(&self) -> OperationId {
        self.id
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The bytes that are gossiped: every node encodes the same operation alike, so gossip sees duplicates.
    ///
    /// # Errors
    /// None in practice: even a header with 16 dependencies fits.
    pub fn encode(&self) -> Result<Vec<u8>, CborError> {
        let bytes = cbor::encode("announcement", &(VERSION, &self.envelope.header, self.envelope.signature))?;
        let (what, size, limit) = ("announcement", bytes.len(), limits::ANNOUNCEMENT);
        if size > limit { Err(CborError::Size { what, size, limit }) } else { Ok(bytes) }
    }

    /// Reads an announcement heard in the topic of `repo` and checks the header's signature.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn decode(bytes: &[u8], repo: RepositoryId) -> Result<Self, WireError> {
        let (version, header, signature): (u64, ByteBuf, Signature) =
            cbor::decode("announcement", bytes, limits::ANNOUNCEMENT)?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let envelope = Envelope { header, signature };
        let (id, header) = envelope.check(repo)?;
        Ok(Self { id, header, envelope })
    }
}

/// Where a set of operations stands: enough to tell whether two nodes have the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frontier {
    /// Operations no other has seen, ascending; the first 256 of them if there are more.
    pub heads: Vec<OperationId>,
    /// Operations in the set.
    pub count: u64,
    /// BLAKE3 of all heads, ascending: equal for equal sets.
    pub digest: Digest,
}

impl Frontier {
    /// Where `graph` stands.
    pub fn of(graph: &Graph) -> Self {
        let all: Vec<_> = graph.heads().collect();
        let (digest, count) = (Self::digest(&all), graph.len() as u64);
        Self { heads: all.into_iter().take(limits::REQUEST_IDS).collect(), count, digest }
    }

    /// Whether all heads are listed.
    pub fn complete(&self) -> bool {
        Self::digest(&self.heads) == self.digest
    }

    fn digest(heads: &[OperationId]) -> Digest {
        let bytes: Vec<u8> = heads.iter().flat_map(OperationId::as_bytes).copied().collect();
        Digest::of(&bytes)
    }

    fn check(&self) -> Result<(), WireError> {
        ids(&self.heads)?;
        if !self.heads.is_sorted_by(|a, b| a < b) {
            return Err(WireError::Bounds("heads are not in ascending order"));
        }
        Ok(())
    }
}

/// Where a node can be dialled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerAddress {
    /// The node.
    pub key: PublicKey,
    /// Its multiaddrs, as text.
    pub addresses: Vec<String>,
}

/// What one node asks another about a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Where we stand; where do you?
    Hello {
        /// The asker's set.
        frontier: Frontier,
        /// Addresses of the asker's blob endpoint, `ip:port`.
        blobs: Vec<String>,
    },
    /// Everything that who has `have` and its past lacks, a page at a time.
    Want {
        /// What the asker has.
        have: Vec<OperationId>,
        /// The last operation of the previous page: the answer goes on behind it.
        after: Option<OperationId>,
    },
    /// These operations.
    Get {
        /// Which.
        ids: Vec<OperationId>,
    },
    /// Somebody asks for a role.
    Join(Box<JoinRequest>),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum RequestWire {
    Hello { frontier: Frontier, blobs: Vec<String> },
    Want { have: Vec<OperationId>, after: Option<OperationId> },
    Get { ids: Vec<OperationId> },
    Join(ByteBuf),
}

impl Request {
    /// The bytes of this request about `repo`.
    ///
    /// # Errors
    /// A request beyond its bounds.
    pub fn encode(&self, repo: RepositoryId) -> Result<Vec<u8>, WireError> {
        let body = match self.clone() {
            Self::Hello { frontier, blobs } => RequestWire::Hello { frontier, blobs },
            Self::Want { have, after } => RequestWire::Want { have, after },
            Self::Get { ids } => RequestWire::Get { ids },
            Self::Join(join) => RequestWire::Join(ByteBuf::from(join.encode()?)),
        };
        let body = ByteBuf::from(cbor::encode("request", &body)?);
        within("request", cbor::encode("request", &(VERSION, repo, body))?, limits::REQUEST)
    }

    /// Reads a request, and which repository it is about. An operation's signature is not at stake here; a join
    /// request's is checked.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn decode(bytes: &[u8]) -> Result<(RepositoryId, Self), WireError> {
        let (version, repo, body): (u64, RepositoryId, ByteBuf) =
            cbor::decode("request", bytes, limits::REQUEST)?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        let request = match cbor::decode("request", &body, limits::REQUEST)? {
            RequestWire::Hello { frontier, blobs } => {
                frontier.check()?;
                addresses(&blobs)?;
                Self::Hello { frontier, blobs }
            }
            RequestWire::Want { have, after } => {
                ids(&have)?;
                Self::Want { have, after }
            }
            RequestWire::Get { ids: list } => {
                ids(&list)?;
                Self::Get { ids: list }
            }
            RequestWire::Join(bytes) => {
                let join = JoinRequest::decode(&bytes)?;
                if join.repo != repo {
                    return Err(WireError::Bounds("join request is about another repository"));
                }
                Self::Join(Box::new(join))
            }
        };
        Ok((repo, request))
    }
}

/// What becomes of a join request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Joined {
    /// It waits here, and is passed on.
    Accepted,
    /// It was here already.
    Known,
    /// It is not taken, for this reason.
    Refused(String),
}

/// The answer to a [`Request`].
#[derive(Clone, Debug)]
pub enum Response {
    /// Where the answerer stands.
    Hello {
        /// The answerer's set.
        frontier: Frontier,
        /// Addresses of the answerer's blob endpoint, `ip:port`.
        blobs: Vec<String>,
        /// Other nodes that have the repository.
        peers: Vec<PeerAddress>,
        /// Join requests that wait for a delegate.
        joins: Vec<JoinRequest>,
    },
    /// Operations, each after its dependencies.
    Operations {
        /// The operations, checked.
        operations: Vec<Operation>,
        /// Whether another page follows.
        more: bool,
        /// The answerer's set.
        frontier: Frontier,
    },
    /// What became of a join request.
    Joined(Joined),
    /// The repository is not here, or the asker may not know that it is: the same answer.
    Unknown,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
enum ResponseWire {
    Hello { frontier: Frontier, blobs: Vec<String>, peers: Vec<PeerAddress>, joins: Vec<ByteBuf> },
    Operations { operations: Vec<ByteBuf>, more: bool, frontier: Frontier },
    Joined(Joined),
    Unknown,
}

impl Response {
    /// The bytes of this response.
    ///
    /// # Errors
    /// A response beyond its bounds; the engine makes none.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let body = match self {
            Self::Hello { frontier, blobs, peers, joins } => {
                let joins = joins.iter().map(|join| join.encode().map(ByteBuf::from));
                let joins = joins.collect::<Result<_, _>>()?;
                let (frontier, blobs, peers) = (frontier.clone(), blobs.clone(), peers.clone());
                ResponseWire::Hello { frontier, blobs, peers, joins }
            }
            Self::Operations { operations, more, frontier } => {
                let operations = operations.iter().map(|operation| operation.encode().map(ByteBuf::from));
                let operations = operations.collect::<Result<_, _>>()?;
                ResponseWire::Operations { operations, more: *more, frontier: frontier.clone() }
            }
            Self::Joined(joined) => ResponseWire::Joined(joined.clone()),
            Self::Unknown => ResponseWire::Unknown,
        };
        let body = ByteBuf::from(cbor::encode("response", &body)?);
        within("response", cbor::encode("response", &(VERSION, body))?, limits::RESPONSE)
    }

    /// Reads a response about `repo` and checks every operation and join request in it. One that does not hold
    /// refuses the whole response: an honest peer checked them before it stored them.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn decode(bytes: &[u8], repo: RepositoryId) -> Result<Self, WireError> {
        let (version, body): (u64, ByteBuf) = cbor::decode("response", bytes, limits::RESPONSE)?;
        if version != VERSION {
            return Err(WireError::Version(version));
        }
        Ok(match cbor::decode("response", &body, limits::RESPONSE)? {
            ResponseWire::Hello { frontier, blobs, peers, joins } => {
                frontier.check()?;
                addresses(&blobs)?;
                if peers.len() > limits::ADDRESSES || joins.len() > limits::HELLO_JOINS {
                    return Err(WireError::Bounds("list of peers or join requests is too long"));
                }
                peers.iter().try_for_each(|peer| addresses(&peer.addresses))?;
                let joins = joins.iter().map(|bytes| JoinRequest::decode(bytes));
                let joins = joins.collect::<Result<Vec<_>, _>>()?;
                if joins.iter().any(|join| join.repo != repo) {
                    return Err(WireError::Bounds("join request is about another repository"));
                }
                Self::Hello { frontier, blobs, peers, joins }
            }
            ResponseWire::Operations { operations, more, frontier } => {
                frontier.check()?;
                if operations.len() > limits::PAGE {
                    return Err(WireError::Bounds("page holds more than 1,024 operations"));
                }
                let operations = operations.iter().map(|bytes| Operation::decode(bytes, repo));
                let operations = operations.collect::<Result<_, _>>()?;
                Self::Operations { operations, more, frontier }
            }
            ResponseWire::Joined(Joined::Refused(why)) if why.len() > limits::ADDRESS => {
                return Err(WireError::Bounds("reason is too long"));
            }
            ResponseWire::Joined(joined) => Self::Joined(joined),
            ResponseWire::Unknown => Self::Unknown,
        })
    }
}

/// Takes operations into a page until it is full; whether some were left.
pub fn page<'a>(operations: impl IntoIterator<Item = &'a Operation>) -> (Vec<Operation>, bool) {
    /// Left for the frontier and framing.
    const RESERVE: usize = 16 * 1024;
    /// An encoded operation has at most this much more than [`Operation::size`] says.
    const FRAME: usize = 64;
    let (mut page, mut bytes) = (Vec::new(), RESERVE);
    for operation in operations {
        bytes += operation.size() + FRAME;
        if bytes > limits::RESPONSE || page.len() == limits::PAGE {
            return (page, true);
        }
        page.push(operation.clone());
    }
    (page, false)
}

fn within(what: &'static str, bytes: Vec<u8>, limit: usize) -> Result<Vec<u8>, WireError> {
    let size = bytes.len();
    if size > limit { Err(CborError::Size { what, size, limit }.into()) } else { Ok(bytes) }
}

fn ids(list: &[OperationId]) -> Result<(), WireError> {
    if list.len() > limits::REQUEST_IDS {
        return Err(WireError::Bounds("list of operations is longer than 256"));
    }
    Ok(())
}

fn addresses(list: &[String]) -> Result<(), WireError> {
    if list.len() > limits::ADDRESSES || list.iter().any(|address| address.len() > limits::ADDRESS) {
        return Err(WireError::Bounds("list of addresses is too long"));
    }
    Ok(())
}
