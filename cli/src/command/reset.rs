//! `flair reset`

use flair_node::api::types::{Problem, ResetDone, ResetRequest};

use crate::context::Context;
use crate::render::work;

/// Undo drafts; what was pushed stays
///
/// The files keep what was trained, so that it can be committed differently, unless `--hard` is given.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair reset 1            # the newest draft
  flair reset              # all drafts
  flair reset --hard       # and the files go back to the base")]
pub(crate) struct Arguments {
    /// How many drafts to undo, newest first [default: all]
    drafts: Option<u64>,
    /// Also set the files back
    #[arg(long)]
    hard: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = ResetRequest { place: context.place(), drafts: self.drafts, hard: self.hard };
        let answer: ResetDone = context.post("/v1/reset", &request).await?;
        context.print(&answer, work::reset)
    }
}
