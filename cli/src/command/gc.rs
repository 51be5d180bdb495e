//! `flair gc`

use flair_node::api::types::{Collected, Problem};

use crate::context::Context;
use crate::render::store;

/// Give back disk space that nothing needs
///
/// What no commit and no draft refers to goes: undone drafts, fetches that were given up. Nothing published is ever
/// removed. A running node does this by itself every ten minutes.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  flair gc")]
pub(crate) struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let answer: Collected = context.post("/v1/gc", &()).await?;
        context.print(&answer, store::collected)
    }
}
