//! `flair ticket`

use flair_node::api::types::{MakeTicket, Problem, TicketMade};

use crate::context::Context;
use crate::render::setup;

/// Make a ticket: one string with which others find the repository
///
/// With `--role` it carries an invite. Whoever holds such a ticket can use it: send it like a password. Of a private
/// repository a ticket without one gives nothing until its holder was granted a role.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair ticket                                          # to read
  flair ticket --role contributor --uses 3
  flair ticket --role contributor --for \"Site B\"")]
pub(crate) struct Arguments {
    /// Invite into this role: reader, contributor
    #[arg(long)]
    role: Option<String>,
    /// How many persons may use the invite
    #[arg(long, default_value_t = 1, requires = "role", value_parser = clap::value_parser!(u64).range(1..))]
    uses: u64,
    /// For whom it is meant; members see it
    #[arg(long = "for", value_name = "WHOM", default_value = "", hide_default_value = true)]
    label: String,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request =
            MakeTicket { place: context.place(), role: self.role, uses: self.uses, label: self.label };
        let answer: TicketMade = context.post("/v1/ticket", &request).await?;
        // Only the ticket goes to standard output, so that it can be piped.
        if !context.json && !context.quiet {
            crate::context::note(&setup::ticket_notes(&answer));
        }
        context.print(&answer, |answer| answer.ticket.clone())
    }
}
