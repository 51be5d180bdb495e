//! Settings of a node, from `config.toml`.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

use super::budget::Budgets;
use super::verify::Verify;

/// Characters of a repository's id that a table must name at least.
const START: usize = 4;

/// Which repositories of others a node fetches and keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Follow {
    /// None: only what a command asks for.
    None,
    /// Those it was told to follow.
    #[default]
    Followed,
    /// Every repository it hears of, within the quota.
    All,
}

/// Settings of a node. A key that is not listed here is an error, so that a typing mistake is not a silent default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Name shown to other people beside the id. Default: none.
    pub name: Option<String>,
    /// Multiaddresses to listen at. Default: any free TCP port of this machine's loopback address, so that nothing
    /// is open to a network unless asked for.
    pub listen: Vec<String>,
    /// Address and port to serve tensors at, over UDP. Default: any free port of the loopback address.
    pub blobs_listen: String,
    /// Multiaddresses of nodes to stay connected with. Default: none.
    pub join: Vec<String>,
    /// Look for nodes on the local network, and be found there. Default: no.
    pub mdns: bool,
    /// What to fetch of others and to keep for them. Default: `followed`.
    pub follow: Follow,
    /// Most bytes to keep per repository. Default: 64 GiB.
    pub quota_bytes: u64,
    /// Most bytes to keep of single repositories, by the id or its first characters. Default: none, `quota_bytes` counts.
    pub quotas: BTreeMap<String, u64>,
    /// Most bytes to keep of all repositories together. Default: no limit but the disk.
    pub quota_total_bytes: Option<u64>,
    /// How aggregates of others are checked: `always` by running them, `sample:0.1` by running each with that
    /// probability, `quorum:3` by what so many others attest. Default: `always`.
    pub verify: Verify,
    /// The same for single repositories, by the id or its first characters. Default: none, `verify` counts.
    pub verify_in: BTreeMap<String, Verify>,
    /// Seconds that a result which may not be taken yet is waited for before this node runs the aggregate itself: too
    /// few attest it, or members contradict each other. A node with a quorum also waits so long for others to
    /// aggregate before it does. Default: 60.
    pub quorum_wait: u64,
    /// How many others must attest an aggregate that a sample leaves out; and an old one that a clone without history
    /// takes over, where fewer could, all of them. Default: 2.
    pub attesters: usize,
    /// Aggregate when the policy of a branch says that it is time. Default: yes.
    pub aggregate: bool,
    /// File to which every message that leaves is appended before it is encrypted, so that it can be searched for what
    /// must not leave. Blobs are not among them: `flair push --dry-run` lists those. Default: none.
    pub capture: Option<PathBuf>,
    /// Differential privacy: how much may be spent, and whether commits without it are refused. Default: no limit, no.
    pub privacy: Budgets,
    /// Threads for hashing, coding and aggregation. Default: one per core.
    pub threads: NonZeroUsize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()],
            blobs_listen: "127.0.0.1:0".to_owned(),
            join: Vec::new(),
            mdns: false,
            follow: Follow::default(),
            quota_bytes: 64 << 30,
            quotas: BTreeMap::new(),
            quota_total_bytes: None,
            verify: Verify::default(),
            verify_in: BTreeMap::new(),
            quorum_wait: 60,
            attesters: 2,
            aggregate: true,
            capture: None,
            privacy: Budgets::default(),
            threads: available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

impl Config {
    /// Most bytes to keep of the repository with this id.
    pub fn quota(&self, repo: &str) -> u64 {
        own(&self.quotas, repo).unwrap_or(self.quota_bytes)
    }

    /// How aggregates of the repository with this id are checked.
    pub fn verify_of(&self, repo: &str) -> Verify {
        own(&self.verify_in, repo).unwrap_or(self.verify)
    }

    /// Reads settings from TOML; what is not set has its default.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        config.privacy.check()?;
        match config.verify_in.keys().find(|start| start.len() < START) {
            None => Ok(config),
            Some(start) => {
                Err(format!("[verify_in] {start}: give at least {START} characters of the repository's id"))
            }
        }
    }
}

/// What a table by first characters says of a repository: the longest that fits.
fn own<T: Copy>(table: &BTreeMap<String, T>, repo: &str) -> Option<T> {
    let fitting = table.iter().filter(|(start, _)| start.len() >= START && repo.starts_with(start.as_str()));
    fitting.max_by_key(|(start, _)| start.len()).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_set_has_its_default() {
        let config = Config::parse("name = \"site B\"\nfollow = \"all\"\nthreads = 3").unwrap();
        assert_eq!(config.name.as_deref(), Some("site B"));
        assert_eq!(config.follow, Follow::All);
        assert_eq!(config.threads.get(), 3);
        assert_eq!(Config { name: None, ..Config::default() }, Config::parse("").unwrap());
    }

    #[test]
    fn the_quota_of_a_repository_is_its_own_before_that_of_all() {
        let config = Config::parse("quota_bytes = 7\n[quotas]\nabcd = 1\nabcdef = 2\nab = 3").unwrap();
        assert_eq!([config.quota("abcdefgh"), config.quota("abcdzz"), config.quota("abzz")], [2, 1, 7]);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let error = Config::parse("listn = []").unwrap_err();
        assert!(error.contains("listn"), "{error}");
    }
}
