//! Operations: the signed things that nodes replicate. Everything a repository is follows from the set of them.

pub mod approval;
pub mod body;
pub mod evaluation;
pub mod review;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

pub use body::{Body, BodyError, Kind};

use crate::cbor::{self, CborError};
use crate::id::{Digest, OperationId, RepositoryId};
use crate::key::{KeyError, PublicKey, SecretKey, Signature};
use crate::limits;

const ID_DOMAIN: &str = "flair operation id v1";
const SIGNATURE_DOMAIN: &[u8] = b"flair operation signature v1";

/// What is signed: who says it, after what, and the id of what is said. Frozen for network version 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Network version, [`limits::VERSION`].
    pub version: u64,
    /// The repository; 32 zero bytes in the genesis, whose own id becomes the repository's.
    pub repo: RepositoryId,
    /// The device that signs.
    pub author: PublicKey,
    /// The author's operations in this repository, counted from 0.
    pub seq: u64,
    /// The author's previous operation; none when `seq` is 0.
    pub prev: Option<OperationId>,
    /// Heads the author saw, `prev` included, ascending, at most 16.
    pub deps: Vec<OperationId>,
    /// Exactly 1 + the highest of the dependencies'; 0 in the genesis.
    pub lamport: u64,
    /// The policy revision the author follows; the genesis itself names 32 zero bytes.
    pub policy: OperationId,
    /// What kind of body follows.
    pub kind: Kind,
    /// BLAKE3 of the body.
    pub body: Digest,
    /// Bytes of the body.
    pub length: u64,
    /// Milliseconds since 1970 by the author's clock: for display, nothing depends on it.
    pub time: u64,
}

impl Header {
    /// The id of an operation with these header bytes.
    pub fn id_of(header_bytes: &[u8]) -> OperationId {
        OperationId::from_digest(Digest::from_bytes(blake3::derive_key(ID_DOMAIN, header_bytes)))
    }

    fn message(&self, id: OperationId) -> Vec<u8> {
        let mut message = Vec::with_capacity(SIGNATURE_DOMAIN.len() + 72);
        message.extend_from_slice(SIGNATURE_DOMAIN);
        message.extend_from_slice(&self.version.to_le_bytes());
        message.extend_from_slice(self.repo.as_bytes());
        message.extend_from_slice(id.as_bytes());
        message
    }

    fn validate(&self) -> Result<(), OperationError> {
        if self.version != limits::VERSION {
            return Err(OperationError::Version(self.version));
        }
        if self.deps.len() > limits::DEPS {
            return Err(OperationError::Header("names more than 16 dependencies"));
        }
        if !self.deps.is_sorted_by(|a, b| a < b) {
            return Err(OperationError::Header("has dependencies out of order or repeated"));
        }
        if self.prev.is_none() != (self.seq == 0) {
            return Err(OperationError::Header(
                "must name a previous operation exactly when its number is above 0",
            ));
        }
        if self.prev.is_some_and(|prev| !self.deps.contains(&prev)) {
            return Err(OperationError::Header(
                "does not name its previous operation among its dependencies",
            ));
        }
        let genesis = self.kind == Kind::GENESIS;
        if genesis != self.deps.is_empty() {
            return Err(OperationError::Header("must have dependencies unless it is the genesis"));
        }
        if genesis && (self.lamport != 0 || self.seq != 0 || self.repo.as_bytes() != &[0; 32]) {
            return Err(OperationError::Header("is a genesis that does not start at 0"));
        }
        if self.length > limits::BODY as u64 {
            return Err(OperationError::Header("announces a body over 60 KiB"));
        }
        Ok(())
    }
}

/// A signed header without its body: what announcements carry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// Canonical bytes of the [`Header`].
    pub header: ByteBuf,
    /// The author's signature.
    pub signature: Signature,
}

impl Envelope {
    /// Checks size, encoding, form, repository and signature, in that order.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn check(&self, repo: RepositoryId) -> Result<(OperationId, Header), OperationError> {
        let header: Header = cbor::decode("operation header", &self.header, limits::HEADER)?;
        header.validate()?;
        let id = Header::id_of(&self.header);
        let belongs = if header.kind == Kind::GENESIS { id.digest() } else { header.repo.digest() };
        if belongs != repo.digest() {
            return Err(OperationError::Repository {
                id,
                expected: repo,
                found: RepositoryId::from_digest(belongs),
            });
        }
        header.author.verify(&header.message(id), &self.signature)?;
        Ok((id, header))
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    header: ByteBuf,
    signature: Signature,
    body: ByteBuf,
}

/// An operation whose size, encoding, form and signature were checked: only [`Operation::decode`] and
/// [`Operation::sign`] make one.
#[derive(Clone, Debug)]
pub struct Operation {
    id: OperationId,
    header: Header,
    body: Body,
    envelope: Envelope,
    body_bytes: ByteBuf,
}

/// Why an operation was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum OperationError {
    /// Size or encoding.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Another network version.
    #[error("operation of network version {0}, this build speaks version {known}: install a newer version of Flair", known = limits::VERSION)]
    Version(u64),
    /// The header breaks a rule.
    #[error("the operation's header {0}")]
    Header(&'static str),
    /// Signed for another repository.
    #[error("operation {} belongs to repository {}, not to {}", id.short(), found.short(), expected.short())]
    Repository {
        /// The operation.
        id: OperationId,
        /// Where it was offered.
        expected: RepositoryId,
        /// Where it belongs.
        found: RepositoryId,
    },
    /// The signature does not hold.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The body is not the one that was signed.
    #[error("operation {}: the body is not the one that was signed", .0.short())]
    BodyDiffers(OperationId),
    /// The body can't be read or breaks a bound.
    #[error("operation {}: {why}", id.short())]
    Body {
        /// The operation.
        id: OperationId,
        /// What is wrong.
        why: BodyError,
    },
}

/// What the author knows when they sign; see [`Header`].
#[derive(Clone, Debug)]
pub struct Position {
    /// The repository; `None` for a genesis.
    pub repo: Option<RepositoryId>,
    /// The next number of this author.
    pub seq: u64,
    /// The author's previous operation.
    pub prev: Option<OperationId>,
    /// Heads seen, `prev` included; sorted here.
    pub deps: Vec<OperationId>,
    /// 1 + the highest of the dependencies'.
    pub lamport: u64,
    /// The policy revision in force.
    pub policy: OperationId,
    /// Milliseconds since 1970.
    pub time: u64,
}

impl Position {
    /// The position of a genesis.
    pub fn genesis(time: u64) -> Self {
        let policy = OperationId::from_digest(Digest::from_bytes([0; 32]));
        Self { repo: None, seq: 0, prev: None, deps: Vec::new(), lamport: 0, policy, time }
    }
}

impl Operation {
    /// Signs `body` at `position`.
    ///
    /// # Errors
    /// A body or position that nobody would accept.
    pub fn sign(key: &SecretKey, position: Position, body: Body) -> Result<Self, OperationError> {
        let body_bytes = body.encode()?;
        let mut deps = position.deps;
        deps.sort_unstable();
        deps.dedup();
        let header = Header {
            version: limits::VERSION,
            repo: position.repo.unwrap_or_else(|| RepositoryId::from_digest(Digest::from_bytes([0; 32]))),
            author: key.public(),
            seq: position.seq,
            prev: position.prev,
            deps,
            lamport: position.lamport,
            policy: position.policy,
            kind: body.kind(),
            body: Digest::of(&body_bytes),
            length: body_bytes.len() as u64,
            time: position.time,
        };
        header.validate()?;
        let header_bytes = cbor::encode("operation header", &header)?;
        let id = Header::id_of(&header_bytes);
        body.validate(&header).map_err(|why| OperationError::Body { id, why })?;
        let signature = key.sign(&header.message(id));
        let envelope = Envelope { header: ByteBuf::from(header_bytes), signature };
        Ok(Self { id, header, body, envelope, body_bytes: ByteBuf::from(body_bytes) })
    }

    /// Reads an operation offered for `repo` and checks, in this order: size, encoding, form, repository,
    /// signature, body.
    ///
    /// # Errors
    /// The first check that fails.
    pub fn decode(bytes: &[u8], repo: RepositoryId) -> Result<Self, OperationError> {
        let wire: Wire = cbor::decode("operation", bytes, limits::OPERATION)?;
        let envelope = Envelope { header: wire.header, signature: wire.signature };
        let (id, header) = envelope.check(repo)?;
        if header.length != wire.body.len() as u64 || header.body != Digest::of(&wire.body) {
            return Err(OperationError::BodyDiffers(id));
        }
        let body = Body::decode(header.kind, &wire.body).map_err(|why| OperationError::Body { id, why })?;
        body.validate(&header).map_err(|why| OperationError::Body { id, why })?;
        Ok(Self { id, header, body, envelope, body_bytes: wire.body })
    }

    /// The bytes that are stored and sent.
    ///
    /// # Errors
    /// None in practice: a checked operation can always be encoded.
    pub fn encode(&self) -> Result<Vec<u8>, CborError> {
        let Envelope { header, signature } = self.envelope.clone();
        cbor::encode("operation", &Wire { header, signature, body: self.body_bytes.clone() })
    }

    /// Its id.
    pub fn id(&self) -> OperationId {
        self.id
    }

    /// The signed header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Who signed it.
    pub fn author(&self) -> PublicKey {
        self.header.author
    }

    /// What it says.
    pub fn body(&self) -> &Body {
        &self.body
    }

    /// The signed header as it goes into an announcement.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// Bytes it takes on the wire, framing apart.
    pub fn size(&self) -> usize {
        self.envelope.header.len() + self.body_bytes.len() + 64
    }

    /// The order in which operations are shown and applied: Lamport time, then id.
    pub fn order(&self) -> (u64, OperationId) {
        (self.header.lamport, self.id)
    }
}
