//! The command `flair-testnet`: many nodes on one machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};
use flair_testnet::cluster::{ClusterError, Fleet, Member, Programs};
use flair_testnet::demo;
use miette::{IntoDiagnostic, Result};
use serde_json::json;

/// Runs a network of real Flair nodes on this machine.
#[derive(Parser)]
#[command(version, about, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Folder for the nodes' homes, logs and ids.
    #[arg(long, global = true, default_value = "testnet-nodes", value_name = "FOLDER")]
    dir: PathBuf,
    /// Print JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Start nodes on loopback; they run until `down`.
    #[command(
        after_help = "Example:\n  flair-testnet up --nodes 3\n  FLAIR_HOME=testnet-nodes/node-1/home flair peers"
    )]
    Up {
        /// How many.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
        nodes: u16,
    },
    /// Show the nodes that `up` started.
    Status,
    /// End the nodes that `up` started; their homes stay.
    Down,
    /// Let four people train one model on handwritten digits, with a crash and a cut, and check what came of it.
    Demo,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if matches!(arguments.command, Command::Demo) {
        return demo().await;
    }
    let rows = run(arguments.command, &arguments.dir).await.into_diagnostic()?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(member, state)| {
                json!({
                    "name": member.name,
                    "state": state,
                    "pid": member.process.pid,
                    "home": member.home,
                    "ready": member.ready,
                })
            })
            .collect();
        return writeln!(out, "{}", json!(rows)).into_diagnostic();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["node", "state", "process", "home", "address"]);
    for (member, state) in &rows {
        let address = member.ready.as_ref().and_then(|ready| ready.addresses.first());
        table.add_row([
            member.name.as_str(),
            state,
            &member.process.pid.to_string(),
            &member.home.display().to_string(),
            address.map_or("", String::as_str),
        ]);
    }
    writeln!(out, "{table}").into_diagnostic()
}

/// Runs the demo in a folder of its own, which stays when it fails.
async fn demo() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("flair-demo-").tempdir().into_diagnostic()?;
    let ran = demo::run(&Programs::beside_this().into_diagnostic()?, dir.path()).await;
    if ran.is_err() {
        let kept = dir.keep();
        writeln!(std::io::stdout(), "homes and logs of the nodes: {}", kept.display()).into_diagnostic()?;
    }
    ran.into_diagnostic()
}

/// Does what was asked, and returns the nodes with their state.
async fn run(command: Command, dir: &Path) -> Result<Vec<(Member, &'static str)>, ClusterError> {
    match command {
        Command::Up { nodes } => {
            let fleet = Fleet::up(&Programs::beside_this()?, dir, nodes.into()).await?;
            Ok(fleet.members().iter().map(|member| (member.clone(), "running")).collect())
        }
        Command::Status => {
            let fleet = Fleet::open(dir)?;
            let state = |member: &Member| if member.process.runs() { "running" } else { "ended" };
            Ok(fleet.members().iter().map(|member| (member.clone(), state(member))).collect())
        }
        Command::Down => {
            let ended = Fleet::open(dir)?.down().await?;
            Ok(ended.into_iter().map(|(member, _)| (member, "ended")).collect())
        }
        Command::Demo => Ok(Vec::new()),
    }
}
