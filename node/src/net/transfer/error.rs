//! What can go wrong with transfers, in words for its user.

use std::{fmt, net::SocketAddr};

use thiserror::Error;

use crate::net::{InvalidKey, NodeKey, short};

/// What can go wrong with the endpoint.
#[derive(Debug, Error)]
pub enum TransferError {
    /// The address cannot be bound.
    #[error("cannot listen on udp {bind}: {reason}; choose another address or port")]
    Bind {
        /// The address.
        bind: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Not a key.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// Too many nodes are remembered.
    #[error("the addresses of too many nodes are remembered; forget some first")]
    TooManyPeers,
}

/// Why a fetch failed.
#[derive(Debug, Error)]
pub enum FetchError {
    /// Nobody to ask.
    #[error("no node to fetch {} from; connect to one that has it and try again", short(.hash))]
    NoProviders {
        /// What was to be fetched.
        hash: [u8; 32],
    },
    /// Nobody had all of it.
    #[error("could not fetch all of {}: {}; what came is kept, and the next try goes on from there", short(.hash), list(.failures))]
    Incomplete {
        /// What was to be fetched.
        hash: [u8; 32],
        /// Each provider asked, and why it could not finish.
        failures: Vec<Failure>,
    },
    /// More than may be taken.
    #[error("{} holds {found} {unit}; at most {limit} may be taken; raise the limit to fetch it", short(.hash))]
    TooLarge {
        /// What was to be fetched.
        hash: [u8; 32],
        /// How much of it there is, or was seen so far.
        found: u64,
        /// The limit.
        limit: u64,
        /// Of what.
        unit: &'static str,
    },
    /// Not a list of hashes.
    #[error("{} is no pack: its list of blobs is {length} bytes long, not a multiple of 32", short(.hash))]
    NotAPack {
        /// What was to be fetched.
        hash: [u8; 32],
        /// The length of the list.
        length: u64,
    },
    /// The store failed.
    #[error("the blob store failed while fetching {}: {reason}; check the disk's free space", short(.hash))]
    Store {
        /// What was to be fetched.
        hash: [u8; 32],
        /// Why.
        reason: String,
    },
}

/// A provider that could not finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its key.
    pub provider: NodeKey,
    /// The blob it was asked for: the pack's root or one of its children.
    pub hash: [u8; 32],
    /// Why.
    pub reason: Reason,
}

/// Why a provider could not finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// It could not be connected to.
    Unreachable(String),
    /// It does not have the blob, or does not give it to this node; which of the two, it does not tell.
    Missing,
    /// It sent nothing for too long.
    Stalled,
    /// What it sent does not match the hash.
    Lied,
    /// What it has is larger than allowed.
    TooLarge {
        /// The size it gave, in bytes, not yet proven.
        size: u64,
    },
    /// The connection broke.
    Left(String),
    /// This node's own store failed.
    Store(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ", short(&self.provider))?;
        match &self.reason {
            Reason::Unreachable(reason) => write!(f, "cannot be reached ({reason})"),
            Reason::Missing => write!(f, "does not have {}", short(&self.hash)),
            Reason::Stalled => write!(f, "stopped sending {}", short(&self.hash)),
            Reason::Lied => write!(f, "sent something else as {}", short(&self.hash)),
            Reason::TooLarge { size } => write!(f, "says {} is {size} bytes, too large", short(&self.hash)),
            Reason::Left(reason) => write!(f, "left while sending {} ({reason})", short(&self.hash)),
            Reason::Store(reason) => {
                write!(f, "sent {}, which could not be kept ({reason})", short(&self.hash))
            }
        }
    }
}

fn list(failures: &[Failure]) -> String {
    failures.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
