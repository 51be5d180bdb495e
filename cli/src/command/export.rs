//! `flair export`

use std::path::PathBuf;

use flair_node::api::types::{Done, ExportRequest, Problem};

use crate::context::Context;

/// Write a commit's files somewhere else, byte for byte, or the repository as a document
///
/// The working folder is not touched. A folder gets all files; a name that ends in .safetensors gets the model file
/// alone. The automerge document is for other tools: it holds every operation, never a model.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair export -o /models/digits                       # the folder's base
  flair export 4f5a6b7c8d -o old.safetensors
  flair export main -o digits --repo digits            # anywhere
  flair export main -o merged --onto /models/bert      # an adapter, merged into its model
  flair export --automerge digits.automerge")]
pub(crate) struct Arguments {
    /// A commit, branch or draft [default: the folder's base]
    #[arg(requires = "output")]
    commit: Option<String>,
    /// The folder or .safetensors file to write
    #[arg(short, long, value_name = "PATH", required_unless_present = "automerge")]
    output: Option<PathBuf>,
    /// The model that the commit, an adapter of PEFT's, was trained on: it is written with the adapter merged into it
    #[arg(long, value_name = "MODEL", requires = "output")]
    onto: Option<PathBuf>,
    /// Replace files that exist
    #[arg(short, long)]
    force: bool,
    /// With this folder's own values of the tensors that stay here (their role is `local`), which no commit has
    #[arg(long, requires = "output", conflicts_with = "onto")]
    local: bool,
    /// The automerge file to write
    #[arg(long, value_name = "FILE")]
    automerge: Option<PathBuf>,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let absolute = |path: Option<PathBuf>| path.map(|path| context.absolute(&path));
        let request = ExportRequest {
            place: context.place(),
            commit: self.commit,
            output: absolute(self.output),
            onto: absolute(self.onto),
            force: self.force,
            local: self.local,
            automerge: absolute(self.automerge),
        };
        let answer: Done = context.post("/v1/export", &request).await?;
        context.done(&answer)
    }
}
