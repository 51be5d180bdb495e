//! Watches a running network from outside: a line per aggregate, and where each node stands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flair_node::api::Client;
use flair_node::api::types::{
    CheckoutRequest, CloneRepository, Cloned, Code, Log, LogRequest, Moved, NodeStatus, Place, Repository,
    ShowRequest, Shown,
};

use super::start::client;
use super::{DemoError, say, short};
use crate::cluster::Node;
use crate::digits::Image;
use crate::trainer::Network;

/// Seconds that a second working folder may take.
const CLONE: u64 = 30;
/// Entries of the log: more than a run makes.
const ENTRIES: u64 = 10_000;

/// A node's state of the branch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// The head.
    pub(super) head: Option<String>,
    /// The head's model, once the node ran the recipe.
    pub(super) model: Option<String>,
    /// Fingerprint of the repository's state.
    pub(super) fingerprint: String,
    /// Updates that wait.
    pub(super) pending: u64,
}

/// The watcher: looks through one node with a working folder of its own.
#[derive(Debug)]
pub(super) struct Watch {
    client: Client,
    place: Place,
    model: PathBuf,
    homes: Vec<PathBuf>,
    /// What to call each person.
    names: BTreeMap<String, String>,
    held_out: Vec<Image>,
    /// Bytes of blobs each home's node has sent: over earlier starts, and since its last.
    sent: BTreeMap<PathBuf, (u64, u64)>,
    told: u64,
    seen: Vec<String>,
    accuracy: f64,
}

impl Watch {
    /// A watcher through the first of `nodes`, which runs throughout; it checks models out below `dir`.
    pub(super) async fn new(
        nodes: &[&Node],
        repo: &str,
        dir: &Path,
        held_out: Vec<Image>,
    ) -> Result<Self, DemoError> {
        let [first, second, ..] = nodes else { return Err(DemoError::broken("nobody to watch")) };
        let client = client(first)?;
        let folder = dir.join("watch");
        let address = second.ready().and_then(|ready| ready.addresses.first()).cloned();
        let request = CloneRepository {
            source: address.unwrap_or_default(),
            repo: Some(repo.into()),
            folder: Some(folder.clone()),
            current: dir.into(),
            branch: None,
            person: String::new(),
            full: false,
            depth: 0,
            timeout: CLONE,
        };
        let _: Cloned =
            client.post("/v1/clone", &request).await.map_err(DemoError::refused("watch", "clone"))?;
        say(&format!(
            "\n{:>3}  {:10}  {:>8}  {:>10}  inputs (how many aggregates behind)",
            "#", "aggregate", "accuracy", "blob KiB"
        ))?;
        Ok(Self {
            client,
            model: folder.join("model.safetensors"),
            place: Place { folder: Some(folder), repo: None },
            names: nodes
                .iter()
                .filter_map(|node| Some((node.ready()?.id.clone(), node.name().to_owned())))
                .collect(),
            homes: nodes.iter().map(|node| node.home().into()).collect(),
            held_out,
            sent: BTreeMap::new(),
            told: 0,
            seen: Vec::new(),
            accuracy: 0.0,
        })
    }

    /// Looks once, prints aggregates that are new, and returns how many the branch has.
    pub(super) async fn look(&mut self) -> Result<usize, DemoError> {
        self.count().await;
        let request = LogRequest { place: self.place.clone(), branch: None, limit: ENTRIES };
        let log: Log =
            self.client.post("/v1/log", &request).await.map_err(DemoError::refused("watch", "log"))?;
        let path: Vec<String> = log
            .entries
            .into_iter()
            .rev()
            .filter(|entry| entry.kind == "aggregate" && entry.in_head)
            .map(|entry| entry.commit)
            .collect();
        for (index, commit) in path.iter().enumerate() {
            if !self.seen.contains(commit) && !self.tell(index + 1, commit).await? {
                break;
            }
        }
        Ok(path.iter().filter(|commit| self.seen.contains(commit)).count())
    }

    /// Accuracy of the newest aggregate printed, on images that nobody trained on.
    pub(super) fn accuracy(&self) -> f64 {
        self.accuracy
    }

    /// Prints an aggregate; false while this node has not run it yet.
    async fn tell(&mut self, number: usize, commit: &str) -> Result<bool, DemoError> {
        let request = CheckoutRequest { place: self.place.clone(), target: commit.into(), force: true };
        let moved: Result<Moved, _> = self.client.post("/v1/checkout", &request).await;
        match moved {
            Ok(_) => {}
            Err(problem) if problem.code == Code::NotFound => return Ok(false),
            Err(problem) => return Err(DemoError::refused("watch", "checkout")(problem)),
        }
        let request = ShowRequest { place: self.place.clone(), commit: Some(commit.into()) };
        let shown: Shown =
            self.client.post("/v1/show", &request).await.map_err(DemoError::refused("watch", "show"))?;
        self.accuracy = Network::load(&self.model)?.accuracy(&self.held_out);
        let mut inputs: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for input in &shown.inputs {
            let skipped = if input.skipped.is_some() { " skipped" } else { "" };
            let name = self.names.get(&input.person).unwrap_or(&input.name);
            inputs.entry(name).or_default().push(format!("{}{skipped}", input.staleness));
        }
        let inputs: Vec<String> =
            inputs.into_iter().map(|(name, behind)| format!("{name} ({})", behind.join(", "))).collect();
        let total: u64 = self.sent.values().map(|(before, now)| before + now).sum();
        let sent = (total - self.told) as f64 / 1_024.0;
        self.told = total;
        let id = short(commit);
        say(&format!("{number:>3}  {id:10}  {:>8.3}  {sent:>10.1}  {}", self.accuracy, inputs.join(", ")))?;
        self.seen.push(commit.into());
        Ok(true)
    }

    /// Adds up what the nodes that run have sent. A node counts from its start.
    async fn count(&mut self) {
        for home in &self.homes {
            let Some(client) = Client::running(home) else { continue };
            // A node that is killed at this moment does not answer; what it sent since the last look is not counted.
            let Ok(status) = client.get::<NodeStatus>("/v1/node").await else { continue };
            let (before, now) = self.sent.entry(home.clone()).or_default();
            if status.sent < *now {
                *before += *now;
            }
            *now = status.sent;
        }
    }
}

/// Where the node of each home stands.
pub(super) async fn standings(nodes: &[&Node]) -> Result<Vec<Standing>, DemoError> {
    let mut standings = Vec::new();
    for node in nodes {
        let all: Vec<Repository> = client(node)?
            .get("/v1/repositories")
            .await
            .map_err(DemoError::refused(node.name(), "repositories"))?;
        let branch = |repository: Repository| {
            let branch = repository.branches.into_iter().next()?;
            let (head, model, pending) = (branch.head, branch.model, branch.pending);
            Some(Standing { head, model, fingerprint: repository.fingerprint, pending })
        };
        let standing = all.into_iter().next().and_then(branch);
        standings.push(standing.ok_or_else(|| DemoError::broken("a node without a branch"))?);
    }
    Ok(standings)
}

/// What became of every update, by one node: state by commit.
pub(super) async fn updates(node: &Node, place: Place) -> Result<BTreeMap<String, String>, DemoError> {
    let request = LogRequest { place, branch: None, limit: ENTRIES };
    let log: Log =
        client(node)?.post("/v1/log", &request).await.map_err(DemoError::refused(node.name(), "log"))?;
    let updates = log.entries.into_iter().filter(|entry| entry.kind == "update");
    Ok(updates.map(|entry| (entry.commit, entry.state)).collect())
}

/// How often to look.
pub(super) const LOOK: Duration = Duration::from_millis(150);
