//! Private repositories: what a stranger, a reader, and somebody who was one get at every door.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use flair_node::api::types::{CloneRepository, Cloned, GrantRequest, Init, Problem, RevokeRequest};
use flair_node::home::Config;
use flair_node::net::swarm::{self, Net, NetEvent, SwarmConfig};
use flair_node::network::topic;
use flair_protocol::graph::Graph;
use flair_protocol::id::{Digest, OperationId, RepositoryId};
use flair_protocol::key::SecretKey;
use flair_protocol::operation::{Body, Operation};
use flair_protocol::ticket::{JoinRequest, Ticket};
use flair_protocol::wire::{Frontier, Request, Response};
use flair_tensors::dtype::DType;
use flair_tensors::header::Header;
use iroh::endpoint::{Connection, PortmapperConfig, RecvStream, presets};
use iroh::{Endpoint, EndpointAddr, RelayMode, TransportAddr};
use iroh_blobs::protocol::{ChunkRangesSeq, GetRequest};
use iroh_blobs::{ALPN, Hash};
use tokio::sync::mpsc;

use crate::together::{Person, until};

/// In which everybody who is connected has to have cut off whoever was removed.
const CUT: Duration = Duration::from_secs(5);

async fn online() -> Person {
    Person::online(Config { aggregate: false, ..Config::default() }).await
}

/// Starts a repository from a model of so many incompressible numbers.
async fn init(person: &Person, private: bool, numbers: u64) -> RepositoryId {
    std::fs::create_dir_all(person.folder()).unwrap();
    let model = person.folder().join("model.safetensors");
    let shape: &[u64] = &[numbers];
    let mut bytes = Header::build([("fc.weight", DType::F32, shape)], &BTreeMap::new()).unwrap();
    let mut number = 1u32;
    for _ in 0..numbers {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend_from_slice(&(f64::from(number) as f32 / 4e9).to_le_bytes());
    }
    std::fs::write(&model, bytes).unwrap();
    let request = Init {
        model,
        name: "secret".into(),
        message: "first".into(),
        branch: "main".into(),
        roles: BTreeMap::new(),
        every: None,
        aggregation: None,
        settings: BTreeMap::new(),
        open: false,
        private,
        person: "ana".into(),
    };
    person.service.init(request).await.unwrap().repo.parse().unwrap()
}

async fn grant(by: &Person, person: &SecretKey) {
    let request = GrantRequest {
        place: by.place(),
        person: person.public().to_string(),
        role: "reader".into(),
        name: Some("rae".into()),
        approval: None,
        document: None,
    };
    by.service.grant(request).await.unwrap();
}

async fn revoke(by: &Person, person: &str) {
    let request = RevokeRequest {
        place: by.place(),
        person: person.into(),
        reason: "left the study".into(),
        dry_run: false,
    };
    by.service.revoke(request).await.unwrap();
}

async fn address(person: &Person) -> String {
    person.service.node_status().await.unwrap().addresses.remove(0)
}

async fn clone(
    person: &Person,
    source: &str,
    repo: Option<RepositoryId>,
    timeout: u64,
) -> Result<Cloned, Problem> {
    let request = CloneRepository {
        source: source.to_owned(),
        repo: repo.map(|repo| repo.to_string()),
        folder: Some(person.folder()),
        current: person.top.path().to_owned(),
        branch: None,
        person: "somebody".into(),
        full: false,
        depth: 0,
        timeout,
    };
    person.service.clone_repository(request).await
}

/// Somebody who speaks to nodes without being one.
struct Client {
    key: SecretKey,
    net: Net,
    _events: mpsc::Receiver<NetEvent>,
    endpoint: Endpoint,
}

impl Client {
    async fn new(number: u8) -> Self {
        let secret = [number; 32];
        let (net, events) = swarm::start(SwarmConfig::new(secret, Vec::new())).unwrap();
        let endpoint = Endpoint::builder(presets::Minimal)
            .secret_key(iroh::SecretKey::from_bytes(&secret))
            .relay_mode(RelayMode::Disabled)
            .clear_address_lookup()
            .portmapper_config(PortmapperConfig::Disabled)
            .clear_ip_transports()
            .bind_addr("127.0.0.1:0")
            .unwrap()
            .bind()
            .await
            .unwrap();
        Self { key: SecretKey::from_bytes(&secret), net, _events: events, endpoint }
    }

    /// The bytes that a node answers.
    async fn ask(&self, node: &Person, repo: RepositoryId, request: &Request) -> Vec<u8> {
        let peer = self.net.dial(address(node).await.parse().unwrap()).await.unwrap();
        self.net.request(peer, request.encode(repo).unwrap()).await.unwrap()
    }

    /// All operations of a repository, as far as the node gives any.
    async fn operations(&self, node: &Person, repo: RepositoryId) -> Vec<Operation> {
        let request = Request::Want { have: Vec::new(), after: None };
        match Response::decode(&self.ask(node, repo, &request).await, repo).unwrap() {
            Response::Operations { operations, .. } => operations,
            _ => Vec::new(),
        }
    }

    async fn connect(&self, node: &Person) -> Connection {
        let status = node.service.node_status().await.unwrap();
        let key: flair_protocol::key::PublicKey = status.identity.key.parse().unwrap();
        let id = iroh::EndpointId::from_bytes(key.as_bytes()).unwrap();
        let addrs = status.blobs.iter().map(|addr| TransportAddr::Ip(addr.parse().unwrap()));
        self.endpoint.connect(EndpointAddr::from_parts(id, addrs), ALPN).await.unwrap()
    }

    /// Asks for a blob, or all that a hash sequence lists, too.
    async fn stream(&self, connection: &Connection, root: [u8; 32], ranges: ChunkRangesSeq) -> RecvStream {
        let (mut send, recv) = connection.open_bi().await.unwrap();
        let request = GetRequest::new(Hash::from_bytes(root), ranges);
        let request = iroh_blobs::protocol::Request::Get(request);
        send.write_all(&postcard::to_stdvec(&request).unwrap()).await.unwrap();
        send.finish().unwrap();
        recv
    }

    /// What comes back for a blob: bytes, or how the stream ends.
    async fn blob(&self, node: &Person, root: [u8; 32]) -> String {
        let connection = self.connect(node).await;
        let mut stream = self.stream(&connection, root, ChunkRangesSeq::root()).await;
        format!("{:?}", stream.read_to_end(64 << 20).await)
    }
}

/// The pack and the manifest of the first commit.
fn blobs(operations: &[Operation]) -> Vec<[u8; 32]> {
    let published = operations.iter().find_map(|operation| match operation.body() {
        Body::Publish(publish) => Some((publish.pack, publish.commit.clone())),
        _ => None,
    });
    let (pack, commit) = published.unwrap();
    let flair_protocol::commit::Commit::Initial(initial) = commit else { panic!("{commit:?}") };
    vec![pack.digest().to_bytes(), initial.model.digest().to_bytes()]
}

fn hello(graph: &Graph) -> Request {
    Request::Hello { frontier: Frontier::of(graph), blobs: Vec::new() }
}

fn is_unknown(bytes: &[u8], repo: RepositoryId) -> bool {
    matches!(Response::decode(bytes, repo).unwrap(), Response::Unknown)
}

#[tokio::test(flavor = "multi_thread")]
async fn at_every_door_a_private_repository_looks_to_a_stranger_as_if_it_were_not_here() {
    let (ana, bo) = (online().await, online().await);
    let repo = init(&ana, true, 4_096).await;
    let text = ana.ticket(1).await;
    bo.clone_from(&text, "bo").await;
    let ticket = Ticket::decode(&text).unwrap();
    assert!(ticket.private);
    let (rae, eve) = (Client::new(71).await, Client::new(72).await);
    grant(&ana, &rae.key).await;
    until("the reader is known", || async { bo.repository().await.operations >= 6 }).await;

    // Who may read gets it: the comparison below is one of something with nothing.
    let operations = rae.operations(&ana, repo).await;
    assert!(!is_unknown(&rae.ask(&bo, repo, &hello(&Graph::new(repo))).await, repo));
    let ids: Vec<OperationId> = operations.iter().map(Operation::id).collect();
    let blobs = blobs(&operations);
    for root in &blobs {
        assert!(rae.blob(&ana, *root).await.starts_with("Ok(["));
        assert!(rae.blob(&bo, *root).await.starts_with("Ok(["));
    }

    // The stranger knows the repository's id, the ids of its operations and blobs, and an invite that is used up.
    let nowhere = RepositoryId::from_digest(Digest::of(b"no such repository"));
    let mut graph = Graph::new(repo);
    for operation in &operations {
        graph.insert(operation.clone()).unwrap();
    }
    let join = |repo: RepositoryId, invite| {
        let join = JoinRequest::sign(&eve.key, repo, "eve".into(), invite, 1).unwrap();
        Request::Join(Box::new(join))
    };
    for node in [&ana, &bo] {
        let mut answers = BTreeSet::new();
        for asked in [repo, nowhere] {
            for request in [
                hello(&graph),
                hello(&Graph::new(asked)),
                Request::Want { have: Vec::new(), after: None },
                Request::Get { ids: ids.clone() },
                join(asked, None),
                join(asked, ticket.invite.as_ref()),
            ] {
                answers.insert(eve.ask(node, asked, &request).await);
            }
        }
        let expected = BTreeSet::from([Response::Unknown.encode().unwrap()]);
        assert_eq!(answers, expected);
        let mut answers = BTreeSet::new();
        for root in blobs.iter().copied().chain([*Hash::new(b"no such blob").as_bytes()]) {
            answers.insert(eve.blob(node, root).await);
        }
        assert!(answers.len() == 1 && answers.iter().all(|answer| answer.starts_with("Err(")), "{answers:?}");
    }
    let joins = ana.service.status(flair_node::api::types::At { place: ana.place() }).await.unwrap().joins;
    assert!(joins.is_empty(), "{joins:?}");
    for person in [ana, bo] {
        person.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_private_repository_is_gossiped_and_members_hear_of_news_all_the_same() {
    let (ana, bo, ola) = (online().await, online().await, online().await);
    let repo = init(&ana, true, 4_096).await;
    bo.clone_from(&ana.ticket(1).await, "bo").await;
    let open = init(&ola, false, 4_096).await;
    let watcher = Client::new(73).await;
    for topic in [topic(repo), topic(open)] {
        watcher.net.subscribe(topic).await.unwrap();
    }
    let mut keys = Vec::new();
    for person in [&ana, &bo, &ola] {
        keys.push(watcher.net.dial(address(person).await.parse().unwrap()).await.unwrap());
    }
    let update = bo.train_and_push(0.25).await;
    until("bo's update at ana", || async {
        let request = flair_node::api::types::LogRequest { place: ana.place(), branch: None, limit: 9 };
        ana.service.log(request).await.unwrap().entries.iter().any(|entry| entry.commit == update)
    })
    .await;
    let topics = |key| {
        let net = watcher.net.clone();
        async move {
            let peers = net.peers().await.unwrap();
            peers.into_iter().find(|peer| peer.key == key).map(|peer| peer.topics).unwrap_or_default()
        }
    };
    until("the public one's topic", || async { topics(keys[2]).await == [topic(open)] }).await;
    assert_eq!((topics(keys[0]).await, topics(keys[1]).await), (Vec::new(), Vec::new()));
    for person in [ana, bo, ola] {
        person.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_removed_is_cut_off_in_the_middle_of_a_fetch_by_every_node() {
    let (ana, bo) = (online().await, online().await);
    let repo = init(&ana, true, 12 << 20).await;
    bo.clone_from(&ana.ticket(1).await, "bo").await;
    let rae = Client::new(74).await;
    grant(&ana, &rae.key).await;
    until("the reader is known", || async { !rae.operations(&bo, repo).await.is_empty() }).await;
    let pack = blobs(&rae.operations(&ana, repo).await)[0];

    let mut streams = Vec::new();
    for node in [&ana, &bo] {
        let connection = rae.connect(node).await;
        let mut stream = rae.stream(&connection, pack, ChunkRangesSeq::all()).await;
        let mut begun = vec![0; 64 << 10];
        stream.read_exact(&mut begun).await.unwrap();
        streams.push((connection, stream));
    }
    let started = Instant::now();
    revoke(&ana, "rae").await;
    for (connection, mut stream) in streams {
        let closed = tokio::time::timeout(CUT.saturating_sub(started.elapsed()), connection.closed()).await;
        assert!(closed.is_ok(), "the stream goes on");
        let rest = stream.read_to_end(64 << 20).await;
        assert!(rest.is_err(), "all of it came");
    }
    for node in [&ana, &bo] {
        assert!(is_unknown(&rae.ask(node, repo, &hello(&Graph::new(repo))).await, repo));
        assert!(rae.operations(node, repo).await.is_empty());
        let nothing = rae.blob(node, *Hash::new(b"no such blob").as_bytes()).await;
        assert_eq!(rae.blob(node, pack).await, nothing);
    }
    assert!(started.elapsed() < CUT, "{:?}", started.elapsed());
    for person in [ana, bo] {
        person.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_waits_until_its_owner_has_a_role_and_a_stranger_learns_nothing() {
    let (ana, eve) = (online().await, online().await);
    let repo = init(&ana, true, 4_096).await;
    let here = address(&ana).await;
    let refused = clone(&eve, &here, Some(repo), 2).await.unwrap_err().message;
    let nowhere = RepositoryId::from_digest(Digest::of(b"no such repository"));
    let unknown = clone(&eve, &here, Some(nowhere), 2).await.unwrap_err().message;
    assert_eq!(refused.replace(&repo.short(), ""), unknown.replace(&nowhere.short(), ""));

    let request =
        flair_node::api::types::MakeTicket { place: ana.place(), role: None, uses: 1, label: String::new() };
    let ticket = ana.service.ticket(request).await.unwrap().ticket;
    let key = eve.service.identity().await.unwrap().key;
    let (cloned, ()) = tokio::join!(clone(&eve, &ticket, None, 60), async {
        // Eve's node is there and asks, and is not answered.
        until("she asks", || async { ana.service.node_status().await.unwrap().peers > 0 }).await;
        let request = GrantRequest {
            place: ana.place(),
            person: key,
            role: "reader".into(),
            name: Some("eve".into()),
            approval: None,
            document: None,
        };
        ana.service.grant(request).await.unwrap();
    });
    assert_eq!(cloned.unwrap().role, "reader");
    let there = eve.service.repositories().await.unwrap();
    assert!(there.iter().any(|one| one.repo == repo.to_string() && one.private), "{there:?}");
    for person in [ana, eve] {
        person.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invites_end_when_somebody_is_removed() {
    let (ana, bo, eve) = (online().await, online().await, online().await);
    init(&ana, true, 4_096).await;
    let ticket = ana.ticket(3).await;
    bo.clone_from(&ticket, "bo").await;
    revoke(&ana, "bo").await;
    let problem = clone(&eve, &ticket, None, 2).await.unwrap_err();
    assert!(problem.help.unwrap_or_default().contains("new ticket"), "{}", problem.message);
    eve.clone_from(&ana.ticket(1).await, "eve").await;
    for person in [ana, bo, eve] {
        person.service.close().await;
    }
}
