//! How four people come together: one starts the repository, two come by invite, one asks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flair_node::api::Client;
use flair_node::api::types::{
    At, CloneRepository, Cloned, Done, GrantRequest, Init, Initialised, Join, Joined, MakeTicket, Place,
    Status, TicketMade,
};

use super::contributor::Contributor;
use super::{DemoError, SEED, SPEEDS, say, short};
use crate::cluster::{Cluster, Node, Programs, Ready, Start};
use crate::digits::Split;
use crate::trainer::Network;

/// Who takes part, in the order of [`SPEEDS`].
const NAMES: [&str; 4] = ["ana", "bo", "cleo", "dan"];
/// Seconds that a clone may take.
const CLONE: u64 = 30;
/// How long the delegate looks for a request to join.
const ASKED: Duration = Duration::from_secs(20);
/// How often.
const LOOK: Duration = Duration::from_millis(50);

/// How a node is started: it keeps what it says to others, for the search for data.
pub(super) fn captured(node: &Node, join: Vec<String>) -> Start {
    let file = super::leak::capture(node.home());
    Start { join, arguments: vec!["--capture".into(), file.display().to_string()], ..Start::default() }
}

/// The contributors, each with a running node and a working folder, and the repository.
pub(super) async fn start(
    programs: &Programs,
    dir: &Path,
    split: &Split,
) -> Result<(Vec<Contributor>, String), DemoError> {
    let mut cluster = Cluster::new(programs.clone(), dir.into());
    for name in NAMES {
        cluster.add(name)?;
    }
    let mut nodes = cluster.into_nodes();
    let mut known: Vec<Ready> = Vec::new();
    for node in &mut nodes {
        let ready = node.start(&captured(node, addresses(&known))).await?;
        known.push(ready);
    }

    let [ana, bo, cleo, dan] = nodes.as_slice() else { return Err(DemoError::broken("not four nodes")) };
    let started = init(ana, dir).await?;
    say(&format!("ana starts repository {} with an untrained network", short(&started.repo)))?;
    let request = MakeTicket {
        place: place(dir, "ana"),
        role: Some("contributor".into()),
        uses: 2,
        label: "the demo".into(),
    };
    let ticket: TicketMade =
        client(ana)?.post("/v1/ticket", &request).await.map_err(DemoError::refused("ana", "ticket"))?;
    for node in [bo, cleo] {
        let cloned = clone(node, dir, &ticket.ticket, None).await?;
        say(&format!("{} clones with ana's ticket and is a {}", node.name(), cloned.role))?;
    }
    // Any node that has the repository will do, not only the one it began on.
    let address = bo.ready().and_then(|ready| ready.addresses.first()).cloned().unwrap_or_default();
    clone(dan, dir, &address, Some(started.repo.clone())).await?;
    let role = ask(dan, ana, dir).await?;
    say(&format!("dan clones from bo's address, asks ana, and is a {role}"))?;

    let mut contributors = Vec::new();
    for (index, (node, images)) in nodes.into_iter().zip(&split.contributors).enumerate() {
        let mut join = known.clone();
        join.remove(index);
        contributors.push(Contributor::new(
            index,
            SPEEDS[index],
            images.clone(),
            folder(dir, NAMES[index]),
            node,
            addresses(&join),
        ));
    }
    Ok((contributors, started.repo))
}

async fn init(ana: &Node, dir: &Path) -> Result<Initialised, DemoError> {
    let folder = folder(dir, "ana");
    std::fs::create_dir_all(&folder).map_err(DemoError::io(folder.display()))?;
    let model = folder.join("model.safetensors");
    Network::init(SEED).save(&model)?;
    let request = Init {
        model,
        name: "digits".into(),
        message: "an untrained network".into(),
        branch: "main".into(),
        roles: BTreeMap::new(),
        every: None,
        aggregation: None,
        settings: BTreeMap::new(),
        open: false,
        private: false,
        person: "ana".into(),
    };
    client(ana)?.post("/v1/init", &request).await.map_err(DemoError::refused("ana", "init"))
}

async fn clone(node: &Node, dir: &Path, source: &str, repo: Option<String>) -> Result<Cloned, DemoError> {
    let request = CloneRepository {
        source: source.into(),
        repo,
        folder: Some(folder(dir, node.name())),
        current: dir.into(),
        branch: None,
        person: node.name().into(),
        full: false,
        depth: 0,
        timeout: CLONE,
    };
    client(node)?.post("/v1/clone", &request).await.map_err(DemoError::refused(node.name(), "clone"))
}

/// `node` asks to contribute, and the delegate grants it by hand.
async fn ask(node: &Node, delegate: &Node, dir: &Path) -> Result<String, DemoError> {
    let name = node.name();
    let (asking, granting) = (client(node)?, client(delegate)?);
    let request =
        Join { place: place(dir, name), person: name.into(), ticket: None, timeout: ASKED.as_secs() };
    let joined = async {
        let joined: Result<Joined, _> = asking.post("/v1/join", &request).await;
        joined.map_err(DemoError::refused(name, "join"))
    };
    let granted = async {
        let (place, begun) = (place(dir, delegate.name()), Instant::now());
        loop {
            let status: Status = granting
                .post("/v1/status", &At { place: place.clone() })
                .await
                .map_err(DemoError::refused(delegate.name(), "status"))?;
            if let Some(waiting) = status.joins.iter().find(|join| join.name == name) {
                let request = GrantRequest {
                    place,
                    person: waiting.person.clone(),
                    role: "contributor".into(),
                    name: None,
                    approval: None,
                    document: None,
                };
                let done: Done = granting
                    .post("/v1/member/grant", &request)
                    .await
                    .map_err(DemoError::refused(delegate.name(), "grant"))?;
                return Ok(done);
            }
            if begun.elapsed() > ASKED {
                let what = format!("{name}'s request to join did not come");
                return Err(DemoError::Slow { what, seconds: ASKED.as_secs() });
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    let (joined, _) = tokio::try_join!(joined, granted)?;
    Ok(joined.role)
}

pub(super) fn client(node: &Node) -> Result<Client, DemoError> {
    Client::running(node.home())
        .ok_or_else(|| DemoError::broken(format!("{}'s node does not answer", node.name())))
}

fn addresses(nodes: &[Ready]) -> Vec<String> {
    nodes.iter().filter_map(|ready| ready.addresses.first().cloned()).collect()
}

fn folder(dir: &Path, name: &str) -> PathBuf {
    dir.join(name).join("digits")
}

fn place(dir: &Path, name: &str) -> Place {
    Place { folder: Some(folder(dir, name)), repo: None }
}
