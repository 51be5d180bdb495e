//! The main job once more in containers, each with a network address and a folder of its own: what the root folder's
//! `Dockerfile` and `compose.yaml` and `flair-testnet up --containers` promise, tried with a real Docker daemon.
//!
//! Nothing is pulled, and the nodes' network has no way out. Everything that was made goes again, however it ended.

mod compose;
mod walk;

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use self::compose::Project;
use crate::cluster::container::{docker, offered};
use crate::cluster::{ClusterError, Fleet, Place};
use crate::digits::DigitsError;
use crate::trainer::TrainerError;

/// How long whatever the nodes do by themselves may take.
const SOON: Duration = Duration::from_mins(1);
/// How often to look whether they have.
const LOOK: Duration = Duration::from_millis(200);

/// Why the containers did not do what they promise.
#[derive(Debug, thiserror::Error)]
pub enum ContainersError {
    /// A command failed, a node did not get ready, or a program is missing.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The data cannot be had.
    #[error(transparent)]
    Digits(#[from] DigitsError),
    /// The network cannot be trained, read or written.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
    /// A file or the output cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// The file.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Something that must come about did not.
    #[error("{what} did not come about within {seconds} s")]
    Slow {
        /// What did not.
        what: String,
        /// The time it had.
        seconds: u64,
    },
    /// What the containers promise does not hold.
    #[error("{0}")]
    Failed(String),
    /// The user, or the system, ended it.
    #[error("interrupted")]
    Interrupted,
}

impl ContainersError {
    fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.to_string(), source }
    }
}

/// Starts `compose.yaml` with `image`, walks through the main job in three further containers of it, and takes
/// everything down again.
///
/// # Errors
/// When Docker, Compose or the image is missing, a step fails, or the nodes do not end up with the same.
pub async fn run(image: &str) -> Result<(), ContainersError> {
    let begun = Instant::now();
    // Listened to from here on, so that nothing stays when it is ended early.
    let caught = |kind| signal(kind).map_err(ContainersError::io("signals"));
    let (mut interrupt, mut terminate) = (caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?);
    offered(image).await?;
    let folder = tempfile::Builder::new()
        .prefix("flair-containers-")
        .tempdir()
        .map_err(ContainersError::io("a folder for the nodes"))?;
    let dir = folder.path().join("nodes");
    let project = Project::new(image, folder.path().join("compose.yaml")).await?;

    let walked = tokio::select! {
        walked = both(&project, image, &dir) => walked,
        _ = interrupt.recv() => Err(ContainersError::Interrupted),
        _ = terminate.recv() => Err(ContainersError::Interrupted),
    };
    if walked.is_err() {
        say(&project.logs().await)?;
        for member in Fleet::open(&dir).iter().flat_map(Fleet::members) {
            if let Place::Container(container) = &member.place {
                say(&format!("{}:\n{}", member.name, container.tail().await?))?;
            }
        }
    }
    // What went wrong first is what matters.
    let down = down(&project, &dir).await;
    walked.and(down)?;
    say(&format!("everything holds, and is taken down again: {} s", begun.elapsed().as_secs()))
}

async fn both(project: &Project, image: &str, dir: &Path) -> Result<(), ContainersError> {
    project.walk().await?;
    project.down().await?;
    walk::walk(image, dir).await
}

/// Ends whatever a walk cut short has left.
async fn down(project: &Project, dir: &Path) -> Result<(), ContainersError> {
    let fleet = match Fleet::open(dir) {
        Ok(fleet) => fleet.down().await.map(drop),
        Err(ClusterError::Down { .. }) => Ok(()),
        Err(error) => Err(error),
    };
    project.down().await?;
    Ok(fleet?)
}

/// Looks whether every network of a container is one that Docker keeps to itself.
async fn leads_nowhere(container: &str) -> Result<(), ContainersError> {
    let names = "{{range $name, $_ := .NetworkSettings.Networks}}{{println $name}}{{end}}";
    let ran = docker(&["inspect", "--format", names, container]).await?.ok()?;
    let networks: Vec<&str> = ran.stdout.split_whitespace().collect();
    let inspect = [&["network", "inspect", "--format", "{{.Internal}}"], networks.as_slice()].concat();
    let ran = docker(&inspect).await?.ok()?;
    if networks.is_empty() || ran.stdout.split_whitespace().any(|internal| internal != "true") {
        return Err(broken(format!("{container} has a way out, by one of {}", networks.join(", "))));
    }
    Ok(())
}

/// Looks again and again until there is something.
async fn until<T>(
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>, ContainersError>,
) -> Result<T, ContainersError> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if begun.elapsed() > SOON {
            return Err(ContainersError::Slow { what: what.into(), seconds: SOON.as_secs() });
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn broken(what: impl Into<String>) -> ContainersError {
    ContainersError::Failed(what.into())
}

/// Prints a line.
fn say(text: &str) -> Result<(), ContainersError> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{text}").map_err(ContainersError::io("standard output"))
}
