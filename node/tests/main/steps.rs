//! What is decided about a branch, through real nodes.

use std::collections::BTreeMap;
use std::path::Path;

use flair_node::api::types::{
    AggregateRequest, AuditRequest, BranchCreateRequest, CheckoutRequest, CloneRepository, CommitRequest,
    ExternalRequest, FetchRequest, FsckRequest, MergeRequest, RevertRequest, ReviewRequest, ShowRequest,
    Stepped, VerifyRequest,
};
use flair_node::home::Config;
use flair_tensors::dtype::DType;
use flair_tensors::header::Header;

use crate::together::{Person, until};

fn quiet() -> Config {
    Config { aggregate: false, ..Config::default() }
}

fn weights(person: &Person) -> Vec<u8> {
    std::fs::read(person.folder().join("model.safetensors")).unwrap()
}

async fn revert(person: &Person, commit: &str) -> Stepped {
    let request = RevertRequest {
        place: person.place(),
        commit: commit.to_owned(),
        branch: None,
        message: "it went wrong".into(),
        dry_run: false,
        head: None,
    };
    person.service.revert(request).await.unwrap()
}

async fn aggregate(person: &Person) -> String {
    let request = AggregateRequest { place: person.place(), branch: None, dry_run: false, flush: true };
    person.service.aggregate(request).await.unwrap().commit
}

/// Trains, pushes, aggregates: gives the new head.
async fn round(person: &Person, by: f32) -> String {
    person.train_and_push(by).await;
    let head = aggregate(person).await;
    assert_eq!(person.pull().await, head);
    head
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_of_a_reverted_branch_has_the_earlier_model_and_all_history_when_it_asks() {
    let ana = Person::online(quiet()).await;
    ana.init().await;
    let good = round(&ana, 0.5).await;
    let model = weights(&ana);
    round(&ana, 9.0).await;
    let done = revert(&ana, &good).await;
    let back = done.commit.unwrap();
    assert!(done.in_head && done.out.len() == 1 && done.out[0].updates[0].name == "ana");
    assert_eq!(ana.pull().await, back);
    assert!(weights(&ana) == model);

    let bo = Person::online(quiet()).await;
    bo.clone_from(&ana.ticket(1).await, "bo").await;
    assert_eq!(bo.head().await, Some(back.clone()));
    assert!(weights(&bo) == model);
    let fetch = FetchRequest { place: bo.place(), full: true, timeout: 60 };
    bo.service.fetch(fetch).await.unwrap();
    let audit = AuditRequest { place: bo.place(), commit: None };
    let audit = bo.service.audit(audit).await.unwrap();
    assert!(audit.doubts.is_empty() && audit.steps.iter().all(|step| step.doubts.is_empty()), "{audit:?}");
    let last = audit.steps.last().unwrap();
    assert_eq!((last.entry.kind.as_str(), audit.steps.len()), ("revert", 4));
    assert!(last.checked.ends_with("accepted by ana"), "{}", last.checked);

    // Both train on it, and both get the same.
    bo.train_and_push(0.25).await;
    until("bo's update", || async {
        let status = ana.service.status(flair_node::api::types::At { place: ana.place() }).await.unwrap();
        status.pending == 1
    })
    .await;
    until("its model", || async {
        let request = AggregateRequest { place: ana.place(), branch: None, dry_run: true, flush: true };
        ana.service.aggregate(request).await.is_ok()
    })
    .await;
    let next = aggregate(&ana).await;
    assert_eq!(ana.pull().await, next);
    until("the head", || async { bo.head().await == Some(next.clone()) }).await;
    assert_eq!(bo.pull().await, next);
    assert!(weights(&bo) == weights(&ana) && weights(&bo) != model);
    for person in [&ana, &bo] {
        let fsck = FsckRequest { mend: true, timeout: 10 };
        assert!(person.service.fsck(fsck).await.unwrap().damage.is_empty());
        person.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_comes_late_and_is_accepted_only_by_who_means_it() {
    let ana = Person::online(quiet()).await;
    ana.init().await;
    let good = round(&ana, 0.5).await;
    let bo = Person::online(quiet()).await;
    bo.clone_from(&ana.ticket(1).await, "bo").await;
    let repo = ana.service.repositories().await.unwrap().remove(0).repo;
    round(&ana, 9.0).await;
    until("the head", || async { bo.head().await == ana.head().await }).await;
    let proposed = revert(&bo, &good).await;
    assert!(!proposed.in_head && proposed.asked == ["ana"]);
    let id = proposed.commit.unwrap();
    let late = round(&ana, 0.125).await;
    let accept = |force| ReviewRequest {
        place: ana.place(),
        commit: id.clone(),
        judgement: "accept".into(),
        text: String::new(),
        force,
    };
    until("the proposal", || async {
        let waiting = ana.service.reviews(flair_node::api::types::At { place: ana.place() }).await.unwrap();
        waiting.iter().any(|one| one.commit == id && one.mine && one.kind == "revert")
    })
    .await;
    let refused = ana.service.review(accept(false)).await.unwrap_err();
    assert!(refused.message.starts_with("1 commit came after"), "{refused:?}");
    ana.service.review(accept(true)).await.unwrap();
    assert_eq!(ana.head().await, Some(id.clone()));
    assert_ne!(ana.head().await, Some(late));
    until("the decision", || async { bo.head().await == Some(id.clone()) }).await;
    assert_eq!(bo.pull().await, id);

    // Without a node, from a file: the reader notes which model the revert has.
    let file = ana.top.path().join("all.bundle");
    let bundle = flair_node::api::types::BundleCreate {
        place: ana.place(),
        file: file.clone(),
        since: Vec::new(),
        latest: false,
        force: false,
    };
    ana.service.bundle_create(bundle).await.unwrap();
    let cem = Person::offline().await;
    let clone = CloneRepository {
        source: file.display().to_string(),
        repo: Some(repo),
        folder: Some(cem.folder()),
        current: cem.top.path().to_owned(),
        branch: None,
        person: "cem".into(),
        full: false,
        depth: 0,
        timeout: 10,
    };
    let cloned = cem.service.clone_repository(clone).await.unwrap();
    assert_eq!(cloned.commit, id);
    assert!(weights(&cem) == weights(&bo));
    for person in [ana, bo, cem] {
        person.service.close().await;
    }
}

/// Commits the folder as a step, pushes and moves to it.
async fn step(person: &Person, migrate: bool, inputs: &[&str]) -> String {
    let engine = "server 2".to_owned();
    let inputs = inputs.iter().map(|input| (*input).to_owned()).collect();
    let request = CommitRequest {
        place: person.place(),
        message: "decided".into(),
        migrate,
        external: (!migrate).then_some(ExternalRequest { engine, inputs }),
        ..CommitRequest::default()
    };
    person.service.commit(request).await.unwrap();
    let step = person.push().await;
    assert_eq!(person.pull().await, step);
    step
}

/// Writes a model of another architecture than the others have.
fn write_other(path: &Path) {
    let rows = [("fc.weight", DType::F32, &[48, 32][..]), ("head", DType::F32, &[5][..])];
    let mut bytes = Header::build(rows, &BTreeMap::new()).unwrap();
    for index in 0..48 * 32 + 5 {
        bytes.extend_from_slice(&(index as f32 * 0.37).cos().to_le_bytes());
    }
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_later_gets_models_from_outside_and_other_architectures() {
    let ana = Person::online(quiet()).await;
    ana.init().await;
    round(&ana, 0.5).await;
    // Several in a row, so that packs are coded against one another and then whole again.
    for by in 1..10 {
        ana.train(by as f32);
        step(&ana, false, &[]).await;
    }
    let outside = ana.head().await;
    let bo = Person::online(quiet()).await;
    bo.clone_from(&ana.ticket(2).await, "bo").await;
    assert!(bo.head().await == outside && weights(&bo) == weights(&ana));

    // Another layer, and a file beside it.
    write_other(&ana.folder().join("model.safetensors"));
    std::fs::write(ana.folder().join("config.json"), "{}").unwrap();
    let migrated = step(&ana, true, &[]).await;
    let next = round(&ana, 0.25).await;
    until("the head", || async { bo.head().await == Some(next.clone()) }).await;
    assert_eq!(bo.pull().await, next);
    assert!(weights(&bo) == weights(&ana));
    assert_eq!(std::fs::read(bo.folder().join("config.json")).unwrap(), b"{}");

    let cem = Person::online(quiet()).await;
    cem.clone_from(&ana.ticket(1).await, "cem").await;
    assert!(weights(&cem) == weights(&ana));
    let fetch = FetchRequest { place: cem.place(), full: true, timeout: 60 };
    cem.service.fetch(fetch).await.unwrap();
    let audit = AuditRequest { place: cem.place(), commit: None };
    let audit = cem.service.audit(audit).await.unwrap();
    assert!(audit.doubts.is_empty() && audit.steps.iter().all(|step| step.doubts.is_empty()), "{audit:?}");
    assert!(
        audit.notes.iter().any(|note| note.starts_with("9 commits were made outside Flair")),
        "{:?}",
        audit.notes
    );
    assert!(audit.steps.iter().any(|step| step.entry.commit == migrated));
    for person in [ana, bo, cem] {
        person.service.close().await;
    }
}

/// Merges the branch `trial` into the folder's.
async fn merge(person: &Person, method: &str, settings: &[(&str, &str)]) -> Stepped {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let request = MergeRequest {
        place: person.place(),
        other: "trial".into(),
        branch: None,
        method: method.into(),
        settings: settings.collect(),
        message: "both".into(),
        dry_run: false,
        head: None,
    };
    person.service.merge(request).await.unwrap()
}

async fn checkout(person: &Person, target: &str) {
    let request = CheckoutRequest { place: person.place(), target: target.into(), force: false };
    person.service.checkout(request).await.unwrap();
}

/// A branch `trial` off the folder's head with one aggregate, and one more on the folder's branch.
async fn two_branches(person: &Person) {
    let create = BranchCreateRequest { place: person.place(), name: "trial".into(), from: None };
    person.service.branch_create(create).await.unwrap();
    checkout(person, "trial").await;
    round(person, 0.5).await;
    checkout(person, "main").await;
    round(person, 0.25).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_is_run_by_everybody_who_has_the_history_and_taken_over_by_who_has_not() {
    let ana = Person::online(quiet()).await;
    ana.init().await;
    round(&ana, 1.0).await;
    let bo = Person::online(quiet()).await;
    bo.clone_from(&ana.ticket(1).await, "bo").await;
    two_branches(&ana).await;
    for (method, settings) in [
        ("linear", [("weight", "0.25")].as_slice()),
        ("task", &[]),
        ("ties", &[("density", "0.5")]),
        ("dare", &[("drop", "0.5")]),
    ] {
        let done = merge(&ana, method, settings).await;
        let (head, merged) = (done.commit.unwrap(), done.merged.unwrap());
        assert!(done.in_head && merged.from_branch > 0.0 && merged.from_other > 0.0, "{method}");
        assert_eq!((done.back.len(), done.back[0].updates.len()), (1, 1), "{method}");
        assert_eq!(ana.pull().await, head);
        // Who was there ran it, and got the same.
        until("the merge", || async {
            let branches = bo.repository().await.branches;
            branches.iter().any(|branch| branch.name == "main" && branch.head == Some(head.clone()))
        })
        .await;
        assert_eq!(bo.pull().await, head);
        assert!(weights(&bo) == weights(&ana), "{method}");
        let verify = VerifyRequest { place: bo.place(), commit: Some(head.clone()) };
        let verified = bo.service.verify(verify).await.unwrap();
        assert!(verified.holds && verified.rows.len() == 1, "{method}");
        until("bo's word", || async {
            let shown = ana.service.show(ShowRequest { place: ana.place(), commit: Some(head.clone()) });
            shown.await.unwrap().claims[0].supporters.len() == 2
        })
        .await;
        // The branch merged in goes on, for the next method.
        checkout(&ana, "trial").await;
        round(&ana, 0.125).await;
        checkout(&ana, "main").await;
    }
    // What bo's clone left out, so that there is something behind everything.
    let fetch = FetchRequest { place: bo.place(), full: true, timeout: 60 };
    bo.service.fetch(fetch).await.unwrap();
    let audit = AuditRequest { place: bo.place(), commit: None };
    let audit = bo.service.audit(audit).await.unwrap();
    assert!(audit.doubts.is_empty() && audit.steps.iter().all(|step| step.doubts.is_empty()), "{audit:?}");
    let kinds = audit.steps.iter().filter(|step| step.entry.kind == "merge").count();
    // Initial, first round, main's, four of the branch's: of all but the first an update and an aggregate; four merges.
    assert_eq!((kinds, audit.steps.len()), (4, 1 + 2 * 6 + 4), "{audit:?}");
    assert!(audit.steps.last().unwrap().checked.contains("run again: the same"));

    let cleo = Person::online(quiet()).await;
    cleo.clone_from(&ana.ticket(1).await, "cleo").await;
    assert!(weights(&cleo) == weights(&ana));
    let fetch = FetchRequest { place: cleo.place(), full: true, timeout: 60 };
    cleo.service.fetch(fetch).await.unwrap();
    for person in [&ana, &bo, &cleo] {
        let verify = VerifyRequest { place: person.place(), commit: None };
        assert!(person.service.verify(verify).await.unwrap().holds);
        let fsck = FsckRequest { mend: true, timeout: 10 };
        assert!(person.service.fsck(fsck).await.unwrap().damage.is_empty());
        person.service.close().await;
    }
}
