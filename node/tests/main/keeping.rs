//! Promises about what is kept: what it takes, what is given back, and that damage is found and mended.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flair_node::api::types::{
    AggregateRequest, At, CloneRepository, Code, Du, DuRequest, FetchRequest, Fsck, FsckRequest, PushRequest,
    ResetRequest, ReviewRequest,
};
use flair_node::home::{Config, Home};
use flair_node::service::Service;
use flair_tensors::dtype::DType;
use flair_tensors::header::Header;
use redb::ReadableTable;

use crate::together::{Person, until};

/// Writes a model of random numbers whose large tensor has a hash tree in a file of its own.
fn write_large(path: &Path) {
    let rows: [(&str, DType, &[u64]); 2] =
        [("fc.weight", DType::F32, &[1536, 1024]), ("head.weight", DType::F32, &[64, 1024])];
    let mut bytes = Header::build(rows, &BTreeMap::new()).unwrap();
    let mut number = 1u32;
    for _ in 0..1600 * 1024 {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend_from_slice(&(f64::from(number) as f32 / 4e9).to_le_bytes());
    }
    fs::write(path, bytes).unwrap();
}

impl Person {
    pub(crate) async fn init_large(&self) {
        fs::create_dir_all(self.folder()).unwrap();
        let model = self.folder().join("model.safetensors");
        write_large(&model);
        self.init_from(&model, None, &[("every", "1"), ("eta", "0.5")]).await.unwrap();
    }

    async fn fsck(&self, mend: bool) -> Fsck {
        self.service.fsck(FsckRequest { mend, timeout: 20 }).await.unwrap()
    }

    async fn du(&self) -> Du {
        self.service.du(DuRequest::default()).await.unwrap()
    }

    /// Files of the blob store with this ending, the largest first.
    pub(crate) fn blobs(&self, ending: &str) -> Vec<PathBuf> {
        let folder = self.top.path().join("home/store/blobs/data");
        let mut found: Vec<PathBuf> =
            fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        found.retain(|path| path.extension().is_some_and(|extension| extension == ending));
        found.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
        found
    }

    fn model(&self) -> Vec<u8> {
        fs::read(self.folder().join("model.safetensors")).unwrap()
    }

    async fn restore(&self) {
        fs::remove_file(self.folder().join("model.safetensors")).unwrap();
        self.service.restore(At { place: self.place() }).await.unwrap();
    }
}

/// Turns a bit of a file over, as a disk does: nothing else of the file changes.
pub(crate) fn rot(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let before = file.metadata().unwrap().modified().unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
    file.set_modified(before).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_by_reading_and_mended_from_a_peer() {
    let ana = Person::online(Config::default()).await;
    ana.init_large().await;
    let bo = Person::online(Config::default()).await;
    bo.clone_from(&ana.ticket(1).await, "bo").await;
    let whole = bo.fsck(true).await;
    assert!(whole.damage.is_empty() && whole.operations > 3 && whole.bytes > 1 << 20, "{whole:?}");

    // A bit in the numbers, a bit in a hash tree, a file that is gone.
    let (data, trees) = (bo.blobs("data"), bo.blobs("obao4"));
    assert!(data.len() >= 2 && !trees.is_empty(), "{data:?} {trees:?}");
    rot(&data[0], 1_000_000);
    let told = bo.fsck(false).await;
    assert_eq!(told.damage.len(), 1, "{told:?}");
    assert!(told.damage[0].of.starts_with("initial ") && told.damage[0].problem == "damaged", "{told:?}");
    let mended = bo.fsck(true).await;
    assert!(mended.damage.iter().all(|damage| damage.mended), "{mended:?}");
    bo.restore().await;
    assert!(bo.model() == ana.model());

    rot(&bo.blobs("obao4")[0], 100);
    fs::remove_file(&data[1]).unwrap();
    let mended = bo.fsck(true).await;
    assert_eq!(mended.damage.len(), 2, "{mended:?}");
    assert!(mended.damage.iter().all(|damage| damage.mended), "{mended:?}");
    assert!(mended.damage.iter().any(|damage| damage.problem == "missing"), "{mended:?}");
    assert!(bo.fsck(true).await.damage.is_empty());

    // What was mended is served as well.
    ana.service.close().await;
    let dan = Person::online(Config::default()).await;
    let ticket = bo.service.ticket(flair_node::api::types::MakeTicket {
        place: bo.place(),
        role: None,
        uses: 1,
        label: String::new(),
    });
    let request = CloneRepository {
        source: ticket.await.unwrap().ticket,
        repo: None,
        folder: Some(dan.folder()),
        current: dan.top.path().to_owned(),
        branch: None,
        person: "dan".into(),
        full: false,
        depth: 0,
        timeout: 30,
    };
    dan.service.clone_repository(request).await.unwrap();
    assert!(dan.model() == bo.model());
    for person in [bo, dan] {
        person.service.close().await;
    }
}

/// Ends the service, lets `change` have the bytes of each operation, in the order in which they came, and starts again.
async fn with_operations(person: Person, change: impl Fn(usize, &mut Vec<u8>)) -> Person {
    type Key = (&'static [u8; 32], u64);
    type Row = (&'static [u8; 32], &'static [u8]);
    const OPERATIONS: redb::TableDefinition<Key, Row> = redb::TableDefinition::new("operations");
    let Person { service, top } = person;
    service.close().await;
    drop(service);
    let database = redb::Database::open(top.path().join("home/store/operations.db")).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(OPERATIONS).unwrap();
        let rows: Vec<_> = table
            .iter()
            .unwrap()
            .map(|row| {
                let (key, value) = row.unwrap();
                let ((repository, place), (id, bytes)) = (key.value(), value.value());
                ((*repository, place), (*id, bytes.to_vec()))
            })
            .collect();
        for (index, ((repository, place), (id, mut bytes))) in rows.into_iter().enumerate() {
            change(index, &mut bytes);
            table.insert((&repository, place), (&id, bytes.as_slice())).unwrap();
        }
    }
    transaction.commit().unwrap();
    drop(database);
    let home = Home::open(top.path().join("home")).unwrap();
    Person { service: Service::online(home, Config::default()).await.unwrap(), top }
}

#[tokio::test(flavor = "multi_thread")]
async fn operations_that_a_disk_damaged_come_again_from_a_peer_and_nothing_is_signed_without_them() {
    let ana = Person::online(Config::default()).await;
    ana.init_large().await;
    let bo = Person::online(Config::default()).await;
    bo.clone_from(&ana.ticket(1).await, "bo").await;
    let update = bo.train_and_push(0.25).await;
    until("bo's update at ana's", || async { ana.head().await.is_some_and(|head| head != update) }).await;
    let whole = bo.fsck(false).await;
    let count = usize::try_from(whole.operations).unwrap();
    assert!(whole.damage.is_empty() && count > 4, "{whole:?}");

    // A bit at the end, a bit in the header, everything; in the middle, of the second, of the last one.
    let rots: [fn(&mut Vec<u8>); 3] =
        [|bytes| *bytes.last_mut().unwrap() ^= 1, |bytes| bytes[20] ^= 16, Vec::clear];
    let mut bo = bo;
    for (rot, place) in rots.into_iter().zip([count / 2, 1, count - 1]) {
        bo = with_operations(bo, |index, bytes| {
            if index == place {
                rot(bytes);
            }
        })
        .await;
        // A peer may have sent it before anybody looked.
        let mended = bo.fsck(true).await;
        assert!(mended.damage.iter().all(|damage| damage.mended), "{mended:?}");
        let again = bo.fsck(false).await;
        assert!(again.damage.is_empty() && again.operations >= whole.operations, "{again:?}");
        until("all that follows", || async { bo.head().await == ana.head().await }).await;
    }
    bo.train_and_push(0.5).await;

    // Alone, it works with what is left, says so, and signs nothing.
    bo.draft(0.125).await;
    ana.service.close().await;
    let comment = ReviewRequest {
        place: bo.place(),
        commit: update,
        judgement: "comment".into(),
        text: "mine".into(),
        force: false,
    };
    bo.service.review(comment).await.unwrap();
    let last = usize::try_from(bo.fsck(false).await.operations).unwrap() - 1;
    let bo = with_operations(bo, |index, bytes| {
        if index == last {
            bytes.clear();
        }
    })
    .await;
    let told = bo.service.status(At { place: bo.place() }).await.unwrap();
    assert!(told.warnings.iter().any(|warning| warning.contains("`flair fsck`")), "{told:?}");
    let request = PushRequest { place: bo.place(), dry_run: false, keep_drafts: false };
    let refused = bo.service.push(request).await.unwrap_err();
    assert!(refused.message.contains("damaged on this disk"), "{refused:?}");
    let left = bo.service.fsck(FsckRequest { mend: true, timeout: 1 }).await.unwrap();
    assert!(left.damage.len() == 1 && left.damage[0].of.starts_with("operation of "), "{left:?}");
    assert!(!left.damage[0].mended && left.damage[0].why.as_ref().unwrap().contains("no peer"), "{left:?}");
    bo.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alone_a_node_runs_recipes_again_and_names_what_it_cannot_get() {
    let ana = Person::offline().await;
    ana.init_large().await;
    let first = ana.blobs("data");
    ana.train_and_push(0.25).await;
    let before = ana.blobs("data");
    let request = AggregateRequest { place: ana.place(), branch: None, dry_run: false, flush: false };
    ana.service.aggregate(request).await.unwrap();
    ana.pull().await;
    let model = ana.model();
    let of_aggregate: Vec<_> = ana.blobs("data").into_iter().filter(|path| !before.contains(path)).collect();
    assert!(!of_aggregate.is_empty());
    fs::remove_file(&of_aggregate[0]).unwrap();
    let mended = ana.fsck(true).await;
    assert!(
        mended.damage.iter().all(|damage| damage.mended && damage.of.contains("aggregate")),
        "{mended:?}"
    );
    ana.restore().await;
    assert!(ana.model() == model);

    // A draft, and a model that only peers could give.
    ana.draft(0.5).await;
    let drafted: Vec<_> = ana
        .blobs("data")
        .into_iter()
        .filter(|path| !before.contains(path) && !of_aggregate.contains(path))
        .collect();
    rot(&drafted[0], 2_000);
    rot(&first[0], 2_000);
    let left = ana.fsck(true).await;
    assert_eq!(left.damage.iter().filter(|damage| !damage.mended).count(), 2, "{left:?}");
    let draft = left.damage.iter().find(|damage| damage.of.contains("draft")).unwrap();
    assert!(draft.why.as_ref().unwrap().contains("`flair reset`"), "{draft:?}");
    let initial = left.damage.iter().find(|damage| damage.of.contains("initial")).unwrap();
    assert!(initial.why.as_ref().unwrap().contains("no node is running"), "{initial:?}");
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn du_tells_what_each_part_takes_and_gc_gives_back_what_nothing_needs() {
    let ana = Person::offline().await;
    ana.init_large().await;
    let empty = ana.du().await;
    let (repository, branch) = (&empty.repositories[0], &empty.repositories[0].branches[0]);
    assert!(branch.head_bytes > 5 << 20, "{branch:?}");
    assert_eq!((branch.commits, branch.history_bytes, repository.draft_bytes), (1, 0, 0));
    assert_eq!(empty.reclaimable, 0, "{empty:?}");
    assert!(empty.disk >= empty.referenced && repository.bytes >= empty.referenced, "{empty:?}");

    ana.draft(0.25).await;
    let drafted = ana.du().await;
    let bytes = drafted.repositories[0].draft_bytes;
    assert!(bytes > 0, "{drafted:?}");
    assert_eq!(drafted.referenced, empty.referenced + bytes);
    let request = ResetRequest { place: ana.place(), drafts: None, hard: false };
    ana.service.reset(request).await.unwrap();
    let undone = ana.du().await;
    assert_eq!((undone.referenced, undone.repositories[0].draft_bytes), (empty.referenced, 0));
    assert!(undone.reclaimable > 0, "{undone:?}");
    let given = ana.service.gc().await.unwrap();
    assert_eq!((given.freed, given.left), (undone.reclaimable, 0));
    assert_eq!(ana.du().await.reclaimable, 0);

    // Pending, then history.
    ana.train_and_push(0.25).await;
    let pending = ana.du().await.repositories.remove(0).branches.remove(0).pending_bytes;
    assert!(pending > 0);
    let request = AggregateRequest { place: ana.place(), branch: None, dry_run: false, flush: false };
    ana.service.aggregate(request).await.unwrap();
    let branch = ana.du().await.repositories.remove(0).branches.remove(0);
    assert_eq!((branch.commits, branch.pending_bytes), (3, 0), "{branch:?}");
    assert!(branch.history_bytes > 0, "{branch:?}");
    assert!(ana.fsck(false).await.damage.is_empty());
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_beyond_a_quota_is_refused_with_the_way_out() {
    let ana = Person::online(Config::default()).await;
    ana.init_large().await;
    let ticket = ana.ticket(5).await;
    let clone = |person: &Person| CloneRepository {
        source: ticket.clone(),
        repo: None,
        folder: Some(person.folder()),
        current: person.top.path().to_owned(),
        branch: None,
        person: "bo".into(),
        full: false,
        depth: 0,
        timeout: 30,
    };
    let id = ana.repository().await.repo;
    let small = Config { quota_bytes: 1 << 20, ..Config::default() };
    let own = Config { quotas: BTreeMap::from([(id[..8].to_owned(), 1 << 20)]), ..Config::default() };
    let total = Config { quota_total_bytes: Some(1 << 20), ..Config::default() };
    for (config, words) in [
        (small, "the quota of this repository"),
        (own, "the quota of this repository"),
        (total, "the quota of all repositories together"),
    ] {
        let bo = Person::online(config).await;
        let problem = bo.service.clone_repository(clone(&bo)).await.unwrap_err();
        assert_eq!(problem.code, Code::Full, "{problem}");
        assert!(problem.message.contains(words), "{problem}");
        assert!(problem.help.as_ref().unwrap().contains("config.toml"), "{problem:?}");
        let place = flair_node::api::types::Place { folder: None, repo: Some(id.clone()) };
        let fetched = bo.service.fetch(FetchRequest { place, full: false, timeout: 10 }).await;
        assert!(fetched.is_err());
        bo.service.close().await;
    }
    // Enough for this one.
    let enough = Config {
        quota_bytes: 1,
        quotas: BTreeMap::from([(id, 64 << 20)]),
        quota_total_bytes: Some(64 << 20),
        ..Config::default()
    };
    let bo = Person::online(enough).await;
    bo.service.clone_repository(clone(&bo)).await.unwrap();
    assert!(bo.model() == ana.model());
    for person in [ana, bo] {
        person.service.close().await;
    }
}
