//! The command `flair-testnet`: many nodes on one machine.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};
use flair_testnet::bench::{self, Model, Scope, Shape};
use flair_testnet::cluster::{ClusterError, Fleet, Kind, Member, Outcome, Programs};
use flair_testnet::study::attack::Attack;
use flair_testnet::study::{dishonest, pace, private};
use flair_testnet::{containers, demo};
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
    /// Start nodes on loopback, or in containers; they run until `down`.
    #[command(
        after_help = "Examples:\n  flair-testnet up --nodes 3\n  FLAIR_HOME=testnet-nodes/node-1/home flair peers\n\n  make image && flair-testnet up --containers\n  docker exec CONTAINER flair peers                   # `status` shows its name"
    )]
    Up {
        /// How many.
        #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
        nodes: u16,
        /// Each in a container of its own, in a network without a way out.
        #[arg(long)]
        containers: bool,
        /// The containers' image.
        #[arg(long, default_value = IMAGE, requires = "containers", value_name = "NAME")]
        image: String,
    },
    /// Show the nodes that `up` started.
    Status,
    /// End the nodes that `up` started; their homes stay.
    Down,
    /// Let four people train one model on handwritten digits, with a crash and a cut, and check what came of it.
    Demo,
    /// Walk through the same job in containers, and check that all have the same; needs Docker and Compose.
    #[command(after_help = "Example:\n  make image && flair-testnet docker")]
    Docker {
        /// The containers' image.
        #[arg(long, default_value = IMAGE, value_name = "NAME")]
        image: String,
    },
    /// Train by every rule with contributors who lie, or who are slow, and with noise, and show what becomes of the model.
    Study,
    /// Measure what Flair costs on this machine.
    #[command(
        after_help = "Build it for that:\n  cargo build --release --workspace --bins && target/release/flair-testnet bench"
    )]
    Bench {
        /// Pushes to take the medians over.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..))]
        pushes: u16,
        /// Layers of the model that is committed, cloned and pulled; 6 make 90.9 MB.
        #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u16).range(1..=96))]
        layers: u16,
        /// Words of that model.
        #[arg(long, default_value_t = 30_522, value_parser = clap::value_parser!(u32).range(1..))]
        vocabulary: u32,
        /// Only write that model's three versions here, for other tools to be measured beside.
        #[arg(long, value_name = "FOLDER")]
        write: Option<PathBuf>,
        /// Only commit, clone and pull the three versions of a model in this folder: v1.safetensors to v3.safetensors.
        #[arg(long, value_name = "FOLDER", conflicts_with_all = ["write", "pushes", "layers", "vocabulary"])]
        versions: Option<PathBuf>,
    },
}

/// What `make image` builds.
const IMAGE: &str = "flair";

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rows = match arguments.command {
        Command::Up { nodes, containers, image } => {
            let kind = if containers {
                Kind::Containers { image }
            } else {
                Kind::Processes(Programs::beside_this().into_diagnostic()?)
            };
            up(&kind, nodes, &arguments.dir).await
        }
        Command::Status => status(&arguments.dir).await,
        Command::Down => down(&arguments.dir).await,
        Command::Demo => return demo().await,
        Command::Study => return study(),
        Command::Bench { pushes, layers, vocabulary, write, versions } => {
            let shape = Shape { vocabulary: vocabulary as usize, layers: layers.into(), ..Shape::SENTENCES };
            if let Some(folder) = write {
                return bench::write(&folder, shape).into_diagnostic();
            }
            let scope = match versions {
                Some(folder) => Scope { pushes: 0, model: Model::Given(folder) },
                None => Scope { pushes: pushes.into(), model: Model::Drawn(shape) },
            };
            return measure(&scope, arguments.json).await;
        }
        Command::Docker { image } => return containers::run(&image).await.into_diagnostic(),
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
                    "place": member.place,
                    "home": member.home,
                    "ready": member.ready,
                })
            })
            .collect();
        return writeln!(out, "{}", json!(rows)).into_diagnostic();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["node", "state", "runs in", "home", "address"]);
    for (member, state) in &rows {
        // Of a container, loopback is nobody else's.
        let address = member.ready.as_ref().and_then(|ready| ready.addresses.last());
        table.add_row([
            member.name.as_str(),
            state,
            &member.place.to_string(),
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

/// Tables of all studies, in Markdown.
fn study() -> Result<()> {
    let mut out = std::io::stdout().lock();
    let mut line = |text: String| writeln!(out, "{text}").into_diagnostic();
    let names: Vec<&str> = Attack::ALL.iter().map(|attack| attack.name()).collect();
    line(format!("| rule | withstands | {} |", names.join(" | ")))?;
    line(format!("|---|---|{}", "---|".repeat(names.len())))?;
    for row in dishonest::run().into_diagnostic()? {
        let withstands = row.withstands.map_or_else(|| "no promise".to_owned(), |most| most.to_string());
        let cells: Vec<String> = row.accuracy.iter().map(|share| format!("{share:.3}")).collect();
        line(format!("| {} | {withstands} | {} |", row.rule, cells.join(" | ")))?;
    }
    let rows = pace::run().into_diagnostic()?;
    let target = rows.first().map_or(0.0, pace::Row::accuracy);
    line(format!(
        "\n| policy | aggregates | units of time to {target:.3} | accuracy in the end |\n|---|---|---|---|"
    ))?;
    for row in rows {
        let reached = row.reached(target).map_or_else(|| "never".to_owned(), |time| time.to_string());
        line(format!("| {} | {} | {reached} | {:.3} |", row.policy, row.curve.len(), row.accuracy()))?;
    }
    let study = private::run().into_diagnostic()?;
    let sites: Vec<String> = private::SITES.iter().map(|sites| format!("{sites} sites")).collect();
    line(format!("\nfrom a public model of {:.3}:\n\n| ε | noise | {} |", study.public, sites.join(" | ")))?;
    line(format!("|---|---|{}", "---|".repeat(sites.len())))?;
    for row in study.rows {
        let epsilon = row.epsilon.map_or_else(|| "no noise".to_owned(), |epsilon| epsilon.to_string());
        let cells: Vec<String> = row.accuracy.iter().map(|share| format!("{share:.3}")).collect();
        line(format!("| {epsilon} | {:.3} | {} |", row.noise, cells.join(" | ")))?;
    }
    Ok(())
}

/// Measures in a folder of its own, which stays when that fails.
async fn measure(scope: &Scope, json: bool) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("flair-bench-").tempdir().into_diagnostic()?;
    let ran = bench::run(&Programs::beside_this().into_diagnostic()?, dir.path(), scope, json).await;
    if ran.is_err() {
        let kept = dir.keep();
        writeln!(std::io::stderr(), "homes and logs of the nodes: {}", kept.display()).into_diagnostic()?;
    }
    let report = ran.into_diagnostic()?;
    if json {
        writeln!(std::io::stdout(), "{}", json!(report)).into_diagnostic()?;
    }
    Ok(())
}

type Row = (Member, &'static str);

async fn up(kind: &Kind, nodes: u16, dir: &Path) -> Result<Vec<Row>, ClusterError> {
    let fleet = Fleet::up(kind, dir, nodes.into()).await?;
    Ok(fleet.members().iter().map(|member| (member.clone(), "running")).collect())
}

async fn status(dir: &Path) -> Result<Vec<Row>, ClusterError> {
    let mut rows = Vec::new();
    for member in Fleet::open(dir)?.members() {
        let state = if member.place.runs().await? { "running" } else { "ended" };
        rows.push((member.clone(), state));
    }
    Ok(rows)
}

async fn down(dir: &Path) -> Result<Vec<Row>, ClusterError> {
    let ended = Fleet::open(dir)?.down().await?;
    let state = |outcome| match outcome {
        Outcome::Ended => "ended",
        Outcome::Gone => "had ended before",
    };
    Ok(ended.into_iter().map(|(member, outcome)| (member, state(outcome))).collect())
}
