//! `flair seed`

use flair_node::api::types::{Done, Problem, SeedRequest};

use crate::context::Context;

/// Follow a repository: fetch, check and serve what is new
#[derive(clap::Args)]
#[command(after_help = "Example:\n  flair seed\n  flair seed digits")]
pub(crate) struct Arguments {
    /// The repository [default: the folder's]
    repository: Option<String>,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let mut place = context.place();
        place.repo = self.repository.or(place.repo);
        let answer: Done = context.post("/v1/seed", &SeedRequest { place, seed: true }).await?;
        context.done(&answer)
    }
}
