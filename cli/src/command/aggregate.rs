//! `flair aggregate`

use flair_node::api::types::{AggregateRequest, Aggregated, Problem};

use crate::context::Context;
use crate::influence;
use crate::render::{evaluation, together};

/// Aggregate the pending updates now
///
/// Nodes do this by themselves once enough persons have pushed; everybody who does it gets the same result.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair aggregate --dry-run
  flair aggregate --dry-run --evaluate      # what each update does, on your own data
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
    /// Measure the aggregate on your own data, and again without each of its updates in turn; see `flair evaluate`
    #[arg(long, requires = "dry_run")]
    evaluate: bool,
    /// The set of data to measure on, where .flair/config.toml has several
    #[arg(long, value_name = "NAME", requires = "evaluate")]
    on: Option<String>,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        if self.evaluate {
            let influence = influence::measure(context, self.branch, self.on.as_deref()).await?;
            return context.print(&influence, evaluation::influence);
        }
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
