//! The daemon `flair-node`: keeps repositories, speaks with peers, and answers the command `flair`.

mod detach;
mod doctor;

use std::io::{ErrorKind, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use flair_node::api::types::{Done, NodeStatus, Problem};
use flair_node::api::{self, Client, Socket};
use flair_node::home::{Follow, Home};
use flair_node::service::Service;
use miette::{MietteDiagnostic, Report};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// What the log holds unless `FLAIR_LOG` says otherwise. The blob store's sweeps report an error whenever it is closed;
/// ours are watched by the store itself.
const LOG: &str = "warn,flair_node=info,iroh_blobs::store::gc=off,noq_proto=error";
/// How long the network may take to listen.
const LISTENING: Duration = Duration::from_secs(20);
/// How often a starting network is asked whether it listens.
const LOOK: Duration = Duration::from_millis(20);
/// How long no further address may come: listening on all interfaces (`0.0.0.0`), they come one by one, loopback first.
const SETTLED: Duration = Duration::from_millis(150);

/// A node of Flair: keeps repositories on this machine and shares them with peers.
#[derive(Parser)]
#[command(version, max_term_width = 110, propagate_version = true)]
#[command(after_help = "Examples:
  flair-node start
  flair-node start --detach --listen /ip4/0.0.0.0/tcp/4001 --blobs-listen 0.0.0.0:4001
  flair-node status
  flair-node stop")]
struct Arguments {
    /// The folder with key, settings and store [default: ~/.flair]
    #[arg(long, global = true, value_name = "FOLDER", env = "FLAIR_HOME", hide_env_values = true)]
    home: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node until it is told to stop; prints `ready <id> <address>…` once it can be reached.
    Start(Start),
    /// Stop the running node.
    Stop,
    /// Show how the running node is, as JSON.
    Status,
    /// Look for what is wrong with this home: key, settings, stores, every blob that is referred to.
    Doctor {
        /// Let a home that was copied or restored sign again without a peer: only where nothing was signed with its key since.
        #[arg(long)]
        trust: bool,
    },
    /// Show the settings in force and where they come from.
    Config,
}

/// What is given here counts instead of what `config.toml` says.
#[derive(clap::Args)]
struct Start {
    /// Where to listen, as a multiaddr; can be given several times.
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<String>,
    /// Address and port to serve tensors at, over UDP.
    #[arg(long, value_name = "ADDRESS")]
    blobs_listen: Option<String>,
    /// A node to stay connected with, beside those of `config.toml`; can be given several times.
    #[arg(long, value_name = "MULTIADDR")]
    join: Vec<String>,
    /// Look for nodes on the local network, and be found there.
    #[arg(long)]
    mdns: bool,
    /// Which repositories of others to fetch and serve: none, followed or all.
    #[arg(long, value_name = "WHICH", value_parser = followed)]
    follow: Option<Follow>,
    /// Append every message that leaves to a file, before it is encrypted: to look at what leaves.
    #[arg(long, value_name = "FILE")]
    capture: Option<PathBuf>,
    /// Return once the node is ready, and let it run in the background; it writes to `logs/node.log` in its home.
    #[arg(long)]
    detach: bool,
}

fn followed(text: &str) -> Result<Follow, String> {
    match text {
        "none" => Ok(Follow::None),
        "followed" => Ok(Follow::Followed),
        "all" => Ok(Follow::All),
        other => Err(format!("`{other}` is not one of none, followed, all")),
    }
}

#[tokio::main]
async fn main() -> miette::Result<()> {
    let Arguments { home, command } = Arguments::parse();
    run(home, command).await.map_err(report)
}

async fn run(home: Option<PathBuf>, command: Command) -> Result<(), Problem> {
    let home = match home.filter(|home| !home.as_os_str().is_empty()) {
        Some(home) => home,
        None => Home::locate()?,
    };
    match command {
        Command::Start(how) if how.detach => detach::detach(&home),
        Command::Start(how) => start(home, how).await,
        Command::Doctor { trust } => doctor::doctor(home, trust).await,
        Command::Config => {
            let text = toml::to_string_pretty(&Home::settings(&home)?).map_err(Problem::internal)?;
            let path = home.join("config.toml");
            let from = if path.exists() { "set in" } else { "defaults; to change one, write" };
            say(&format!("# {from} {}\n{}", path.display(), text.trim_end()))
        }
        Command::Stop => {
            let done: Done = running(&home)?.post("/v1/shutdown", &()).await?;
            say(&done.words.join("\n"))
        }
        Command::Status => {
            let status: NodeStatus = running(&home)?.get("/v1/node").await?;
            say(&serde_json::to_string_pretty(&status).map_err(Problem::internal)?)
        }
    }
}

/// Opens this user's home.
async fn opened(path: PathBuf) -> Result<Home, Problem> {
    Ok(tokio::task::spawn_blocking(move || Home::open(path)).await.map_err(Problem::internal)??)
}

fn running(home: &Path) -> Result<Client, Problem> {
    Client::running(home).ok_or_else(|| {
        Problem::offline(format!("no node runs with home {}", home.display()))
            .help("start one with `flair-node start`")
    })
}

async fn start(home: PathBuf, how: Start) -> Result<(), Problem> {
    let filter = EnvFilter::try_from_env("FLAIR_LOG").unwrap_or_else(|_| EnvFilter::new(LOG));
    let colours = std::io::stderr().is_terminal();
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr)
        // A line that can't be written would be complained about on the same stream, and that panics: whoever logs
        // to a full disk would end there.
        .log_internal_errors(false)
        .init();
    // Listened to from here on, so that a stop during the start is not lost.
    let (mut interrupt, mut terminate) = (caught(SignalKind::interrupt())?, caught(SignalKind::terminate())?);

    let home = opened(home).await?;
    let mut config = home.config()?;
    if !how.listen.is_empty() {
        config.listen = how.listen;
    }
    if let Some(address) = how.blobs_listen {
        config.blobs_listen = address;
    }
    config.join.extend(how.join);
    config.mdns |= how.mdns;
    config.follow = how.follow.unwrap_or(config.follow);
    config.capture = how.capture.or(config.capture);

    let settle =
        if config.listen.iter().any(|address| everywhere(address)) { SETTLED } else { Duration::ZERO };
    let service = Service::online(home.clone(), config).await?;
    let served = serve(&home, &service, settle, async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
    .await;
    service.close().await;
    served
}

/// Answers commands until told to stop, by a signal or by a command.
async fn serve(
    home: &Home,
    service: &Service,
    settle: Duration,
    signal: impl Future<Output = ()> + Send + 'static,
) -> Result<(), Problem> {
    let status = listening(service, settle).await?;
    let socket = Socket::bind(home)?;
    say(&format!("ready {} {}", status.identity.key, status.addresses.join(" ")))?;
    let stopping = service.clone();
    let stop = async move {
        tokio::select! {
            () = signal => {}
            () = stopping.stopped() => {}
        }
    };
    api::serve(socket, service.clone(), stop).await.map_err(Problem::internal)
}

/// Whether an address to listen on stands for those of all interfaces.
fn everywhere(address: &str) -> bool {
    address.starts_with("/ip4/0.0.0.0/") || address.starts_with("/ip6/::/")
}

/// Waits until the network listens, and no further address came for `settle`: only then can the node say where it is
/// reached.
async fn listening(service: &Service, settle: Duration) -> Result<NodeStatus, Problem> {
    let begun = Instant::now();
    let (mut known, mut since) = (0, begun);
    loop {
        let status = service.node_status().await?;
        if status.addresses.len() != known {
            (known, since) = (status.addresses.len(), Instant::now());
        }
        if known > 0 && since.elapsed() >= settle {
            return Ok(status);
        }
        if known == 0 && begun.elapsed() > LISTENING {
            return Err(Problem::offline("the node can't listen at the addresses it was given")
                .help("are they this machine's, and free? `--listen` and `config.toml` set them"));
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn caught(kind: SignalKind) -> Result<Signal, Problem> {
    signal(kind).map_err(Problem::internal)
}

fn say(text: &str) -> Result<(), Problem> {
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        // Whoever reads has read enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(Problem::internal),
    }
}

fn report(problem: Problem) -> Report {
    let diagnostic = MietteDiagnostic::new(problem.message);
    match problem.help {
        Some(help) => diagnostic.with_help(help).into(),
        None => diagnostic.into(),
    }
}
