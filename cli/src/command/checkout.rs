//! `flair checkout`

use flair_node::api::types::{CheckoutRequest, Moved, Problem};

use crate::context::Context;
use crate::render::work;

/// Move the folder to a branch or commit
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair checkout trial
  flair checkout 4f5a6b7c8d --force      # local training is lost")]
pub(crate) struct Arguments {
    /// A branch or a commit
    target: String,
    /// Even if local training is lost
    #[arg(short, long)]
    force: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = CheckoutRequest { place: context.place(), target: self.target, force: self.force };
        let answer: Moved = context.post("/v1/checkout", &request).await?;
        context.print(&answer, work::moved)
    }
}
