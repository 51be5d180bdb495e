//! `flair privacy`

use flair_node::api::types::{At, PrivacyLedger, Problem};

use crate::context::Context;
use crate::render::privacy;

/// Tell what differential privacy was spent in a repository
///
/// Every commit with `--dp` is in the ledger from before its noise was drawn, published or not. The ledger is in the home:
/// a clone, a reset or another folder gives nothing back. `[privacy]` in the home's `config.toml` sets the budget.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair privacy
  flair privacy --repo digits --json")]
pub(crate) struct Arguments {}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let answer: PrivacyLedger = context.post("/v1/privacy", &At { place: context.place() }).await?;
        context.print(&answer, privacy::ledger)
    }
}
