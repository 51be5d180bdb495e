//! `flair list`

use flair_node::api::types::{Problem, Repository};

use crate::context::Context;
use crate::render::together;

/// List the repositories this machine has
#[derive(clap::Args)]
#[command(after_help = "Example:\n  flair list --json")]
pub(crate) struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let answer: Vec<Repository> = context.get("/v1/repositories").await?;
        context.print(&answer, |repositories| together::repositories(repositories))
    }
}
