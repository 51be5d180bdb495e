//! The command `flair-testnet`: many nodes on one machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};
use flair_testnet::cluster::{ClusterError, Fleet, Member, Programs};
use flair_testnet::containers;
use flair_testnet::demo::{self, LOCAL, SEED, SPEEDS};
use flair_testnet::trainer::{Network, Training};
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
    /// Walk through the same job in three containers, and check that all have the same; needs Docker and Compose.
    #[command(after_help = "Example:\n  .ci/with-docker target/debug/flair-testnet docker")]
    Docker {
        /// Folder of the programs `flair` and `flair-node` for the image; else those beside this one.
        #[arg(long, value_name = "FOLDER")]
        programs: Option<PathBuf>,
    },
    /// Train the demo's network, as a person's own script would; a file that is not there is written untrained first.
    #[command(
        after_help = "Examples:\n  flair-testnet train model.safetensors               # untrained, for `flair init`\n  flair-testnet train model.safetensors --person 2"
    )]
    Train {
        /// The model file.
        model: PathBuf,
        /// On whose images of the demo; without it, nothing is trained.
        #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=SPEEDS.len() as i64))]
        person: Option<u8>,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rows = match arguments.command {
        Command::Up { nodes } => up(nodes, &arguments.dir).await,
        Command::Status => status(&arguments.dir),
        Command::Down => down(&arguments.dir).await,
        Command::Demo => return demo().await,
        Command::Docker { programs } => {
            let programs = programs.as_deref().map_or_else(Programs::beside_this, Programs::within);
            return containers::run(&programs.into_diagnostic()?).await.into_diagnostic();
        }
        Command::Train { model, person } => return train(&model, person),
    };
    let rows = rows.into_diagnostic()?;
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

/// Stands for a person's script: a round of training on their own images.
fn train(path: &Path, person: Option<u8>) -> Result<()> {
    let mut network = if path.exists() {
        Network::load(path).into_diagnostic()?
    } else {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).into_diagnostic()?;
        }
        Network::init(SEED)
    };
    let split = demo::split().into_diagnostic()?;
    if let Some(images) = person.and_then(|person| split.contributors.get(usize::from(person) - 1)) {
        // Another order of images each time, and still the same in every run.
        let seed = LOCAL.seed.wrapping_add_signed(network.num_batches_tracked());
        network.train(images, &Training { seed, ..LOCAL }).into_diagnostic()?;
    }
    network.save(path).into_diagnostic()?;
    let accuracy = network.accuracy(&split.held_out);
    writeln!(std::io::stdout(), "accuracy {accuracy:.3} on images nobody trains on").into_diagnostic()
}

type Row = (Member, &'static str);

async fn up(nodes: u16, dir: &Path) -> Result<Vec<Row>, ClusterError> {
    let fleet = Fleet::up(&Programs::beside_this()?, dir, nodes.into()).await?;
    Ok(fleet.members().iter().map(|member| (member.clone(), "running")).collect())
}

fn status(dir: &Path) -> Result<Vec<Row>, ClusterError> {
    let state = |member: &Member| if member.process.runs() { "running" } else { "ended" };
    Ok(Fleet::open(dir)?.members().iter().map(|member| (member.clone(), state(member))).collect())
}

async fn down(dir: &Path) -> Result<Vec<Row>, ClusterError> {
    let ended = Fleet::open(dir)?.down().await?;
    Ok(ended.into_iter().map(|(member, _)| (member, "ended")).collect())
}
