//! Audits: what holds is said to hold, and what does not is named.

use flair_node::api::types::{AggregateRequest, Audit, AuditRequest, FetchRequest, VerifyRequest};

use crate::clone::{clone, online, round};
use crate::keeping::rot;
use crate::together::Person;

async fn audit(person: &Person) -> Audit {
    person.service.audit(AuditRequest { place: person.place(), commit: None }).await.unwrap()
}

fn doubts(audit: &Audit) -> Vec<String> {
    let steps = audit.steps.iter();
    let of = |step: &flair_node::api::types::AuditStep| {
        let kind = step.entry.kind.clone();
        step.doubts.iter().map(move |doubt| format!("{kind}: {doubt}")).collect::<Vec<_>>()
    };
    audit.doubts.iter().cloned().chain(steps.flat_map(of)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_runs_everything_again_and_names_damage() {
    let ana = Person::offline().await;
    ana.init_large().await;
    let first = ana.blobs("data");
    ana.train_and_push(0.25).await;
    let request = AggregateRequest { place: ana.place(), branch: None, dry_run: false, flush: false };
    ana.service.aggregate(request).await.unwrap();
    let whole = audit(&ana).await;
    assert_eq!(doubts(&whole), Vec::<String>::new());
    let kinds: Vec<&str> = whole.steps.iter().map(|step| step.entry.kind.as_str()).collect();
    assert_eq!(kinds, ["initial", "update", "aggregate"]);
    assert!(whole.steps[2].checked.contains("run again"), "{whole:?}");
    assert!(whole.operations >= 4 && whole.bytes > 1 << 20, "{whole:?}");
    assert_eq!(whole.people.iter().map(|person| person.updates).collect::<Vec<_>>(), [1]);
    rot(&first[0], 1_000_000);
    let hurt = doubts(&audit(&ana).await);
    assert!(
        hurt.iter().any(|doubt| doubt.starts_with("initial: blob") && doubt.ends_with("damaged")),
        "{hurt:?}"
    );
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_doubts_what_is_not_here_until_all_history_is() {
    let (ana, bo) = (online().await, online().await);
    ana.init_with(None, &[("every", "2")]).await.unwrap();
    let ticket = ana.ticket(2).await;
    bo.clone_from(&ticket, "bo").await;
    for number in 0..2 {
        round(&[&ana, &bo], number).await;
    }
    assert_eq!(doubts(&audit(&ana).await), Vec::<String>::new());
    let dan = online().await;
    clone(&dan, ticket, None).await;
    let verified = dan.service.verify(VerifyRequest { place: dan.place(), commit: None }).await;
    assert!(verified.is_err(), "nothing but the newest model is here: {verified:?}");
    let gaps = doubts(&audit(&dan).await);
    assert!(gaps.iter().any(|doubt| doubt == "update: its model is not here"), "{gaps:?}");
    let request = FetchRequest { place: dan.place(), full: true, timeout: 60 };
    dan.service.fetch(request).await.unwrap();
    assert_eq!(doubts(&audit(&dan).await), Vec::<String>::new());
    for person in [ana, bo, dan] {
        person.service.close().await;
    }
}
