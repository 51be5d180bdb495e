//! `flair import`

use std::path::PathBuf;

use flair_node::api::types::{ImportRequest, Imported, Problem};

use crate::context::Context;
use crate::render::setup;

/// Convert a PyTorch checkpoint to a safetensors file
///
/// Nothing in the checkpoint is run: a small reader rebuilds tensors from their description, and whatever else a pickle
/// calls is refused by name. Takes files of torch.save, old and new, and folders with pytorch_model.bin or its shards.
/// Optimiser states and other values are left out and named; tied tensors are written once, with the other name noted
/// in the file's header.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair import model.pt                          # writes model.safetensors
  flair import last.ckpt --key state_dict --strip -o model.safetensors
  flair import bert/                             # pytorch_model.bin, or its shards
  flair import model.pt && flair init model.safetensors")]
pub(crate) struct Arguments {
    /// The checkpoint, or a folder with one
    source: PathBuf,
    /// The file to write, or the folder [default: beside the checkpoint]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Where in the checkpoint the state dict is: `state_dict`, `nets.generator` [default: the only one]
    #[arg(short, long)]
    key: Option<String>,
    /// Take `module.` (DDP), `_orig_mod.` (torch.compile) and their like off the names
    #[arg(long)]
    strip: bool,
    /// Write tied tensors one by one
    #[arg(long)]
    untie: bool,
    /// Replace a file that exists
    #[arg(short, long)]
    force: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = ImportRequest {
            source: context.absolute(&self.source),
            output: self.output.as_ref().map(|output| context.absolute(output)),
            key: self.key,
            strip: self.strip,
            untie: self.untie,
            force: self.force,
        };
        let answer: Imported = context.post("/v1/import", &request).await?;
        context.print(&answer, setup::imported)
    }
}
