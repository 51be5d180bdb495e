//! One node in a container: made, waited for, ended. All through the command `docker`, as a person would.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{getegid, geteuid};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::node::{READY, STOP};
use super::{ClusterError, Ran, Ready};

/// How long a command of Docker may take.
const PATIENCE: Duration = Duration::from_mins(3);
/// Lines of the log that an error shows.
const TAIL: &str = "20";
/// A node's folder in its container.
pub(crate) const FOLDER: &str = "/home/flair";
/// Where a node listens: a container is reached at its own addresses, not at loopback.
const LISTEN: [&str; 5] = ["start", "--listen", "/ip4/0.0.0.0/tcp/4001", "--blobs-listen", "0.0.0.0:4001"];

/// A container, by its name: what ends it must be known before it exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Container {
    name: String,
}

/// A network between containers that leads nowhere else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Network {
    name: String,
}

/// Runs a command of Docker to its end, well or badly.
///
/// # Errors
/// When there is no `docker`, or the command does not end within three minutes.
pub(crate) async fn docker(arguments: &[&str]) -> Result<Ran, ClusterError> {
    let mut docker = Command::new("docker");
    docker.args(arguments);
    Ran::of(format!("docker {}", arguments.join(" ")), docker, PATIENCE).await
}

/// Looks whether a Docker daemon answers and has an image.
///
/// # Errors
/// When none does, or it has not.
pub(crate) async fn offered(image: &str) -> Result<(), ClusterError> {
    let missing = |what, help| Err(ClusterError::Docker { what, help });
    let answer = docker(&["version", "--format", "{{.Server.Version}}"]).await;
    if let Err(error) = answer.and_then(Ran::ok) {
        return missing(
            format!("no Docker daemon answers: {error}"),
            "start one, or as root let `.ci/with-docker` start one for a single command",
        );
    }
    if docker(&["image", "inspect", image]).await?.status.success() {
        return Ok(());
    }
    missing(format!("Docker has no image {image}"), "`make image` builds `flair`")
}

impl Network {
    pub(super) fn named(name: &str) -> Self {
        Self { name: name.into() }
    }

    pub(super) async fn create(&self) -> Result<(), ClusterError> {
        docker(&["network", "create", "--internal", &self.name]).await?.ok().map(drop)
    }

    /// Removes it, if it is there.
    pub(super) async fn remove(&self) -> Result<(), ClusterError> {
        let filter = format!("name=^{}$", self.name);
        if docker(&["network", "ls", "--quiet", "--filter", &filter]).await?.ok()?.stdout.is_empty() {
            return Ok(());
        }
        docker(&["network", "rm", &self.name]).await?.ok().map(drop)
    }

    /// The container of one node in it; `node` is also how the others find it.
    pub(super) fn container(&self, node: &str) -> Container {
        Container { name: format!("{}-{node}", self.name) }
    }

    /// Starts a node's container: the node's folder is its one disk, and it may nothing that it does not need.
    pub(super) async fn start(
        &self,
        node: &str,
        image: &str,
        folder: &Path,
        join: Option<&str>,
    ) -> Result<(), ClusterError> {
        // Not the image's user: what it writes is for whoever started it.
        let user = format!("{}:{}", geteuid().as_raw(), getegid().as_raw());
        let mount = format!("type=bind,source={},target={FOLDER}", folder.display());
        let home = format!("FLAIR_HOME={FOLDER}/home");
        let name = self.container(node).name;
        let mut words = vec!["run", "--detach", "--pull", "never", "--name", &name, "--hostname", node];
        words.extend(["--network", &self.name, "--network-alias", node]);
        words.extend(["--user", &user, "--mount", &mount, "--env", &home, "--env", "NO_COLOR=1"]);
        words.extend(["--read-only", "--tmpfs", "/tmp:mode=1777", "--cap-drop", "ALL"]);
        words.extend(["--security-opt", "no-new-privileges", image]);
        words.extend(LISTEN);
        if let Some(join) = join {
            words.extend(["--join", join]);
        }
        docker(&words).await?.ok().map(drop)
    }
}

impl Container {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its node runs.
    ///
    /// # Errors
    /// When Docker does not say.
    pub async fn runs(&self) -> Result<bool, ClusterError> {
        self.listed(&[]).await
    }

    /// Runs the image's `flair` in a folder of the container, well or badly.
    ///
    /// # Errors
    /// When it does not start or end.
    pub async fn flair(&self, folder: &str, arguments: &[&str]) -> Result<Ran, ClusterError> {
        docker(&[&["exec", "--workdir", folder, &self.name, "flair"], arguments].concat()).await
    }

    /// Ends its node, and removes it. Returns whether the node ran.
    pub(super) async fn end(&self) -> Result<bool, ClusterError> {
        let ran = self.runs().await?;
        if ran {
            docker(&["stop", "-t", &STOP.as_secs().to_string(), &self.name]).await?.ok()?;
        }
        if self.listed(&["--all"]).await? {
            docker(&["rm", "--force", &self.name]).await?.ok()?;
        }
        Ok(ran)
    }

    /// Waits for its node's ready line.
    pub(super) async fn until_ready(&self) -> Result<Ready, ClusterError> {
        match ready(&self.name).await? {
            Ok(ready) => Ok(ready),
            Err(what) => Err(ClusterError::NotReady {
                name: self.name.clone(),
                what,
                log: format!("`docker logs {}`", self.name),
                tail: self.tail().await?,
            }),
        }
    }

    /// The last lines of its log.
    pub(crate) async fn tail(&self) -> Result<String, ClusterError> {
        let ran = docker(&["logs", "--tail", TAIL, &self.name]).await?;
        Ok(ran.stdout + &ran.stderr)
    }

    async fn listed(&self, how: &[&str]) -> Result<bool, ClusterError> {
        let filter = format!("name=^/{}$", self.name);
        let ran = docker(&[&["ps", "--quiet", "--filter", &filter], how].concat()).await?.ok()?;
        Ok(!ran.stdout.is_empty())
    }
}

/// Waits for the ready line of the node in a container, or what came instead.
pub(crate) async fn ready(container: &str) -> Result<Result<Ready, String>, ClusterError> {
    let mut logs = Command::new("docker")
        .args(["logs", "--follow", container])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| ClusterError::Spawn { program: "docker".into(), source })?;
    let Some(output) = logs.stdout.take() else { return Ok(Err("has no output".into())) };
    Ok(match tokio::time::timeout(READY, BufReader::new(output).lines().next_line()).await {
        Err(_) => Err(format!("said nothing for {} s", READY.as_secs())),
        Ok(Err(error)) => Err(format!("printed what is not text ({error})")),
        Ok(Ok(None)) => Err("ended".into()),
        Ok(Ok(Some(line))) => Ready::parse(&line).ok_or_else(|| format!("printed {line:?}")),
    })
}
