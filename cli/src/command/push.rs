//! `flair push`

use flair_node::api::types::{Problem, PushRequest, Pushed};

use crate::context::Context;
use crate::render::work;

/// Publish the drafts as one update
///
/// Every reader of the repository sees each update. No data file leaves the machine, but updates can leak: look at
/// `--dry-run` first. Without a running node the update waits, signed, until one runs.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair push --dry-run      # every blob and field that would leave
  flair push
  flair push --keep-drafts")]
pub(crate) struct Arguments {
    /// Only list what would leave
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Keep the drafts
    #[arg(long)]
    keep_drafts: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request =
            PushRequest { place: context.place(), dry_run: self.dry_run, keep_drafts: self.keep_drafts };
        let answer: Pushed = context.post("/v1/push", &request).await?;
        context.print(&answer, work::pushed)
    }
}
