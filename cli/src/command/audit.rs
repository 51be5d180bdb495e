//! `flair audit`

use std::path::PathBuf;

use flair_node::api::types::{Audit, AuditRequest, Code, Problem};

use crate::context::Context;
use crate::render::{audit, count};

/// Check everything behind a model again, and say who stands behind what
///
/// Reads every operation and checks its signature; who was allowed to do what they did, when they did it; every blob
/// against its hash; and runs every aggregate again. Names people, policies and who approved them, reviews, evaluations,
/// licences and privacy claims. Needs all history here (`flair fetch --full`), and no network. Ends with exit code 8 when
/// anything speaks against trusting the model.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair audit                          # the head
  flair audit 4f5a6b7c8d --json
  flair audit main --out report.html   # a page for people who don't use Flair")]
pub(crate) struct Arguments {
    /// A commit's id or its beginning, or a branch for its head [default: this branch's head]
    commit: Option<String>,
    /// Also write the report as a web page, in one file
    #[arg(short, long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = AuditRequest { place: context.place(), commit: self.commit };
        let answer: Audit = context.post("/v1/audit", &request).await?;
        if let Some(path) = self.out {
            let path = context.absolute(&path);
            std::fs::write(&path, audit::page(&answer))
                .map_err(|error| Problem::invalid(format!("{}: {error}", path.display())))?;
        }
        context.print(&answer, audit::audited)?;
        match audit::doubts(&answer).len() as u64 {
            0 => Ok(()),
            doubts => {
                let text = format!("{} about this model", count(doubts, "doubt", "doubts"));
                Err(Problem::new(Code::Unverified, text).help("each is named above"))
            }
        }
    }
}
