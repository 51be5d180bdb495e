//! `flair bundle`

use std::path::{Path, PathBuf};

use flair_node::api::types::{BundleApplied, BundleContent, BundleCreate, BundleRequest, Code, Problem};

use crate::context::Context;
use crate::render::bundle as render;

/// Carry a repository, or what somebody lacks of it, in a file
///
/// For machines without a network between them: what a bundle has was signed by its authors and is checked as if it
/// came from a peer. Drafts and settings are never in it. `flair clone FILE` makes a working folder from one.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair bundle create digits.bundle                        # everything
  flair bundle verify digits.bundle
  flair clone digits.bundle                                # on the other machine: then train, commit, push
  flair bundle create --since digits.bundle back.bundle    # what the maker of digits.bundle lacks
  flair bundle apply back.bundle                           # on the first machine")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Write a bundle
    #[command(after_help = "Examples:
  flair bundle create digits.bundle
  flair bundle create --latest digits.bundle               # without the history
  flair bundle create --since theirs.bundle for-them.bundle")]
    Create {
        /// The file to write
        file: PathBuf,
        /// What the reader has: a bundle they made or applied, an operation, a commit or a branch; may be repeated
        #[arg(long, value_name = "WHAT")]
        since: Vec<String>,
        /// Without the history: the newest models, and old aggregates as members attest them
        #[arg(long)]
        latest: bool,
        /// Replace a file that exists
        #[arg(short, long)]
        force: bool,
    },
    /// Check a bundle: digests, signatures, and whether it can be applied here
    ///
    /// Ends with exit code 8 when it can't.
    #[command(after_help = "Example:\n  flair bundle verify digits.bundle")]
    Verify {
        /// The bundle
        file: PathBuf,
    },
    /// Take over what a bundle has and this node has not
    ///
    /// Operations and models are checked, and recipes are run, as if they came from a peer. What was taken over stays
    /// when the file ends early or the command is stopped: applying it again goes on from there.
    #[command(after_help = "Example:\n  flair bundle apply digits.bundle")]
    Apply {
        /// The bundle
        file: PathBuf,
    },
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        match self.command {
            Command::Create { file, since, latest, force } => {
                let meant = |text: String| {
                    let path = context.absolute(Path::new(&text));
                    if path.is_file() { path.display().to_string() } else { text }
                };
                let since = since.into_iter().map(meant).collect();
                let file = context.absolute(&file);
                let request = BundleCreate { place: context.place(), file, since, latest, force };
                let answer: BundleContent = context.post("/v1/bundle/create", &request).await?;
                context.print(&answer, |answer| format!("Wrote {}", render::content(answer)))
            }
            Command::Verify { file } => {
                let request = BundleRequest { file: context.absolute(&file), repo: context.repo.clone() };
                let answer: BundleContent = context.post("/v1/bundle/verify", &request).await?;
                context.print(&answer, render::content)?;
                match answer.problem {
                    Some(problem) => {
                        Err(Problem::new(Code::Unverified, format!("{}: {problem}", answer.file)))
                    }
                    None => Ok(()),
                }
            }
            Command::Apply { file } => {
                let request = BundleRequest { file: context.absolute(&file), repo: context.repo.clone() };
                let answer: BundleApplied = context.post("/v1/bundle/apply", &request).await?;
                context.print(&answer, render::applied)?;
                match answer.problem {
                    Some(problem) => Err(Problem::new(Code::Unverified, problem)
                        .help("what was taken over stays; apply it again, whole, for the rest")),
                    None => Ok(()),
                }
            }
        }
    }
}
