//! `flair pull`

use flair_node::api::types::{Moved, Problem, PullRequest};

use crate::context::Context;
use crate::render::work;

/// Move the folder to the newest checked head
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair pull
  flair pull --rebase      # carry local training over onto the new head")]
pub(crate) struct Arguments {
    /// Carry local training over onto the new head
    #[arg(short, long)]
    rebase: bool,
    /// Seconds to wait for the head to be fetched and checked
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = PullRequest { place: context.place(), rebase: self.rebase, timeout: self.timeout };
        let answer: Moved = context.post("/v1/pull", &request).await?;
        context.print(&answer, work::moved)
    }
}
