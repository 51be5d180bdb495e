//! `flair review`

use flair_node::api::types::{Done, Problem, ReviewRequest, Reviewed};

use crate::context::Context;
use crate::render::review;

/// Judge a commit, or list what waits for judgement
///
/// On a protected branch an update is aggregated once enough maintainers or delegates accepted it. What changes the branch
/// itself (a revert, a migration, a model from outside) takes effect so on any branch, and its accepts are for good.
/// `flair show` tells what a commit is, `flair diff` what it changes. Comments are open to everybody but readers.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair review                                      # what waits
  flair review 4f5a6b7c8d --accept -m \"looks sane on our holdout\"
  flair review 4f5a6b7c8d --reject -m \"loss went up by half\"
  flair review 4f5a6b7c8d --comment \"which scanner was this?\"")]
pub(crate) struct Arguments {
    /// The commit, or `list` (also without a word)
    commit: Option<String>,
    /// It may be aggregated
    #[arg(long, group = "judgement", requires = "commit")]
    accept: bool,
    /// It should not; also takes back an accept
    #[arg(long, group = "judgement", requires = "commit")]
    reject: bool,
    /// Words only
    #[arg(long, group = "judgement", requires = "commit", value_name = "TEXT")]
    comment: Option<String>,
    /// Accept a revert, migrate or external also where commits came after its parent: they go out of the head then
    #[arg(long, requires = "accept")]
    force: bool,
    /// Why; members see it
    #[arg(short, long, default_value = "", hide_default_value = true, conflicts_with = "comment")]
    message: String,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let Some(commit) = self.commit.filter(|word| word != "list") else {
            let answer: Vec<Reviewed> = context.post("/v1/reviews", &context.at()).await?;
            return context.print(&answer, |waiting| review::waiting(waiting));
        };
        let (judgement, text) = match (self.accept, self.reject, self.comment) {
            (true, ..) => ("accept", self.message),
            (_, true, _) => ("reject", self.message),
            (.., Some(text)) => ("comment", text),
            _ => {
                return Err(Problem::invalid("say what you make of it")
                    .help("`--accept`, `--reject` or `--comment \"…\"`"));
            }
        };
        let (place, judgement, force) = (context.place(), judgement.to_owned(), self.force);
        let request = ReviewRequest { place, commit, judgement, text, force };
        let answer: Done = context.post("/v1/review", &request).await?;
        context.done(&answer)
    }
}
