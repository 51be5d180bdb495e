//! The policy as a file: shown, changed, proposed.

use flair_node::api::types::{At, PolicyProposal};

use crate::together::Person;

async fn document(person: &Person) -> String {
    person.service.policy(At { place: person.place() }).await.unwrap().document
}

async fn propose(person: &Person, document: &str) -> Result<Vec<String>, String> {
    let request = PolicyProposal {
        place: person.place(),
        document: Some(document.to_owned()),
        ..PolicyProposal::default()
    };
    let done = person.service.policy_propose(request).await;
    done.map(|done| done.words).map_err(|problem| format!("{problem:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_shown_as_a_file_changed_and_proposed() {
    let ana = Person::offline().await;
    ana.init().await;
    let before = document(&ana).await;
    let same = propose(&ana, &before).await.unwrap_err();
    assert!(same.contains("changes nothing"), "{same}");

    let other = flair_protocol::key::SecretKey::from_bytes(&[7; 32]).public();
    let edited = before
        .replace("delegates = [", &format!("delegates = [\n    \"{other}\","))
        .replace("every = \"auto\"", "every = 3")
        .replace("membership = \"invite\"", "membership = \"open\"")
        + "\n[branches.main]\naccepts = 1\nrequire = [\"auc >= 0.9 from 1 others\"]\n";
    assert_ne!(edited, before);
    let words = propose(&ana, &edited).await.unwrap().join("\n");
    for expected in
        ["New delegates", "An aggregate needs 3 persons", "Whoever asks", "branch main", "in force"]
    {
        assert!(words.contains(expected), "{words}");
    }
    let after = document(&ana).await;
    for expected in [&other.to_string(), "every = 3", "membership = \"open\"", "accepts = 1", "auc >= 0.9"] {
        assert!(after.contains(expected), "{expected}: {after}");
    }
    let same = propose(&ana, &after).await.unwrap_err();
    assert!(same.contains("changes nothing"), "{same}");

    // What is not in a file stays; a delegate who is left out goes.
    let ended = "[branches.main]\naccepts = 0\n[settings]\nmax_staleness = 7";
    let words = propose(&ana, ended).await.unwrap().join("\n");
    assert!(words.contains("no review is needed") && !words.contains("delegates:"), "{words}");
    let own = ana.service.identity().await.unwrap().key;
    let words = propose(&ana, &format!("delegates = [\"{own}\"]")).await.unwrap().join("\n");
    assert!(words.contains("No longer delegates"), "{words}");
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_policys_file_can_not_say_is_named() {
    let ana = Person::offline().await;
    ana.init().await;
    for (text, named, way) in [
        ("treshold = 2", "treshold", "is it `threshold`?"),
        ("[branches.main]\naccept = 2", "branches.main.accept", "`branches.main.accepts`"),
        ("[settings]\nevry = 3", "evry", ""),
        ("threshold = \"two\"", "threshold", "whole number"),
        ("delegates = \"ana\"", "delegates", "list"),
        ("settings = 3", "settings", "table"),
        ("membership = \"shut\"", "shut", "invite or open"),
        ("threshold = ", "can't be read", ""),
    ] {
        let problem = propose(&ana, text).await.unwrap_err();
        assert!(problem.contains(named) && problem.contains(way), "{text}: {problem}");
    }
    ana.service.close().await;
}
