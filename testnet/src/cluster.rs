//! Real `flair-node` processes on loopback, each with its own home, and the real `flair` command.
//!
//! A [`Cluster`] owns its nodes: when it is dropped, they end. [`Fleet`] keeps nodes that outlive the command that
//! started them, in processes or in containers, and ends them by process id, never a process that merely got the same
//! id later.

mod command;
pub(crate) mod container;
mod fleet;
mod node;
mod process;

use std::path::{Path, PathBuf};

pub use command::{Flair, Ran};
pub use container::Container;
pub use fleet::{Fleet, Kind, Member, Outcome, Place};
pub use node::{Node, Ready, Start};
pub use process::Identity;

/// Why a node or a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A program was not built, or not beside this one.
    #[error("no {name} in {looked}: build it first with `cargo build --workspace --bins`")]
    Missing {
        /// The program.
        name: String,
        /// Where it was looked for.
        looked: String,
    },
    /// A file or folder of the test network cannot be used.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A program does not start.
    #[error("cannot start {program}: {source}")]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A node ended, or said nothing, instead of getting ready.
    #[error("node {name} {what} before it was ready; the end of {log}:\n{tail}")]
    NotReady {
        /// The node.
        name: String,
        /// What it did.
        what: String,
        /// Its log: the file, or the command that shows it.
        log: String,
        /// The log's last lines.
        tail: String,
    },
    /// A node printed something else than its ready line.
    #[error("node {name} printed {line:?}, expected `ready <did:key:…> <address>…`")]
    ReadyLine {
        /// The node.
        name: String,
        /// What it printed.
        line: String,
    },
    /// The node runs already, or not at all.
    #[error("node {name} is {state}")]
    State {
        /// The node.
        name: String,
        /// What it is.
        state: &'static str,
    },
    /// There is no such node.
    #[error("no node {0} in this cluster")]
    Unknown(String),
    /// There is no Docker that answers, or it lacks an image.
    #[error("{what}; {help}")]
    Docker {
        /// What is wrong.
        what: String,
        /// What to do.
        help: &'static str,
    },
    /// A process cannot be signalled.
    #[error("cannot signal process {pid}: {source}")]
    Signal {
        /// The process.
        pid: u32,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A command took too long and was ended.
    #[error("`{command}` did not end within {seconds} s")]
    Slow {
        /// The command line.
        command: String,
        /// The time it had.
        seconds: u64,
    },
    /// A command ended with an error.
    #[error("`{command}` ended with {code}:\n{stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// Its exit code, or the signal that ended it.
        code: String,
        /// What it said.
        stderr: String,
    },
    /// A command's output, or the state file, is not the JSON that was expected.
    #[error("{what} is not the JSON expected: {source}; it begins {start:?}")]
    Json {
        /// The command line or file.
        what: String,
        /// The parser's reason.
        source: serde_json::Error,
        /// Its first characters.
        start: String,
    },
    /// The folder holds a fleet already.
    #[error("{path} exists: nodes were started here; `flair-testnet down` ends them")]
    Up {
        /// The state file.
        path: PathBuf,
    },
    /// The folder holds no fleet.
    #[error("no {path}: no nodes were started here; `flair-testnet up` starts some")]
    Down {
        /// The state file.
        path: PathBuf,
    },
}

impl ClusterError {
    fn file(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::File { path: path.into(), source }
    }
}

/// Where the two programs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Programs {
    /// The command `flair`.
    pub flair: PathBuf,
    /// The daemon `flair-node`.
    pub node: PathBuf,
}

impl Programs {
    /// The programs built together with the running one: beside it, or one folder up for a test.
    ///
    /// # Errors
    /// When one of them was not built.
    pub fn beside_this() -> Result<Self, ClusterError> {
        let this = std::env::current_exe().map_err(ClusterError::file(Path::new("this program")))?;
        let folders: Vec<&Path> = this.ancestors().skip(1).take(2).collect();
        let find = |name: &str| {
            let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
            let found = folders.iter().map(|folder| folder.join(&file)).find(|path| path.is_file());
            found.ok_or_else(|| ClusterError::Missing {
                name: name.into(),
                looked: folders.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(" or "),
            })
        };
        Ok(Self { flair: find("flair")?, node: find("flair-node")? })
    }
}

/// Nodes that live as long as this value.
#[derive(Debug)]
pub struct Cluster {
    programs: Programs,
    dir: PathBuf,
    nodes: Vec<Node>,
}

impl Cluster {
    /// A cluster without nodes; their homes and logs go to folders in `dir`.
    pub fn new(programs: Programs, dir: PathBuf) -> Self {
        Self { programs, dir, nodes: Vec::new() }
    }

    /// Adds node `name`, not started; its home is `dir/name/home`.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn add(&mut self, name: &str) -> Result<&mut Node, ClusterError> {
        self.nodes.push(Node::new(name, &self.programs.node, &self.dir.join(name))?);
        self.node(name)
    }

    /// The nodes, in the order they were added.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The nodes alone, for whoever drives each by itself; they end when they are dropped.
    pub fn into_nodes(self) -> Vec<Node> {
        self.nodes
    }

    /// Node `name`.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&mut self, name: &str) -> Result<&mut Node, ClusterError> {
        self.nodes
            .iter_mut()
            .find(|node| node.name() == name)
            .ok_or_else(|| ClusterError::Unknown(name.into()))
    }

    /// The command `flair` for node `name`'s home, run in folder `cwd`; it needs no running node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn flair(&self, name: &str, cwd: &Path) -> Result<Flair, ClusterError> {
        let node = self
            .nodes
            .iter()
            .find(|node| node.name() == name)
            .ok_or_else(|| ClusterError::Unknown(name.into()))?;
        Ok(Flair::new(&self.programs.flair, node.home(), cwd))
    }

    /// Stops every running node, the ones that do not react with kill.
    ///
    /// # Errors
    /// When one cannot be signalled; the others are still stopped.
    pub async fn stop(&mut self) -> Result<(), ClusterError> {
        let mut result = Ok(());
        for node in &mut self.nodes {
            if node.is_running() {
                result = result.and(node.stop().await);
            }
        }
        result
    }
}
