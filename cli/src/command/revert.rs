//! `flair revert`

use std::io::{IsTerminal as _, Write as _};

use flair_node::api::types::{Problem, RevertRequest, Stepped};

use crate::context::{Context, note};
use crate::render::step;

/// Make a branch's model what it was at an earlier commit
///
/// The commits between stay in history, and what they took in is not taken in again: whose updates these are is listed
/// first. A maintainer or delegate decides this, or as many as the branch asks for accepts; others propose it, and it
/// waits for `flair review --accept`. It does not unlearn: the updates stay in history, and nodes keep them.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair revert 4f5a6b7c8d --dry-run
  flair revert 4f5a6b7c8d -m \"loss on the holdout doubled\"
  flair revert 4f5a6b7c8d --branch experiment --yes")]
pub(crate) struct Arguments {
    /// The commit of the branch's path to go back to
    commit: String,
    /// The branch [default: the folder's]
    #[arg(long)]
    branch: Option<String>,
    /// Why; everybody sees it
    #[arg(short, long, default_value = "", hide_default_value = true)]
    message: String,
    /// Publish nothing, only tell
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Don't ask
    #[arg(short, long)]
    yes: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let mut request = RevertRequest {
            place: context.place(),
            commit: self.commit,
            branch: self.branch,
            message: self.message,
            dry_run: true,
            head: None,
        };
        if !self.dry_run {
            if !self.yes && asks() {
                let preview: Stepped = context.post("/v1/revert", &request).await?;
                note(step::stepped(&preview).trim_end());
                confirm("Revert?")?;
                request.head = Some(preview.parent);
            }
            request.dry_run = false;
        }
        let answer: Stepped = context.post("/v1/revert", &request).await?;
        context.print(&answer, step::stepped)
    }
}

/// Whether there is somebody to ask.
pub(super) fn asks() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal()
}

/// Asks, and fails at anything but a yes.
pub(super) fn confirm(question: &str) -> Result<(), Problem> {
    let mut answer = String::new();
    let asked = write!(anstream::stderr(), "{question} [y/N] ")
        .and_then(|()| std::io::stdin().read_line(&mut answer));
    match asked {
        Ok(_) if matches!(answer.trim().to_lowercase().as_str(), "y" | "yes") => Ok(()),
        _ => Err(Problem::conflict("nothing was done")),
    }
}
