//! Nodes that do not run every aggregate: what they take, what they never take, and what they run after all.

use std::sync::Arc;

use flair_node::api::types::{
    AggregateRequest, At, LogRequest, Moved, Problem, PullRequest, ShowRequest, Shown, Status, Verified,
    VerifyRequest,
};
use flair_node::home::{Config, Home, Verify};
use flair_node::hub::Hub;
use flair_node::network;
use flair_node::repository::{Extras, Repository};
use flair_node::worker::compute;
use flair_protocol::commit::{Aggregate, Commit, Outcome};
use flair_protocol::id::{CommitId, PackId, StateId};
use flair_protocol::operation::Body;
use flair_protocol::operation::body::{Publish, Refute};
use tempfile::TempDir;

use crate::clone::{online, round};
use crate::together::{Person, until};

/// Longer than any test takes.
const NEVER: u64 = 3_600;

fn quiet(verify: &str, quorum_wait: u64) -> Config {
    Config { aggregate: false, verify: Verify::parse(verify).unwrap(), quorum_wait, ..Config::default() }
}

async fn show(person: &Person, commit: &str) -> Result<Shown, Problem> {
    person.service.show(ShowRequest { place: person.place(), commit: Some(commit.to_owned()) }).await
}

async fn status(person: &Person) -> Status {
    person.service.status(At { place: person.place() }).await.unwrap()
}

/// Pulls without waiting.
async fn pull(person: &Person) -> Moved {
    let request = PullRequest { place: person.place(), rebase: false, timeout: 0 };
    person.service.pull(request).await.unwrap()
}

async fn verify(person: &Person) -> Verified {
    person.service.verify(VerifyRequest { place: person.place(), commit: None }).await.unwrap()
}

fn model(person: &Person) -> Vec<u8> {
    std::fs::read(person.folder().join("model.safetensors")).unwrap()
}

async fn all_know(people: &[&Person], commits: &[&String]) {
    until("everybody to know of the updates", || async {
        for person in people {
            let request = LogRequest { place: person.place(), branch: None, limit: 50 };
            let entries = person.service.log(request).await.unwrap().entries;
            if !commits.iter().all(|commit| entries.iter().any(|entry| entry.commit == **commit)) {
                return false;
            }
        }
        true
    })
    .await;
}

/// The node of a member who says what an honest one would not.
struct Liar {
    hub: Arc<Hub>,
    repository: Arc<Repository>,
    _top: TempDir,
}

impl Liar {
    async fn of(person: Person) -> Self {
        let (service, top) = (person.service, person.top);
        service.close().await;
        drop(service);
        let home = Home::open(top.path().join("home")).unwrap();
        let hub = Hub::open(home, quiet("always", NEVER)).await.unwrap();
        network::start(&hub).await.unwrap();
        let repository = hub.repositories().await.remove(0);
        Self { hub, repository, _top: top }
    }

    async fn say(&self, body: Body) {
        self.hub.publish(&self.repository, body, Extras::default()).await.unwrap();
    }

    /// The recipe that is due.
    async fn recipe(&self) -> Aggregate {
        let state = self.repository.state().await;
        let branch = state.open_branches().next().unwrap();
        state.recipe(branch.id, branch.head.unwrap(), &branch.pending)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_light_node_takes_what_enough_others_attest_until_a_member_refutes_it() {
    let (ana, bo) = (online().await, online().await);
    let cy = Person::online(quiet("quorum:2", NEVER)).await;
    ana.init().await;
    let ticket = ana.ticket(2).await;
    bo.clone_from(&ticket, "bo").await;
    cy.clone_from(&ticket, "cy").await;
    let root = cy.head().await.unwrap();
    let head = round(&[&ana, &bo], 0).await;
    until("the head at the light node", || async { status(&cy).await.head_attested.len() == 2 }).await;
    let told = status(&cy).await;
    let trust = told.trust.unwrap();
    assert!(told.head_verified && told.warnings.is_empty() && trust.contains("not run here"), "{trust}");
    assert!(trust.starts_with("light: takes results that 2 other members attest"), "{trust}");
    assert_eq!(pull(&cy).await.to, head);
    ana.pull().await;
    assert!(model(&cy) == model(&ana));
    let shown = show(&cy, &head).await.unwrap();
    assert!(shown.here && !shown.verified && shown.claims[0].supporters.len() == 2, "it says nothing of it");
    for input in &shown.inputs {
        assert!(
            !show(&cy, &input.commit).await.unwrap().here,
            "what it was made of is of no use to a light node"
        );
    }

    // Bo takes his word back.
    let bo = Liar::of(bo).await;
    let (commit, claimed) = {
        let state = bo.repository.state().await;
        let commit: CommitId = head.parse().unwrap();
        (commit, state.commits[&commit].result.unwrap())
    };
    let found = Outcome { state: StateId::from_bytes([9; 32]), ..claimed };
    bo.say(Body::Refute(Refute { commit, claimed, found })).await;
    until("a warning", || async { !status(&cy).await.warnings.is_empty() }).await;
    let told = status(&cy).await;
    assert!(!told.head_verified && told.warnings[0].contains("bo contradicts"), "{told:?}");
    assert!(told.trust.unwrap().contains("bo contradicts"));
    assert!(show(&cy, &head).await.unwrap().words.contains("bo contradicts"));
    let moved = pull(&cy).await;
    assert_eq!(moved.to, root, "{moved:?}");
    assert!(moved.warnings[0].contains("bo contradicts"), "{moved:?}");

    // Whoever wants to know runs it.
    let verified = verify(&cy).await;
    assert!(verified.holds && verified.rows.len() == 1 && verified.absent == 0, "{verified:?}");
    let told = status(&cy).await;
    assert!(told.head_verified && told.warnings.is_empty(), "{told:?}");
    assert_eq!(pull(&cy).await.to, head);
    until("the light node's own word", || async {
        show(&ana, &head).await.unwrap().claims[0].supporters.len() == 2
    })
    .await;
    bo.hub.close().await;
    ana.service.close().await;
    cy.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_mode_ever_pulls_a_wrong_result_that_was_published_first() {
    let ana = online().await;
    let bo = online().await;
    let light = Person::online(quiet("quorum:2", NEVER)).await;
    let late = Person::online(quiet("quorum:2", 1)).await;
    let drawn = Person::online(quiet("sample:1", NEVER)).await;
    let left_out = Person::online(quiet("sample:1e-300", 1)).await;
    let eve = online().await;
    ana.init().await;
    let ticket = ana.ticket(6).await;
    for (person, name) in
        [(&bo, "bo"), (&light, "cy"), (&late, "di"), (&drawn, "ed"), (&left_out, "flo"), (&eve, "eve")]
    {
        person.clone_from(&ticket, name).await;
    }
    let root = ana.head().await.unwrap();
    let first = bo.train_and_push(0.25).await;
    let second = eve.train_and_push(-0.5).await;
    all_know(&[&ana, &bo, &eve], &[&first, &second]).await;
    until("both updates at ana", || async {
        let here = async |commit| show(&ana, commit).await.is_ok_and(|shown| shown.here);
        here(first.as_str()).await && here(second.as_str()).await
    })
    .await;

    // Eve publishes the right recipe with the model that was there before, and so attests that.
    let eve = Liar::of(eve).await;
    let recipe = eve.recipe().await;
    let held = eve.repository.shelf().held(recipe.parent).unwrap();
    let commit = Commit::Aggregate(recipe);
    let id = commit.id().unwrap();
    let wrong = Outcome { model: held.model, state: StateId::from_bytes([9; 32]) };
    let lie = Publish { id, commit, pack: held.pack, pack_bytes: 1, result: Some(wrong) };
    eve.say(Body::Publish(Box::new(lie))).await;
    let head = id.to_string();
    let others = [&light, &late, &drawn, &left_out];
    for person in [&ana, &bo].into_iter().chain(others) {
        until("refutations", || async {
            let claims = show(person, &head).await.map(|shown| shown.claims).unwrap_or_default();
            claims.iter().any(|claim| claim.refuters.len() >= 2)
        })
        .await;
        assert_eq!(pull(person).await.to, root, "the refuted aggregate is not the head");
    }

    // The same recipe with the result it has: the head, by the votes, for everybody.
    let request = AggregateRequest { place: ana.place(), branch: None, dry_run: false, flush: false };
    assert_eq!(ana.service.aggregate(request).await.unwrap().commit, head);
    ana.pull().await;
    let right = model(&ana);
    for person in [&bo, &drawn, &late, &left_out] {
        until("the right model", || async {
            let moved = pull(person).await;
            assert!(moved.to == root || model(person) == right, "a wrong model was pulled");
            moved.to == head
        })
        .await;
        assert!(show(person, &head).await.unwrap().verified, "members contradict each other: it was run");
    }
    until("the head at the light node", || async { light.head().await.as_ref() == Some(&head) }).await;
    assert!(!status(&light).await.head_verified);
    assert_eq!(pull(&light).await.to, root, "it waits as long as members contradict each other");
    assert!(verify(&light).await.holds);
    assert_eq!(pull(&light).await.to, head);
    assert!(model(&light) == right);
    eve.hub.close().await;
    for person in [ana, bo, light, late, drawn, left_out] {
        person.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_all_nodes_are_light_aggregates_are_made_and_run_all_the_same() {
    let config = || Config { aggregate: true, ..quiet("quorum:2", 1) };
    let (ana, bo, cy) =
        (Person::online(config()).await, Person::online(config()).await, Person::online(config()).await);
    ana.init().await;
    let ticket = ana.ticket(2).await;
    bo.clone_from(&ticket, "bo").await;
    cy.clone_from(&ticket, "cy").await;
    let root = ana.head().await.unwrap();
    for (person, shift) in [(&ana, 0.25), (&bo, -0.5), (&cy, 0.125)] {
        person.train_and_push(shift).await;
    }
    for person in [&ana, &bo, &cy] {
        until("an aggregate", || async {
            let told = status(person).await;
            told.head_verified && told.head.as_ref() != Some(&root)
        })
        .await;
    }
    let head = ana.head().await;
    until("one head", || async { bo.head().await == head && cy.head().await == head }).await;
    for person in [ana, bo, cy] {
        person.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attested_aggregate_that_nobody_serves_is_run() {
    let (ana, bo, eve) = (online().await, online().await, online().await);
    let cy = Person::online(quiet("quorum:2", NEVER)).await;
    ana.init().await;
    let ticket = ana.ticket(3).await;
    for (person, name) in [(&bo, "bo"), (&eve, "eve"), (&cy, "cy")] {
        person.clone_from(&ticket, name).await;
    }
    let first = bo.train_and_push(0.25).await;
    let second = eve.train_and_push(-0.5).await;
    all_know(&[&ana, &bo, &eve], &[&first, &second]).await;
    until("both updates at eve", || async { show(&eve, &first).await.is_ok_and(|shown| shown.here) }).await;

    // The right result, in a pack that nobody has.
    let eve = Liar::of(eve).await;
    let recipe = eve.recipe().await;
    let commit = Commit::Aggregate(recipe.clone());
    let id = commit.id().unwrap();
    let state = eve.repository.state().await;
    let made = compute::compute(&eve.hub, &eve.repository, &state, id, &recipe).await.unwrap();
    let pack = PackId::from_bytes([5; 32]);
    let body = Publish { id, commit, pack, pack_bytes: 1_000, result: Some(made.outcome) };
    eve.say(Body::Publish(Box::new(body))).await;
    let head = id.to_string();
    until("the head at the light node", || async {
        let told = status(&cy).await;
        told.head.as_ref() == Some(&head) && told.head_verified
    })
    .await;
    let shown = show(&cy, &head).await.unwrap();
    assert!(shown.verified && shown.claims[0].refuters.is_empty(), "{shown:?}");
    assert_eq!(pull(&cy).await.to, head);
    eve.hub.close().await;
    for person in [ana, bo, cy] {
        person.service.close().await;
    }
}
