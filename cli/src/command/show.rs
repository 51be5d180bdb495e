//! `flair show`

use flair_node::api::types::{Problem, ShowRequest, Shown};

use crate::context::Context;
use crate::render::history;

/// Show one commit in full
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair show
  flair show 4f5a6b7c8d
  flair show main --json")]
pub(crate) struct Arguments {
    /// A commit's id or its beginning, or a branch for its head [default: this branch's head]
    commit: Option<String>,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = ShowRequest { place: context.place(), commit: self.commit };
        let answer: Shown = context.post("/v1/show", &request).await?;
        context.print(&answer, history::shown)
    }
}
