//! `flair du`

use flair_node::api::types::{Du, DuRequest, Problem};

use crate::context::Context;
use crate::render::store;

/// Tell what takes how much of the disk
///
/// For each repository and branch: what the head's model needs, what led to it, and updates that wait. Each piece counts
/// once, for the first that needs it.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair du
  flair du --repo digits --json")]
pub(crate) struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = DuRequest { repo: context.repo.clone() };
        let answer: Du = context.post("/v1/du", &request).await?;
        context.print(&answer, store::usage)
    }
}
