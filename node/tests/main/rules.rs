//! Rules of aggregation as people set them, on nodes.

use flair_node::api::types::{
    AggregateRequest, Aggregated, At, Code, RuleChoice, ShowRequest, SimulateRequest, SimulatedRule,
    VerifyRequest,
};

use crate::clone::{clone, online, round};
use crate::together::Person;

fn last_weight(person: &Person) -> f32 {
    let bytes = std::fs::read(person.folder().join("model.safetensors")).unwrap();
    f32::from_le_bytes(bytes[bytes.len() - 4..].try_into().unwrap())
}

async fn aggregate(person: &Person, dry_run: bool) -> Aggregated {
    let request = AggregateRequest { place: person.place(), branch: None, dry_run, flush: false };
    person.service.aggregate(request).await.unwrap()
}

async fn assert_verified(person: &Person) {
    let verified =
        person.service.verify(VerifyRequest { place: person.place(), commit: None }).await.unwrap();
    assert!(verified.holds, "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn momentum_is_part_of_what_an_aggregate_carries_forward() {
    let ana = Person::offline().await;
    let settings = [("momentum", "0.5"), ("every", "1"), ("clip", "none")];
    let made = ana.init_with(Some("fedavgm"), &settings).await.unwrap();
    let words = made.policy.join(" ");
    assert!(
        words.contains("An aggregate needs 1 person.") && words.contains("0.5 of the last one"),
        "{words}"
    );
    let start = last_weight(&ana);
    for walked in [0.25, 0.25 + 0.375, 0.25 + 0.375 + 0.4375] {
        ana.train_and_push(0.25).await;
        aggregate(&ana, false).await;
        ana.pull().await;
        assert!((last_weight(&ana) - start - walked).abs() < 1e-5, "{} {walked}", last_weight(&ana) - start);
    }
    // Also from what is on disk.
    let ana = ana.reopen().await;
    assert_verified(&ana).await;
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_clones_gets_the_optimisers_memory_and_goes_on_with_it() {
    let (ana, bo) = (online().await, online().await);
    ana.init_with(Some("fedadam"), &[]).await.unwrap();
    let ticket = ana.ticket(2).await;
    bo.clone_from(&ticket, "bo").await;
    for number in 0..2 {
        round(&[&ana, &bo], number).await;
    }
    let dan = online().await;
    clone(&dan, ticket, None).await;
    // Everybody comes to the same result, Dan from moments that he fetched.
    round(&[&ana, &bo, &dan], 2).await;
    assert_verified(&ana).await;
    assert_verified(&dan).await;
    for person in [ana, bo, dan] {
        person.service.close().await;
    }
}

/// Five persons with an update each, the last of them far off, all known to the first; and the updates.
async fn five_with_a_liar() -> ([Person; 5], Vec<String>) {
    let people = [online().await, online().await, online().await, online().await, online().await];
    let [ana, others @ ..] = &people;
    let made = ana.init_with(Some("multi-krum"), &[("dishonest", "1"), ("every", "5")]).await.unwrap();
    assert!(made.policy.join(" ").contains("With so many, it withstands 1"), "{:?}", made.policy);
    let ticket = ana.ticket(4).await;
    for (index, person) in others.iter().enumerate() {
        person.clone_from(&ticket, &format!("person {index}")).await;
    }
    let mut updates = vec![ana.train_and_push(0.1).await];
    for (person, shift) in others.iter().zip([0.11, 0.09, 0.1, -40.0]) {
        updates.push(person.train_and_push(shift).await);
    }
    crate::together::until("all updates", || async {
        let request = AggregateRequest { place: ana.place(), branch: None, dry_run: true, flush: false };
        ana.service.aggregate(request).await.is_ok_and(|made| made.persons == 5)
    })
    .await;
    (people, updates)
}

fn rule(name: Option<&str>, settings: &[(&str, &str)]) -> RuleChoice {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    RuleChoice { rule: name.map(str::to_owned), settings: settings.collect() }
}

fn simulation(person: &Person, rules: Vec<RuleChoice>) -> SimulateRequest {
    SimulateRequest {
        place: person.place(),
        branch: None,
        aggregate: None,
        updates: Vec::new(),
        rules,
        output: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_are_compared_on_the_same_updates_and_nothing_is_published() {
    let (people, updates) = five_with_a_liar().await;
    let ana = &people[0];
    let before = ana.repository().await.fingerprint;
    let rules = vec![
        rule(Some("fedavg"), &[("clip", "none")]),
        rule(Some("median"), &[]),
        rule(None, &[("eta", "0.5")]),
    ];
    let output = ana.top.path().join("models");
    let request = SimulateRequest { output: Some(output.clone()), ..simulation(ana, rules.clone()) };
    let told = ana.service.simulate(request).await.unwrap();
    let [force, mean, median, half] = told.rows.as_slice() else { panic!("{told:?}") };
    assert_eq!((told.persons, force.rule.as_str(), half.rule.as_str()), (5, "multi-krum", "multi-krum"));
    assert_eq!((force.withstands, force.apart, force.cosine), (Some(1), 0.0, Some(1.0)));
    // A mean goes where the liar goes, a median does not, half a step is half a step.
    assert!(mean.step > 50.0 * force.step && mean.cosine < Some(0.0), "{told:?}");
    assert!(median.apart < force.step && median.cosine > Some(0.9), "{told:?}");
    assert!((half.step / force.step - 0.5).abs() < 1e-3 && half.cosine > Some(0.9999), "{told:?}");
    let out = |row: &SimulatedRule| {
        row.inputs.iter().any(|input| input.commit == updates[4] && input.skipped.is_some())
    };
    assert_eq!([force, mean, half].map(out), [true, false, true]);
    for number in 0..4 {
        assert!(output.join(number.to_string()).join("model.safetensors").exists());
    }
    assert_eq!(ana.repository().await.fingerprint, before);

    // What the rule in force gives is what the aggregate gives; and the past can be asked too.
    let made = aggregate(ana, false).await;
    assert_eq!(made.model.as_deref(), Some(force.model.as_str()));
    let again = SimulateRequest { aggregate: Some(made.commit.clone()), ..simulation(ana, rules) };
    let again = ana.service.simulate(again).await.unwrap();
    let models = |all: &[SimulatedRule]| all.iter().map(|row| row.model.clone()).collect::<Vec<_>>();
    assert_eq!(models(&again.rows), models(&told.rows));
    // Some of the updates, all rules.
    let honest = SimulateRequest {
        aggregate: Some(made.commit),
        updates: updates[..4].to_vec(),
        ..simulation(ana, Vec::new())
    };
    let honest = ana.service.simulate(honest).await.unwrap();
    assert_eq!((honest.persons, honest.rows[0].inputs.len()), (4, 4));
    assert!(honest.rows.len() > 10, "{honest:?}");
    assert_eq!(ana.service.simulate(simulation(ana, Vec::new())).await.unwrap_err().code, Code::Conflict);
    let wrong = ana.service.simulate(simulation(ana, vec![rule(Some("krum"), &[("x", "1")])])).await;
    assert!(wrong.is_err());
    for person in people {
        person.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_names_who_is_left_out_and_how_many_are_withstood() {
    let (people, updates) = five_with_a_liar().await;
    let [ana, others @ ..] = &people;
    let told = aggregate(ana, true).await;
    assert_eq!((told.withstands, told.model, told.published), (Some(1), None, false));
    let liar = told.inputs.iter().find(|input| input.commit == updates[4]).unwrap();
    assert_eq!(liar.weight, Some(0.0));
    assert!(liar.skipped.as_ref().unwrap().contains("multi-krum left its author out"), "{liar:?}");
    assert!(told.inputs.iter().all(|input| input.norm.is_some()));

    // The aggregate itself says so too, to the one who was left out.
    let made = aggregate(ana, false).await;
    let request = ShowRequest { place: ana.place(), commit: Some(made.commit.clone()) };
    let shown = ana.service.show(request).await.unwrap();
    let row = shown.inputs.iter().find(|input| input.commit == updates[4]).unwrap();
    assert!(row.skipped.as_ref().unwrap().contains("left its author out"), "{row:?}");
    let liar = &others[3];
    crate::together::until("the aggregate at who was left out", || async {
        let status = liar.service.status(At { place: liar.place() }).await.unwrap();
        status.last_update.is_some_and(|update| update.state == "skipped")
    })
    .await;
    for person in people {
        person.service.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_that_is_not_known_starts_nothing() {
    let ana = Person::offline().await;
    let problem = ana.init_with(Some("fedprox"), &[]).await.unwrap_err().to_string();
    assert!(problem.contains("it changes how each site trains"), "{problem}");
    let problem = ana.init_with(Some("krum"), &[("dishonest", "0.5")]).await.unwrap_err().to_string();
    assert!(problem.contains("'0.5' is not a value of the setting 'dishonest'"), "{problem}");
    assert!(ana.service.repositories().await.unwrap().is_empty());
    assert!(!ana.folder().join(".flair").exists());
    ana.service.close().await;
}
