//! What can go wrong on the network, in words for its user.

use std::{io, time::Duration};

use libp2p::{
    Multiaddr, PeerId, TransportError, allow_block_list, connection_limits, memory_connection_limits,
    request_response::OutboundFailure,
    swarm::{ConnectionDenied, DialError},
};
use thiserror::Error;

use super::{MAX_TOPICS, join::MAX_JOINED};
use crate::net::InvalidKey;

/// What can go wrong on the network.
#[derive(Debug, Error)]
pub enum NetError {
    /// The secret key is unusable.
    #[error("the node's secret key is unusable: {0}")]
    Secret(String),
    /// The transport could not be set up.
    #[error("the network could not be set up: {0}")]
    Transport(#[source] io::Error),
    /// The announcements could not be set up.
    #[error("the announcements could not be set up: {0}")]
    Gossip(String),
    /// The local discovery could not be set up.
    #[error("discovery on the local network (mDNS) could not be set up: {0}; start without it")]
    Mdns(#[source] io::Error),
    /// An address cannot be listened on.
    #[error("cannot listen on {addr}: {reason}; choose another with --listen")]
    Listen {
        /// The address.
        addr: Multiaddr,
        /// Why.
        reason: String,
    },
    /// The node's own address.
    #[error("{0} is this node's own address")]
    Own(Multiaddr),
    /// Too many joined addresses.
    #[error("{MAX_JOINED} addresses are joined already; leave one first")]
    TooManyJoined,
    /// Nothing there, or it cannot be connected to.
    #[error("cannot connect to {addr}: {reason}")]
    Dial {
        /// The address.
        addr: Multiaddr,
        /// Why.
        reason: String,
    },
    /// Somebody else is there.
    #[error(
        "another node answers at {addr}: expected {expected}, found {found}; ask for its current address"
    )]
    WrongPeer {
        /// The address.
        addr: Multiaddr,
        /// The peer in the address.
        expected: Box<PeerId>,
        /// The peer there.
        found: Box<PeerId>,
    },
    /// The peer is not connected.
    #[error("{0} is not connected")]
    NotConnected(PeerId),
    /// The peer gave no answer in time.
    #[error("{peer} did not answer within {} s", .after.as_secs())]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// How long was waited.
        after: Duration,
    },
    /// The peer gave no answer.
    #[error("{peer} gave no answer: {reason}")]
    NoAnswer {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// Too many requests to this peer are waiting.
    #[error("too many requests to {0} are waiting for their answers; try again when some have come")]
    Busy(PeerId),
    /// Too large to be sent.
    #[error("an {what} of {length} bytes; at most {limit} can be sent", what = .what)]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its size.
        length: usize,
        /// The limit.
        limit: usize,
    },
    /// Too many topics.
    #[error("{MAX_TOPICS} repositories are followed already; stop following one first (flair unseed)")]
    TooManyTopics,
    /// An announcement could not be sent.
    #[error("the announcement could not be sent: {0}")]
    Publish(String),
    /// The asker is gone or no longer waiting.
    #[error("the answer came too late: the asker is no longer waiting")]
    TooLate,
    /// Not a key.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// The network task has ended.
    #[error("the network has stopped")]
    Stopped,
}

impl NetError {
    pub(super) fn from_dial(addr: Multiaddr, expected: Option<PeerId>, error: &DialError) -> Self {
        match (expected, error) {
            (_, DialError::LocalPeerId { .. }) => Self::Own(addr),
            (Some(expected), DialError::WrongPeerId { obtained, .. }) => {
                Self::WrongPeer { addr, expected: Box::new(expected), found: Box::new(*obtained) }
            }
            _ => Self::Dial { addr, reason: dial_reason(error) },
        }
    }

    pub(super) fn from_outbound(peer: PeerId, after: Duration, failure: OutboundFailure) -> Self {
        let reason = match failure {
            OutboundFailure::Timeout => return Self::Timeout { peer, after },
            OutboundFailure::DialFailure => return Self::NotConnected(peer),
            OutboundFailure::ConnectionClosed => "the connection was closed".to_owned(),
            OutboundFailure::UnsupportedProtocols => "it does not speak this protocol".to_owned(),
            OutboundFailure::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "it declined (it may be busy)".to_owned()
            }
            OutboundFailure::Io(error) => error.to_string(),
        };
        Self::NoAnswer { peer, reason }
    }
}

/// Why a dial failed, in plain words.
pub(super) fn dial_reason(error: &DialError) -> String {
    match error {
        DialError::LocalPeerId { .. } => "it is this node's own address".to_owned(),
        DialError::NoAddresses => "there is no address to dial".to_owned(),
        DialError::DialPeerConditionFalse(_) => "it is being dialled or connected already".to_owned(),
        DialError::Aborted => "the attempt was given up".to_owned(),
        DialError::WrongPeerId { obtained, .. } => format!("another node ({obtained}) answers there"),
        DialError::Denied { cause } => denied_reason(cause),
        DialError::Transport(errors) => match errors.first() {
            Some((_, TransportError::MultiaddrNotSupported(_))) => {
                "this kind of address is not supported; it should look like /ip4/…/tcp/…".to_owned()
            }
            Some((_, TransportError::Other(error))) => root_cause(error),
            None => "the connection failed".to_owned(),
        },
    }
}

fn denied_reason(cause: &ConnectionDenied) -> String {
    if cause.downcast_ref::<allow_block_list::Blocked>().is_some() {
        "it is banned; lift the ban first".to_owned()
    } else if let Some(limit) = cause.downcast_ref::<connection_limits::Exceeded>() {
        limit.to_string()
    } else if let Some(limit) = cause.downcast_ref::<memory_connection_limits::MemoryUsageLimitExceeded>() {
        limit.to_string()
    } else if let Some(kind) = cause.downcast_ref::<super::gate::NotEd25519>() {
        kind.to_string()
    } else {
        "it was refused".to_owned()
    }
}

/// The innermost cause: the layers around it only name libp2p's own.
fn root_cause(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = inner.to_string();
        source = inner.source();
    }
    // The resolver lists what it tried, a line each.
    let mut reasons: Vec<_> = text.lines().map(|line| line.trim_start_matches(" - ").trim()).collect();
    reasons.retain(|reason| !reason.is_empty() && *reason != "Multiple dial errors occurred:");
    reasons.dedup();
    if reasons.is_empty() { "the connection failed".to_owned() } else { reasons.join("; ") }
}
