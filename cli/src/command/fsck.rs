//! `flair fsck`

use flair_node::api::types::{Code, Fsck, FsckRequest, Problem};

use crate::context::Context;
use crate::render::store;

/// Read everything that is kept, name what is damaged, and get it again
///
/// Compares every blob that a commit or draft needs with its hash, its hash tree too, and every operation with its
/// signature. What is damaged is fetched from peers while a node runs, and aggregates are run again. Ends with exit
/// code 8 when something stays damaged.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair fsck
  flair fsck --no-mend --json")]
pub(crate) struct Arguments {
    /// Only tell what is damaged
    #[arg(long)]
    no_mend: bool,
    /// Seconds to wait for peers
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    timeout: u64,
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = FsckRequest { mend: !self.no_mend, timeout: self.timeout };
        let answer: Fsck = context.post("/v1/fsck", &request).await?;
        context.print(&answer, store::checked)?;
        let left = answer.damage.iter().filter(|damage| !damage.mended).count();
        if left == 0 {
            return Ok(());
        }
        Err(Problem::new(Code::Unverified, format!("{left} of what is kept stay damaged")).help(
            "with `flair-node start` running and a peer that has them, `flair fsck` gets them again (`flair peers`)",
        ))
    }
}
