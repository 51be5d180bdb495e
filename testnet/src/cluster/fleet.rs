//! Nodes that outlive the command that started them: `up`, `status`, `down`.
//!
//! A file in the fleet's folder says which processes they are. A process is written down as soon as it exists, before
//! it is ready, so that an `up` cut short leaves nothing running that `down` does not know.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::node::STOP;
use super::{ClusterError, Identity, Node, Programs, Ready, Start};

/// The nodes started in one folder.
#[derive(Debug)]
pub struct Fleet {
    dir: PathBuf,
    members: Vec<Member>,
}

/// One node of a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name, `node-1` and so on.
    pub name: String,
    /// Its `FLAIR_HOME`.
    pub home: PathBuf,
    /// Its process.
    pub process: Identity,
    /// Its id and addresses; none when `up` was cut short before it was ready.
    pub ready: Option<Ready>,
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
    /// used again.
    ///
    /// # Errors
    /// When nodes were started here before, or one does not get ready; those started by then are ended.
    pub async fn up(programs: &Programs, dir: &Path, count: usize) -> Result<Self, ClusterError> {
        fs::create_dir_all(dir).map_err(ClusterError::file(dir))?;
        let dir = dir.canonicalize().map_err(ClusterError::file(dir))?;
        let path = state(&dir);
        match fs::File::create_new(&path) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(ClusterError::Up { path });
            }
            Err(error) => return Err(ClusterError::File { path, source: error }),
        }
        let mut fleet = Self { dir, members: Vec::new() };
        for number in 1..=count {
            if let Err(error) = fleet.launch(programs, number).await {
                // The error that matters is the first one.
                let _ = fleet.down().await;
                return Err(error);
            }
        }
        Ok(fleet)
    }

    /// The fleet that was started in `dir`.
    ///
    /// # Errors
    /// When none was, or its file is damaged.
    pub fn open(dir: &Path) -> Result<Self, ClusterError> {
        let path = state(dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ClusterError::Down { path });
            }
            Err(error) => return Err(ClusterError::File { path, source: error }),
        };
        // Empty: `up` was cut short before its first node.
        let members = if text.is_empty() { Ok(Vec::new()) } else { serde_json::from_str(&text) };
        let members = members.map_err(|source| ClusterError::Json {
            what: path.display().to_string(),
            source,
            start: text.chars().take(100).collect(),
        })?;
        Ok(Self { dir: dir.into(), members })
    }

    /// Its nodes.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Ends the nodes that still run, and forgets them; their homes stay.
    ///
    /// # Errors
    /// When one cannot be ended; then none is forgotten.
    pub async fn down(&self) -> Result<Vec<(Member, Outcome)>, ClusterError> {
        let mut ended = Vec::new();
        for member in &self.members {
            let ran = member.process.end(STOP).await?;
            ended.push((member.clone(), if ran { Outcome::Ended } else { Outcome::Gone }));
        }
        let path = state(&self.dir);
        fs::remove_file(&path).map_err(ClusterError::file(&path))?;
        Ok(ended)
    }

    async fn launch(&mut self, programs: &Programs, number: usize) -> Result<(), ClusterError> {
        let name = format!("node-{number}");
        let mut node = Node::new(&name, &programs.node, &self.dir.join(&name))?;
        let first = self.members.first().and_then(|member| member.ready.as_ref());
        let join = first.and_then(|ready| ready.addresses.first()).cloned().into_iter().collect();
        node.spawn(&Start { join, outlive: true, ..Start::default() })?;
        if let Some(process) = node.identity() {
            self.members.push(Member { name, home: node.home().into(), process, ready: None });
            self.write()?;
        }
        let ready = node.until_ready().await?;
        if let Some(member) = self.members.last_mut() {
            member.ready = Some(ready);
        }
        self.write()
    }

    /// Replaces the file in one step.
    fn write(&self) -> Result<(), ClusterError> {
        let path = state(&self.dir);
        let file = || -> std::io::Result<()> {
            let mut file = NamedTempFile::new_in(&self.dir)?;
            file.write_all(&serde_json::to_vec_pretty(&self.members)?)?;
            file.persist(&path)?;
            Ok(())
        };
        file().map_err(ClusterError::file(&path))
    }
}

fn state(dir: &Path) -> PathBuf {
    dir.join("nodes.json")
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
        let programs = programs(dir.path(), script);
        let place = dir.path().join("fleet");
        assert!(matches!(Fleet::open(&place), Err(ClusterError::Down { .. })));
        drop(Fleet::up(&programs, &place, 3).await.unwrap());

        assert!(matches!(Fleet::up(&programs, &place, 3).await, Err(ClusterError::Up { .. })));
        let fleet = Fleet::open(&place).unwrap();
        let processes: Vec<Identity> = fleet.members().iter().map(|member| member.process).collect();
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
        let programs = programs(dir.path(), script);
        let place = dir.path().join("fleet");
        assert!(matches!(Fleet::up(&programs, &place, 2).await, Err(ClusterError::NotReady { .. })));
        let pid = fs::read_to_string(place.join("mark")).unwrap().trim().parse().unwrap();
        assert_eq!(Identity::of(pid), None);
        assert!(matches!(Fleet::open(&place), Err(ClusterError::Down { .. })));
    }
}
