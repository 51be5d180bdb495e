//! `flair clone`

use std::path::PathBuf;

use flair_node::api::types::{CloneRepository, Cloned, Problem};

use crate::context::Context;
use crate::render::setup;

/// Get a repository from a peer into a new working folder
///
/// Needs a running node. A ticket with an invite is redeemed at once.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair clone flairk3x…
  flair clone flairk3x… digits-2 --person \"Site B\"
  flair clone /ip4/192.0.2.7/tcp/4001/p2p/12D3… --repo mnbv…    # then: flair join")]
pub(crate) struct Arguments {
    /// A ticket, or an address that ends in /p2p/… together with --repo
    source: String,
    /// The folder to make [default: the repository's name]
    folder: Option<PathBuf>,
    /// The branch to check out [default: main, else the first]
    #[arg(long)]
    branch: Option<String>,
    /// Seconds to wait for the network
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    #[command(flatten)]
    person: super::Person,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = CloneRepository {
            source: self.source,
            repo: context.repo.clone(),
            folder: self.folder.map(|folder| context.absolute(&folder)),
            current: context.folder.clone(),
            branch: self.branch,
            person: self.person.name(),
            timeout: self.timeout,
        };
        let answer: Cloned = context.post("/v1/clone", &request).await?;
        context.print(&answer, setup::cloned)
    }
}
