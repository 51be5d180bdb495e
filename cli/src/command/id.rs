//! `flair id`

use flair_node::api::types::{Identity, Problem};

use crate::context::Context;

/// Tell who this person is to others
#[derive(clap::Args)]
#[command(after_help = "Example:\n  flair id")]
pub(crate) struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let answer: Identity = context.get("/v1/identity").await?;
        context.print(&answer, |answer| answer.key.clone())
    }
}
