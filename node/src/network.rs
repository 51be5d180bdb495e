//! The network of a node: what libp2p and iroh bring is checked and handed to the repositories' engines, and what
//! those want sent is sent.

mod capture;
mod meet;
mod peers;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use flair_protocol::engine::{self, Event, Input, Output, Token};
use flair_protocol::id::{Digest, RepositoryId};
use flair_protocol::key::PublicKey;
use flair_protocol::wire::{Announcement, Request, Response};
use libp2p::Multiaddr;
use tokio::sync::mpsc;

use crate::api::types::Problem;
use crate::home::Follow;
use crate::hub::Hub;
use crate::net::NodeKey;
use crate::net::swarm::{self, MessageToken, Net, NetEvent, RequestToken, SwarmConfig, Verdict};
use crate::net::transfer::{self, Transfer};
use crate::repository::Repository;
use capture::Capture;
use meet::meet;
pub use meet::{doors_changed, follow, unfollow};
use peers::Directory;

/// Fact of the node: an address to stay connected with.
pub const JOIN: &str = "join/";
/// How often engines that are due are driven.
const TICK: Duration = Duration::from_millis(100);
/// Requests and announcements that wait for an answer.
const TOKENS: usize = 4_096;
const TOPIC_DOMAIN: &str = "flair topic v1";

/// Points for what no honest peer does; 100 ban. The fourth time does, though the first ones have faded a little.
const OFFENCE: f64 = 26.0;

/// The network of a running node.
#[derive(Debug)]
pub struct Network {
    net: Net,
    transfer: Transfer,
    directory: Directory,
    capture: Capture,
    next: AtomicU64,
    requests: Mutex<BTreeMap<u64, Asked>>,
    messages: Mutex<BTreeMap<u64, MessageToken>>,
}

/// A request that waits for its answer.
#[derive(Debug)]
struct Asked {
    token: RequestToken,
    /// Who is answered only if they may still know of the repository by then; none where that is not asked.
    reader: Option<PublicKey>,
}

/// The gossip topic of a public repository.
pub fn topic(repo: RepositoryId) -> [u8; 32] {
    blake3::derive_key(TOPIC_DOMAIN, repo.as_bytes())
}

/// Starts the network of `hub`, and the task that serves it.
///
/// # Errors
/// An address that can't be used.
pub async fn start(hub: &Arc<Hub>) -> Result<(), Problem> {
    let parse = |text: &String| {
        text.parse::<Multiaddr>().map_err(|error| {
            Problem::invalid(format!("`{text}` is not a multiaddr: {error}"))
                .help("write it like /ip4/192.168.1.5/tcp/4001")
        })
    };
    let config = &hub.config;
    let listen = config.listen.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    let mut join = config.join.iter().map(parse).collect::<Result<Vec<_>, _>>()?;
    for (name, _) in hub.store.facts(crate::store::GLOBAL, JOIN).await? {
        if let Some(addr) = name.strip_prefix(JOIN).and_then(|text| text.parse().ok()) {
            join.push(addr);
        }
    }
    join.sort();
    join.dedup();
    let blobs: SocketAddr = config.blobs_listen.parse().map_err(|_| {
        Problem::invalid(format!("`{}` is not an address to serve blobs at", config.blobs_listen))
            .help("write it like 127.0.0.1:0")
    })?;
    let secret = hub.key.to_bytes();
    let capture = Capture::new(config.capture.as_deref()).map_err(|error| {
        let path = config.capture.clone().unwrap_or_default();
        Problem::invalid(format!("{} can't be written to: {error}", path.display()))
    })?;
    let directory = Directory::new(listen.iter().chain(&join), blobs);
    let store = hub.store.transfers().await?;
    let doors = Arc::new(hub.doors.clone());
    let transfer = transfer::start(secret, blobs, store, doors).await.map_err(Problem::internal)?;
    let mut swarm = SwarmConfig::new(secret, listen);
    swarm.join = join;
    swarm.mdns = config.mdns;
    let (net, events) = swarm::start(swarm).map_err(Problem::internal)?;
    let network = Network {
        net,
        transfer,
        directory,
        capture,
        next: AtomicU64::new(0),
        requests: Mutex::default(),
        messages: Mutex::default(),
    };
    hub.network.set(network).map_err(|_| Problem::internal("the network was started twice"))?;
    for repository in hub.repositories().await {
        if hub.seeding(repository.id()).await? {
            follow(hub, &repository).await;
        }
    }
    tokio::spawn(serve(hub.clone(), events));
    Ok(())
}

async fn serve(hub: Arc<Hub>, mut events: mpsc::Receiver<NetEvent>) {
    let mut reopened = hub.store.generation();
    // It may have been opened again since the transfers started.
    reopened.mark_changed();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = hub.stopped() => return,
            event = events.recv() => match event {
                Some(event) => happened(&hub, event).await,
                None => return,
            },
            Ok(()) = reopened.changed() => {
                // The transfers' handle of a blob store whose database failed answers nothing any more.
                if let (Some(network), Ok(store)) = (hub.network.get(), hub.store.transfers().await) {
                    network.transfer.use_store(store);
                }
            }
            _ = tick.tick() => {
                for repository in hub.repositories().await {
                    if repository.due().await == Some(0) {
                        hub.drive(&repository, vec![Input::Tick]).await;
                    }
                }
            }
        }
    }
}

/// The repositories this node follows.
async fn followed(hub: &Hub) -> Vec<Arc<Repository>> {
    let mut followed = Vec::new();
    for repository in hub.repositories().await {
        if hub.seeding(repository.id()).await.unwrap_or(false) {
            followed.push(repository);
        }
    }
    followed
}

async fn happened(hub: &Arc<Hub>, event: NetEvent) {
    let Some(network) = hub.network.get() else { return };
    match event {
        NetEvent::Listening(addr) => {
            tracing::info!(%addr, "listening");
            for repository in followed(hub).await {
                let addresses = network.addresses(repository.id(), &hub.doors).await;
                hub.drive(&repository, vec![addresses]).await;
            }
        }
        NetEvent::Connected { peer, addr, .. } => {
            let peer = PublicKey::from_bytes(peer);
            hub.tell("network", None, format!("connected to {} at {addr}", peer.short()));
            for repository in followed(hub).await {
                if hub.doors.asks(repository.id(), peer) {
                    hub.drive(&repository, vec![Input::Up { peer }]).await;
                }
            }
            hub.desk.refresh();
            hub.wake.notify_one();
        }
        NetEvent::Disconnected { peer } => {
            network.directory.forget(&peer);
            network.transfer.hang_up(&peer);
            let peer = PublicKey::from_bytes(peer);
            hub.tell("network", None, format!("{} is gone", peer.short()));
            for repository in hub.repositories().await {
                hub.drive(&repository, vec![Input::Down { peer }]).await;
            }
        }
        NetEvent::Banned(ban) => {
            let peer = PublicKey::from_bytes(ban.key);
            hub.tell("network", None, format!("{} is banned for an hour: {}", peer.short(), ban.reason));
        }
        NetEvent::Subscribed { .. } => {}
        NetEvent::Request { peer, token, bytes } => {
            let hub = hub.clone();
            tokio::spawn(async move { requested(&hub, peer, token, bytes).await });
        }
        NetEvent::Announcement { topic: on, from, token, bytes } => {
            let hub = hub.clone();
            tokio::spawn(async move { announced(&hub, on, from, token, bytes).await });
        }
    }
}

async fn requested(hub: &Arc<Hub>, peer: NodeKey, token: RequestToken, bytes: Vec<u8>) {
    let Some(network) = hub.network.get() else { return };
    let (repo, request) = match Request::decode(&bytes) {
        Ok(request) => request,
        Err(error) => {
            let _ = network.net.refuse(token).await;
            let _ =
                network.net.penalise(peer, OFFENCE, format!("a request that can't be read: {error}")).await;
            return;
        }
    };
    let asker = PublicKey::from_bytes(peer);
    // A node that has something private takes in nothing by itself: that it does not would tell what it has.
    if hub.config.follow == Follow::All
        && matches!(request, Request::Hello { .. })
        && !hub.doors.any_private()
        && hub.repository(repo).await.is_none()
        && let Err(problem) = hub.adopt(repo, asker).await
    {
        tracing::warn!(repository = %repo.short(), %problem, "a repository that a peer has is not followed");
    }
    let open = match &request {
        Request::Join(join) => hub.doors.may_join(repo, asker, join),
        _ => hub.doors.serves(repo, asker),
    };
    let repository = if open { hub.repository(repo).await } else { None };
    let repository = match repository {
        Some(repository) if hub.seeding(repo).await.unwrap_or(false) => repository,
        _ => {
            let bytes = Response::Unknown.encode().unwrap_or_default();
            network.capture.record(&bytes);
            let _ = network.net.respond(token, bytes).await;
            return;
        }
    };
    if let Request::Hello { blobs, .. } = &request {
        network.learn_blobs(peer, blobs);
        hub.wake.notify_one();
    }
    let reader = (!matches!(request, Request::Join(_))).then_some(asker);
    let Some(number) = network.remember(&network.requests, Asked { token, reader }) else {
        let _ = network.net.refuse(token).await;
        return;
    };
    let input = Input::Request { peer: asker, token: Token(number), request };
    hub.drive(&repository, vec![input]).await;
}

async fn announced(hub: &Arc<Hub>, on: [u8; 32], from: NodeKey, token: MessageToken, bytes: Vec<u8>) {
    let Some(network) = hub.network.get() else { return };
    let ours = |id| hub.doors.public(id) && topic(id) == on;
    let repository = hub.repositories().await.into_iter().find(|repository| ours(repository.id()));
    let Some(repository) = repository else {
        let _ = network.net.report(token, Verdict::Ignore).await;
        return;
    };
    let announcement = match Announcement::decode(&bytes, repository.id()) {
        Ok(announcement) => Box::new(announcement),
        Err(error) => {
            let _ = network.net.report(token, Verdict::Reject).await;
            let _ = network
                .net
                .penalise(from, OFFENCE, format!("an announcement that does not hold: {error}"))
                .await;
            return;
        }
    };
    let Some(number) = network.remember(&network.messages, token.clone()) else {
        let _ = network.net.report(token, Verdict::Ignore).await;
        return;
    };
    let peer = PublicKey::from_bytes(from);
    hub.drive(&repository, vec![Input::Announcement { peer, token: Token(number), announcement }]).await;
}

/// Does what a repository's engine wants done, apart from writing.
pub async fn dispatch(hub: &Arc<Hub>, repository: &Arc<Repository>, outputs: Vec<Output>) {
    let Some(network) = hub.network.get() else { return };
    for output in outputs {
        match output {
            Output::Request { peer, id, request } => {
                let (hub, repository) = (hub.clone(), repository.clone());
                tokio::spawn(async move {
                    let input = ask(&hub, &repository, peer, id, &request).await;
                    hub.drive(&repository, vec![input]).await;
                });
            }
            Output::Respond { token, response } => {
                if let Some(Asked { token, reader }) = recall(&network.requests, token.0) {
                    // They may have been removed while the answer was made.
                    let may = reader.is_none_or(|reader| hub.doors.serves(repository.id(), reader));
                    let response = if may { response } else { Response::Unknown };
                    let sent = match response.encode() {
                        Ok(bytes) => {
                            network.capture.record(&bytes);
                            network.net.respond(token, bytes).await
                        }
                        Err(error) => {
                            tracing::error!(%error, "an answer could not be encoded");
                            network.net.refuse(token).await
                        }
                    };
                    if let Err(error) = sent {
                        tracing::debug!(%error, "an answer did not get through");
                    }
                }
            }
            // The engine announces nothing of a private one either.
            Output::Announce(_) if !hub.doors.public(repository.id()) => {}
            Output::Announce(announcement) => {
                let bytes = announcement.encode().unwrap_or_default();
                network.capture.record(&bytes);
                if let Err(error) = network.net.publish(topic(repository.id()), bytes).await {
                    tracing::debug!(%error, "an announcement did not get out; peers hear of it when they compare");
                }
            }
            Output::Verdict { token, verdict } => {
                if let Some(token) = recall(&network.messages, token.0) {
                    let verdict = match verdict {
                        engine::Verdict::Accept => Verdict::Accept,
                        engine::Verdict::Reject => Verdict::Reject,
                        engine::Verdict::Ignore => Verdict::Ignore,
                    };
                    let _ = network.net.report(token, verdict).await;
                }
            }
            Output::Penalise { peer, offence } => {
                let _ = network.net.penalise(*peer.as_bytes(), OFFENCE, offence.to_string()).await;
            }
            Output::Notify(event) => notified(hub, repository, event).await,
            // Written by the repository itself, never handed out.
            Output::Store(_) => {}
        }
    }
}

async fn ask(
    hub: &Hub,
    repository: &Repository,
    peer: PublicKey,
    id: engine::RequestId,
    request: &Request,
) -> Input {
    let Some(network) = hub.network.get() else { return Input::Failed { peer, id } };
    if !hub.doors.asks(repository.id(), peer) {
        return Input::Failed { peer, id };
    }
    let Ok(bytes) = request.encode(repository.id()) else { return Input::Failed { peer, id } };
    network.capture.record(&bytes);
    let answer = match network.net.request(*peer.as_bytes(), bytes).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(peer = %peer.short(), %error, "a request failed");
            return Input::Failed { peer, id };
        }
    };
    // Operations carry signatures: checking them is work for a thread of its own.
    let repo = repository.id();
    let decoded = tokio::task::spawn_blocking(move || Response::decode(&answer, repo)).await;
    match decoded {
        Ok(Ok(response)) => Input::Response { peer, id, response },
        Ok(Err(error)) => {
            let reason = format!("an answer that does not hold: {error}");
            let _ = network.net.penalise(*peer.as_bytes(), OFFENCE, reason).await;
            Input::Failed { peer, id }
        }
        Err(_) => Input::Failed { peer, id },
    }
}

async fn notified(hub: &Arc<Hub>, repository: &Arc<Repository>, event: Event) {
    let Some(network) = hub.network.get() else { return };
    let repo = repository.id();
    match event {
        Event::Operations { ids } => {
            tracing::debug!(repository = %repo.short(), count = ids.len(), "operations are here");
            hub.tell("repository", Some(repo), format!("{} new operations", ids.len()));
            hub.wake.notify_one();
        }
        Event::CaughtUp { peer } => {
            hub.tell("network", Some(repo), format!("everything that {} has is here", peer.short()));
            // From here on the operations say who may read.
            if hub.doors.unhost(repo, peer) {
                meet(hub, repository, false).await;
            }
            hub.wake.notify_one();
        }
        Event::Behind { peer, theirs } => {
            tracing::debug!(peer = %peer.short(), theirs, "a peer has more");
        }
        Event::Unknown { peer } => {
            tracing::debug!(peer = %peer.short(), repository = %repo.short(), "a peer does not have it");
        }
        Event::Addresses { peer, blobs, peers } => {
            network.learn_blobs(*peer.as_bytes(), &blobs);
            hub.desk.refresh();
            for entry in peers {
                network.learn_peer(repo, hub.me(), peer, entry).await;
            }
            let addresses = network.addresses(repo, &hub.doors).await;
            hub.drive(repository, vec![addresses]).await;
            hub.wake.notify_one();
        }
        Event::Join(request) => {
            let name = if request.name.is_empty() { request.person.short() } else { request.name.clone() };
            hub.tell("repository", Some(repo), format!("{name} asks to join"));
            hub.wake.notify_one();
        }
        Event::Joined { peer, joined } => {
            tracing::debug!(peer = %peer.short(), ?joined, "a join request was passed on");
        }
        Event::Refused { id, why } => {
            tracing::warn!(operation = %id.short(), %why, "an operation was refused");
        }
    }
}

impl Network {
    /// The libp2p side.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// The blob side.
    pub fn transfer(&self) -> &Transfer {
        &self.transfer
    }

    /// Stops both sides, cleanly.
    pub async fn shutdown(&self) {
        self.net.shutdown().await;
        self.transfer.shutdown().await;
    }

    /// Addresses that others can dial, with `/p2p/…`.
    pub async fn public_addresses(&self) -> Vec<String> {
        let own = self.net.listen_addrs().await.unwrap_or_default();
        own.into_iter()
            .map(|addr| addr.with_p2p(self.net.peer_id()).unwrap_or_else(|addr| addr).to_string())
            .collect()
    }

    fn remember<T>(&self, tokens: &Mutex<BTreeMap<u64, T>>, token: T) -> Option<u64> {
        let mut tokens = tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        tokens.insert(number, token);
        Some(number)
    }
}

fn recall<T>(tokens: &Mutex<BTreeMap<u64, T>>, number: u64) -> Option<T> {
    tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&number)
}

/// The blob that a digest names, as the transfers name it.
pub fn hash(digest: Digest) -> [u8; 32] {
    digest.to_bytes()
}
