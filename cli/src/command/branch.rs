//! `flair branch`

use flair_node::api::types::{
    Branch, BranchCreateRequest, BranchRequest, Done, PolicyProposal, Problem, Protection,
};

use crate::context::Context;
use crate::render::{short, together};

/// List, create, protect, rename and delete branches
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair branch
  flair branch create trial --from 4f5a6b7c8d
  flair branch protect main --accepts 2 --require \"auc >= base - 0.01 from 2 others\"
  flair branch rename trial season-2
  flair branch delete season-2")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List branches (also without a word)
    List,
    /// Create a branch
    #[command(after_help = "Example:\n  flair branch create trial --from main")]
    Create {
        /// The new branch's name
        name: String,
        /// A commit or branch it starts from [default: the head of the folder's branch]
        #[arg(long, value_name = "COMMIT")]
        from: Option<String>,
    },
    /// Rename a branch
    #[command(after_help = "Example:\n  flair branch rename trial season-2")]
    Rename {
        /// The branch
        branch: String,
        /// Its new name
        name: String,
    },
    /// Ask for accepts or evaluations before updates are aggregated into a branch
    ///
    /// A change of the policy: it is in force once enough delegates approved. It says all that is asked for; what is not
    /// given is asked for no longer. Maintainers and delegates accept with `flair review`; from 2 accepts on, an author's
    /// own does not count. A requirement is met by so many persons, the author not among them, whose last `flair
    /// evaluate` of the update says so, each on data of their own: a metric, `>=` or `<=`, and a number or `base`: the
    /// value of what the update was trained from (`head` is the same).
    #[command(after_help = "Examples:
  flair branch protect main --accepts 2 --reason \"four eyes\"
  flair branch protect main --accepts 2 --require \"auc >= base - 0.01 from 2 others\"
  flair branch protect main --require \"auc >= 0.8\" --require \"loss <= base from 3 others\"
  flair branch protect main --accepts 0             # no longer")]
    Protect {
        /// The branch
        branch: String,
        /// How many maintainers or delegates must accept an update; 0 asks for none
        #[arg(long, value_name = "COUNT", required_unless_present = "require")]
        accepts: Option<u32>,
        /// What others must have measured of an update; can be given often
        #[arg(long, value_name = "REQUIREMENT")]
        require: Vec<String>,
        /// Why; members see it
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Only tell what it would change
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Delete a branch
    #[command(after_help = "Example:\n  flair branch delete trial")]
    Delete {
        /// The branch
        branch: String,
    },
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let place = context.place();
        match self.command.unwrap_or(Command::List) {
            Command::List => {
                let answer: Vec<Branch> = context.post("/v1/branches", &context.at()).await?;
                context.print(&answer, |branches| together::branches(branches))
            }
            Command::Create { name, from } => {
                let request = BranchCreateRequest { place, name, from };
                let answer: Branch = context.post("/v1/branch/create", &request).await?;
                context.print(&answer, |branch| {
                    let head = branch.head.as_deref().map_or("nothing yet", short);
                    format!("Branch {} starts at {head}", branch.name)
                })
            }
            Command::Protect { branch, accepts, require, reason, dry_run } => {
                let accepts = accepts.unwrap_or(0);
                let protect = [(branch, Protection { accepts, require })].into();
                let request = PolicyProposal { place, protect, reason, dry_run, ..PolicyProposal::default() };
                let answer: Done = context.post("/v1/policy/propose", &request).await?;
                context.done(&answer)
            }
            Command::Rename { branch, name } => {
                let request = BranchRequest { place, branch, name: Some(name) };
                let answer: Done = context.post("/v1/branch/rename", &request).await?;
                context.done(&answer)
            }
            Command::Delete { branch } => {
                let request = BranchRequest { place, branch, name: None };
                let answer: Done = context.post("/v1/branch/delete", &request).await?;
                context.done(&answer)
            }
        }
    }
}
