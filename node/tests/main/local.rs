//! Promises about tensors that every site keeps for itself, and about training that is carried over to a new head.

#![expect(clippy::float_cmp, reason = "values are copied, and the shifts exact in binary")]

use std::collections::BTreeMap;
use std::path::Path;

use flair_node::api::types::{
    AggregateRequest, At, CheckoutRequest, CommitRequest, Dp, ExportRequest, Init, Initialised, Problem,
    PullRequest, PushRequest,
};
use flair_node::home::Config;
use flair_tensors::header::Header;

use crate::together::{Person, until, write_model};

fn quiet() -> Config {
    Config { aggregate: false, ..Config::default() }
}

/// The first number of a tensor in a file of f32 weights (and one i64).
fn first(file: &Path, name: &str) -> f32 {
    let bytes = std::fs::read(file).unwrap();
    let header =
        Header::from_bytes(&bytes[..8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize], None)
            .unwrap();
    let info = header.tensors().iter().find(|info| info.name == name).unwrap();
    let start = header.bytes().len() + info.start as usize;
    f32::from_le_bytes(bytes[start..start + 4].try_into().unwrap())
}

impl Person {
    fn has(&self, name: &str) -> f32 {
        first(&self.folder().join("model.safetensors"), name)
    }

    async fn init_roles(&self, roles: &[(&str, &str)]) -> Result<Initialised, Problem> {
        std::fs::create_dir_all(self.folder()).unwrap();
        let model = self.folder().join("model.safetensors");
        write_model(&model, |index| index as f32);
        let request = Init {
            model,
            name: "digits".into(),
            message: "first".into(),
            branch: "main".into(),
            roles: roles.iter().map(|(name, role)| ((*name).to_owned(), (*role).to_owned())).collect(),
            every: None,
            aggregation: None,
            settings: BTreeMap::new(),
            open: false,
            private: false,
            person: "ana".into(),
        };
        self.service.init(request).await
    }

    /// The first number of a tensor in what is exported of a commit.
    async fn exported(&self, commit: &str, local: bool, name: &str) -> f32 {
        let file = self.top.path().join("exported.safetensors");
        let request = ExportRequest {
            place: self.place(),
            commit: Some(commit.to_owned()),
            output: Some(file.clone()),
            onto: None,
            force: true,
            local,
            automerge: None,
        };
        self.service.export(request).await.unwrap();
        first(&file, name)
    }

    async fn aggregate(&self) -> String {
        let request = AggregateRequest { place: self.place(), branch: None, dry_run: false, flush: true };
        self.service.aggregate(request).await.unwrap().commit
    }

    async fn rebase(&self) {
        let request = PullRequest { place: self.place(), rebase: true, timeout: 30 };
        self.service.pull(request).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_tensor_is_each_sites_own_and_in_no_commit() {
    let (ana, bo) = (Person::online(quiet()).await, Person::online(quiet()).await);
    let made = ana.init_roles(&[("bn.running_*", "local")]).await.unwrap();
    let local = made.roles.iter().find(|count| count.role == "local").unwrap();
    assert_eq!((local.tensors, local.example.as_str()), (2, "bn.running_mean"));
    let began = ana.has("bn.running_var");
    bo.clone_from(&ana.ticket(1).await, "bo").await;
    assert_eq!(bo.has("bn.running_var"), began, "a clone begins with the first commit's value");

    let mut updates = Vec::new();
    for (person, by) in [(&ana, 0.25), (&bo, -0.5)] {
        person.train(by);
        let status = person.service.status(At { place: person.place() }).await.unwrap();
        let work = status.work.unwrap();
        assert_eq!(work.local, ["bn.running_mean", "bn.running_var"]);
        assert_eq!(work.changes[0].tensors, ["fc.bias", "fc.weight"]);
        assert_eq!(person.commit().await.unwrap().draft.changed, 2);
        let request = PushRequest { place: person.place(), dry_run: false, keep_drafts: false };
        updates.push(person.service.push(request).await.unwrap().commit.unwrap());
    }
    let pending = || async { ana.repository().await.branches[0].pending == 2 };
    until("both updates at ana's", pending).await;
    let held = || async {
        let request = AggregateRequest { place: ana.place(), branch: None, dry_run: true, flush: true };
        ana.service.aggregate(request).await.is_ok_and(|tried| tried.inputs.len() == 2)
    };
    until("both models at ana's", held).await;
    let head = ana.aggregate().await;
    until("the head at bo's", || async { bo.head().await.as_ref() == Some(&head) }).await;
    for (person, by) in [(&ana, 0.25), (&bo, -0.5)] {
        assert_eq!(person.pull().await, head);
        assert_eq!(person.has("bn.running_var"), began + by, "through commit, push and pull");
        assert_eq!(person.exported("main", false, "bn.running_var").await, began);
        assert_eq!(person.exported("main", true, "bn.running_var").await, began + by);
    }
    assert_eq!(ana.has("fc.weight"), bo.has("fc.weight"));
    assert_eq!(bo.exported(&updates[1], false, "bn.running_var").await, began, "bo's own is in no commit");

    // What is thrown away was not committed, what is moved stays.
    bo.train(3.0);
    bo.service.restore(At { place: bo.place() }).await.unwrap();
    assert_eq!(bo.has("bn.running_var"), began - 0.5);
    let checkout = |force| CheckoutRequest { place: bo.place(), target: updates[1].clone(), force };
    bo.service.checkout(checkout(false)).await.unwrap();
    assert_eq!(bo.has("bn.running_var"), began - 0.5);
    std::fs::remove_file(bo.folder().join("model.safetensors")).unwrap();
    bo.service.checkout(checkout(true)).await.unwrap();
    assert_eq!(bo.has("bn.running_var"), began - 0.5, "a deleted file takes nothing along");
    ana.service.close().await;
    bo.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn noise_is_for_what_is_published_and_a_local_tensor_stays_as_it_was_trained() {
    let ana = Person::offline().await;
    ana.init_roles(&[("bn.*", "local")]).await.unwrap();
    let (mean, weight) = (ana.has("bn.running_mean"), ana.has("fc.weight"));
    ana.train(0.5);
    let dp = Dp { clip: "1".into(), noise: "1".into(), keep_clean: None };
    let request = CommitRequest { place: ana.place(), dp: Some(dp), ..CommitRequest::default() };
    let committed = ana.service.commit(request).await.unwrap();
    assert_eq!(committed.privacy.unwrap().kept, [""; 0], "nothing is said to be kept back");
    assert_eq!(ana.has("bn.running_mean"), mean + 0.5);
    assert_ne!(ana.has("fc.weight"), weight + 0.5);
    let update = ana.push().await;
    assert_eq!(ana.exported(&update, false, "bn.running_mean").await, mean);
    // The trained values are on the disk still, and are not taken for weights that must not be published.
    ana.train(0.25);
    ana.commit().await.unwrap();
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_given_by_name_or_by_patterns_that_agree() {
    let ana = Person::offline().await;
    for (roles, told) in [
        (&[("nothing*", "local")][..], "no tensor `nothing*`"),
        (&[("bn.*", "own")], "`own` is not a role"),
        (&[("bn.*", "local"), ("*_mean", "float")], "`bn.running_mean` is `float` by `*_mean` and `local`"),
    ] {
        let refused = ana.init_roles(roles).await.unwrap_err();
        assert!(refused.message.contains(told), "{refused}");
    }
    let roles = [("bn.*", "local"), ("*_mean", "float"), ("bn.running_mean", "exact")];
    let made = ana.init_roles(&roles).await.unwrap();
    let counts: Vec<_> = made.roles.iter().map(|count| (count.role.as_str(), count.tensors)).collect();
    assert_eq!(counts, [("exact", 1), ("float", 2), ("local", 2)]);
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebase_adds_up_what_the_drafts_say_of_training() {
    let ana = Person::offline().await;
    ana.init_roles(&[]).await.unwrap();
    let base = ana.train_and_push(0.5).await;
    let head = ana.aggregate().await;
    let checkout = CheckoutRequest { place: ana.place(), target: base, force: true };
    ana.service.checkout(checkout).await.unwrap();
    for (examples, steps, seed) in [(500, 20, 1), (300, 30, 2)] {
        ana.train(0.25);
        let request = CommitRequest {
            place: ana.place(),
            examples: Some(examples),
            steps: Some(steps),
            epochs: Some(2),
            seed: Some(seed),
            ..CommitRequest::default()
        };
        ana.service.commit(request).await.unwrap();
    }
    let fields = || async {
        let request = PushRequest { place: ana.place(), dry_run: true, keep_drafts: false };
        let fields = ana.service.push(request).await.unwrap().fields;
        let training = fields.into_iter().map(|field| (field.name, field.value));
        training.filter(|(name, _)| name.starts_with("training.")).collect::<BTreeMap<_, _>>()
    };
    let before = fields().await;
    assert_eq!((before["training.steps"].as_str(), before["training.epochs"].as_str()), ("50", "4"));
    ana.rebase().await;
    let status = ana.service.status(At { place: ana.place() }).await.unwrap();
    let work = status.work.unwrap();
    assert_eq!((work.base, work.drafts.len()), (head, 1));
    assert_eq!(fields().await, before);
    ana.service.close().await;
}
