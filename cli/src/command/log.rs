//! `flair log`

use flair_node::api::types::{Log, LogRequest, Problem};

use crate::context::Context;
use crate::render::{graph, history};

/// Show a branch's history, newest first
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair log
  flair log --graph -n 50
  flair log shared --json")]
pub(crate) struct Arguments {
    /// The branch [default: the folder's]
    branch: Option<String>,
    /// Draw aggregates with their inputs
    #[arg(long)]
    graph: bool,
    /// Entries at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
    limit: u64,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = LogRequest { place: context.place(), branch: self.branch, limit: self.limit };
        let answer: Log = context.post("/v1/log", &request).await?;
        context.print(&answer, if self.graph { graph::log } else { history::log })
    }
}
