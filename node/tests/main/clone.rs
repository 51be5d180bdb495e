//! Clones that start without history: from what members attest, and no further back than that.

use std::collections::BTreeMap;

use flair_node::api::types::{
    AggregateRequest, At, CloneRepository, Cloned, FetchRequest, LogRequest, ShowRequest, Shown,
    VerifyRequest,
};
use flair_node::home::Config;
use flair_tensors::dtype::DType;
use flair_tensors::header::Header;

use crate::together::{Person, until};

/// Enough for a whole pack in between.
const ROUNDS: usize = 9;

pub(crate) async fn online() -> Person {
    Person::online(Config { aggregate: false, ..Config::default() }).await
}

async fn show(person: &Person, commit: &str) -> Shown {
    let request = ShowRequest { place: person.place(), commit: Some(commit.to_owned()) };
    person.service.show(request).await.unwrap()
}

/// Whether the model of a commit is here.
async fn show_here(person: &Person, commit: &str) -> bool {
    let request = ShowRequest { place: person.place(), commit: Some(commit.to_owned()) };
    person.service.show(request).await.is_ok_and(|shown| shown.here)
}

/// Everybody trains once, and the first aggregates.
pub(crate) async fn round(people: &[&Person], number: usize) -> String {
    let mut updates = Vec::new();
    for (index, person) in people.iter().enumerate() {
        person.pull().await;
        updates.push(person.train_and_push(0.01 * (index + number) as f32 - 0.05).await);
    }
    let request =
        || AggregateRequest { place: people[0].place(), branch: None, dry_run: false, flush: false };
    until("an aggregate of all", || async {
        let log = LogRequest { place: people[0].place(), branch: None, limit: 20 };
        let log = people[0].service.log(log).await.unwrap();
        updates.iter().all(|update| log.entries.iter().any(|entry| entry.commit == *update))
            && people[0]
                .service
                .aggregate(request())
                .await
                .is_ok_and(|made| made.persons == people.len() as u64)
    })
    .await;
    let head = people[0].head().await.unwrap();
    for person in people {
        until("one head", || async { person.head().await.as_ref() == Some(&head) }).await;
        until("everybody's word on it", || async {
            show(person, &head)
                .await
                .claims
                .first()
                .is_some_and(|claim| claim.supporters.len() == people.len())
        })
        .await;
    }
    head
}

pub(crate) async fn clone(person: &Person, source: String, repo: Option<String>) -> Cloned {
    let request = CloneRepository {
        source,
        repo,
        folder: Some(person.folder()),
        current: person.top.path().to_owned(),
        branch: None,
        person: "dan".to_owned(),
        full: false,
        depth: 0,
        timeout: 60,
    };
    person.service.clone_repository(request).await.unwrap()
}

async fn here(person: &Person) -> Vec<String> {
    let log = LogRequest { place: person.place(), branch: None, limit: 500 };
    let entries = person.service.log(log).await.unwrap().entries;
    let mut here = Vec::new();
    for entry in entries {
        if show(person, &entry.commit).await.here {
            here.push(entry.commit);
        }
    }
    here
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_starts_from_what_members_attest_and_gets_history_when_asked() {
    let (ana, bo) = (online().await, online().await);
    let repo = ana.init().await;
    let ticket = ana.ticket(2).await;
    bo.clone_from(&ticket, "bo").await;
    let mut head = String::new();
    for number in 0..ROUNDS {
        head = round(&[&ana, &bo], number).await;
    }

    let dan = online().await;
    let cloned = clone(&dan, ticket, None).await;
    assert_eq!((cloned.commit.as_str(), cloned.role.as_str()), (head.as_str(), "contributor"));
    assert!(cloned.notes.iter().any(|note| note.contains("flair fetch --full")), "{cloned:?}");
    let model = |person: &Person| std::fs::read(person.folder().join("model.safetensors")).unwrap();
    ana.pull().await;
    assert_eq!(model(&ana), model(&dan));
    let status = dan.service.status(At { place: dan.place() }).await.unwrap();
    assert!(status.head_verified && status.head_attested.len() == 2, "{status:?}");
    let held = here(&dan).await;
    assert_eq!(held.len(), 2, "the head, and the whole pack that it is a difference to: {held:?}");
    assert!(!show(&dan, &head).await.verified);
    let nothing = dan.service.verify(VerifyRequest { place: dan.place(), commit: None }).await.unwrap_err();
    assert!(nothing.to_string().contains("nothing was checked"), "{nothing}");

    // From here on Dan runs what there is to run, and says so; of what was before he says nothing.
    let next = round(&[&ana, &bo, &dan], ROUNDS).await;
    let status = dan.service.status(At { place: dan.place() }).await.unwrap();
    assert!(status.head_verified && status.head_attested.is_empty(), "{status:?}");
    let said = |shown: Shown| shown.claims.iter().map(|claim| claim.supporters.len()).sum::<usize>();
    assert_eq!((said(show(&dan, &next).await), said(show(&dan, &head).await)), (3, 2));
    let verified = dan.service.verify(VerifyRequest { place: dan.place(), commit: None }).await.unwrap();
    assert!(verified.holds && verified.rows.len() == 1 && verified.absent == ROUNDS as u64, "{verified:?}");

    let request = FetchRequest { place: dan.place(), full: true, timeout: 60 };
    dan.service.fetch(request).await.unwrap();
    let verified = dan.service.verify(VerifyRequest { place: dan.place(), commit: None }).await.unwrap();
    assert!(verified.holds && verified.rows.len() == ROUNDS + 1 && verified.absent == 0, "{verified:?}");
    until("Dan's own word on the old head", || async { said(show(&dan, &head).await) == 3 }).await;
    let status = dan.service.status(At { place: dan.place() }).await.unwrap();
    assert_eq!(status.history, None);

    // Whoever clones from a clone gets the same, with everybody else gone.
    let eve = online().await;
    let address = dan.service.node_status().await.unwrap().addresses.remove(0);
    ana.service.close().await;
    let cloned = clone(&eve, address.clone(), Some(repo.clone())).await;
    assert_eq!(cloned.commit, next);
    assert_eq!(here(&eve).await.len(), 2);
    eve.service.close().await;

    bo.service.close().await;
    dan.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_too_few_attest_is_run_and_not_taken_over() {
    let ana = online().await;
    let bo = online().await;
    ana.init().await;
    let ticket = ana.ticket(2).await;
    bo.clone_from(&ticket, "bo").await;
    let update = bo.train_and_push(0.5).await;
    until("bo's update at ana", || async { show_here(&ana, &update).await }).await;
    bo.service.close().await;
    until("an aggregate", || async {
        let request = AggregateRequest { place: ana.place(), branch: None, dry_run: false, flush: true };
        ana.service.aggregate(request).await.is_ok()
    })
    .await;
    let head = ana.head().await.unwrap();

    let dan = online().await;
    assert_eq!(clone(&dan, ticket, None).await.commit, head);
    assert!(show(&dan, &head).await.verified, "only Ana stands behind it, so Dan ran it");
    assert!(show(&dan, &update).await.here);
    for person in [ana, dan] {
        person.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_too_large_to_be_kept_in_memory_is_committed_whole() {
    let ana = online().await;
    std::fs::create_dir_all(ana.folder()).unwrap();
    let model = ana.folder().join("model.safetensors");
    let shape: &[u64] = &[10 << 20];
    let mut bytes = Header::build([("table", DType::I32, shape)], &BTreeMap::new()).unwrap();
    let mut number = 1u32;
    for _ in 0..shape[0] {
        number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend_from_slice(&(number ^ (number >> 15)).to_le_bytes());
    }
    std::fs::write(&model, &bytes).unwrap();
    ana.init_from(&model, None, &[]).await.unwrap();
    std::fs::remove_file(&model).unwrap();
    ana.service.restore(At { place: ana.place() }).await.unwrap();
    assert!(std::fs::read(&model).unwrap() == bytes);
    ana.service.close().await;
}
