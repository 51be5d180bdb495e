//! `flair external-base`

use std::path::{Path, PathBuf};

use flair_node::api::types::{ExternalBase, ExternalBaseRequest, PinRequest, Place, Problem};

use crate::context::Context;
use crate::render::work;

/// Check that this machine has the model that an adapter is for
///
/// The model is not in the repository: everybody has it on their own disk. What its tensors hold is pinned in the side file
/// external_base.json, so that nobody trains on another one unawares. Without a path, shows what is pinned.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair external-base                            # what is pinned, and whether this machine has it
  flair external-base /models/llama              # compare, and remember where it is
  flair external-base --pin /models/llama        # write external_base.json here, then: flair commit --migrate")]
pub(crate) struct Arguments {
    /// The model: a .safetensors file or a folder
    path: Option<PathBuf>,
    /// Write what the model holds into the current folder, for `flair init` or `flair commit --migrate`
    #[arg(long, requires = "path")]
    pin: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let answer = match &self.path {
            Some(path) if self.pin => pin(context, &context.absolute(Path::new(".")), path).await?,
            path => {
                let path = path.as_ref().map(|path| context.absolute(path));
                let request = ExternalBaseRequest { place: context.place(), path };
                context.post("/v1/external-base", &request).await?
            }
        };
        context.print(&answer, work::external)
    }
}

/// Writes what the external base at `path` holds into the adapter's folder.
pub(super) async fn pin(context: &mut Context, folder: &Path, path: &Path) -> Result<ExternalBase, Problem> {
    let request = PinRequest { folder: folder.to_owned(), path: context.absolute(path) };
    context.post("/v1/external-base/pin", &request).await
}

/// Compares the model at `path` with what the working folder's branch pins, and remembers where it is.
pub(super) async fn check(
    context: &mut Context,
    folder: PathBuf,
    path: &Path,
) -> Result<ExternalBase, Problem> {
    let place = Place { folder: Some(folder), repo: None };
    let request = ExternalBaseRequest { place, path: Some(context.absolute(path)) };
    context.post("/v1/external-base", &request).await
}
