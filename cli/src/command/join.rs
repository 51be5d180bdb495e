//! `flair join`

use flair_node::api::types::{Join, Joined, Problem};

use crate::context::Context;

/// Ask to contribute
///
/// Without a ticket the request waits until somebody who may answers it with `flair member grant`.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair join
  flair join flairk3x… --person \"Site B\"")]
pub(crate) struct Arguments {
    /// A ticket with an invite
    ticket: Option<String>,
    /// Seconds to wait for an answer
    #[arg(long, default_value_t = 20)]
    timeout: u64,
    #[command(flatten)]
    person: super::Person,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = Join {
            place: context.place(),
            person: self.person.name(),
            ticket: self.ticket,
            timeout: self.timeout,
        };
        let answer: Joined = context.post("/v1/join", &request).await?;
        context.print(&answer, |answer| answer.words.clone())
    }
}
