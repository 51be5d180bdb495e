//! `flair verify`

use flair_node::api::types::{Code, Problem, Verified, VerifyRequest};

use crate::context::Context;
use crate::render::together;

/// Run recipes again and compare the results with what is claimed
///
/// Ends with exit code 8 when a claim does not hold.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair verify                 # every aggregate on the head's path
  flair verify 4f5a6b7c8d")]
pub(crate) struct Arguments {
    /// The aggregate [default: every aggregate on the head's path]
    commit: Option<String>,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = VerifyRequest { place: context.place(), commit: self.commit };
        let answer: Verified = context.post("/v1/verify", &request).await?;
        context.print(&answer, together::verified)?;
        if answer.holds {
            return Ok(());
        }
        Err(Problem::new(Code::Unverified, "a claimed result does not hold")
            .help("do not use that model; `flair show` names who stands behind the claim"))
    }
}
