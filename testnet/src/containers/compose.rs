//! `compose.yaml` as it is in the root folder: three nodes that find each other, and keep who they are in volumes.

use std::path::PathBuf;
use std::time::Duration;

use flair_node::api::types::Peer;
use tokio::process::Command;

use super::{ContainersError, broken, leads_nowhere, say, until};
use crate::cluster::container::{docker, ready};
use crate::cluster::{ClusterError, Ran, Ready};

/// The file that users start containers with; this program carries it, so that it runs anywhere.
const COMPOSE: &str = include_str!("../../../compose.yaml");
/// Its services.
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
/// How long a command of Compose may take.
const PATIENCE: Duration = Duration::from_mins(3);
/// Seconds that a node has to stop before it is killed.
const STOP: &str = "20";
/// Lines of each node's log that a failure shows.
const TAIL: &str = "25";

/// What one run of the file makes, told apart by a name of its own.
#[derive(Debug)]
pub(super) struct Project {
    name: String,
    file: PathBuf,
    image: String,
    /// The words that Compose is called with.
    words: Vec<&'static str>,
}

impl Project {
    /// Looks for Compose, and puts the file where it finds it.
    pub(super) async fn new(image: &str, file: PathBuf) -> Result<Self, ContainersError> {
        std::fs::write(&file, COMPOSE).map_err(ContainersError::io(file.display()))?;
        let name = format!("flair-testnet-{}", std::process::id());
        let mut project = Self { name, file, image: image.into(), words: Vec::new() };
        // Docker's own, and the older one by itself.
        for words in [["docker", "compose"].as_slice(), &["docker-compose"]] {
            project.words = words.to_vec();
            if project.compose(&["version"]).await.is_ok_and(|ran| ran.status.success()) {
                return Ok(project);
            }
        }
        let help = "install docker-compose (2, or 1.28 and later)";
        Err(ClusterError::Docker { what: "there is no Compose".into(), help }.into())
    }

    /// Starts the nodes, and once more after all containers were removed.
    pub(super) async fn walk(&self) -> Result<(), ContainersError> {
        let first = self.up().await?;
        for node in NODES {
            let what = format!("a peer of {node}'s");
            until(&what, async || {
                let peers: Vec<Peer> = self.flair(node, &["peers", "--json"]).await?.json()?;
                Ok(peers.iter().any(|peer| peer.connected).then_some(()))
            })
            .await?;
        }
        self.compose(&["down", "--timeout", STOP]).await?.ok()?;
        let again = self.up().await?;
        let ids = |all: &[Ready]| all.iter().map(|ready| ready.id.clone()).collect::<Vec<_>>();
        if ids(&first) != ids(&again) {
            return Err(broken("the nodes came back as somebody else"));
        }
        say("compose.yaml: three nodes find each other, and removed and made again they are the same nodes")
    }

    /// The last lines of every node's log.
    pub(super) async fn logs(&self) -> String {
        match self.compose(&["logs", "--no-color", "--tail", TAIL]).await {
            Ok(ran) => ran.stdout,
            Err(error) => error.to_string(),
        }
    }

    /// Removes containers, network and volumes.
    pub(super) async fn down(&self) -> Result<(), ContainersError> {
        let down = ["down", "--volumes", "--remove-orphans", "--timeout", STOP];
        self.compose(&down).await?.ok()?;
        Ok(())
    }

    /// Starts all nodes and waits for their ready lines.
    async fn up(&self) -> Result<Vec<Ready>, ContainersError> {
        self.compose(&["up", "--detach"]).await?.ok()?;
        let mut all = Vec::new();
        for node in NODES {
            let ran = self.compose(&["ps", "--quiet", node]).await?.ok()?;
            let container = ran.stdout.trim();
            all.push(ready(container).await?.map_err(|what| broken(format!("{node} {what}")))?);
            leads_nowhere(container).await?;
        }
        Ok(all)
    }

    async fn flair(&self, node: &str, arguments: &[&str]) -> Result<Ran, ContainersError> {
        let container = self.compose(&["ps", "--quiet", node]).await?.ok()?;
        Ok(docker(&[&["exec", container.stdout.trim(), "flair"], arguments].concat()).await?.ok()?)
    }

    async fn compose(&self, arguments: &[&str]) -> Result<Ran, ContainersError> {
        let name = format!("{} {}", self.words.join(" "), arguments.join(" "));
        let mut words = self.words.iter();
        let mut compose = Command::new(words.next().unwrap_or(&"docker"));
        compose
            .args(words)
            .args(["--project-name", &self.name, "--file"])
            .arg(&self.file)
            .args(arguments)
            .env("FLAIR_IMAGE", &self.image);
        Ok(Ran::of(name, compose, PATIENCE).await?)
    }
}
