//! `flair export`

use std::path::PathBuf;

use flair_node::api::types::{Done, ExportRequest, Problem};

use crate::context::Context;

/// Write the repository as an automerge document, for other tools
///
/// It holds every operation, never a model.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  flair export --automerge digits.automerge")]
pub(crate) struct Arguments {
    /// The file to write
    #[arg(long, value_name = "FILE")]
    automerge: PathBuf,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let automerge = context.absolute(&self.automerge);
        let request = ExportRequest { place: context.place(), automerge };
        let answer: Done = context.post("/v1/export", &request).await?;
        context.done(&answer)
    }
}
