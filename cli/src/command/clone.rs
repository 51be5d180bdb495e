//! `flair clone`

use std::path::{Path, PathBuf};

use flair_node::api::types::{CloneRepository, Cloned, Problem};

use crate::context::Context;
use crate::render::setup;

/// Get a repository from a peer, or from a bundle, into a new working folder
///
/// Needs a running node, but for a bundle. A ticket with an invite is redeemed at once. The newest model comes as members attest it, and
/// this node runs every aggregate from there on; `--full` gets all history and runs all of it. A private repository is
/// given to who has a role in it: by an invite in the ticket, or because a maintainer granted one before.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair clone flairk3x…
  flair clone flairk3x… --full
  flair clone digits.bundle
  flair clone flairk3x… digits-2 --person \"Site B\"
  flair clone /ip4/192.0.2.7/tcp/4001/p2p/12D3… --repo mnbv…    # then: flair join")]
pub(crate) struct Arguments {
    /// A ticket, a bundle file, or an address that ends in /p2p/… together with --repo
    source: String,
    /// The folder to make [default: the repository's name]
    folder: Option<PathBuf>,
    /// The branch to check out [default: main, else the first]
    #[arg(long)]
    branch: Option<String>,
    /// Get all history, and run every aggregate instead of taking old ones as attested
    #[arg(long, conflicts_with = "depth")]
    full: bool,
    /// How many of the newest aggregates to run here all the same
    #[arg(long, default_value_t = 0, value_name = "AGGREGATES")]
    depth: u64,
    /// Seconds to wait for the network
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    #[command(flatten)]
    person: super::Person,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let file = context.absolute(Path::new(&self.source));
        let request = CloneRepository {
            source: if file.is_file() { file.display().to_string() } else { self.source },
            repo: context.repo.clone(),
            folder: self.folder.map(|folder| context.absolute(&folder)),
            current: context.folder.clone(),
            branch: self.branch,
            person: self.person.name(),
            full: self.full,
            depth: self.depth,
            timeout: self.timeout,
        };
        let answer: Cloned = context.post("/v1/clone", &request).await?;
        context.print(&answer, setup::cloned)
    }
}
