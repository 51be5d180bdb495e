//! `flair status`

use flair_node::api::types::{Problem, Status};

use crate::context::Context;
use crate::render::status;

/// Tell where folder and repository stand
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair status
  flair status --repo digits --json")]
pub(crate) struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let answer: Status = context.post("/v1/status", &context.at()).await?;
        context.print(&answer, status::status)
    }
}
