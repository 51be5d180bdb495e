//! Real processes: two nodes that run aggregates, a light one that does not, and a member who lies.

use flair_node::api::types::{Aggregated, Moved, ShowRequest, Shown, Status, Verified};
use flair_node::home::{Config, Home};
use flair_node::hub::Hub;
use flair_node::network;
use flair_node::repository::Extras;
use flair_protocol::commit::{Commit, Outcome};
use flair_protocol::id::StateId;
use flair_protocol::operation::Body;
use flair_protocol::operation::body::Publish;
use flair_testnet::cluster::Start;
use tempfile::tempdir;

use crate::people::{People, publish, until};

async fn shown(people: &People, name: &str, commit: &str) -> Option<Shown> {
    let request = ShowRequest { place: people.place(name), commit: Some(commit.to_owned()) };
    people.client(name).post("/v1/show", &request).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_light_node_beside_two_that_verify_never_pulls_what_a_liar_published() {
    let top = tempdir().unwrap();
    let mut people = People::start(top.path()).await;
    people.join("bo", &Start::default()).await;
    people.join("eve", &Start::default()).await;
    people.add("cy");
    let settings = "aggregate = false\nverify = \"quorum:2\"\nquorum_wait = 3600\n";
    std::fs::write(people.home("cy").join("config.toml"), settings).unwrap();
    people.node("cy").start(&Start::default()).await.unwrap();
    let ticket = people.ticket(1).await;
    people.outside("cy").ok(&["clone", &ticket, "work"]).await.unwrap();

    // What the two that verify agree on is taken, and who says so is named.
    let update = publish(people.client("bo"), people.folder("bo"), 1).await;
    until("bo's update at ana", || people.holds("ana", &update)).await;
    let made: Aggregated = people.flair("ana").json(&["aggregate"]).await.unwrap();
    let good = made.commit;
    until("the first aggregate at cy", || people.holds("cy", &good)).await;
    let said = people.flair("cy").ok(&["status"]).await.unwrap();
    assert!(said.contains("Trust light: takes results that 2 other members attest"), "{said}");
    assert!(said.contains("not run here"), "{said}");
    let moved: Moved = people.flair("cy").json(&["pull"]).await.unwrap();
    assert_eq!(moved.to, good);
    assert!(!people.holds("cy", &update).await, "a light node has no use for what it was made of");

    // Eve publishes the next aggregate first, with the model that was there before as its result.
    until("the first aggregate at eve", || people.holds("eve", &good)).await;
    let update = publish(people.client("eve"), people.folder("eve"), 2).await;
    until("eve's update at ana and bo", || async {
        people.holds("ana", &update).await && people.holds("bo", &update).await
    })
    .await;
    people.node("eve").stop().await.unwrap();
    let join = people.node("ana").ready().unwrap().addresses.clone();
    let home = Home::open(people.home("eve")).unwrap();
    let hub = Hub::open(home, Config { aggregate: false, join, ..Config::default() }).await.unwrap();
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
    let bad = id.to_string();
    until("refutations at cy", || async {
        let shown = shown(&people, "cy", &bad).await;
        shown.is_some_and(|shown| shown.claims.iter().any(|claim| claim.refuters.len() == 2))
    })
    .await;
    let moved: Moved = people.flair("cy").json(&["pull"]).await.unwrap();
    assert_eq!(moved.to, good, "the refuted aggregate is not the head");

    // Somebody honest publishes the result that the recipe has.
    let made: Aggregated = people.flair("ana").json(&["aggregate"]).await.unwrap();
    assert_eq!(made.commit, bad, "it is the same recipe");
    until("the right head at cy", || async {
        let told: Status = people.flair("cy").json(&["status"]).await.unwrap();
        told.head.as_ref() == Some(&bad) && !told.head_verified
    })
    .await;
    let verified: Verified = people.flair("cy").json(&["verify", &bad]).await.unwrap();
    assert!(verified.holds && verified.rows.len() == 1, "{verified:?}");
    let moved: Moved = people.flair("cy").json(&["pull"]).await.unwrap();
    assert_eq!(moved.to, bad);
    people.flair("ana").ok(&["pull"]).await.unwrap();
    let model = |name: &str| std::fs::read(people.folder(name).join("model.safetensors")).unwrap();
    assert_eq!(model("cy"), model("ana"));
    hub.close().await;
    people.cluster.stop().await.unwrap();
}
