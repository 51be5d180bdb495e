//! Nodes that outlive the command that started them: `up`, `status`, `down`.
//!
//! A file in the fleet's folder says which processes or containers they are. A process is written down as soon as it
//! exists, before it is ready, and a container before it exists, so that an `up` cut short leaves nothing running that
//! `down` does not know.

use std::fs;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::container::{self, Container, Network};
use super::node::STOP;
use super::{ClusterError, Identity, Node, Programs, Ready, Start};

/// The nodes started in one folder.
#[derive(Debug)]
pub struct Fleet {
    dir: PathBuf,
    state: State,
}

/// What its file holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    /// What connects its containers, if that is what its nodes run in.
    network: Option<Network>,
    members: Vec<Member>,
}

/// What its nodes run in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Processes of this machine, on loopback.
    Processes(Programs),
    /// Containers of an image, in a network of their own without a way out.
    Containers {
        /// The image's name.
        image: String,
    },
}

/// One node of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name, `node-1` and so on.
    pub name: String,
    /// Its `FLAIR_HOME`.
    pub home: PathBuf,
    /// What it runs in.
    pub place: Place,
    /// Its id and addresses; none when `up` was cut short before it was ready.
    pub ready: Option<Ready>,
}

/// What one node runs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    /// A process of this machine.
    Process(Identity),
    /// A container.
    Container(Container),
}

/// What `down` found of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It ran, and was ended.
    Ended,
    /// It had ended before.
    Gone,
}

impl Fleet {
    /// Starts `count` nodes with homes in `dir`; all but the first join the first. Homes that are there already are
    /// used again, whatever their nodes ran in before.
    ///
    /// # Errors
    /// When nodes were started here before, or one does not get ready; those started by then are ended.
    pub async fn up(kind: &Kind, dir: &Path, count: usize) -> Result<Self, ClusterError> {
        if let Kind::Containers { image } = kind {
            container::offered(image).await?;
        }
        fs::create_dir_all(dir).map_err(ClusterError::file(dir))?;
        let dir = dir.canonicalize().map_err(ClusterError::file(dir))?;
        let path = file(&dir);
        match fs::File::create_new(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(ClusterError::Up { path });
            }
            Err(error) => return Err(ClusterError::File { path, source: error }),
        }
        let mut fleet = Self { dir, state: State::default() };
        match fleet.launch_all(kind, count).await {
            Ok(()) => Ok(fleet),
            Err(error) => {
                // The error that matters is the first one.
                let _ = fleet.down().await;
                Err(error)
            }
        }
    }

    /// The fleet that was started in `dir`.
    ///
    /// # Errors
    /// When none was, or its file is damaged.
    pub fn open(dir: &Path) -> Result<Self, ClusterError> {
        let path = file(dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ClusterError::Down { path });
            }
            Err(error) => return Err(ClusterError::File { path, source: error }),
        };
        // Empty: `up` was cut short before its first node.
        let state = if text.is_empty() { Ok(State::default()) } else { serde_json::from_str(&text) };
        let state = state.map_err(|source| ClusterError::Json {
            what: path.display().to_string(),
            source,
            start: text.chars().take(100).collect(),
        })?;
        Ok(Self { dir: dir.into(), state })
    }

    /// Its nodes.
    pub fn members(&self) -> &[Member] {
        &self.state.members
    }

    /// Ends the nodes that still run, and forgets them; their homes stay.
    ///
    /// # Errors
    /// When one cannot be ended; then none is forgotten.
    pub async fn down(&self) -> Result<Vec<(Member, Outcome)>, ClusterError> {
        // All at once: a node takes its leave of the others, which takes some seconds.
        let ending = self.members().iter().map(|member| member.place.end());
        let mut ended = Vec::new();
        for (member, ran) in self.members().iter().zip(join_all(ending).await) {
            ended.push((member.clone(), if ran? { Outcome::Ended } else { Outcome::Gone }));
        }
        if let Some(network) = &self.state.network {
            network.remove().await?;
        }
        let path = file(&self.dir);
        fs::remove_file(&path).map_err(ClusterError::file(&path))?;
        Ok(ended)
    }

    async fn launch_all(&mut self, kind: &Kind, count: usize) -> Result<(), ClusterError> {
        if matches!(kind, Kind::Containers { .. }) {
            let network = Network::named(&network_name(&self.dir));
            self.state.network = Some(network.clone());
            self.write()?;
            network.create().await?;
        }
        for number in 1..=count {
            let name = format!("node-{number}");
            let ready = match (kind, self.state.network.clone()) {
                (Kind::Processes(programs), _) => self.launch(programs, name).await?,
                (Kind::Containers { image }, Some(network)) => self.contain(image, &network, name).await?,
                (Kind::Containers { .. }, None) => continue,
            };
            if let Some(member) = self.state.members.last_mut() {
                member.ready = Some(ready);
            }
            self.write()?;
        }
        Ok(())
    }

    async fn launch(&mut self, programs: &Programs, name: String) -> Result<Ready, ClusterError> {
        let mut node = Node::new(&name, &programs.node, &self.dir.join(&name))?;
        let first = self.members().first().and_then(|member| member.ready.as_ref());
        let join = first.and_then(|ready| ready.addresses.first()).cloned().into_iter().collect();
        node.spawn(&Start { join, outlive: true, ..Start::default() })?;
        if let Some(process) = node.identity() {
            let place = Place::Process(process);
            self.state.members.push(Member { name, home: node.home().into(), place, ready: None });
            self.write()?;
        }
        node.until_ready().await
    }

    async fn contain(&mut self, image: &str, network: &Network, name: String) -> Result<Ready, ClusterError> {
        let folder = self.dir.join(&name);
        let home = folder.join("home");
        fs::create_dir_all(&home).map_err(ClusterError::file(&home))?;
        // By its name: its address may be another's when all come back.
        let join = self.members().first().map(|first| format!("/dns4/{}/tcp/4001", first.name));
        let container = network.container(&name);
        let place = Place::Container(container.clone());
        self.state.members.push(Member { name: name.clone(), home, place, ready: None });
        self.write()?;
        network.start(&name, image, &folder, join.as_deref()).await?;
        container.until_ready().await
    }

    /// Replaces the file in one step.
    fn write(&self) -> Result<(), ClusterError> {
        let path = file(&self.dir);
        let replace = || -> std::io::Result<()> {
            let mut file = NamedTempFile::new_in(&self.dir)?;
            file.write_all(&serde_json::to_vec_pretty(&self.state)?)?;
            file.persist(&path)?;
            Ok(())
        };
        replace().map_err(ClusterError::file(&path))
    }
}

fn file(dir: &Path) -> PathBuf {
    dir.join("nodes.json")
}

/// A name for the network of the fleet in `dir`: fleets of other folders have others.
fn network_name(dir: &Path) -> String {
    let mut hasher = DefaultHasher::new();
    dir.hash(&mut hasher);
    format!("flair-{:08x}", hasher.finish() as u32)
}

impl Place {
    /// Whether the node runs.
    ///
    /// # Errors
    /// When Docker does not say.
    pub async fn runs(&self) -> Result<bool, ClusterError> {
        match self {
            Self::Process(process) => Ok(process.runs()),
            Self::Container(container) => container.runs().await,
        }
    }

    /// Ends the node. Returns whether it ran.
    async fn end(&self) -> Result<bool, ClusterError> {
        match self {
            Self::Process(process) => process.end(STOP).await,
            Self::Container(container) => container.end().await,
        }
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(process) => write!(f, "process {}", process.pid),
            Self::Container(container) => write!(f, "container {}", container.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(dir: &Path, script: &str) -> Programs {
        use std::os::unix::fs::PermissionsExt;
        let node = dir.join("program");
        fs::write(&node, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&node, fs::Permissions::from_mode(0o755)).unwrap();
        Programs { flair: node.clone(), node }
    }

    #[tokio::test]
    async fn what_up_starts_outlives_it_and_down_ends() {
        let dir = tempfile::tempdir().unwrap();
        let script = "echo ready did:key:z6Mk /ip4/127.0.0.1/tcp/4001/p2p/12D3; exec sleep 60";
        let programs = Kind::Processes(programs(dir.path(), script));
        let place = dir.path().join("fleet");
        assert!(matches!(Fleet::open(&place), Err(ClusterError::Down { .. })));
        drop(Fleet::up(&programs, &place, 3).await.unwrap());

        assert!(matches!(Fleet::up(&programs, &place, 3).await, Err(ClusterError::Up { .. })));
        let fleet = Fleet::open(&place).unwrap();
        let process = |member: &Member| match &member.place {
            Place::Process(process) => Some(*process),
            Place::Container(_) => None,
        };
        let processes: Vec<Identity> = fleet.members().iter().filter_map(process).collect();
        assert_eq!(processes.len(), 3);
        assert!(processes.iter().all(Identity::runs));

        let ended = fleet.down().await.unwrap();
        assert!(ended.iter().all(|(_, outcome)| *outcome == Outcome::Ended));
        assert!(!processes.iter().any(Identity::runs));
        assert!(matches!(Fleet::open(&place), Err(ClusterError::Down { .. })));
        assert!(place.join("node-3/home").is_dir());
    }

    #[tokio::test]
    async fn when_one_node_fails_none_is_left() {
        let dir = tempfile::tempdir().unwrap();
        // The second node finds the first one's mark and fails.
        let script = "[ -e ../mark ] && exit 1; echo $$ > ../mark; \
                      echo ready did:key:z6Mk /ip4/127.0.0.1/tcp/4001/p2p/12D3; exec sleep 60";
        let programs = Kind::Processes(programs(dir.path(), script));
        let place = dir.path().join("fleet");
        assert!(matches!(Fleet::up(&programs, &place, 2).await, Err(ClusterError::NotReady { .. })));
        let pid = fs::read_to_string(place.join("mark")).unwrap().trim().parse().unwrap();
        assert_eq!(Identity::of(pid), None);
        assert!(matches!(Fleet::open(&place), Err(ClusterError::Down { .. })));
    }
}
