//! One `flair-node` process: start, wait until it is ready, stop, kill, start again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::ClusterError;
use super::process::{self, Identity};

/// Where a node listens unless told otherwise: loopback, any free port.
const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";
/// How long a node may take to get ready.
pub(super) const READY: Duration = Duration::from_mins(1);
/// How long a node may take to stop before it is killed.
pub(super) const STOP: Duration = Duration::from_secs(20);
/// How often the output of a starting node is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Lines of the log that an error shows.
const TAIL: usize = 20;

/// What a node says when it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The person's id, `did:key:…`.
    pub id: String,
    /// Where it can be reached, `/ip4/…/tcp/…/p2p/…`; at least one.
    pub addresses: Vec<String>,
}

impl Ready {
    /// Reads `ready <did:key:…> <multiaddr>…`.
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let ready = words.next() == Some("ready");
        let id = words.next().filter(|id| id.starts_with("did:key:"))?;
        let addresses: Vec<String> = words.filter(|word| word.starts_with('/')).map(Into::into).collect();
        (ready && !addresses.is_empty()).then(|| Self { id: id.into(), addresses })
    }
}

/// How to start a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Nodes to connect to, as multiaddresses.
    pub join: Vec<String>,
    /// Where to listen; by default where it listened last, at first on loopback, any free port.
    pub listen: Option<String>,
    /// Further arguments, as they are.
    pub arguments: Vec<String>,
    /// Further environment variables, name and value.
    pub environment: Vec<(String, String)>,
    /// Whether the process lives on when this program ends.
    pub outlive: bool,
}

/// A node and its folder.
#[derive(Debug)]
pub struct Node {
    name: String,
    program: PathBuf,
    dir: PathBuf,
    home: PathBuf,
    child: Option<Child>,
    ready: Option<Ready>,
}

impl Node {
    pub(super) fn new(name: &str, program: &Path, dir: &Path) -> Result<Self, ClusterError> {
        let home = dir.join("home");
        fs::create_dir_all(&home).map_err(ClusterError::file(&home))?;
        Ok(Self {
            name: name.into(),
            program: program.into(),
            dir: dir.into(),
            home,
            child: None,
            ready: None,
        })
    }

    /// Its name in the cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its `FLAIR_HOME`.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Its log: everything the process wrote to stderr, over all starts.
    pub fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// What it said when it was last ready.
    pub fn ready(&self) -> Option<&Ready> {
        self.ready.as_ref()
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Which process it is, while it runs.
    pub fn identity(&self) -> Option<Identity> {
        self.pid().and_then(Identity::of)
    }

    /// Whether the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Starts the node and waits for its ready line. After the first time it listens on the port it had, so that
    /// others find it again.
    ///
    /// # Errors
    /// When it runs already, does not start, ends, or is not ready within a minute; then it is killed.
    pub async fn start(&mut self, how: &Start) -> Result<Ready, ClusterError> {
        self.spawn(how)?;
        self.until_ready().await
    }

    /// Starts the process.
    pub(super) fn spawn(&mut self, how: &Start) -> Result<(), ClusterError> {
        if self.is_running() {
            return Err(ClusterError::State { name: self.name.clone(), state: "running already" });
        }
        let said = self.said();
        let output = File::create(&said).map_err(ClusterError::file(&said))?;
        let log = self.log();
        let errors =
            File::options().create(true).append(true).open(&log).map_err(ClusterError::file(&log))?;
        let mut command = Command::new(&self.program);
        command.arg("start").arg("--listen").arg(self.listen(how));
        for address in &how.join {
            command.arg("--join").arg(address);
        }
        // A process group of its own: Ctrl-C in a terminal is for us, and we stop the nodes in order.
        let child = command
            .args(&how.arguments)
            .envs(how.environment.iter().map(|(name, value)| (name, value)))
            .env("FLAIR_HOME", &self.home)
            .env("NO_COLOR", "1")
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .process_group(0)
            .kill_on_drop(!how.outlive)
            .spawn()
            .map_err(|source| ClusterError::Spawn { program: self.program.clone(), source })?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits for the ready line of a process that was just started; kills it if none comes.
    pub(super) async fn until_ready(&mut self) -> Result<Ready, ClusterError> {
        match self.ready_line().await {
            Ok(ready) => Ok(self.ready.insert(ready).clone()),
            Err(error) => {
                if self.is_running() {
                    self.kill().await?;
                }
                Err(error)
            }
        }
    }

    /// Kills the node as a power cut would (SIGKILL), and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> Result<(), ClusterError> {
        let mut child = self.take()?;
        let pid = child.id().unwrap_or_default();
        child.kill().await.map_err(|source| ClusterError::Signal { pid, source })
    }

    /// Asks the node to stop (SIGTERM) and waits; kills it when it does not within 20 s.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn stop(&mut self) -> Result<(), ClusterError> {
        let mut child = self.take()?;
        let Some(pid) = child.id() else { return Ok(()) };
        process::signal(pid, Signal::TERM)?;
        if tokio::time::timeout(STOP, child.wait()).await.is_err() {
            child.kill().await.map_err(|source| ClusterError::Signal { pid, source })?;
        }
        Ok(())
    }

    fn take(&mut self) -> Result<Child, ClusterError> {
        if self.is_running()
            && let Some(child) = self.child.take()
        {
            return Ok(child);
        }
        Err(ClusterError::State { name: self.name.clone(), state: "not running" })
    }

    /// Where to listen: as asked, else where it was last reached, without the peer id.
    fn listen(&self, how: &Start) -> String {
        let last = self.ready.as_ref().and_then(|ready| ready.addresses.first());
        let last = last.and_then(|address| address.split("/p2p/").next());
        how.listen.as_deref().or(last).unwrap_or(LISTEN).into()
    }

    /// Where the process's stdout goes: a file, not a pipe, so that a node that lives on may go on writing when
    /// nobody reads.
    fn said(&self) -> PathBuf {
        self.dir.join("said")
    }

    async fn ready_line(&mut self) -> Result<Ready, ClusterError> {
        let said = &self.said();
        let begun = Instant::now();
        loop {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            let text = fs::read_to_string(said).map_err(ClusterError::file(said))?;
            if let Some((line, _)) = text.split_once('\n') {
                return Ready::parse(line)
                    .ok_or_else(|| ClusterError::ReadyLine { name: self.name.clone(), line: line.into() });
            }
            if let Some(status) = ended {
                return Err(self.not_ready(format!("ended ({status})")));
            }
            if begun.elapsed() > READY {
                return Err(self.not_ready(format!("said nothing for {} s", READY.as_secs())));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn not_ready(&self, what: String) -> ClusterError {
        let log = self.log();
        let text = fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n");
        ClusterError::NotReady { name: self.name.clone(), what, log: log.display().to_string(), tail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of the test's own that misbehaves as no real node would.
    fn node(dir: &Path, script: &str) -> Node {
        use std::os::unix::fs::PermissionsExt;
        let program = dir.join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Node::new("one", &program, &dir.join("one")).unwrap()
    }

    #[test]
    fn a_ready_line_is_an_id_and_addresses() {
        let line = "ready did:key:z6Mk /ip4/127.0.0.1/tcp/4001/p2p/12D3 /ip4/10.0.0.1/tcp/4001/p2p/12D3 more";
        let ready = Ready::parse(line).unwrap();
        assert_eq!(ready.id, "did:key:z6Mk");
        assert_eq!(ready.addresses.len(), 2);
        for bad in
            ["", "ready", "ready did:key:z6Mk", "ready z6Mk /ip4/1.2.3.4", "redy did:key:z6Mk /ip4/1.2.3.4"]
        {
            assert_eq!(Ready::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_node_that_ends_early_is_reported_with_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = node(dir.path(), "echo the key is damaged >&2; exit 3");
        let error = node.start(&Start::default()).await.unwrap_err().to_string();
        assert!(error.contains("the key is damaged") && error.contains('3'), "{error}");
        assert!(!node.is_running());
    }

    #[tokio::test]
    async fn a_node_that_says_something_else_is_killed() {
        let dir = tempfile::tempdir().unwrap();
        let mut node = node(dir.path(), "echo hello; exec sleep 60");
        let error = node.start(&Start::default()).await.unwrap_err();
        assert!(matches!(&error, ClusterError::ReadyLine { line, .. } if line == "hello"), "{error}");
        assert!(!node.is_running());
    }

    #[tokio::test]
    async fn a_killed_node_starts_again_on_its_port_and_a_dropped_one_ends() {
        let dir = tempfile::tempdir().unwrap();
        let script =
            "echo \"$@\" >> args; echo ready did:key:z6Mk /ip4/127.0.0.1/tcp/4001/p2p/12D3; exec sleep 60";
        let mut node = node(dir.path(), script);
        let how = Start { join: vec!["/ip4/127.0.0.1/tcp/1/p2p/12D3".into()], ..Start::default() };
        node.start(&how).await.unwrap();
        let first = node.identity().unwrap();
        assert!(matches!(node.start(&how).await, Err(ClusterError::State { .. })));
        node.kill().await.unwrap();
        assert!(!first.runs());
        assert!(matches!(node.kill().await, Err(ClusterError::State { .. })));

        node.start(&Start::default()).await.unwrap();
        let second = node.identity().unwrap();
        assert!(second.runs());
        node.stop().await.unwrap();
        assert!(!second.runs());
        let arguments = fs::read_to_string(dir.path().join("one/args")).unwrap();
        assert_eq!(
            arguments,
            "start --listen /ip4/127.0.0.1/tcp/0 --join /ip4/127.0.0.1/tcp/1/p2p/12D3\n\
             start --listen /ip4/127.0.0.1/tcp/4001\n"
        );

        node.start(&Start::default()).await.unwrap();
        let third = node.identity().unwrap();
        drop(node);
        // Dropping kills at once; the end itself follows.
        while third.runs() {
            tokio::time::sleep(LOOK).await;
        }
    }
}
