//! One contributor: pulls, trains on images of their own, commits, pushes, and starts over at their own pace.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flair_node::api::Client;
use flair_node::api::types::{
    At, Code, CommitRequest, Committed, Log, LogRequest, Moved, Place, PullRequest, PushRequest, Pushed,
    ShowRequest, Shown, Status,
};
use tokio::sync::watch;

use super::start::client;
use super::{DemoError, LOCAL, say, short};
use crate::cluster::Node;
use crate::digits::Image;
use crate::trainer::{Network, TrainerError, Training};

/// What the slowest takes for a round: training is only a part of what a round at home takes.
const ROUND: Duration = Duration::from_millis(1_600);
/// Rounds that the one who is cut off trains meanwhile.
const APART: usize = 3;
/// Seconds that a pull may wait for a head to be fetched and checked.
const PULL: u64 = 5;
/// How long to wait for a moment in mid-sync, and for what was missing then.
const CAUGHT: Duration = Duration::from_secs(40);
/// Entries of the log in which something may be missing.
const RECENT: u64 = 30;

/// How far the network has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Aggregates on the branch.
    pub(super) aggregates: usize,
    /// Whether training is to end.
    pub(super) done: bool,
}

/// What happens to a contributor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Their node is killed with -9 while an update of somebody else is on its way to it.
    Killed,
    /// Nobody reaches them for a while; they train on.
    CutOff,
}

/// One contributor with their node.
#[derive(Debug)]
pub(super) struct Contributor {
    /// Their node.
    pub(super) node: Node,
    /// Their images.
    pub(super) images: Vec<Image>,
    /// Their working folder.
    pub(super) folder: PathBuf,
    /// Every update they published.
    pub(super) pushed: Vec<String>,
    index: usize,
    speed: u64,
    join: Vec<String>,
    /// The head they last pulled.
    head: Option<String>,
}

impl Contributor {
    pub(super) fn new(
        index: usize,
        speed: u64,
        images: Vec<Image>,
        folder: PathBuf,
        node: Node,
        join: Vec<String>,
    ) -> Self {
        Self { node, images, folder, pushed: Vec::new(), index, speed, join, head: None }
    }

    /// Contributes until training is to end. `fault` happens once, when the branch has that many aggregates.
    pub(super) async fn contribute(
        mut self,
        mut fault: Option<(Fault, usize)>,
        mut progress: watch::Receiver<Progress>,
    ) -> Result<Self, DemoError> {
        let round = ROUND.div_f64(self.speed as f64);
        loop {
            let begun = Instant::now();
            let now = *progress.borrow_and_update();
            if now.done {
                return Ok(self);
            }
            if let Some((what, _)) = fault.take_if(|(_, aggregates)| now.aggregates >= *aggregates) {
                match what {
                    Fault::Killed => self.killed().await?,
                    Fault::CutOff => self.cut_off(round).await?,
                }
            }
            let client = client(&self.node)?;
            self.pull(&client).await?;
            self.train().await?;
            self.publish(&client).await?;
            let rest = tokio::time::sleep(round.saturating_sub(begun.elapsed()));
            tokio::select! {
                () = rest => {}
                _ = progress.wait_for(|progress| progress.done) => {}
            }
        }
    }

    /// Where a request is about.
    pub(super) fn place(&self) -> Place {
        Place { folder: Some(self.folder.clone()), repo: None }
    }

    /// Commits what is in the folder and pushes it.
    pub(super) async fn publish(&mut self, client: &Client) -> Result<(), DemoError> {
        let (who, place) = (self.node.name(), self.place());
        let request = CommitRequest {
            place: place.clone(),
            message: format!("round {}", self.pushed.len() + 1),
            examples: Some(self.images.len() as u64),
            epochs: Some(LOCAL.epochs as u64),
            seed: Some(self.seed()),
            ..CommitRequest::default()
        };
        let _: Committed =
            client.post("/v1/commit", &request).await.map_err(DemoError::refused(who, "commit"))?;
        let request = PushRequest { place, dry_run: false, keep_drafts: false };
        let pushed: Pushed =
            client.post("/v1/push", &request).await.map_err(DemoError::refused(who, "push"))?;
        self.pushed.extend(pushed.commit);
        Ok(())
    }

    /// Moves to the newest head if it is another than last time; else training goes on from the last own update.
    async fn pull(&mut self, client: &Client) -> Result<(), DemoError> {
        let (who, place) = (self.node.name(), self.place());
        let status: Status = client
            .post("/v1/status", &At { place: place.clone() })
            .await
            .map_err(DemoError::refused(who, "status"))?;
        if status.head == self.head || !status.head_verified {
            return Ok(());
        }
        let request = PullRequest { place, rebase: false, timeout: PULL };
        let moved: Result<Moved, _> = client.post("/v1/pull", &request).await;
        match moved {
            Ok(moved) => self.head = Some(moved.to),
            Err(problem) if problem.code == Code::Conflict => {}
            Err(problem) => return Err(DemoError::refused(who, "pull")(problem)),
        }
        Ok(())
    }

    /// What a script does: read the file, train, write it back.
    async fn train(&self) -> Result<(), DemoError> {
        let (path, images) = (self.model(), self.images.clone());
        let how = Training { seed: self.seed(), ..LOCAL };
        let trained = tokio::task::spawn_blocking(move || -> Result<(), TrainerError> {
            let mut network = Network::load(&path)?;
            network.train(&images, &how)?;
            network.save(&path)
        });
        Ok(trained.await.map_err(DemoError::broken)??)
    }

    /// The model in the working folder.
    pub(super) fn model(&self) -> PathBuf {
        self.folder.join("model.safetensors")
    }

    /// Another order of images in every round, the same in every run.
    fn seed(&self) -> u64 {
        LOCAL.seed * 1_000_003 + self.pushed.len() as u64 * 10 + self.index as u64
    }

    /// Waits until an update was announced to the node and its tensors are not there, kills the node, starts it
    /// again, and waits for those tensors.
    async fn killed(&mut self) -> Result<(), DemoError> {
        let who = self.node.name().to_owned();
        let missing = self.missing(&client(&self.node)?).await?;
        self.node.kill().await?;
        say(&format!(
            "  {who} is killed with -9 while update {} is announced and not fetched",
            short(&missing)
        ))?;
        self.restart().await?;
        let client = client(&self.node)?;
        let begun = Instant::now();
        while !self.show(&client, &missing).await?.here {
            if begun.elapsed() > CAUGHT {
                let what = format!("{who} did not fetch {missing} after the restart");
                return Err(DemoError::Slow { what, seconds: CAUGHT.as_secs() });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        say(&format!("  {who} is back and has update {}", short(&missing)))
    }

    /// The first update of somebody else that is known but not here.
    async fn missing(&self, client: &Client) -> Result<String, DemoError> {
        let who = self.node.name();
        let begun = Instant::now();
        while begun.elapsed() < CAUGHT {
            let request = LogRequest { place: self.place(), branch: None, limit: RECENT };
            let log: Log = client.post("/v1/log", &request).await.map_err(DemoError::refused(who, "log"))?;
            let pending = log.entries.into_iter().filter(|entry| entry.state == "pending");
            for entry in pending.filter(|entry| entry.name != who) {
                if !self.show(client, &entry.commit).await?.here {
                    return Ok(entry.commit);
                }
            }
        }
        let what = format!("{who} was not met in mid-sync");
        Err(DemoError::Slow { what, seconds: CAUGHT.as_secs() })
    }

    async fn show(&self, client: &Client, commit: &str) -> Result<Shown, DemoError> {
        let request = ShowRequest { place: self.place(), commit: Some(commit.into()) };
        client.post("/v1/show", &request).await.map_err(DemoError::refused(self.node.name(), "show"))
    }

    /// Stops the node, trains, commits and pushes without it, and starts it again.
    async fn cut_off(&mut self, round: Duration) -> Result<(), DemoError> {
        let who = self.node.name().to_owned();
        self.node.stop().await?;
        say(&format!("  {who} is cut off"))?;
        for _ in 0..APART {
            let begun = Instant::now();
            self.train().await?;
            self.publish_offline().await?;
            tokio::time::sleep(round.saturating_sub(begun.elapsed())).await;
        }
        self.restart().await?;
        say(&format!("  {who} returns with {APART} updates made meanwhile"))
    }

    /// Commits and pushes while no node runs: the update waits for the next connection.
    pub(super) async fn publish_offline(&mut self) -> Result<(), DemoError> {
        let home: &Path = self.node.home();
        let (client, service) =
            Client::open(home).await.map_err(DemoError::refused(self.node.name(), "offline"))?;
        let published = self.publish(&client).await;
        if let Some(service) = service {
            service.close().await;
        }
        published
    }

    async fn restart(&mut self) -> Result<(), DemoError> {
        self.node.start(&super::start::captured(&self.node, self.join.clone())).await?;
        Ok(())
    }
}
