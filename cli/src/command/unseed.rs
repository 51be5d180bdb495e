//! `flair unseed`

use flair_node::api::types::{Done, Problem, SeedRequest};

use crate::context::Context;

/// Stop following a repository; what is here stays
#[derive(clap::Args)]
#[command(after_help = "Example:\n  flair unseed digits")]
pub(crate) struct Arguments {
    /// The repository [default: the folder's]
    repository: Option<String>,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let mut place = context.place();
        place.repo = self.repository.or(place.repo);
        let answer: Done = context.post("/v1/seed", &SeedRequest { place, seed: false }).await?;
        context.done(&answer)
    }
}
