//! `flair member`

use std::path::PathBuf;

use flair_node::api::types::{Done, GrantRequest, Member, Problem, RevokeRequest};

use crate::context::Context;
use crate::render::together;

/// List members, give and take roles
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair member list
  flair member grant \"Site B\"                       # the name in a waiting join request
  flair member grant did:key:z6Mk… --role contributor --name \"Site C\"
  flair member grant \"Site B\" --role maintainer      # delegates only
  flair member revoke \"Site C\" --reason \"left\" --dry-run")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List members (also without a word)
    List,
    /// Give a role
    #[command(after_help = "Examples:
  flair member grant \"Site B\" --role contributor
  flair member grant \"Site B\" --approval \"IRB 2026-114\" --document irb-2026-114.pdf")]
    Grant {
        /// A key, or the name in a waiting join request
        person: String,
        /// Which role: maintainer, contributor, verifier, reader
        #[arg(long, default_value = "contributor")]
        role: String,
        /// What to call them
        #[arg(long)]
        name: Option<String>,
        /// What allows them to take part: an ethics committee's decision, say; members see it
        #[arg(long, value_name = "REFERENCE")]
        approval: Option<String>,
        /// The approval's document: its hash is signed, as `b3sum` gives it, and the file stays here
        #[arg(long, value_name = "FILE", requires = "approval")]
        document: Option<PathBuf>,
    },
    /// Take a role away
    #[command(
        after_help = "Example:\n  flair member grant \"Site B\" --role maintainer      # delegates only
  flair member revoke \"Site C\" --reason \"left the study\""
    )]
    Revoke {
        /// A key, an unambiguous end of one, or a name
        person: String,
        /// Why; members see it
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Only tell what would happen
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
    /// Stop a maintainer; any delegate can
    ///
    /// The same as taking their role away: they may be granted it again.
    #[command(after_help = "Example:\n  flair member suspend \"Site B\" --reason \"key lost\"")]
    Suspend {
        /// A key, an unambiguous end of one, or a name
        person: String,
        /// Why; members see it
        #[arg(long, default_value = "", hide_default_value = true)]
        reason: String,
        /// Only tell what would happen
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        match self.command.unwrap_or(Command::List) {
            Command::List => {
                let answer: Vec<Member> = context.post("/v1/members", &context.at()).await?;
                context.print(&answer, |members| together::members(members))
            }
            Command::Grant { person, role, name, approval, document } => {
                let document = document.map(|path| context.absolute(&path));
                let place = context.place();
                let request = GrantRequest { place, person, role, name, approval, document };
                let answer: Done = context.post("/v1/member/grant", &request).await?;
                context.done(&answer)
            }
            Command::Revoke { person, reason, dry_run } | Command::Suspend { person, reason, dry_run } => {
                let request = RevokeRequest { place: context.place(), person, reason, dry_run };
                let answer: Done = context.post("/v1/member/revoke", &request).await?;
                context.done(&answer)
            }
        }
    }
}
