//! `flair peers`

use flair_node::api::types::{Done, Peer, PeerRequest, Problem};

use crate::context::Context;
use crate::render::together;

/// List peers, dial one, lift a ban
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair peers
  flair peers connect /ip4/192.0.2.7/tcp/4001/p2p/12D3…
  flair peers lift did:key:z6Mk…")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List peers (also without a word)
    List,
    /// Dial an address
    #[command(after_help = "Example:\n  flair peers connect /ip4/192.0.2.7/tcp/4001/p2p/12D3…")]
    Connect {
        /// An address that ends in /p2p/…
        address: String,
    },
    /// Lift a ban
    #[command(after_help = "Example:\n  flair peers lift did:key:z6Mk…")]
    Lift {
        /// The peer's key
        key: String,
    },
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let request = match self.command.unwrap_or(Command::List) {
            Command::List => {
                let answer: Vec<Peer> = context.get("/v1/peers").await?;
                return context.print(&answer, |peers| together::peers(peers));
            }
            Command::Connect { address } => PeerRequest { connect: Some(address), lift: None },
            Command::Lift { key } => PeerRequest { connect: None, lift: Some(key) },
        };
        let answer: Done = context.post("/v1/peer", &request).await?;
        context.done(&answer)
    }
}
