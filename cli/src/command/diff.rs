//! `flair diff`

use flair_node::api::types::{Diff, DiffRequest, Problem};

use crate::context::Context;
use crate::render::history;

/// Compare two models, tensor by tensor
///
/// Without arguments: the folder's files with its base. Never prints a model's numbers, only how far they are apart.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair diff
  flair diff main
  flair diff 4f5a6b7c8d main --json")]
pub(crate) struct Arguments {
    /// A commit, branch or draft [default: the folder's base]
    a: Option<String>,
    /// A commit, branch or draft [default: the folder's files]
    b: Option<String>,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = DiffRequest { place: context.place(), a: self.a, b: self.b };
        let answer: Diff = context.post("/v1/diff", &request).await?;
        context.print(&answer, history::diff)
    }
}
