//! `flair policy`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use flair_node::api::types::{Done, PolicyChoice, PolicyProposal, PolicyShown, Problem};

use crate::context::Context;
use crate::render::policy;

/// Show the rules of the repository, and change them together
///
/// The policy names the delegates, how many of them it takes to change it, how one becomes a member and how updates are
/// aggregated. A change is proposed by one delegate and in force once enough of them approved.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair policy show
  flair policy propose --add-delegate \"Site B\" --add-delegate \"Site C\" --threshold 2 --reason \"one each\"
  flair policy propose --aggregation trimmed-mean --set trim=1 --set every=5
  flair policy show --toml > policy.toml        # change it in an editor, then:
  flair policy propose policy.toml
  flair policy approve                          # the one proposal that is open")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Show what holds and what is proposed (also without a word)
    #[command(after_help = "Examples:\n  flair policy show\n  flair policy show --toml > policy.toml")]
    Show {
        /// Write what holds as a file in TOML, for `flair policy propose FILE`
        #[arg(long)]
        toml: bool,
    },
    /// Say in words what the policy, or a proposed revision, does
    #[command(after_help = "Example:\n  flair policy explain")]
    Explain {
        /// A revision, by the start of its id [default: the one in force]
        revision: Option<String>,
    },
    /// Propose a change, and approve of it
    #[command(after_help = "Examples:
  flair policy propose --add-delegate \"Site B\" --threshold 2
  flair policy propose --aggregation krum --set dishonest=1 --set every=7 --reason \"open membership\"
  flair policy propose --cut \"Site C\" --reason \"key stolen\" --dry-run
  flair policy propose policy.toml --dry-run    # written by `show --toml`, then changed")]
    Propose(Box<Propose>),
    /// Approve of a proposed change
    #[command(after_help = "Example:\n  flair policy approve fv3k2")]
    Approve {
        /// The revision, by the start of its id [default: the only one proposed]
        revision: Option<String>,
    },
    /// Choose between approved changes that contradict each other
    #[command(after_help = "Example:\n  flair policy resolve fv3k2")]
    Resolve {
        /// The revision that is to stand, by the start of its id
        revision: Option<String>,
    },
}

#[derive(clap::Args)]
struct Propose {
    /// A file in TOML, as `flair policy show --toml` writes it; what is not in it stays, and what is given here counts
    /// instead
    file: Option<PathBuf>,
    /// Somebody who is to decide too: a name, or a key; can be given often
    #[arg(long, value_name = "PERSON")]
    add_delegate: Vec<String>,
    /// A delegate who is to be one no longer; can be given often
    #[arg(long, value_name = "PERSON")]
    remove_delegate: Vec<String>,
    /// Somebody who loses every role, and whose work counts only as far as it is here now; can be given often
    #[arg(long, value_name = "PERSON")]
    cut: Vec<String>,
    /// How many delegates it takes to change the policy
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..))]
    threshold: Option<u32>,
    /// How one becomes a contributor: invite, or open (whoever asks)
    #[arg(long, value_name = "HOW")]
    membership: Option<String>,
    /// Another aggregation rule; `flair init --help` lists them
    #[arg(long, value_name = "RULE")]
    aggregation: Option<String>,
    /// A setting of the rule, every=PERSONS or max_staleness=AGGREGATES; can be given often
    #[arg(long, value_name = "SETTING=VALUE", value_parser = super::init::setting)]
    set: Vec<(String, String)>,
    /// Why; members see it
    #[arg(long, default_value = "", hide_default_value = true)]
    reason: String,
    /// Only tell what it would change
    #[arg(short = 'n', long)]
    dry_run: bool,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let place = context.place();
        match self.command.unwrap_or(Command::Show { toml: false }) {
            Command::Show { toml } => {
                let answer: PolicyShown = context.post("/v1/policy", &context.at()).await?;
                if toml {
                    context.print(&answer, |answer| answer.document.clone())
                } else {
                    context.print(&answer, policy::shown)
                }
            }
            Command::Propose(propose) => {
                let request = PolicyProposal {
                    place,
                    add: propose.add_delegate,
                    remove: propose.remove_delegate,
                    cut: propose.cut,
                    threshold: propose.threshold,
                    membership: propose.membership,
                    aggregation: propose.aggregation,
                    settings: propose.set.into_iter().collect(),
                    protect: BTreeMap::new(),
                    reason: propose.reason,
                    document: propose.file.as_deref().map(read).transpose()?,
                    dry_run: propose.dry_run,
                };
                let answer: Done = context.post("/v1/policy/propose", &request).await?;
                context.done(&answer)
            }
            Command::Explain { revision } => choose(context, "/v1/policy/explain", revision).await,
            Command::Approve { revision } => choose(context, "/v1/policy/approve", revision).await,
            Command::Resolve { revision } => choose(context, "/v1/policy/resolve", revision).await,
        }
    }
}

fn read(file: &Path) -> Result<String, Problem> {
    std::fs::read_to_string(file).map_err(|error| {
        Problem::invalid(format!("{} can't be read: {error}", file.display()))
            .help("`flair policy show --toml` writes such a file")
    })
}

async fn choose(context: &mut Context, path: &str, revision: Option<String>) -> Result<(), Problem> {
    let request = PolicyChoice { place: context.place(), revision };
    let answer: Done = context.post(path, &request).await?;
    context.done(&answer)
}
