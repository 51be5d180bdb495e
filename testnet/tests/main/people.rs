//! People with real nodes and the real command, a model that trains at once, and a look into their stores.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flair_node::api::Client;
use flair_node::api::types::{
    Cloned, CommitRequest, Committed, Initialised, Place, PushRequest, Pushed, Repository, ShowRequest,
    Shown, TicketMade,
};
use flair_node::home::Home;
use flair_node::store::Store;
use flair_protocol::id::RepositoryId;
use flair_protocol::operation::Operation;
use flair_testnet::cluster::{Cluster, Flair, Node, Programs, Start};

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(10);
/// Numbers of the large tensor: coded, it still has a file of its own in the blob store.
const NUMBERS: usize = 100_000;

/// The bytes of a safetensors file: a header as it is, and what follows.
pub(crate) fn safetensors(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// Writes the model after `step` steps of training.
pub(crate) fn train(folder: &Path, step: u32) {
    let weights = (0..NUMBERS + 8).flat_map(|index| {
        let number = (index as f32 * 0.37).sin();
        (number + step as f32 * 1e-3 * (index as f32 * 0.11 + f64::from(step) as f32).cos()).to_le_bytes()
    });
    let end = NUMBERS * 4;
    let header = format!(
        r#"{{"w":{{"dtype":"F32","shape":[{},100],"data_offsets":[0,{end}]}},"b":{{"dtype":"F32","shape":[8],"data_offsets":[{end},{}]}}}}"#,
        NUMBERS / 100,
        end + 32
    );
    let bytes = safetensors(&header, &weights.collect::<Vec<u8>>());
    std::fs::write(folder.join("model.safetensors"), bytes).unwrap();
}

/// People with a folder each below one top folder.
pub(crate) struct People {
    pub(crate) top: PathBuf,
    pub(crate) cluster: Cluster,
    pub(crate) repo: String,
}

impl People {
    /// Ana starts a repository whose nodes aggregate when they are told to; her node runs.
    pub(crate) async fn start(top: &Path) -> Self {
        let cluster = Cluster::new(Programs::beside_this().unwrap(), top.into());
        let mut people = Self { top: top.into(), cluster, repo: String::new() };
        people.add("ana");
        people.node("ana").start(&Start::default()).await.unwrap();
        let folder = people.folder("ana");
        std::fs::create_dir_all(&folder).unwrap();
        train(&folder, 0);
        let arguments = ["init", "model.safetensors", "--name", "digits", "--every", "1"];
        let started: Initialised = people.flair("ana").json(&arguments).await.unwrap();
        people.repo = started.repo;
        people
    }

    /// One more person, whose node does not run yet.
    pub(crate) fn add(&mut self, name: &str) {
        let node = self.cluster.add(name).unwrap();
        std::fs::write(node.home().join("config.toml"), "aggregate = false\n").unwrap();
    }

    /// One more person, who is a contributor and whose node runs.
    pub(crate) async fn join(&mut self, name: &str, how: &Start) -> Cloned {
        self.add(name);
        self.node(name).start(how).await.unwrap();
        let ticket = self.ticket(1).await;
        self.outside(name).json(&["clone", &ticket, "work"]).await.unwrap()
    }

    pub(crate) async fn ticket(&self, uses: u64) -> String {
        let uses = uses.to_string();
        let arguments = ["ticket", "--role", "contributor", "--uses", &uses];
        let made: TicketMade = self.flair("ana").json(&arguments).await.unwrap();
        made.ticket
    }

    pub(crate) fn node(&mut self, name: &str) -> &mut Node {
        self.cluster.node(name).unwrap()
    }

    pub(crate) fn home(&self, name: &str) -> PathBuf {
        self.top.join(name).join("home")
    }

    pub(crate) fn folder(&self, name: &str) -> PathBuf {
        self.top.join(name).join("work")
    }

    /// The command in a person's working folder.
    pub(crate) fn flair(&self, name: &str) -> Flair {
        self.cluster.flair(name, &self.folder(name)).unwrap()
    }

    /// The command above a person's working folder.
    pub(crate) fn outside(&self, name: &str) -> Flair {
        self.cluster.flair(name, &self.top.join(name)).unwrap()
    }

    /// A way to a person's running node.
    pub(crate) fn client(&self, name: &str) -> Client {
        Client::running(&self.home(name)).unwrap()
    }

    pub(crate) fn place(&self, name: &str) -> Place {
        Place { folder: Some(self.folder(name)), repo: None }
    }

    /// Whether the model of `commit` is at a person's running node.
    pub(crate) async fn holds(&self, name: &str, commit: &str) -> bool {
        let request = ShowRequest { place: self.repository(), commit: Some(commit.into()) };
        let shown: Result<Shown, _> = self.client(name).post("/v1/show", &request).await;
        shown.is_ok_and(|shown| shown.here)
    }

    fn repository(&self) -> Place {
        Place { folder: None, repo: Some(self.repo.clone()) }
    }

    /// Number of operations and fingerprint of the state, at a person's running node.
    pub(crate) async fn fingerprint(&self, name: &str) -> (u64, String) {
        let all: Vec<Repository> = self.client(name).get("/v1/repositories").await.unwrap();
        let here = all.into_iter().find(|repository| repository.repo == self.repo);
        here.map(|here| (here.operations, here.fingerprint)).unwrap_or_default()
    }

    /// Waits until these persons' running nodes have the same operations, of which those in `commits` are some, and
    /// all models; returns how many operations.
    pub(crate) async fn agree(&self, names: &[&str], commits: &[String]) -> u64 {
        for name in names {
            for commit in commits {
                until(&format!("{name} holds {commit}"), || self.holds(name, commit)).await;
            }
        }
        let mut operations = 0;
        let same = async || {
            let mut seen = BTreeSet::new();
            for name in names {
                seen.insert(self.fingerprint(name).await);
            }
            operations = seen.first().map_or(0, |first| first.0);
            seen.len() == 1
        };
        let mut same = same;
        let start = Instant::now();
        while !same().await {
            assert!(start.elapsed() < PATIENCE, "the nodes of {names:?} do not agree");
            tokio::time::sleep(LOOK).await;
        }
        operations
    }

    /// Stops all nodes and reads their stores: every blob is right, no author numbered two operations alike or left
    /// a number out, and all have the same operations. Returns how many.
    pub(crate) async fn audit(&mut self, names: &[&str]) -> usize {
        self.cluster.stop().await.unwrap();
        let repo: RepositoryId = self.repo.parse().unwrap();
        let mut numbers: BTreeMap<(String, u64), BTreeSet<String>> = BTreeMap::new();
        let mut sets = BTreeSet::new();
        for name in names {
            let home = Home::open(self.home(name)).unwrap();
            let store = Store::open(&home).await.unwrap();
            assert_eq!(store.verify().await.unwrap(), [], "blobs of {name}");
            let mut ids = BTreeSet::new();
            for (_, bytes) in store.operations(repo.digest()).await.unwrap() {
                let operation = Operation::decode(&bytes, repo).unwrap();
                let number = (operation.author().to_string(), operation.header().seq);
                numbers.entry(number).or_default().insert(operation.id().to_string());
                ids.insert(operation.id().to_string());
            }
            sets.insert(ids);
            store.close().await;
        }
        let twice: Vec<_> = numbers.iter().filter(|(_, ids)| ids.len() > 1).collect();
        assert!(twice.is_empty(), "an author numbered several operations alike: {twice:?}");
        for (author, number) in numbers.keys() {
            let before = number.checked_sub(1).map(|before| (author.clone(), before));
            assert!(
                before.is_none_or(|before| numbers.contains_key(&before)),
                "{author} left out {number} - 1"
            );
        }
        assert_eq!(sets.len(), 1, "not everybody has the same operations");
        sets.first().map_or(0, BTreeSet::len)
    }
}

/// Waits until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, so: impl Fn() -> F) {
    let start = Instant::now();
    while !so().await {
        assert!(start.elapsed() < PATIENCE, "not so within {PATIENCE:?}: {what}");
        tokio::time::sleep(LOOK).await;
    }
}

/// Trains in a folder, commits and pushes, each by one request to the node; gives the update.
pub(crate) async fn publish(client: Client, folder: PathBuf, step: u32) -> String {
    train(&folder, step);
    let place = || Place { folder: Some(folder.clone()), repo: None };
    let request = CommitRequest {
        place: place(),
        message: format!("step {step}"),
        examples: Some(500),
        ..CommitRequest::default()
    };
    let _: Committed = client.post("/v1/commit", &request).await.unwrap();
    let request = PushRequest { place: place(), dry_run: false, keep_drafts: false };
    let pushed: Pushed = client.post("/v1/push", &request).await.unwrap();
    pushed.commit.unwrap()
}
