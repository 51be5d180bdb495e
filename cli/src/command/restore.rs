//! `flair restore`

use flair_node::api::types::{Moved, Problem};

use crate::context::Context;
use crate::render::work;

/// Set the files back to the newest draft, else to the base
///
/// What was trained since is lost.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  flair restore")]
pub(crate) struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let answer: Moved = context.post("/v1/restore", &context.at()).await?;
        context.print(&answer, work::moved)
    }
}
