//! Three versions of a model of many megabytes, from one person to another: commit, clone, push, pull.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use flair_node::api::types::{At, NodeStatus, Place, Status};
use serde::Serialize;

use super::usage::{self, Meter, Used};
use super::weights;
use super::{BenchError, Model, client};
use crate::cluster::{Cluster, Flair, Node, Programs, Start};

/// The model in a working folder.
const MODEL: &str = "model.safetensors";
/// The repository.
const NAME: &str = "encoder";
/// How long an update may take to get into a head that the other node has run.
const PATIENCE: Duration = Duration::from_mins(5);
/// How often that is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// One step, and what it cost.
#[derive(Clone, Debug, Serialize)]
pub struct Step {
    /// What was done.
    pub name: String,
    /// Seconds it took.
    pub wall: f64,
    /// What the command used.
    pub command: Used,
    /// What the committing person's node used.
    pub author: Used,
    /// What the cloning person's node used.
    pub reader: Used,
    /// Bytes of blobs that the reader's node received.
    pub received: u64,
    /// Bytes that the reader's home takes on disk afterwards.
    pub disk: u64,
}

/// For people; `model` is the size of the model in bytes.
pub(super) fn table(model: u64, steps: &[Step]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        format!("a model of {:.1} MB", megabytes(model)),
        "wall s".into(),
        "command CPU s".into(),
        "MB".into(),
        "author's node CPU s".into(),
        "MB".into(),
        "reader's node CPU s".into(),
        "MB".into(),
        "received MB".into(),
        "on disk MB".into(),
    ]);
    for step in steps {
        let mut cells = vec![step.name.clone(), format!("{:.2}", step.wall)];
        for used in [step.command, step.author, step.reader] {
            cells.push(format!("{:.2}", used.cpu));
            cells.push(format!("{:.0}", megabytes(used.peak)));
        }
        cells.extend([step.received, step.disk].map(|bytes| format!("{:.1}", megabytes(bytes))));
        table.add_row(cells);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Measures; returns the model's size in bytes and the steps.
pub(super) async fn measure(
    programs: &Programs,
    dir: &Path,
    model: &Model,
) -> Result<(u64, Vec<Step>), BenchError> {
    let files = {
        let (dir, model) = (dir.join("versions"), model.clone());
        let files = move || match model {
            Model::Drawn(shape) => weights::files(&dir, shape),
            Model::Given(folder) => weights::given(&folder),
        };
        tokio::task::spawn_blocking(files).await.map_err(BenchError::broken)??
    };
    let mut cluster = Cluster::new(programs.clone(), dir.into());
    let ready = cluster.add("author")?.start(&Start::default()).await?;
    cluster.add("reader")?.start(&Start { join: ready.addresses, ..Start::default() }).await?;
    let (near, far) = (dir.join("author/model"), dir.join("reader/model"));
    std::fs::create_dir_all(&near).map_err(BenchError::io(near.display()))?;
    let author = cluster.flair("author", &near)?;
    let reader = cluster.flair("reader", dir)?;
    let [first, second] = cluster.nodes() else { return Err(BenchError::broken("not two nodes")) };
    let mut bench = Bench { author: first, reader: second, near, far, steps: Vec::new() };
    let [one, two, three] = &files.versions;

    bench.train(one)?;
    let init = ["init", MODEL, "--name", NAME, "--every", "1", "--person", "author"];
    bench.command("commit v1", &author, &init).await?;
    let ticket = usage::command(&author, &["ticket", "--role", "contributor"]).await?.stdout;
    let folder = bench.far.display().to_string();
    bench.command("clone v1", &reader, &["clone", ticket.trim(), &folder, "--person", "reader"]).await?;
    bench.same(one)?;
    let reader = reader.within(&bench.far);
    for (number, version) in [(2, two), (3, three)] {
        bench.train(version)?;
        let commit = ["commit", "-m", "trained", "--examples", "1000"];
        bench.command(&format!("commit v{number}"), &author, &commit).await?;
        bench.push(number, &author).await?;
        bench.command(&format!("pull v{number}"), &reader, &["pull"]).await?;
        // Training goes on from the head; from elsewhere it would count less.
        usage::command(&author, &["pull"]).await?;
        bench.same(version)?;
    }
    let steps = bench.steps;
    cluster.stop().await?;
    Ok((files.bytes, steps))
}

struct Bench<'a> {
    author: &'a Node,
    reader: &'a Node,
    /// The author's working folder.
    near: PathBuf,
    /// The reader's.
    far: PathBuf,
    steps: Vec<Step>,
}

/// What the nodes had used when a step began.
struct Before {
    begun: Instant,
    author: Meter,
    reader: Meter,
    received: u64,
}

impl Bench<'_> {
    /// What training leaves behind: another file in the author's folder.
    fn train(&self, version: &Path) -> Result<(), BenchError> {
        let path = self.near.join(MODEL);
        let copy = || {
            std::fs::copy(version, &path)?;
            // Else the next step would wait for the disk to take this.
            File::open(&path)?.sync_all()
        };
        copy().map_err(BenchError::io(path.display()))
    }

    /// A step that is one command.
    async fn command(&mut self, name: &str, flair: &Flair, arguments: &[&str]) -> Result<(), BenchError> {
        let before = self.before().await?;
        let ended = usage::command(flair, arguments).await?;
        self.after(name.into(), &before, ended.wall, ended.used).await
    }

    /// The step from the push to where the reader's node holds a head with it that it has run itself.
    async fn push(&mut self, number: u64, author: &Flair) -> Result<(), BenchError> {
        let (head, _) = self.head().await?;
        let before = self.before().await?;
        let ended = usage::command(author, &["push"]).await?;
        loop {
            let (now, verified) = self.head().await?;
            if now != head && verified {
                break;
            }
            if before.begun.elapsed() > PATIENCE {
                let what = format!("version {number} did not get into a head on the reader's node");
                return Err(BenchError::Slow { what, seconds: PATIENCE.as_secs() });
            }
            tokio::time::sleep(LOOK).await;
        }
        let wall = before.begun.elapsed().as_secs_f64();
        self.after(format!("push v{number}, until the reader has run it"), &before, wall, ended.used).await
    }

    /// The head on the reader's node, and whether it ran that itself.
    async fn head(&self) -> Result<(Option<String>, bool), BenchError> {
        // By name, not by folder: to look for changed files would be work.
        let place = Place { folder: None, repo: Some(NAME.into()) };
        let status: Status = client(self.reader)?
            .post("/v1/status", &At { place })
            .await
            .map_err(BenchError::refused("reader", "status"))?;
        Ok((status.head, status.head_verified))
    }

    async fn before(&self) -> Result<Before, BenchError> {
        let received = self.received().await?;
        let (author, reader) = (Meter::start(self.author)?, Meter::start(self.reader)?);
        Ok(Before { begun: Instant::now(), author, reader, received })
    }

    async fn after(
        &mut self,
        name: String,
        before: &Before,
        wall: f64,
        command: Used,
    ) -> Result<(), BenchError> {
        let (author, reader) = (before.author.used()?, before.reader.used()?);
        let received = self.received().await? - before.received;
        let disk = usage::disk(self.reader.home())?;
        self.steps.push(Step { name, wall, command, author, reader, received, disk });
        Ok(())
    }

    /// Bytes of blobs that the reader's node has received by now.
    async fn received(&self) -> Result<u64, BenchError> {
        let status: NodeStatus =
            client(self.reader)?.get("/v1/node").await.map_err(BenchError::refused("reader", "status"))?;
        Ok(status.received)
    }

    /// The reader's file must be the author's, byte by byte.
    fn same(&self, version: &Path) -> Result<(), BenchError> {
        let path = self.far.join(MODEL);
        let open = |path: &Path| File::open(path).map_err(BenchError::io(path.display()));
        if equal(open(&path)?, open(version)?).map_err(BenchError::io(path.display()))? {
            return Ok(());
        }
        Err(BenchError::Wrong(format!("{} is not what {} holds", path.display(), version.display())))
    }
}

/// Whether two files hold the same, piece by piece: what this process holds counts as the peak of the commands it starts.
fn equal(mut one: File, mut other: File) -> std::io::Result<bool> {
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    let (mut ours, mut theirs) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        let length = one.read(&mut ours)?;
        let (ours, theirs) = (&ours[..length], &mut theirs[..length]);
        if length == 0 {
            return Ok(true);
        }
        other.read_exact(theirs)?;
        if ours != theirs {
            return Ok(false);
        }
    }
}
