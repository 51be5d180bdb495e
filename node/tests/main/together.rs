//! Several nodes in one process, each with its own home, network and worker: the path of a user through the service.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flair_node::api::types::{
    AggregateRequest, At, CloneRepository, CommitRequest, Committed, Init, Initialised, LogRequest,
    MakeTicket, Place, Problem, PullRequest, PushRequest, Repository, ShowRequest, VerifyRequest,
};
use flair_node::home::{Config, Home};
use flair_node::hub::Hub;
use flair_node::network;
use flair_node::repository::Extras;
use flair_node::service::Service;
use flair_protocol::commit::{Commit, Outcome};
use flair_protocol::id::StateId;
use flair_protocol::operation::Body;
use flair_protocol::operation::body::Publish;
use flair_tensors::dtype::DType;
use flair_tensors::header::Header;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_mins(1);

/// Writes a small model with a batch-norm whose weights follow `value`.
pub(crate) fn write_model(path: &Path, value: impl Fn(usize) -> f32) {
    let shape: &[u64] = &[64, 32];
    let norm: &[u64] = &[32];
    let rows = [
        ("bn.num_batches_tracked", DType::I64, &[][..]),
        ("bn.running_mean", DType::F32, norm),
        ("bn.running_var", DType::F32, norm),
        ("fc.bias", DType::F32, norm),
        ("fc.weight", DType::F32, shape),
    ];
    let mut bytes =
        Header::build(rows.iter().map(|(name, dtype, shape)| (*name, *dtype, *shape)), &BTreeMap::new())
            .unwrap();
    bytes.extend_from_slice(&7i64.to_le_bytes());
    for index in 0..32 * 3 + 64 * 32 {
        bytes.extend_from_slice(&value(index).to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

/// One person with a node.
pub(crate) struct Person {
    pub(crate) service: Service,
    pub(crate) top: TempDir,
}

impl Person {
    pub(crate) async fn online(config: Config) -> Self {
        let top = TempDir::new().unwrap();
        let home = Home::open(top.path().join("home")).unwrap();
        let service = Service::online(home, config).await.unwrap();
        Self { service, top }
    }

    pub(crate) async fn offline() -> Self {
        let top = TempDir::new().unwrap();
        let home = Home::open(top.path().join("home")).unwrap();
        let service = Service::offline(home).await.unwrap();
        Self { service, top }
    }

    /// Ends the service and opens the home again, without network.
    pub(crate) async fn reopen(self) -> Self {
        let Self { service, top } = self;
        service.close().await;
        drop(service);
        let home = Home::open(top.path().join("home")).unwrap();
        let service = Service::offline(home).await.unwrap();
        Self { service, top }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.top.path().join("work")
    }

    pub(crate) fn place(&self) -> Place {
        Place { folder: Some(self.folder()), repo: None }
    }

    pub(crate) async fn init(&self) -> String {
        self.init_with(None, &[]).await.unwrap().repo
    }

    /// Starts a repository with this aggregation rule and these settings.
    pub(crate) async fn init_with(
        &self,
        rule: Option<&str>,
        settings: &[(&str, &str)],
    ) -> Result<Initialised, Problem> {
        std::fs::create_dir_all(self.folder()).unwrap();
        let model = self.folder().join("model.safetensors");
        write_model(&model, |index| (index as f32 * 0.37).sin());
        self.init_from(&model, rule, settings).await
    }

    /// The same with a model that is there already.
    pub(crate) async fn init_from(
        &self,
        model: &Path,
        rule: Option<&str>,
        settings: &[(&str, &str)],
    ) -> Result<Initialised, Problem> {
        let request = Init {
            model: model.to_owned(),
            name: "digits".into(),
            message: "first".into(),
            branch: "main".into(),
            roles: BTreeMap::new(),
            every: None,
            aggregation: rule.map(str::to_owned),
            settings: settings.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            open: false,
            private: false,
            person: "ana".into(),
        };
        self.service.init(request).await
    }

    pub(crate) async fn ticket(&self, uses: u64) -> String {
        let request =
            MakeTicket { place: self.place(), role: Some("contributor".into()), uses, label: String::new() };
        self.service.ticket(request).await.unwrap().ticket
    }

    pub(crate) async fn clone_from(&self, ticket: &str, person: &str) {
        let request = CloneRepository {
            source: ticket.to_owned(),
            repo: None,
            folder: Some(self.folder()),
            current: self.top.path().to_owned(),
            branch: None,
            person: person.to_owned(),
            full: false,
            depth: 0,
            timeout: 30,
        };
        let cloned = self.service.clone_repository(request).await.unwrap();
        assert_eq!(cloned.role, "contributor", "{cloned:?}");
    }

    /// Adds `shift` to every weight in the folder.
    pub(crate) fn train(&self, shift: f32) {
        let path = self.folder().join("model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let length = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
        let mut next = bytes[..length].to_vec();
        for chunk in bytes[length..].chunks_exact(4) {
            next.extend_from_slice(&(f32::from_le_bytes(chunk.try_into().unwrap()) + shift).to_le_bytes());
        }
        std::fs::write(&path, next).unwrap();
    }

    pub(crate) async fn train_and_push(&self, shift: f32) -> String {
        self.draft(shift).await;
        self.push().await
    }

    /// Trains and makes a draft.
    pub(crate) async fn draft(&self, shift: f32) {
        self.train(shift);
        self.commit().await.unwrap();
    }

    /// Makes a draft of the folder as it is.
    pub(crate) async fn commit(&self) -> Result<Committed, Problem> {
        let request = CommitRequest {
            place: self.place(),
            message: "trained".into(),
            examples: Some(500),
            epochs: Some(1),
            ..CommitRequest::default()
        };
        self.service.commit(request).await
    }

    pub(crate) async fn push(&self) -> String {
        let request = PushRequest { place: self.place(), dry_run: false, keep_drafts: false };
        self.service.push(request).await.unwrap().commit.unwrap()
    }

    pub(crate) async fn repository(&self) -> Repository {
        self.service.repositories().await.unwrap().remove(0)
    }

    pub(crate) async fn head(&self) -> Option<String> {
        self.repository().await.branches.first()?.head.clone()
    }

    pub(crate) async fn pull(&self) -> String {
        let request = PullRequest { place: self.place(), rebase: false, timeout: 30 };
        self.service.pull(request).await.unwrap().to
    }
}

/// Waits until `done` says so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, done: impl Fn() -> F) {
    let start = Instant::now();
    while !done().await {
        assert!(start.elapsed() < PATIENCE, "{what} did not come about");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn people_train_one_model_together() {
    let ana = Person::online(Config { aggregate: false, ..Config::default() }).await;
    let bo = Person::online(Config { aggregate: false, ..Config::default() }).await;
    let eve = Person::online(Config { aggregate: false, ..Config::default() }).await;
    ana.init().await;
    let ticket = ana.ticket(2).await;
    bo.clone_from(&ticket, "bo").await;
    eve.clone_from(&ticket, "eve").await;
    let model = |person: &Person| std::fs::read(person.folder().join("model.safetensors")).unwrap();
    assert_eq!(model(&ana), model(&bo), "a checkout is byte-identical");

    let first = bo.train_and_push(0.25).await;
    let second = eve.train_and_push(-0.5).await;
    until("both updates on ana's node", || async {
        let request = LogRequest { place: ana.place(), branch: None, limit: 50 };
        let log = ana.service.log(request).await.unwrap();
        let shown: Vec<_> = log.entries.iter().map(|entry| entry.commit.clone()).collect();
        shown.contains(&first) && shown.contains(&second)
    })
    .await;
    let aggregate = || async {
        let request = AggregateRequest { place: ana.place(), branch: None, dry_run: false, flush: false };
        ana.service.aggregate(request).await
    };
    until("an aggregate of both", || async { aggregate().await.is_ok_and(|made| made.persons == 2) }).await;
    let head = ana.head().await;
    until("one head", || async { bo.head().await == head && eve.head().await == head }).await;
    for person in [&ana, &bo, &eve] {
        assert_eq!(Some(person.pull().await), head);
    }
    assert_eq!(model(&ana), model(&bo));
    assert_eq!(model(&ana), model(&eve));
    // FedBuff with K = 2: the mean of both movements.
    let bytes = model(&ana);
    let last = f32::from_le_bytes(bytes[bytes.len() - 4..].try_into().unwrap());
    let was = ((32 * 3 + 64 * 32 - 1) as f32 * 0.37).sin();
    assert!((last - (was - 0.125)).abs() < 1e-6, "{last} {was}");

    for person in [&ana, &bo, &eve] {
        let verified =
            person.service.verify(VerifyRequest { place: person.place(), commit: None }).await.unwrap();
        assert!(verified.holds, "{verified:?}");
    }
    until("attestations everywhere", || async {
        let prints: Vec<_> = [ana.repository().await, bo.repository().await, eve.repository().await]
            .into_iter()
            .map(|repository| (repository.fingerprint, repository.operations))
            .collect();
        prints.iter().all(|print| *print == prints[0]) && prints[0].1 >= 10
    })
    .await;
    let status = bo.service.status(At { place: bo.place() }).await.unwrap();
    assert_eq!(status.last_update.unwrap().state, "in-head");
    assert_eq!(status.work.unwrap().behind, Some(0));
    for person in [ana, bo, eve] {
        person.service.close().await;
    }
}

/// Data files of a home's blob store.
fn data(person: &Person) -> Vec<PathBuf> {
    let folder = person.top.path().join("home/store/blobs/data");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "data")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_was_lost_on_disk_is_fetched_again() {
    let ana = Person::online(Config::default()).await;
    std::fs::create_dir_all(ana.folder()).unwrap();
    let model = ana.folder().join("model.safetensors");
    let shape: &[u64] = &[256, 256];
    let mut bytes = Header::build([("fc.weight", DType::F32, shape)], &BTreeMap::new()).unwrap();
    let mut number = 1u32;
    for _ in 0..256 * 256 {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend_from_slice(&(f64::from(number) as f32 / 4e9).to_le_bytes());
    }
    std::fs::write(&model, bytes).unwrap();
    let request = Init {
        model,
        name: "large".into(),
        message: String::new(),
        branch: "main".into(),
        roles: BTreeMap::new(),
        every: None,
        aggregation: None,
        settings: BTreeMap::new(),
        open: false,
        private: false,
        person: "ana".into(),
    };
    ana.service.init(request).await.unwrap();
    let ticket = ana.ticket(1).await;
    let mut bo = Person::online(Config::default()).await;
    bo.clone_from(&ticket, "bo").await;
    bo.service.close().await;
    let lost = data(&bo);
    assert!(!lost.is_empty(), "the model is too small to lie in files");
    for path in lost {
        std::fs::remove_file(path).unwrap();
    }

    drop(bo.service);
    let home = Home::open(bo.top.path().join("home")).unwrap();
    bo.service = Service::online(home, Config::default()).await.unwrap();
    until("the lost blob", || async {
        let status = bo.service.status(At { place: bo.place() }).await.unwrap();
        status.head_verified && status.warnings.is_empty()
    })
    .await;
    std::fs::remove_file(bo.folder().join("model.safetensors")).unwrap();
    bo.service.restore(At { place: bo.place() }).await.unwrap();
    let model = |person: &Person| std::fs::read(person.folder().join("model.safetensors")).unwrap();
    assert_eq!(model(&ana), model(&bo));
    ana.service.close().await;
    bo.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_result_published_first_is_refuted_and_never_pulled() {
    let quiet = || Config { aggregate: false, ..Config::default() };
    let ana = Person::online(quiet()).await;
    ana.init().await;
    let ticket = ana.ticket(2).await;
    let bo = Person::online(quiet()).await;
    let eve = Person::online(quiet()).await;
    bo.clone_from(&ticket, "bo").await;
    eve.clone_from(&ticket, "eve").await;
    let first = bo.train_and_push(0.25).await;
    let second = eve.train_and_push(-0.5).await;
    until("both updates on all nodes", || async {
        for person in [&ana, &bo, &eve] {
            let request = LogRequest { place: person.place(), branch: None, limit: 50 };
            let log = person.service.log(request).await.unwrap();
            let pending = |commit: &String| log.entries.iter().any(|entry| entry.commit == *commit);
            if !pending(&first) || !pending(&second) {
                return false;
            }
        }
        true
    })
    .await;

    // Eve's node lies: the right recipe, and as its result the model that was there before.
    let (service, top) = (eve.service, eve.top);
    service.close().await;
    drop(service);
    let home = Home::open(top.path().join("home")).unwrap();
    let hub = Hub::open(home, quiet()).await.unwrap();
    network::start(&hub).await.unwrap();
    let repository = hub.repositories().await.remove(0);
    let state = repository.state().await;
    let branch = state.open_branches().next().unwrap();
    let recipe = state.recipe(branch.id, branch.head.unwrap(), &branch.pending);
    let held = repository.shelf().held(recipe.parent).unwrap();
    let commit = Commit::Aggregate(recipe);
    let id = commit.id().unwrap();
    let result = Some(Outcome { model: held.model, state: StateId::from_bytes([9; 32]) });
    let lie = Publish { id, commit, pack: held.pack, pack_bytes: 1, result };
    hub.publish(&repository, Body::Publish(Box::new(lie)), Extras::default()).await.unwrap();

    until("a refutation by ana and by bo", || async {
        let request = ShowRequest { place: ana.place(), commit: Some(id.to_string()) };
        ana.service
            .show(request)
            .await
            .is_ok_and(|shown| shown.claims.iter().any(|claim| claim.refuters.len() == 2))
    })
    .await;
    let root = ana.pull().await;
    assert_ne!(root, id.to_string(), "the refuted aggregate is not the head");

    // Whoever aggregates now publishes the same recipe with the result it has.
    let request = AggregateRequest { place: ana.place(), branch: None, dry_run: false, flush: false };
    let made = ana.service.aggregate(request).await.unwrap();
    assert_eq!(made.commit, id.to_string());
    until("the right head", || async { bo.head().await == Some(id.to_string()) }).await;
    for person in [&ana, &bo] {
        assert_eq!(person.pull().await, id.to_string());
        let bytes = std::fs::read(person.folder().join("model.safetensors")).unwrap();
        let last = f32::from_le_bytes(bytes[bytes.len() - 4..].try_into().unwrap());
        let was = ((32 * 3 + 64 * 32 - 1) as f32 * 0.37).sin();
        assert!((last - (was - 0.125)).abs() < 1e-6, "{last} {was}");
    }
    hub.close().await;
    ana.service.close().await;
    bo.service.close().await;
}
