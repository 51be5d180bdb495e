//! Promises about differential privacy: what leaves is noised, what was spent stays spent, and the weights it was made
//! from can't be published.

use std::fs;

use flair_node::api::types::{
    At, AuditRequest, Code, CommitRequest, Committed, Dp, LogRequest, Place, PrivacyLedger, Problem,
    PullRequest, PushRequest, ResetRequest,
};
use flair_node::home::Config;

use crate::together::{Person, until};

impl Person {
    fn trained_file(&self) -> Vec<u8> {
        fs::read(self.folder().join("model.safetensors")).unwrap()
    }

    fn set_model(&self, bytes: &[u8]) {
        fs::write(self.folder().join("model.safetensors"), bytes).unwrap();
    }

    fn configure(&self, text: &str) {
        fs::write(self.top.path().join("home/config.toml"), text).unwrap();
    }

    async fn commit_dp(&self, clip: &str, noise: &str) -> Result<Committed, Problem> {
        self.commit_dp_keeping(clip, noise, None).await
    }

    async fn commit_dp_keeping(
        &self,
        clip: &str,
        noise: &str,
        keep_clean: Option<std::path::PathBuf>,
    ) -> Result<Committed, Problem> {
        let request = CommitRequest {
            place: self.place(),
            message: "private".into(),
            examples: Some(500),
            epochs: Some(1),
            dp: Some(Dp { clip: clip.into(), noise: noise.into(), keep_clean }),
            ..CommitRequest::default()
        };
        self.service.commit(request).await
    }

    async fn ledger(&self) -> PrivacyLedger {
        self.service.privacy(At { place: self.place() }).await.unwrap()
    }

    async fn try_push(&self) -> Result<String, Problem> {
        let request = PushRequest { place: self.place(), dry_run: false, keep_drafts: false };
        self.service.push(request).await.map(|pushed| pushed.commit.unwrap())
    }

    async fn undo(&self, hard: bool) {
        let request = ResetRequest { place: self.place(), drafts: None, hard };
        self.service.reset(request).await.unwrap();
    }
}

/// A commit without differential privacy.
fn clean_request(place: Place) -> CommitRequest {
    CommitRequest { place, message: "clean".into(), examples: Some(500), ..CommitRequest::default() }
}

/// The numbers of a model file, as `f32`, with the counter left out.
fn numbers(bytes: &[u8]) -> Vec<f32> {
    let length = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize + 8;
    bytes[length..].as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect()
}

/// Running statistics come first in the model; after them all is noised.
const STATISTICS: usize = 64;

#[tokio::test(flavor = "multi_thread")]
async fn a_private_draft_is_clipped_noised_and_all_that_the_folder_holds() {
    let ana = Person::offline().await;
    ana.init().await;
    let base = ana.trained_file();
    ana.train(0.5);
    let trained = ana.trained_file();
    let kept = ana.top.path().join("kept");
    let done = ana.commit_dp_keeping("2", "0.05", Some(kept.clone())).await.unwrap();
    let private = done.privacy.unwrap();
    // 2080 weights, each moved by a half.
    assert_eq!(private.numbers, 2080);
    assert!((private.norm - 0.5 * 2080f64.sqrt()).abs() < 1e-3, "{}", private.norm);
    assert_eq!(private.kept, ["bn.running_mean", "bn.running_var"]);
    assert_eq!(fs::read(kept.join("model.safetensors")).unwrap(), trained);

    let noised = ana.trained_file();
    let (base, noised) = (numbers(&base), numbers(&noised));
    assert_eq!(base[..STATISTICS], noised[..STATISTICS], "statistics keep the base's value");
    let moved: Vec<f64> = base[STATISTICS..]
        .iter()
        .zip(&noised[STATISTICS..])
        .map(|(old, new)| f64::from(*new) - f64::from(*old))
        .collect();
    let n = moved.len() as f64;
    let mean = moved.iter().sum::<f64>() / n;
    let spread = (moved.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    // Clipped to norm 2 each weight moves by 2/√2080, and noise has a deviation of 0.1.
    assert!((mean - 2.0 / n.sqrt()).abs() < 5.0 * 0.1 / n.sqrt(), "{mean}");
    assert!((spread - 0.1).abs() < 5.0 * 0.1 / (2.0 * n).sqrt(), "{spread}");

    let status = ana.service.status(At { place: ana.place() }).await.unwrap();
    assert!(status.work.unwrap().changes.is_empty(), "the folder is the draft");
    assert!(status.privacy.starts_with("ε = "), "{}", status.privacy);
    let update = ana.push().await;
    let log = ana.service.log(LogRequest { place: ana.place(), branch: None, limit: 9 }).await.unwrap();
    let entry = log.entries.into_iter().find(|entry| entry.commit == update).unwrap();
    assert!(entry.privacy.unwrap().contains("per site (zero-out)"));
    let ledger = ana.ledger().await;
    assert_eq!(ledger.releases.len(), 1);
    assert_eq!(ledger.releases[0].commit, Some(update));
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_cannot_be_kept_costs_nothing() {
    let ana = Person::offline().await;
    ana.init().await;
    ana.train(0.5);
    let trained = ana.trained_file();
    let file = ana.top.path().join("file");
    fs::write(&file, "").unwrap();
    for keep in [file.clone(), file.join("below")] {
        ana.commit_dp_keeping("1", "1", Some(keep)).await.unwrap_err();
    }
    assert_eq!(ana.trained_file(), trained);
    assert!(ana.ledger().await.releases.is_empty());
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_drafts_of_the_same_training_have_different_noise() {
    let ana = Person::offline().await;
    ana.init().await;
    ana.train(0.5);
    let trained = ana.trained_file();
    ana.commit_dp("1", "1").await.unwrap();
    let first = ana.trained_file();
    ana.undo(true).await;
    ana.set_model(&trained);
    ana.commit_dp("1", "1").await.unwrap();
    let (first, second) = (numbers(&first), numbers(&ana.trained_file()));
    let equal = first[STATISTICS..]
        .iter()
        .zip(&second[STATISTICS..])
        .filter(|(a, b)| a.to_bits() == b.to_bits())
        .count();
    assert!(equal < 20, "{equal}");
    assert_eq!(ana.ledger().await.releases.len(), 2, "both were seen");
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_that_a_release_was_made_from_are_never_drafted_or_pushed() {
    let ana = Person::offline().await;
    ana.init().await;
    ana.train(0.5);
    let trained = ana.trained_file();
    // A clean draft here, and one in a copy of the folder.
    let other = ana.top.path().join("other");
    fs::create_dir_all(other.join(".flair")).unwrap();
    for name in ["model.safetensors", ".flair/folder.json"] {
        fs::copy(ana.folder().join(name), other.join(name)).unwrap();
    }
    let place = || Place { folder: Some(other.clone()), repo: None };
    ana.service.commit(clean_request(place())).await.unwrap();
    ana.commit().await.unwrap();
    let copy = ana.folder().join(".flair/folder.json");
    let clean_draft = fs::read(&copy).unwrap();
    ana.commit_dp("1", "1").await.unwrap();
    assert_ne!(ana.trained_file(), trained);
    let private_draft = fs::read(&copy).unwrap();

    // Even a folder that goes back to the draft before does not get it out.
    fs::write(&copy, &clean_draft).unwrap();
    let problem = ana.try_push().await.unwrap_err();
    assert_ne!(problem.code, Code::Internal, "{problem}");
    fs::write(&copy, &private_draft).unwrap();

    // Nor does the copy, whose draft is whole.
    let request = PushRequest { place: place(), dry_run: false, keep_drafts: false };
    let problem = ana.service.push(request).await.unwrap_err();
    assert_eq!(problem.code, Code::Denied);
    assert!(problem.message.contains("undo its noise"), "{problem}");

    // The trained file from a backup: not on top of the private draft, nor after it was pushed, nor after a reset.
    ana.set_model(&trained);
    let problem = ana.commit().await.unwrap_err();
    assert!(problem.message.contains("`--dp`"), "{problem}");
    ana.undo(false).await;
    let problem = ana.commit().await.unwrap_err();
    assert_eq!(problem.code, Code::Denied);
    assert!(problem.message.contains("undo its noise"), "{problem}");
    let ana = ana.reopen().await;
    assert_eq!(ana.commit().await.unwrap_err().code, Code::Denied, "nor after a restart");
    // What training makes of it without those weights is an update like any other.
    ana.train(0.25);
    ana.commit().await.unwrap();
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clean_drafts_before_a_private_one_are_replaced_and_wiped() {
    let ana = Person::offline().await;
    ana.init().await;
    let base = ana.trained_file();
    ana.draft(0.25).await;
    ana.draft(0.25).await;
    let before = ana.service.status(At { place: ana.place() }).await.unwrap().work.unwrap().drafts;
    let known = ana.folder().join(".flair/folder.json");
    let clean = fs::read(&known).unwrap();
    let done = ana.commit_dp("100", "0.001").await.unwrap();
    assert!((done.privacy.unwrap().norm - 0.5 * 2080f64.sqrt()).abs() < 1e-3, "from the published base");
    let work = ana.service.status(At { place: ana.place() }).await.unwrap().work.unwrap();
    assert_eq!(work.drafts.len(), 1);
    assert_eq!(work.drafts[0].message, "trained\n\ntrained\n\nprivate");
    assert!(before.iter().all(|draft| draft.id != work.drafts[0].id));
    let moved = numbers(&ana.trained_file())[STATISTICS] - numbers(&base)[STATISTICS];
    assert!((moved - 0.5).abs() < 0.6, "{moved}");
    // Not even a folder that goes back to them finds them.
    fs::write(&known, &clean).unwrap();
    let problem = ana.service.restore(At { place: ana.place() }).await.unwrap_err();
    assert_eq!(problem.code, Code::NotFound, "{problem}");
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_drafts_on_one_another_are_one_update_of_so_many_steps() {
    let ana = Person::offline().await;
    ana.init().await;
    for _ in 0..3 {
        ana.train(0.5);
        ana.commit_dp("1", "2").await.unwrap();
    }
    let problem = ana.commit().await.unwrap_err();
    assert!(problem.message.contains("could claim no privacy"), "{problem}");
    ana.train(0.5);
    let problem = ana.commit_dp("1", "3").await.unwrap_err();
    assert!(problem.message.contains("clip=1,noise=2"), "{problem}");
    let request = At { place: ana.place() };
    ana.service.restore(request).await.unwrap();
    let pull = PullRequest { place: ana.place(), rebase: true, timeout: 0 };
    ana.service.pull(pull).await.unwrap();
    let update = ana.push().await;
    let log = ana.service.log(LogRequest { place: ana.place(), branch: None, limit: 9 }).await.unwrap();
    let entry = log.entries.into_iter().find(|entry| entry.commit == update).unwrap();
    let claim = entry.privacy.unwrap();
    assert!(claim.contains("over 3 steps, noise 2 each, clipped at 1"), "{claim}");
    let ledger = ana.ledger().await;
    assert!(claim.starts_with(&format!("ε = {},", ledger.spent.epsilon)), "{claim} {:?}", ledger.spent);
    assert!(ledger.releases.iter().all(|release| release.commit.as_ref() == Some(&update)));
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_is_not_passed_whatever_is_reset_cloned_or_restarted() {
    let ana = Person::offline().await;
    ana.init().await;
    // One release with noise 1 costs 4.378, two 6.6…
    ana.configure("[privacy]\nepsilon = \"6\"\ndelta = \"1e-5\"\n");
    ana.train(0.5);
    let trained = ana.trained_file();
    let done = ana.commit_dp("1", "1").await.unwrap().privacy.unwrap();
    assert_eq!((done.epsilon.as_str(), done.spent.epsilon.as_str()), ("4.378", "4.378"));
    ana.undo(true).await;
    ana.set_model(&trained);
    let problem = ana.commit_dp("1", "1").await.unwrap_err();
    assert_eq!(problem.code, Code::Denied);
    assert!(problem.message.contains("ε = 4.378 of 6 is spent, this commit alone costs 4.378"), "{problem}");
    assert_eq!(ana.trained_file(), trained, "nothing is lost");
    let kept = ana.top.path().join("kept");
    assert!(ana.commit_dp_keeping("1", "1", Some(kept.clone())).await.is_err() && !kept.exists());
    let noise = ana.ledger().await.spent.noise.unwrap();
    assert!(problem.help.unwrap().contains(&format!("noise={noise} or more fits")));

    // Without the folder, in a home that was closed and opened again.
    let ana = ana.reopen().await;
    fs::remove_dir_all(ana.folder()).unwrap();
    let place = Place { folder: None, repo: Some("digits".into()) };
    let ledger = ana.service.privacy(At { place }).await.unwrap();
    assert_eq!(ledger.spent.epsilon, "4.378");
    assert_eq!(ledger.spent.noise.as_ref(), Some(&noise));
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_be_read_lets_nothing_be_spent() {
    let ana = Person::offline().await;
    let repo = ana.init().await;
    ana.train(0.5);
    let trained = ana.trained_file();
    ana.commit_dp("1", "1").await.unwrap();
    ana.undo(true).await;
    ana.set_model(&trained);
    let path = ana.top.path().join("home/privacy").join(format!("{repo}.json"));
    let good = fs::read_to_string(&path).unwrap();
    for bad in ["", "{}", &good.replace("\"version\": 1", "\"version\": 2"), &good[..good.len() / 2]] {
        fs::write(&path, bad).unwrap();
        let problem = ana.commit_dp("1", "1").await.unwrap_err();
        assert!(problem.message.contains(".json"), "{problem}");
        assert_eq!(ana.trained_file(), trained);
    }
    fs::write(&path, good).unwrap();
    ana.commit_dp("1", "1").await.unwrap();
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_privacy_is_required_nothing_is_committed_or_pushed_without() {
    let ana = Person::offline().await;
    ana.init().await;
    ana.draft(0.25).await;
    ana.configure("[privacy]\nrequire = true\n");
    assert_eq!(ana.try_push().await.unwrap_err().code, Code::Denied, "the setting came after the draft");
    ana.train(0.25);
    assert_eq!(ana.commit().await.unwrap_err().code, Code::Denied);
    ana.configure("");
    fs::write(ana.folder().join(".flair/config.toml"), "[privacy]\nrequire = true\n").unwrap();
    assert_eq!(ana.commit().await.unwrap_err().code, Code::Denied, "the folder's own setting counts too");
    ana.commit_dp("1", "1").await.unwrap();
    ana.try_push().await.unwrap();
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_counts_in_a_home_whose_ledger_was_lost() {
    let ana = Person::offline().await;
    ana.init().await;
    ana.train(0.5);
    ana.commit_dp("1", "1").await.unwrap();
    ana.push().await;
    fs::remove_dir_all(ana.top.path().join("home/privacy")).unwrap();
    let ledger = ana.ledger().await;
    assert_eq!(ledger.spent.epsilon, "4.378");
    assert_eq!(ledger.releases[0].number, None);
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_noised_model_reaches_others() {
    let config = || Config { aggregate: false, ..Config::default() };
    let (ana, bo) = (Person::online(config()).await, Person::online(config()).await);
    ana.init().await;
    bo.clone_from(&ana.ticket(1).await, "bo").await;
    bo.train(0.5);
    let trained = bo.trained_file();
    bo.commit_dp("1", "1").await.unwrap();
    let noised = bo.trained_file();
    let update = bo.push().await;
    let out = ana.top.path().join("out");
    until("the update on ana's node", || async {
        let request = flair_node::api::types::ExportRequest {
            place: ana.place(),
            commit: Some(update.clone()),
            output: Some(out.clone()),
            force: true,
            onto: None,
            local: false,
            automerge: None,
        };
        ana.service.export(request).await.is_ok()
    })
    .await;
    assert_eq!(fs::read(out.join("model.safetensors")).unwrap(), noised);
    assert_ne!(noised, trained);
    let audit = AuditRequest { place: ana.place(), commit: Some(update.clone()) };
    let audit = ana.service.audit(audit).await.unwrap();
    assert!(audit.steps.iter().any(|step| step.entry.commit == update && step.privacy.is_some()));
    for person in [ana, bo] {
        person.service.close().await;
    }
}
