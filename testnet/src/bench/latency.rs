//! From a push to where it can be seen on another node: two nodes, one pushing small updates.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, Table, presets};
use flair_node::api::Client;
use flair_node::api::types::{
    At, CloneRepository, Cloned, CommitRequest, Committed, Init, Initialised, Log, LogRequest, MakeTicket,
    Moved, Place, PullRequest, PushRequest, Pushed, ShowRequest, Shown, Status, TicketMade,
};
use serde::Serialize;

use super::{BenchError, client};
use crate::cluster::{Cluster, Programs, Start};
use crate::digits::{self, Image};
use crate::trainer::{Network, Training};

/// How often the other node is looked at.
const LOOK: Duration = Duration::from_millis(1);
/// How long one push may take to get there.
const PATIENCE: Duration = Duration::from_mins(1);
/// Images that are trained on between two pushes: enough for every weight to move.
const IMAGES: usize = 64;
/// Entries of the log that are looked at.
const RECENT: u64 = 8;

/// Milliseconds from the moment a push is asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    /// Pushes measured.
    pub pushes: usize,
    /// Until the pusher is answered: signed, on disk, announced.
    pub answered: Spread,
    /// Until the other node lists the update.
    pub visible: Spread,
    /// Until the other node has fetched the update and checked every tensor of it.
    pub checked: Spread,
    /// Until the update is in a head that the other node has run itself.
    pub verified: Spread,
}

/// What most, many and all stay below, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// Half of them take at most this.
    pub median: f64,
    /// Nine of ten.
    pub ninety: f64,
    /// All.
    pub most: f64,
}

impl Spread {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: usize| {
            let place = (times.len() * share).div_ceil(100).saturating_sub(1);
            times.get(place).map_or(0.0, |time| time.as_secs_f64() * 1e3)
        };
        Self { median: at(50), ninety: at(90), most: at(100) }
    }
}

impl Latency {
    /// For people.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header([
            format!("push, {} times, ms", self.pushes),
            "median".into(),
            "90 %".into(),
            "most".into(),
        ]);
        for (what, spread) in [
            ("answered to the pusher", self.answered),
            ("visible on the other node", self.visible),
            ("fetched and checked there", self.checked),
            ("in a head that node has run", self.verified),
        ] {
            let numbers = [spread.median, spread.ninety, spread.most].map(|ms| format!("{ms:.1}"));
            table.add_row([what.to_owned()].into_iter().chain(numbers));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table.to_string()
    }
}

/// When a push got where, from the moment it was asked for.
struct Times {
    answered: Duration,
    visible: Duration,
    checked: Duration,
    verified: Duration,
}

/// Measures `pushes` pushes, after one that does not count: it opens connections.
pub(super) async fn measure(programs: &Programs, dir: &Path, pushes: usize) -> Result<Latency, BenchError> {
    let mut cluster = Cluster::new(programs.clone(), dir.into());
    let ready = cluster.add("pusher")?.start(&Start::default()).await?;
    cluster.add("other")?.start(&Start { join: ready.addresses, ..Start::default() }).await?;
    let [pusher, other] = cluster.nodes() else { return Err(BenchError::broken("not two nodes")) };
    let pair = Pair {
        pusher: client(pusher)?,
        other: client(other)?,
        near: dir.join("pusher/model"),
        far: dir.join("other/model"),
        images: digits::all().map_err(BenchError::broken)?.into_iter().take(IMAGES).collect(),
    };
    pair.meet().await?;
    pair.push(0).await?;
    let mut all = Vec::new();
    for number in 1..=pushes {
        all.push(pair.push(number).await?);
    }
    cluster.stop().await?;
    let spread = |time: fn(&Times) -> Duration| Spread::of(all.iter().map(time).collect());
    Ok(Latency {
        pushes,
        answered: spread(|times| times.answered),
        visible: spread(|times| times.visible),
        checked: spread(|times| times.checked),
        verified: spread(|times| times.verified),
    })
}

/// The two nodes, with a working folder each.
struct Pair {
    pusher: Client,
    other: Client,
    near: PathBuf,
    far: PathBuf,
    images: Vec<Image>,
}

impl Pair {
    /// One starts a repository in which every update makes an aggregate; the other clones it.
    async fn meet(&self) -> Result<(), BenchError> {
        std::fs::create_dir_all(&self.near).map_err(BenchError::io(self.near.display()))?;
        Network::init(1).save(&self.model())?;
        let request = Init {
            model: self.model(),
            name: "latency".into(),
            message: String::new(),
            branch: "main".into(),
            roles: std::collections::BTreeMap::new(),
            every: Some(1),
            aggregation: None,
            settings: std::collections::BTreeMap::new(),
            open: false,
            private: false,
            person: "pusher".into(),
        };
        let _: Initialised =
            self.pusher.post("/v1/init", &request).await.map_err(BenchError::refused("pusher", "init"))?;
        let request = MakeTicket {
            place: place(&self.near),
            role: Some("contributor".into()),
            uses: 1,
            label: String::new(),
        };
        let made: TicketMade = self
            .pusher
            .post("/v1/ticket", &request)
            .await
            .map_err(BenchError::refused("pusher", "ticket"))?;
        let request = CloneRepository {
            source: made.ticket,
            repo: None,
            folder: Some(self.far.clone()),
            current: self.far.clone(),
            branch: None,
            person: "other".into(),
            full: false,
            depth: 0,
            timeout: PATIENCE.as_secs(),
        };
        let _: Cloned =
            self.other.post("/v1/clone", &request).await.map_err(BenchError::refused("other", "clone"))?;
        Ok(())
    }

    /// Trains a little, commits, pushes, and watches how far that gets.
    async fn push(&self, number: usize) -> Result<Times, BenchError> {
        let how = Training { epochs: 1, batch: 16, learning_rate: 0.01, momentum: 0.9, seed: number as u64 };
        let mut network = Network::load(&self.model())?;
        network.train(&self.images, &how)?;
        network.save(&self.model())?;
        let message = format!("push {number}");
        let request = CommitRequest {
            place: place(&self.near),
            message: message.clone(),
            examples: Some(self.images.len() as u64),
            ..CommitRequest::default()
        };
        let _: Committed = self
            .pusher
            .post("/v1/commit", &request)
            .await
            .map_err(BenchError::refused("pusher", "commit"))?;

        let begun = Instant::now();
        let push = async {
            let request = PushRequest { place: place(&self.near), dry_run: false, keep_drafts: false };
            let pushed: Result<Pushed, _> = self.pusher.post("/v1/push", &request).await;
            pushed.map(|_| begun.elapsed()).map_err(BenchError::refused("pusher", "push"))
        };
        let watch = async {
            let update = until(begun, "the update was not seen", || self.listed(&message)).await?;
            let visible = begun.elapsed();
            until(begun, "the update was not fetched", || self.fetched(&update)).await?;
            let checked = begun.elapsed();
            until(begun, "the update did not get into a head", || self.in_head(&update)).await?;
            Ok((visible, checked, begun.elapsed()))
        };
        let (answered, (visible, checked, verified)) = tokio::try_join!(push, watch)?;
        // Training goes on from the head: the next update is not behind it.
        let request = PullRequest { place: place(&self.near), rebase: false, timeout: PATIENCE.as_secs() };
        let _: Moved =
            self.pusher.post("/v1/pull", &request).await.map_err(BenchError::refused("pusher", "pull"))?;
        Ok(Times { answered, visible, checked, verified })
    }

    /// The update with this message, once the other node lists it.
    async fn listed(&self, message: &str) -> Result<Option<String>, BenchError> {
        let request = LogRequest { place: place(&self.far), branch: None, limit: RECENT };
        let log: Log =
            self.other.post("/v1/log", &request).await.map_err(BenchError::refused("other", "log"))?;
        Ok(log.entries.into_iter().find(|entry| entry.message == message).map(|entry| entry.commit))
    }

    async fn fetched(&self, update: &str) -> Result<Option<()>, BenchError> {
        Ok(self.show(update).await?.here.then_some(()))
    }

    async fn in_head(&self, update: &str) -> Result<Option<()>, BenchError> {
        if !self.show(update).await?.entry.in_head {
            return Ok(None);
        }
        let status: Status = self
            .other
            .post("/v1/status", &At { place: place(&self.far) })
            .await
            .map_err(BenchError::refused("other", "status"))?;
        Ok(status.head_verified.then_some(()))
    }

    async fn show(&self, commit: &str) -> Result<Shown, BenchError> {
        let request = ShowRequest { place: place(&self.far), commit: Some(commit.into()) };
        self.other.post("/v1/show", &request).await.map_err(BenchError::refused("other", "show"))
    }

    fn model(&self) -> PathBuf {
        self.near.join("model.safetensors")
    }
}

fn place(folder: &Path) -> Place {
    Place { folder: Some(folder.into()), repo: None }
}

/// Looks until there is something.
async fn until<T>(
    begun: Instant,
    what: &str,
    mut look: impl AsyncFnMut() -> Result<Option<T>, BenchError>,
) -> Result<T, BenchError> {
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if begun.elapsed() > PATIENCE {
            return Err(BenchError::Slow { what: what.into(), seconds: PATIENCE.as_secs() });
        }
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_what_half_of_the_times_stay_below() {
        let spread = |times: &[u64]| Spread::of(times.iter().copied().map(Duration::from_millis).collect());
        assert_eq!(spread(&[3, 1, 2]), Spread { median: 2.0, ninety: 3.0, most: 3.0 });
        let hundred: Vec<u64> = (1..=100).rev().collect();
        assert_eq!(spread(&hundred), Spread { median: 50.0, ninety: 90.0, most: 100.0 });
        assert_eq!(spread(&[7]), Spread { median: 7.0, ninety: 7.0, most: 7.0 });
    }
}
