//! `flair aggregate`

use flair_node::api::types::{AggregateRequest, Aggregated, Problem};

use crate::context::Context;
use crate::render::together;

/// Aggregate the pending updates now
///
/// Nodes do this by themselves once enough persons have pushed; everybody who does it gets the same result.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair aggregate --dry-run
  flair aggregate
  flair aggregate --flush      # delegates: with fewer persons than needed")]
pub(crate) struct Arguments {
    /// The branch [default: the folder's]
    #[arg(long)]
    branch: Option<String>,
    /// Write nothing, only tell
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// With fewer persons than needed (delegates only)
    #[arg(long)]
    flush: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = AggregateRequest {
            place: context.place(),
            branch: self.branch,
            dry_run: self.dry_run,
            flush: self.flush,
        };
        let answer: Aggregated = context.post("/v1/aggregate", &request).await?;
        context.print(&answer, together::aggregated)
    }
}
