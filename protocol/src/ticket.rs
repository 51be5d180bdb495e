//! Tickets and join requests: how somebody gets to a repository, and into it.

use serde::{Deserialize, Serialize};

use crate::cbor::{self, CborError};
use crate::id::{Digest, OperationId, RepositoryId};
use crate::key::{KeyError, PersonId, PublicKey, SecretKey, Signature};
use crate::limits;
use crate::operation::body::{self, BodyError};

const PREFIX: &str = "flair";
const CHECK_DOMAIN: &str = "flair ticket check v1";
const CHECK: usize = 4;
const JOIN_DOMAIN: &[u8] = b"flair join request v1";
const INVITE_DOMAIN: &[u8] = b"flair invite v1";

/// One string that says where a repository is, and may carry an invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// The ticket's version, 1.
    pub version: u64,
    /// The repository.
    pub repo: RepositoryId,
    /// Its name, for people; the genesis decides.
    pub name: String,
    /// The node that has it.
    pub node: PublicKey,
    /// Multiaddrs of that node, as text.
    pub addresses: Vec<String>,
    /// An invite.
    pub invite: Option<InviteSecret>,
    /// Whether the repository is private: nothing of it is given to whoever has no role, so an invite is redeemed
    /// before anything is asked for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
}

/// The secret half of an invite.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteSecret {
    /// The invite operation.
    pub invite: OperationId,
    /// The 32 secret bytes of its key.
    #[serde(with = "serde_bytes")]
    pub secret: [u8; 32],
}

/// Why a ticket was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum TicketError {
    /// Does not start with `flair`.
    #[error("this is not a ticket: a ticket is one string that starts with `flair`")]
    Prefix,
    /// Cut, or mistyped.
    #[error("the ticket is damaged: it was cut or mistyped. Copy the whole string, or ask for a new one")]
    Damaged,
    /// Longer than a ticket can be.
    #[error("this is too long for a ticket")]
    Long,
    /// Whole, but its content does not hold.
    #[error("the ticket can't be used: {0}")]
    Content(String),
}

impl Ticket {
    /// The one string.
    ///
    /// # Errors
    /// None for a ticket within its bounds.
    pub fn encode(&self) -> Result<String, CborError> {
        let mut bytes = cbor::encode("ticket", self)?;
        let check = blake3::derive_key(CHECK_DOMAIN, &bytes);
        bytes.extend_from_slice(&check[..CHECK]);
        Ok(format!("{PREFIX}{}", data_encoding::BASE32_NOPAD.encode(&bytes).to_ascii_lowercase()))
    }

    /// Reads a ticket.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn decode(text: &str) -> Result<Self, TicketError> {
        let text = text.trim();
        let rest = text.strip_prefix(PREFIX).ok_or(TicketError::Prefix)?;
        if text.len() > limits::TICKET {
            return Err(TicketError::Long);
        }
        let bytes = data_encoding::BASE32_NOPAD
            .decode(rest.to_ascii_uppercase().as_bytes())
            .map_err(|_| TicketError::Damaged)?;
        let content = bytes.len().checked_sub(CHECK).ok_or(TicketError::Damaged)?;
        let (content, check) = bytes.split_at(content);
        if blake3::derive_key(CHECK_DOMAIN, content)[..CHECK] != *check {
            return Err(TicketError::Damaged);
        }
        let ticket: Self = cbor::decode("ticket", content, limits::TICKET)
            .map_err(|error| TicketError::Content(error.to_string()))?;
        if ticket.version != 1 {
            return Err(TicketError::Content(format!(
                "it has version {}, this build knows 1",
                ticket.version
            )));
        }
        if ticket.addresses.len() > limits::ADDRESSES {
            return Err(TicketError::Content("it names more than 16 addresses".into()));
        }
        body::name(&ticket.name).map_err(|error| TicketError::Content(error.to_string()))?;
        Ok(ticket)
    }
}

/// A stranger asks for a role. Not an operation: it waits in its own bounded lane until a delegate's node
/// answers with a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// The repository.
    pub repo: RepositoryId,
    /// Who asks.
    pub person: PersonId,
    /// What to call them, for people.
    pub name: String,
    /// The invite that is redeemed, with a signature by its key over repository and person.
    pub invite: Option<InviteProof>,
    /// Milliseconds since 1970 by the asker's clock.
    pub time: u64,
    /// The asker's signature over all of the above.
    pub signature: Signature,
}

/// Shows that the asker holds an invite's secret, without giving it away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InviteProof {
    /// The invite operation.
    pub invite: OperationId,
    /// The invite key's signature over repository and person.
    pub signature: Signature,
}

/// Why a join request was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum JoinError {
    /// Size or encoding.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// The name does not fit.
    #[error(transparent)]
    Name(#[from] BodyError),
    /// A signature does not hold.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl InviteProof {
    /// Made by whoever holds the ticket.
    pub fn sign(secret: &InviteSecret, repo: RepositoryId, person: PersonId) -> Self {
        let key = SecretKey::from_bytes(&secret.secret);
        Self { invite: secret.invite, signature: key.sign(&Self::message(repo, person)) }
    }

    /// Checks the proof against the invite's public key.
    ///
    /// # Errors
    /// The signature does not hold.
    pub fn verify(&self, key: PublicKey, repo: RepositoryId, person: PersonId) -> Result<(), KeyError> {
        key.verify(&Self::message(repo, person), &self.signature)
    }

    fn message(repo: RepositoryId, person: PersonId) -> Vec<u8> {
        [INVITE_DOMAIN, repo.as_bytes(), person.as_bytes()].concat()
    }
}

impl JoinRequest {
    /// Signs a request by `key`.
    ///
    /// # Errors
    /// A name that does not fit.
    pub fn sign(
        key: &SecretKey,
        repo: RepositoryId,
        name: String,
        invite: Option<&InviteSecret>,
        time: u64,
    ) -> Result<Self, JoinError> {
        let person = key.public();
        let invite = invite.map(|secret| InviteProof::sign(secret, repo, person));
        let mut request =
            Self { repo, person, name, invite, time, signature: Signature::from_bytes([0; 64]) };
        request.signature = key.sign(&request.message()?);
        request.check()?;
        Ok(request)
    }

    /// The canonical bytes.
    ///
    /// # Errors
    /// None in practice.
    pub fn encode(&self) -> Result<Vec<u8>, CborError> {
        cbor::encode("join request", self)
    }

    /// Reads a request and checks size, encoding, name and signature. The invite's proof is checked by whoever
    /// has the invite, see [`InviteProof::verify`].
    ///
    /// # Errors
    /// The first check that fails.
    pub fn decode(bytes: &[u8]) -> Result<Self, JoinError> {
        let request: Self = cbor::decode("join request", bytes, limits::JOIN_REQUEST)?;
        request.check()?;
        Ok(request)
    }

    /// Identifies the request: what a node keeps and forwards once.
    pub fn id(&self) -> Digest {
        Digest::of(self.signature.as_bytes())
    }

    fn check(&self) -> Result<(), JoinError> {
        if !self.name.is_empty() {
            body::name(&self.name)?;
        }
        Ok(self.person.verify(&self.message()?, &self.signature)?)
    }

    fn message(&self) -> Result<Vec<u8>, CborError> {
        let fields = (&self.repo, &self.person, &self.name, &self.invite, self.time);
        let mut message = JOIN_DOMAIN.to_vec();
        message.extend(cbor::encode("join request", &fields)?);
        Ok(message)
    }
}
