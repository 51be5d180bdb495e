//! Real nodes for the people of a story, on loopback, each serving the socket that its owner's commands find.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use flair_node::api::types::{LogRequest, PeerRequest, Place, ShowRequest};
use flair_node::api::{self, Socket};
use flair_node::home::{Config, Home};
use flair_node::service::Service;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(50);

struct Node {
    service: Service,
    served: JoinHandle<()>,
}

impl Node {
    async fn start(home: &Path) -> Self {
        let home = Home::open(home).unwrap();
        // Stories say themselves when it is time to aggregate.
        let config = Config { aggregate: false, ..home.config().unwrap() };
        let service = Service::online(home.clone(), config).await.unwrap();
        let socket = Socket::bind(&home).unwrap();
        let (answering, stopping) = (service.clone(), service.clone());
        let served = tokio::spawn(async move {
            api::serve(socket, answering, async move { stopping.stopped().await }).await.unwrap();
        });
        let start = Instant::now();
        while service.node_status().await.unwrap().addresses.is_empty() {
            assert!(start.elapsed() < PATIENCE, "the node does not listen");
            tokio::time::sleep(LOOK).await;
        }
        Self { service, served }
    }

    async fn stop(self) {
        self.service.shutdown().await.unwrap();
        self.served.await.unwrap();
        self.service.close().await;
    }

    /// What it holds, once every commit it knows of is here.
    async fn holds(&self) -> Option<Vec<(String, u64, String)>> {
        let mut all = Vec::new();
        for repository in self.service.repositories().await.unwrap() {
            let place = || Place { folder: None, repo: Some(repository.repo.clone()) };
            for branch in &repository.branches {
                let request = LogRequest { place: place(), branch: Some(branch.name.clone()), limit: 1000 };
                for entry in self.service.log(request).await.unwrap().entries {
                    let request = ShowRequest { place: place(), commit: Some(entry.commit) };
                    if !self.service.show(request).await.unwrap().here {
                        return None;
                    }
                }
            }
            // What has no effect yet, a proposed policy say, is not in the fingerprint.
            all.push((repository.repo, repository.operations, repository.fingerprint));
        }
        Some(all)
    }
}

/// The nodes that run now, by person.
#[derive(Default)]
pub(crate) struct Nodes(BTreeMap<String, Node>);

impl Nodes {
    /// Starts the nodes that do not run yet and connects each with the first.
    pub(crate) async fn start(&mut self, homes: &BTreeMap<String, std::path::PathBuf>) {
        for (person, home) in homes {
            if !self.0.contains_key(person) {
                let node = Node::start(home).await;
                if let Some(first) = self.0.values().next() {
                    let address = first.service.node_status().await.unwrap().addresses.remove(0);
                    let request = PeerRequest { connect: Some(address), lift: None };
                    node.service.peer(request).await.unwrap();
                }
                self.0.insert(person.clone(), node);
            }
        }
    }

    /// Waits until everybody has the same operations and all models.
    pub(crate) async fn settle(&self) {
        let start = Instant::now();
        loop {
            let mut seen = Vec::new();
            for node in self.0.values() {
                seen.push(node.holds().await);
            }
            let mut held = seen.iter().flatten().filter(|held| !held.is_empty());
            let first = held.next();
            if seen.iter().all(Option::is_some) && held.all(|held| Some(held) == first) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "the nodes do not agree: {seen:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Stops all.
    pub(crate) async fn stop(&mut self) {
        for (_, node) in std::mem::take(&mut self.0) {
            node.stop().await;
        }
    }
}
