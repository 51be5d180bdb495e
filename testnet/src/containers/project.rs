//! One run of `compose.yaml` on the Docker daemon: its image, containers, network and volumes, and nothing else's.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::ContainersError;
use crate::cluster::{Ran, Ready};

/// How long a command of Docker may take.
const PATIENCE: Duration = Duration::from_mins(3);
/// How long a node may take to its ready line.
const READY: Duration = Duration::from_mins(1);
/// Seconds that a node has to stop before it is killed.
const STOP: &str = "20";
/// Lines of each node's log that a failure shows.
const TAIL: &str = "25";
/// The services of `compose.yaml`.
pub(super) const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// What one run makes, told apart by a name of its own, which is also the image's.
#[derive(Debug)]
pub(super) struct Project {
    name: String,
    folder: PathBuf,
    /// The words that Compose is called with.
    compose: Vec<String>,
}

/// A running container.
#[derive(Clone, Debug)]
pub(super) struct Container {
    /// Its service.
    pub(super) node: &'static str,
    id: String,
    /// What its node said when it was ready.
    pub(super) ready: Ready,
}

impl Project {
    /// Looks for a Docker daemon and Compose; `folder` holds what [`super::image`] put there.
    pub(super) async fn new(folder: &Path) -> Result<Self, ContainersError> {
        let name = format!("flair-testnet-{}", std::process::id());
        let mut project = Self { name, folder: folder.into(), compose: Vec::new() };
        let answer = project.docker(&["version", "--format", "{{.Server.Version}}"]).await;
        if let Err(error) = answer.and_then(|ran| Ok(ran.ok()?)) {
            return Err(ContainersError::Docker {
                what: format!("no Docker daemon answers: {error}"),
                help: "start one, or as root run `.ci/with-docker flair-testnet docker`",
            });
        }
        // Docker's own, and the older one by itself.
        for words in [["docker", "compose"].as_slice(), &["docker-compose"]] {
            project.compose = words.iter().map(|word| (*word).to_owned()).collect();
            if project.compose(&["version"]).await.is_ok_and(|ran| ran.status.success()) {
                return Ok(project);
            }
        }
        Err(ContainersError::Docker {
            what: "there is no Compose".into(),
            help: "install docker-compose (2, or 1.27 and later)",
        })
    }

    /// The folder with the image's files, which ends with the run.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Builds the image; returns its size in bytes.
    pub(super) async fn build(&self) -> Result<u64, ContainersError> {
        let folder = self.folder.display().to_string();
        self.docker(&["build", "--tag", &self.name, &folder]).await?.ok()?;
        let size = self.docker(&["image", "inspect", "--format", "{{.Size}}", &self.name]).await?.ok()?;
        Ok(size.stdout.trim().parse().unwrap_or_default())
    }

    /// Starts all nodes and waits for their ready lines.
    pub(super) async fn up(&self) -> Result<Vec<Container>, ContainersError> {
        self.compose(&["up", "--detach", "--no-build"]).await?.ok()?;
        let mut containers = Vec::new();
        for node in NODES {
            containers.push(self.ready(node).await?);
        }
        Ok(containers)
    }

    /// Removes a node's container, not its volume, and starts a new one.
    pub(super) async fn renew(&self, node: &'static str) -> Result<Container, ContainersError> {
        self.compose(&["rm", "--stop", "--force", node]).await?.ok()?;
        self.compose(&["up", "--detach", "--no-build", node]).await?.ok()?;
        self.ready(node).await
    }

    /// The last lines of every node's log.
    pub(super) async fn logs(&self) -> String {
        match self.compose(&["logs", "--no-color", "--tail", TAIL]).await {
            Ok(ran) => ran.stdout,
            Err(error) => error.to_string(),
        }
    }

    /// Removes containers, network, volumes and image, and looks whether they are gone.
    pub(super) async fn down(&self) -> Result<(), ContainersError> {
        let down = ["down", "--volumes", "--remove-orphans", "--timeout", STOP];
        let containers = self.compose(&down).await.and_then(|ran| Ok(ran.ok()?));
        let built = self.docker(&["image", "ls", "--quiet", &self.name]).await?.ok()?;
        if !built.stdout.trim().is_empty() {
            self.docker(&["image", "rm", "--force", &self.name]).await?.ok()?;
        }
        containers?;
        let label = format!("label=com.docker.compose.project={}", self.name);
        for list in [["container", "ls", "--all"].as_slice(), &["network", "ls"], &["volume", "ls"]] {
            let left =
                self.docker(&[list, &["--quiet", "--filter", label.as_str()]].concat()).await?.ok()?.stdout;
            if !left.trim().is_empty() {
                let left = left.split_whitespace().collect::<Vec<_>>().join(", ");
                return Err(ContainersError::Failed(format!("left behind: {} {left}", list.join(" "))));
            }
        }
        Ok(())
    }

    async fn docker(&self, arguments: &[&str]) -> Result<Ran, ContainersError> {
        let mut docker = Command::new("docker");
        docker.args(arguments);
        Ok(Ran::of(format!("docker {}", arguments.join(" ")), docker, PATIENCE).await?)
    }

    async fn compose(&self, arguments: &[&str]) -> Result<Ran, ContainersError> {
        let name = format!("{} {}", self.compose.join(" "), arguments.join(" "));
        let mut words = self.compose.iter();
        let mut compose = Command::new(words.next().map_or("docker", String::as_str));
        compose
            .args(words)
            .args(["--project-name", &self.name, "--file"])
            .arg(self.folder.join("compose.yaml"))
            .args(arguments)
            .env("FLAIR_IMAGE", &self.name);
        Ok(Ran::of(name, compose, PATIENCE).await?)
    }

    /// Waits for the ready line of a service's container.
    async fn ready(&self, node: &'static str) -> Result<Container, ContainersError> {
        let id = self.compose(&["ps", "--quiet", node]).await?.ok()?.stdout.trim().to_owned();
        if id.is_empty() {
            return Err(ContainersError::NotReady { node: node.into(), what: "has no container".into() });
        }
        let mut logs = Command::new("docker")
            .args(["logs", "--follow", &id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(ContainersError::io("docker logs"))?;
        let Some(output) = logs.stdout.take() else {
            return Err(ContainersError::Failed("docker logs has no output".into()));
        };
        let what = match tokio::time::timeout(READY, BufReader::new(output).lines().next_line()).await {
            Err(_) => format!("said nothing for {} s", READY.as_secs()),
            Ok(Err(source)) => return Err(ContainersError::io("docker logs")(source)),
            Ok(Ok(None)) => "ended".into(),
            Ok(Ok(Some(line))) => match Ready::parse(&line) {
                Some(ready) => return Ok(Container { node, id, ready }),
                None => format!("printed {line:?}"),
            },
        };
        Err(ContainersError::NotReady { node: node.into(), what })
    }
}

impl Container {
    /// Runs a program of the image in the container, well or badly.
    pub(super) async fn run(&self, program: &str, arguments: &[&str]) -> Result<Ran, ContainersError> {
        let mut docker = Command::new("docker");
        docker.args(["exec", &self.id, program]).args(arguments);
        let name = format!("{}: {program} {}", self.node, arguments.join(" "));
        Ok(Ran::of(name, docker, PATIENCE).await?)
    }

    /// Copies a file out of the container.
    pub(super) async fn take(&self, path: &str, to: &Path) -> Result<(), ContainersError> {
        let mut docker = Command::new("docker");
        docker.arg("cp").arg(format!("{}:{path}", self.id)).arg(to);
        Ran::of(format!("docker cp {}:{path}", self.node), docker, PATIENCE).await?.ok()?;
        Ok(())
    }
}
