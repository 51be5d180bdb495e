//! What this node knows of where others can be reached.
//!
//! Peers tell each other addresses. None is dialled that reaches further than what the user configured: a node that
//! listens and joins on loopback never leaves it, whatever a peer says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};

use flair_protocol::engine::Input;
use flair_protocol::id::RepositoryId;
use flair_protocol::key::PublicKey;
use flair_protocol::limits;
use flair_protocol::wire::PeerAddress;
use libp2p::Multiaddr;

use super::Network;
use crate::doors::Doors;
use crate::net::NodeKey;
use crate::net::{Scope, scope, scope_of};

/// Nodes whose own addresses are remembered, once in each repository.
const KNOWN: usize = 1_024;

#[derive(Debug)]
pub(super) struct Directory {
    /// How far the user lets this node reach.
    reach: Mutex<Scope>,
    /// Multiaddrs that connected nodes gave for themselves, by the repository in which they did: they are told there and
    /// nowhere else.
    known: Mutex<BTreeMap<(NodeKey, RepositoryId), Vec<String>>>,
}

impl Directory {
    pub(super) fn new<'a>(configured: impl Iterator<Item = &'a Multiaddr>, blobs: SocketAddr) -> Self {
        let reach = configured.map(scope).max().unwrap_or(Scope::Loopback).max(scope_of(blobs.ip()));
        Self { reach: Mutex::new(reach), known: Mutex::default() }
    }

    fn reach(&self) -> Scope {
        *self.reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn allows(&self, addr: &Multiaddr) -> bool {
        scope(addr) <= self.reach()
    }

    pub(super) fn forget(&self, peer: &NodeKey) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _), _| known != peer);
    }
}

impl Network {
    /// The user gave this address: the node may reach as far as it does.
    pub fn widen(&self, addr: &Multiaddr) {
        let mut reach = self.directory.reach.lock().unwrap_or_else(PoisonError::into_inner);
        *reach = (*reach).max(scope(addr));
    }

    /// Remembers where a peer serves blobs.
    pub(super) fn learn_blobs(&self, peer: NodeKey, blobs: &[String]) {
        let reach = self.directory.reach();
        let addrs: Vec<SocketAddr> = blobs
            .iter()
            .filter_map(|text| text.parse().ok())
            .filter(|addr: &SocketAddr| scope_of(addr.ip()) <= reach)
            .take(limits::ADDRESSES)
            .collect();
        if addrs.is_empty() {
            return;
        }
        if let Err(error) = self.transfer.add_peer(peer, &addrs) {
            tracing::debug!(%error, "where a peer serves blobs was not noted");
        }
    }

    /// Remembers what `from` says in `repo` of where a node can be reached, and dials a node that is new.
    pub(super) async fn learn_peer(
        &self,
        repo: RepositoryId,
        me: PublicKey,
        from: PublicKey,
        entry: PeerAddress,
    ) {
        if entry.key == me {
            return;
        }
        let key = *entry.key.as_bytes();
        if entry.key == from {
            let mut known = self.directory.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.len() < KNOWN || known.contains_key(&(key, repo)) {
                known.insert((key, repo), entry.addresses);
            }
            return;
        }
        let connected = self.net.peers().await.unwrap_or_default();
        if connected.len() >= limits::ADDRESSES || connected.iter().any(|peer| peer.key == key) {
            return;
        }
        let addrs = entry.addresses.iter().filter_map(|text| text.parse::<Multiaddr>().ok());
        for addr in addrs.filter(|addr| self.directory.allows(addr)).take(2) {
            let net = self.net.clone();
            tokio::spawn(async move {
                if let Err(error) = net.dial(addr.clone()).await {
                    tracing::debug!(%addr, %error, "a node that a peer knows was not reached");
                }
            });
        }
    }

    /// What to tell peers in `repo`: where this node serves blobs, where it and those it is connected with for the
    /// repository can be dialled.
    pub(super) async fn addresses(&self, repo: RepositoryId, doors: &Doors) -> Input {
        let blobs = self.transfer.addrs().iter().map(ToString::to_string).collect();
        let me = PublicKey::from_bytes(self.net.key());
        let mut peers = vec![PeerAddress { key: me, addresses: self.public_addresses().await }];
        let known = self.directory.known.lock().unwrap_or_else(PoisonError::into_inner);
        let here = known.iter().filter(|((_, told), _)| *told == repo);
        let here = here.map(|((key, _), addresses)| PeerAddress {
            key: PublicKey::from_bytes(*key),
            addresses: addresses.clone(),
        });
        peers.extend(here.filter(|peer| doors.serves(repo, peer.key)));
        Input::Addresses { blobs, peers }
    }
}
