//! What was spent in a repository, and what its releases were made from.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use flair_aggregation::privacy::account;
use flair_protocol::id::{BranchId, CommitId, RepositoryId, TensorId};
use serde::{Deserialize, Serialize};

use super::mu;
use crate::api::types::Problem;
use crate::home::{Decimal, Home, replace};

const VERSION: u32 = 1;
/// First line of the other file.
const CLEAN: &str = "flair/clean/1";

/// Every release that this home made in a repository. It only grows.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    version: u32,
    /// The releases, oldest first.
    pub releases: Vec<Release>,
    #[serde(skip)]
    path: PathBuf,
}

/// A change that was noised. It counts from then on, whether or not it was published: whoever uses this machine has
/// seen it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Its number in this ledger, from 1.
    pub number: u64,
    /// Milliseconds since 1970.
    pub time: u64,
    /// The branch.
    pub branch: BranchId,
    /// The published commit it is about.
    pub base: CommitId,
    /// The clipping norm.
    pub clip: Decimal,
    /// The noise multiplier.
    pub noise: Decimal,
    /// The update that it became, where it was published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
}

impl Ledger {
    /// The ledger of a repository; an empty one when there is none yet.
    ///
    /// # Errors
    /// One that is damaged or of a newer version: then nothing is spent.
    pub fn open(home: &Home, repo: RepositoryId) -> Result<Self, Problem> {
        let path = home.privacy()?.join(format!("{repo}.json"));
        let Some(text) = read(&path)? else {
            return Ok(Self { version: VERSION, releases: Vec::new(), path });
        };
        let bad = |why: String| {
            Problem::internal(format!("{}: {why}", path.display())).help(
                "what was spent is not known without it, so nothing is spent: restore it from a backup, or install the \
                 version of Flair that wrote it",
            )
        };
        let mut ledger: Self = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        if ledger.version != VERSION {
            return Err(bad(format!("version {}, and this build knows {VERSION}", ledger.version)));
        }
        ledger.path = path;
        Ok(ledger)
    }

    /// The μ of all releases together.
    pub fn spent(&self) -> f64 {
        account::compose(self.releases.iter().map(|release| mu(&release.noise)))
    }

    /// Enters a release, and returns its number once that is on disk.
    ///
    /// # Errors
    /// When it could not be written: then no noise may be drawn.
    pub fn enter(&mut self, release: Release) -> Result<u64, Problem> {
        let number = self.releases.last().map_or(1, |last| last.number + 1);
        self.releases.push(Release { number, ..release });
        self.save()?;
        Ok(number)
    }

    /// Notes which update releases become, before it is published.
    ///
    /// # Errors
    /// As [`enter`](Self::enter).
    pub fn publish(&mut self, numbers: &[u64], commit: CommitId) -> Result<(), Problem> {
        for release in self.releases.iter_mut().filter(|release| numbers.contains(&release.number)) {
            release.commit = Some(commit);
        }
        self.save()
    }

    fn save(&self) -> Result<(), Problem> {
        let mut text = serde_json::to_vec_pretty(self).map_err(Problem::internal)?;
        text.push(b'\n');
        Ok(replace(&self.path, &text)?)
    }
}

/// The tensors that a repository's releases were made from, by what is in them.
#[derive(Debug)]
pub struct Clean {
    tensors: BTreeSet<TensorId>,
    path: PathBuf,
}

impl Clean {
    /// Those of a repository.
    ///
    /// # Errors
    /// A damaged file.
    pub fn open(home: &Home, repo: RepositoryId) -> Result<Self, Problem> {
        let path = home.privacy()?.join(format!("{repo}.clean"));
        let text = read(&path)?.unwrap_or_else(|| CLEAN.as_bytes().to_vec());
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines();
        let bad = || {
            Problem::internal(format!("{} is damaged, or of a newer version of Flair", path.display()))
                .help("it tells which weights must not be published: restore it from a backup")
        };
        if lines.next() != Some(CLEAN) {
            return Err(bad());
        }
        let tensors = lines.map(|line| line.parse().map_err(|_| bad())).collect::<Result<_, _>>()?;
        Ok(Self { tensors, path })
    }

    /// Whether a release was made from this tensor.
    pub fn has(&self, tensor: TensorId) -> bool {
        self.tensors.contains(&tensor)
    }

    /// Adds tensors, and returns once they are on disk.
    ///
    /// # Errors
    /// When they could not be written: then no noise may be drawn.
    pub fn add(&mut self, tensors: impl IntoIterator<Item = TensorId>) -> Result<(), Problem> {
        self.tensors.extend(tensors);
        let mut text = String::from(CLEAN);
        for tensor in &self.tensors {
            text.push('\n');
            text.push_str(&tensor.to_string());
        }
        text.push('\n');
        Ok(replace(&self.path, text.as_bytes())?)
    }
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    match fs::read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Problem::internal(format!("{}: {error}", path.display()))),
    }
}
