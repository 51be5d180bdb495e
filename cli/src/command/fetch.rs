//! `flair fetch`

use flair_node::api::types::{Done, FetchRequest, Problem};

use crate::context::Context;

/// Get what is not here yet, without touching the folder
///
/// A node does it by itself; this waits until it is done.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair fetch
  flair fetch --full      # all history of a clone that started without it, every aggregate run")]
pub(crate) struct Arguments {
    /// All history, for a repository that was cloned without it
    #[arg(long)]
    full: bool,
    /// Seconds to wait
    #[arg(long, default_value_t = 600)]
    timeout: u64,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = FetchRequest { place: context.place(), full: self.full, timeout: self.timeout };
        let answer: Done = context.post("/v1/fetch", &request).await?;
        context.done(&answer)
    }
}
