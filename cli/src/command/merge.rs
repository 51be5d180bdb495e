//! `flair merge`

use flair_node::api::types::{MergeRequest, Problem, Stepped};

use super::init::setting;
use super::revert::{asks, confirm};
use crate::context::{Context, note};
use crate::render::step;

/// Merge another branch into one
///
/// The merged model is computed here and published with the merge; every node computes it again and says whether it gets
/// the same. A maintainer or delegate decides a merge, or as many as the branch asks for accepts; others propose it, and it
/// waits for `flair review --accept`. The branch merged into goes on by its own policy, with what its optimiser remembers;
/// the other branch stays as it is, and can be merged again later: from what was merged last.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair merge trial --dry-run
  flair merge trial -m \"better on the night shift\"
  flair merge trial --method linear --set weight=0.3
  flair merge main trial --method ties --set density=0.3
  flair merge trial --method dare --set drop=0.9 --yes

Methods, with o the common ancestor's model, a the branch's, b the other's:
  linear  (1 - weight) a + weight b                              weight=0.5
  task    o + lambda ((a - o) + (b - o))                         lambda=1
  ties    the largest changes, where they agree on a direction   density=0.2 lambda=1
  dare    a random part of the changes, scaled up                drop=0.5 lambda=1")]
pub(crate) struct Arguments {
    /// The branch or commit that is merged; or, with two, the branch merged into
    first: String,
    /// The branch or commit that is merged into the first
    second: Option<String>,
    /// How: linear, task, ties or dare
    #[arg(long, default_value = "linear")]
    method: String,
    /// A setting of the method; can be given often
    #[arg(long, value_name = "SETTING=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
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
        let (branch, other) = match self.second {
            Some(second) => (Some(self.first), second),
            None => (None, self.first),
        };
        let mut request = MergeRequest {
            place: context.place(),
            other,
            branch,
            method: self.method,
            settings: self.set.into_iter().collect(),
            message: self.message,
            dry_run: true,
            head: None,
        };
        if !self.dry_run {
            if !self.yes && asks() {
                let preview: Stepped = context.post("/v1/merge", &request).await?;
                note(step::stepped(&preview).trim_end());
                confirm("Merge?")?;
                request.head = Some(preview.parent);
            }
            request.dry_run = false;
        }
        let answer: Stepped = context.post("/v1/merge", &request).await?;
        context.print(&answer, step::stepped)
    }
}
