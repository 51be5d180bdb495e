//! Bundles: whatever a file has or lacks, what is taken over is right, and nothing is lost.

use std::fs;
use std::path::{Path, PathBuf};

use flair_node::api::types::{
    AggregateRequest, BundleApplied, BundleCreate, BundleRequest, CloneRepository, Cloned, Code, Place,
    Problem,
};
use flair_node::bundle::{BundleError, Header, Reader, Record, Writer};
use flair_node::home::Config;
use flair_protocol::id::Digest;
use flair_protocol::key::SecretKey;
use flair_protocol::operation::body::BranchCreate;
use flair_protocol::operation::{Body, Operation, Position};

use crate::together::{Person, until};

impl Person {
    async fn bundle(&self, name: &str, since: &[&Path], latest: bool) -> Result<PathBuf, Problem> {
        let file = self.top.path().join(name);
        let since = since.iter().map(|path| path.display().to_string()).collect();
        let request = BundleCreate { place: self.place(), file: file.clone(), since, latest, force: false };
        self.service.bundle_create(request).await.map(|_| file)
    }

    async fn apply(&self, file: &Path) -> Result<BundleApplied, Problem> {
        let request = BundleRequest { file: file.to_owned(), repo: None };
        self.service.bundle_apply(request).await
    }

    async fn clone_bundle(&self, file: &Path) -> Result<Cloned, Problem> {
        let request = CloneRepository {
            source: file.display().to_string(),
            repo: None,
            folder: Some(self.folder()),
            current: self.top.path().to_owned(),
            branch: None,
            person: "ben".into(),
            full: false,
            depth: 0,
            timeout: 30,
        };
        self.service.clone_repository(request).await
    }

    async fn round(&self, shift: f32) {
        self.train_and_push(shift).await;
        let request = AggregateRequest { place: self.place(), branch: None, dry_run: false, flush: false };
        self.service.aggregate(request).await.unwrap();
        self.pull().await;
    }

    fn file(&self) -> Vec<u8> {
        fs::read(self.folder().join("model.safetensors")).unwrap()
    }
}

/// Somebody with a history of three aggregates and a pending update, and a bundle of it.
async fn made() -> (Person, PathBuf) {
    let ana = Person::offline().await;
    ana.init().await;
    for shift in [0.25, -0.5, 0.125] {
        ana.round(shift).await;
    }
    ana.train_and_push(1.0).await;
    let file = ana.bundle("all.bundle", &[], false).await.unwrap();
    (ana, file)
}

fn write(person: &Person, bytes: &[u8]) -> PathBuf {
    let path = person.top.path().join("given.bundle");
    fs::write(&path, bytes).unwrap();
    path
}

/// Operations and models are those of `ana`.
async fn complete(person: &Person, ana: &Person) {
    let (here, there) = (person.repository().await, ana.repository().await);
    assert_eq!((here.operations, here.fingerprint), (there.operations, there.fingerprint));
    // All of it can be given on.
    let place = Place { folder: None, repo: Some(here.repo) };
    let since = vec![there.branches[0].head.clone().unwrap()];
    let file = person.top.path().join("again.bundle");
    let request = BundleCreate { place, file, since: vec![], latest: false, force: false };
    let made = person.service.bundle_create(request.clone()).await.unwrap();
    assert_eq!((made.operations, made.notes), (there.operations, vec![]));
    let request = BundleCreate { since, ..request };
    let why = person.service.bundle_create(BundleCreate { force: true, ..request }).await;
    // The update that is pending came after the head.
    assert_eq!(why.map(|made| (made.operations, made.commits)).unwrap(), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_ends_anywhere_gives_what_is_whole_and_is_gone_on_with() {
    let (ana, file) = made().await;
    let whole = fs::read(&file).unwrap();
    let mut head = 0;
    for part in 0..=16 {
        let ben = Person::offline().await;
        let cut = whole.len() * part / 16;
        let path = write(&ben, &whole[..cut]);
        match ben.apply(&path).await {
            Ok(applied) => {
                assert_eq!(applied.problem.is_some(), cut < whole.len(), "{applied:?}");
                head += usize::from(ben.head().await.is_some());
            }
            Err(problem) => assert_eq!(problem.code, Code::Invalid, "{problem}"),
        }
        // In the home as it is after a restart, from the whole file.
        let ben = ben.reopen().await;
        let place = write(&ben, &whole);
        let cloned = ben.clone_bundle(&place).await.unwrap();
        assert_eq!(Some(cloned.commit), ana.head().await);
        complete(&ben, &ana).await;
        let again = ben.apply(&place).await.unwrap();
        assert_eq!((again.operations, again.commits, again.missing), (0, 0, 0), "{again:?}");
        ben.service.close().await;
    }
    assert!(head > 3, "parts of a bundle gave nothing");
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_bundle_is_refused_from_the_damage_on() {
    let (ana, file) = made().await;
    let whole = fs::read(&file).unwrap();
    let ben = Person::offline().await;
    let mut wrong = 0;
    for step in 0..40 {
        let mut bytes = whole.clone();
        bytes[step * (whole.len() - 1) / 39] ^= 0x41;
        let path = write(&ben, &bytes);
        let verified = ben.service.bundle_verify(BundleRequest { file: path.clone(), repo: None }).await;
        let applied = ben.apply(&path).await;
        wrong += usize::from(verified.is_err() || verified.is_ok_and(|content| content.problem.is_some()));
        assert!(
            applied.is_err() || applied.as_ref().is_ok_and(|applied| applied.problem.is_some()),
            "byte {} of {}: {applied:?}",
            step * (whole.len() - 1) / 39,
            whole.len()
        );
    }
    assert_eq!(wrong, 40);
    let path = write(&ben, &whole);
    assert!(ben.apply(&path).await.unwrap().problem.is_none());
    complete(&ben, &ana).await;
    ben.service.close().await;
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_runs_takes_a_bundle_over_and_gives_it_to_others() {
    let (ana, file) = made().await;
    let config = || Config { aggregate: false, ..Config::default() };
    let ben = Person::online(config()).await;
    ben.clone_bundle(&file).await.unwrap();
    complete(&ben, &ana).await;
    let ticket = ben.service.ticket(flair_node::api::types::MakeTicket {
        place: ben.place(),
        role: None,
        uses: 1,
        label: String::new(),
    });
    let ticket = ticket.await.unwrap().ticket;
    let cem = Person::online(config()).await;
    let request = CloneRepository {
        source: ticket,
        repo: None,
        folder: Some(cem.folder()),
        current: cem.top.path().to_owned(),
        branch: None,
        person: "cem".into(),
        full: true,
        depth: 0,
        timeout: 30,
    };
    cem.service.clone_repository(request).await.unwrap();
    until("everything on a third node", || async {
        cem.repository().await.fingerprint == ana.repository().await.fingerprint
    })
    .await;
    assert_eq!(cem.file(), ben.file());
    for person in [ana, ben, cem] {
        person.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_history_a_bundle_is_smaller_and_can_be_trained_on() {
    let (ana, file) = made().await;
    let latest = ana.bundle("latest.bundle", &[], true).await.unwrap();
    let ben = Person::offline().await;
    let cloned = ben.clone_bundle(&latest).await.unwrap();
    assert_eq!(Some(cloned.commit), ana.head().await);
    let held = |path: &Path| {
        let reader = Reader::new(fs::File::open(path).unwrap()).unwrap();
        reader.header().commits
    };
    assert!(held(&latest) < held(&file), "{} {}", held(&latest), held(&file));
    // Ben made nothing yet; what follows goes on from what he took over.
    assert_eq!(ben.bundle("nothing.bundle", &[&latest], false).await.unwrap_err().code, Code::Conflict);
    ana.round(0.5).await;
    let more = ana.bundle("more.bundle", &[&latest], false).await.unwrap();
    let applied = ben.apply(&more).await.unwrap();
    assert_eq!((applied.problem, applied.missing), (None, 0));
    ben.pull().await;
    assert_eq!(ben.file(), ana.file());
    for person in [ana, ben] {
        person.service.close().await;
    }
}

/// Copies a bundle, with an operation more.
fn with_operation(file: &Path, make: impl FnOnce(&Header, &[Operation]) -> Operation) -> Vec<u8> {
    let mut reader = Reader::new(fs::File::open(file).unwrap()).unwrap();
    let header = reader.header().clone();
    let mut writer = Writer::new(Vec::new(), &header).unwrap();
    let (mut operations, mut make) = (Vec::new(), Some(make));
    loop {
        match reader.record().unwrap() {
            Record::Operation(bytes) => {
                operations.push(Operation::decode(&bytes, header.repo).unwrap());
                writer.operation(&bytes).unwrap();
            }
            Record::Commit(group) => {
                if let Some(make) = make.take() {
                    writer.operation(&make(&header, &operations).encode().unwrap()).unwrap();
                }
                writer.commit(&group).unwrap();
            }
            Record::Blob(digest, length) => {
                let mut bytes = Vec::new();
                reader
                    .blob(|piece| {
                        bytes.extend_from_slice(piece);
                        Ok::<_, BundleError>(())
                    })
                    .unwrap();
                let read = |offset: u64, out: &mut [u8]| {
                    out.copy_from_slice(&bytes[offset as usize..][..out.len()]);
                    Ok::<_, BundleError>(())
                };
                writer.blob(digest, length, read).unwrap();
            }
            Record::End => return writer.finish().unwrap(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_signed_is_refused_in_a_bundle_too() {
    let (ana, file) = made().await;
    let stranger = SecretKey::from_bytes(&[66; 32]);
    let hostile = with_operation(&file, |header, operations| {
        let last = operations.last().unwrap();
        let position = Position {
            repo: Some(header.repo),
            seq: 0,
            prev: None,
            deps: vec![last.id()],
            lamport: last.header().lamport + 1,
            policy: flair_protocol::id::OperationId::from_digest(Digest::from_bytes(*header.repo.as_bytes())),
            time: 0,
        };
        let body = Body::BranchCreate(BranchCreate { name: "mine".into(), from: None });
        Operation::sign(&stranger, position, body).unwrap()
    });
    let ben = Person::offline().await;
    let path = write(&ben, &hostile);
    let applied = ben.apply(&path).await.unwrap();
    assert!(applied.problem.as_ref().is_some_and(|why| why.contains("can't be taken in")), "{applied:?}");
    assert_eq!(ben.repository().await.operations, ana.repository().await.operations);
    // Another's repository is not touched by a bundle either.
    let eve = Person::offline().await;
    eve.init().await;
    let theirs = eve.bundle("theirs.bundle", &[], false).await.unwrap();
    assert_eq!(ana.bundle("mixed.bundle", &[&theirs], false).await.unwrap_err().code, Code::Invalid);
    for person in [ana, ben, eve] {
        person.service.close().await;
    }
}
