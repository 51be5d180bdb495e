//! What Flair costs on this machine: figures of real `flair-node` processes and real `flair` commands on loopback.
//!
//! Times move with the machine and with what else runs on it; so the same models can be [written](write()) to a folder
//! for other tools to be measured beside. Reads `/proc`, so it needs Linux.

mod latency;
mod usage;
mod versions;
mod weights;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use flair_node::api::Client;
use flair_node::api::types::Problem;
use serde::Serialize;

use crate::cluster::{ClusterError, Node, Programs};
use crate::trainer::TrainerError;

pub use latency::{Latency, Spread};
pub use usage::Used;
pub use versions::Step;
pub use weights::{Shape, write};

/// What to measure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Pushes to take the medians over; none are measured when it is 0.
    pub pushes: usize,
    /// The model that is committed, cloned and pulled.
    pub model: Model,
}

/// Three versions of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Model {
    /// Drawn ones.
    Drawn(Shape),
    /// Those in a folder: `v1.safetensors` and so on.
    Given(PathBuf),
}

/// The figures.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// From a push to where it can be seen elsewhere, if that was asked for.
    pub latency: Option<Latency>,
    /// Bytes of the model of [`steps`](Self::steps).
    pub model: u64,
    /// Commit, clone and pull of it.
    pub steps: Vec<Step>,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A node or a command does not do what it is told to.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The small network cannot be written.
    #[error(transparent)]
    Trainer(#[from] TrainerError),
    /// A node refused a request.
    #[error("{who}: {what}: {problem}")]
    Refused {
        /// Whose node.
        who: String,
        /// What was asked.
        what: &'static str,
        /// Its answer.
        problem: Problem,
    },
    /// Something that must come about did not.
    #[error("{what} within {seconds} s; the nodes' logs tell more")]
    Slow {
        /// What did not.
        what: String,
        /// The time it had.
        seconds: u64,
    },
    /// A file or the output cannot be used.
    #[error("{what}: {source}")]
    Io {
        /// The file.
        what: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A model file cannot be written.
    #[error("{path}: {source}")]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What the safetensors library says.
        source: safetensors::SafeTensorError,
    },
    /// A part of the benchmark itself broke.
    #[error("the benchmark itself failed: {0}")]
    Broken(String),
    /// A figure would be about something else than it says.
    #[error("{0}: the figures would mean nothing")]
    Wrong(String),
}

impl BenchError {
    fn refused(who: &str, what: &'static str) -> impl FnOnce(Problem) -> Self {
        move |problem| Self::Refused { who: who.into(), what, problem }
    }

    fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { what: what.to_string(), source }
    }

    fn broken(error: impl std::fmt::Display) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Measures, in a folder of its own, and prints tables as it goes unless it is to be `quiet`.
///
/// # Errors
/// When a node or command fails, or something takes far too long.
pub async fn run(programs: &Programs, dir: &Path, scope: &Scope, quiet: bool) -> Result<Report, BenchError> {
    let mut latency = None;
    if scope.pushes > 0 {
        let measured = latency::measure(programs, &dir.join("latency"), scope.pushes).await?;
        if !quiet {
            say(&measured.table())?;
        }
        latency = Some(measured);
    }
    let (model, steps) = versions::measure(programs, &dir.join("versions"), &scope.model).await?;
    if !quiet {
        say(&versions::table(model, &steps))?;
    }
    Ok(Report { latency, model, steps })
}

fn client(node: &Node) -> Result<Client, BenchError> {
    Client::running(node.home())
        .ok_or_else(|| BenchError::broken(format!("{}'s node does not answer", node.name())))
}

/// Prints a paragraph.
fn say(text: &str) -> Result<(), BenchError> {
    writeln!(std::io::stdout(), "{text}\n").map_err(BenchError::io("standard output"))
}
