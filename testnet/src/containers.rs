//! The main job once more in containers, each with a network address and a disk of its own: what the root folder's
//! `Dockerfile` and `compose.yaml` promise, tried with a real Docker daemon.
//!
//! Nothing is pulled: the image holds the programs that were built here and the libraries they name, and the nodes'
//! network has no way out. Everything that was made goes again, however the walk ended.

mod image;
mod project;
mod walk;

use std::path::PathBuf;
use std::time::Instant;

use tokio::signal::unix::{SignalKind, signal};

use self::project::Project;
use crate::cluster::{ClusterError, Programs};

/// Why the containers did not do what they promise.
#[derive(Debug, thiserror::Error)]
pub enum ContainersError {
    /// A command failed, or a program is missing.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// There is no Docker, or none that answers.
    #[error("{what}; {help}")]
    Docker {
        /// What is wrong.
        what: String,
        /// What to do.
        help: &'static str,
    },
    /// The libraries of a program can't be told.
    #[error("the libraries of {program} can't be told: {why}")]
    Libraries {
        /// The program.
        program: PathBuf,
        /// What `ldd` says.
        why: String,
    },
    /// A file or the output cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// The file.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A node did not say that it is ready.
    #[error("{node} {what} instead of getting ready")]
    NotReady {
        /// The node.
        node: String,
        /// What it did.
        what: String,
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

/// Walks through the main job in three containers made of `programs`, and takes everything down again.
///
/// # Errors
/// When no Docker daemon answers, a step fails, the nodes do not end up with the same, or something is left behind.
pub async fn run(programs: &Programs) -> Result<(), ContainersError> {
    let begun = Instant::now();
    // Listened to from here on, so that nothing stays when it is ended early.
    let caught = |kind| signal(kind).map_err(ContainersError::io("signals"));
    let (mut interrupt, mut terminate) = (caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?);
    let folder = tempfile::Builder::new()
        .prefix("flair-containers-")
        .tempdir()
        .map_err(ContainersError::io("a folder for the image"))?;
    let trainer = std::env::current_exe().map_err(ContainersError::io("this program"))?;
    let holds = image::lay_out(folder.path(), &[&programs.flair, &programs.node, &trainer]).await?;
    say(&format!("image of {holds}"))?;
    let project = Project::new(folder.path()).await?;

    let walked = tokio::select! {
        walked = walk::walk(&project) => walked,
        _ = interrupt.recv() => Err(ContainersError::Interrupted),
        _ = terminate.recv() => Err(ContainersError::Interrupted),
    };
    if walked.is_err() {
        say(&project.logs().await)?;
    }
    // What went wrong first is what matters.
    let down = project.down().await;
    walked.and(down)?;
    say(&format!("everything holds, and is taken down again: {} s", begun.elapsed().as_secs()))
}

/// Prints a line.
fn say(text: &str) -> Result<(), ContainersError> {
    use std::io::Write as _;
    writeln!(std::io::stdout(), "{text}").map_err(ContainersError::io("standard output"))
}
