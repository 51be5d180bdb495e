//! What was spent in a repository, and what is left of its budget.

use std::collections::BTreeSet;

use flair_aggregation::privacy::account;
use flair_protocol::commit::Commit;
use flair_protocol::id::{CommitId, TensorId};
use flair_protocol::key::PublicKey;
use flair_protocol::state::State;

use super::super::local::blocking;
use super::{Asked, Service};
use crate::api::types::{At, PrivacyLedger, PrivacyRelease, PrivacySpent, Problem};
use crate::folder::{DraftRecord, Folder};
use crate::home::{Decimal, Limits};
use crate::privacy::{ACCOUNTANT, Clean, Ledger, Release, SITE, epsilon, fitting, mu, upwards};
use crate::repository::{Repository, wall};

impl Service {
    /// What differential privacy was spent in a repository.
    ///
    /// # Errors
    /// No such repository, a damaged ledger.
    pub async fn privacy(&self, request: At) -> Result<PrivacyLedger, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let limits = self.limits(&repository, folder.as_ref())?;
        let (ledger, others) = self.ledger(&repository, &state).await?;
        let mut releases: Vec<PrivacyRelease> = ledger
            .releases
            .iter()
            .map(|release| PrivacyRelease {
                number: Some(release.number),
                time: release.time,
                base: release.base.to_string(),
                clip: release.clip.as_str().to_owned(),
                noise: release.noise.as_str().to_owned(),
                epsilon: upwards(epsilon(mu(&release.noise), &limits.delta)),
                commit: release.commit.map(|commit| commit.to_string()),
            })
            .collect();
        for other in &others {
            releases.push(PrivacyRelease {
                number: None,
                time: other.time,
                base: other.base.to_string(),
                clip: other.clip.clone(),
                noise: other.noise.clone(),
                epsilon: upwards(epsilon(other.mu, &limits.delta)),
                commit: Some(other.commit.to_string()),
            });
        }
        releases.sort_by_key(|release| release.time);
        Ok(PrivacyLedger {
            repo: repository.id().to_string(),
            name: state.name.clone(),
            spent: spent(&ledger, &others, &limits),
            require: limits.require,
            words: format!(
                "unit site: all that this person's data changed in one update, against an update that changes nothing \
                 (zero-out); Gaussian mechanism on a grid; {ACCOUNTANT}, which composes exactly"
            ),
            releases,
        })
    }

    /// What this home spent, and what the repository's history says that this person spent elsewhere.
    async fn ledger(&self, repository: &Repository, state: &State) -> Result<(Ledger, Vec<Other>), Problem> {
        let (home, repo) = (self.hub.home.clone(), repository.id());
        let ledger = blocking(move || Ledger::open(&home, repo)).await?;
        let others = others(state, self.hub.me(), &ledger);
        Ok((ledger, others))
    }

    /// Privacy spent, in words for the status.
    pub(in crate::service) async fn privacy_words(
        &self,
        repository: &Repository,
        state: &State,
        folder: Option<&Folder>,
    ) -> Result<String, Problem> {
        let limits = self.limits(repository, folder)?;
        let (ledger, others) = self.ledger(repository, state).await?;
        let spent = spent(&ledger, &others, &limits);
        let rule = if limits.require { "; commits without `--dp` are refused" } else { "" };
        let releases = match spent.releases {
            1 => "1 release".to_owned(),
            count => format!("{count} releases"),
        };
        Ok(match (spent.releases, spent.budget) {
            (0, None) if limits.require => format!("nothing spent, no budget set{rule}"),
            (0, None) => "no privacy budget: updates are published without differential privacy".to_owned(),
            (0, Some(budget)) => format!("nothing of ε = {budget} spent (δ = {}){rule}", spent.delta),
            (_, None) => format!(
                "ε = {} spent in {releases} (δ = {}), no budget set{rule}",
                spent.epsilon, spent.delta
            ),
            (_, Some(budget)) => {
                format!("ε = {} of {budget} spent in {releases} (δ = {}){rule}", spent.epsilon, spent.delta)
            }
        })
    }

    /// Enters a release in the ledger, and what it is made from: on disk when this returns.
    pub(super) async fn spend(
        &self,
        repository: &Repository,
        state: &State,
        folder: &Folder,
        asked: &Asked,
        limits: &Limits,
        clean: BTreeSet<TensorId>,
    ) -> Result<(u64, PrivacySpent), Problem> {
        let _alone = self.hub.spending.lock().await;
        let (mut ledger, others) = self.ledger(repository, state).await?;
        let before = together(&ledger, &others);
        let after = account::compose([before, mu(&asked.noise)]);
        if let Some(budget) = &limits.epsilon
            && after > account::mu(budget.value(), limits.delta.value())
        {
            return Err(refused(before, after, asked, budget, &limits.delta));
        }
        let release = Release {
            number: 0,
            time: wall(),
            branch: folder.state.branch,
            base: folder.state.base,
            clip: asked.clip.clone(),
            noise: asked.noise.clone(),
            commit: None,
        };
        let (home, repo, limits) = (self.hub.home.clone(), repository.id(), limits.clone());
        blocking(move || {
            Clean::open(&home, repo)?.add(clean)?;
            let number = ledger.enter(release)?;
            Ok((number, spent(&ledger, &others, &limits)))
        })
        .await
    }

    /// Notes in the ledger which update a push makes of drafts, before it is published.
    pub(in crate::service) async fn note_release(
        &self,
        repository: &Repository,
        drafts: &[DraftRecord],
        commit: CommitId,
    ) -> Result<(), Problem> {
        let numbers: Vec<u64> = drafts
            .iter()
            .filter_map(|draft| draft.privacy.as_ref())
            .flat_map(|private| private.releases.clone())
            .collect();
        if numbers.is_empty() {
            return Ok(());
        }
        let _alone = self.hub.spending.lock().await;
        let (home, repo) = (self.hub.home.clone(), repository.id());
        blocking(move || Ledger::open(&home, repo)?.publish(&numbers, commit)).await
    }
}

/// A release that only the repository's history tells of: made with this key, and not in this home's ledger.
struct Other {
    commit: CommitId,
    base: CommitId,
    time: u64,
    clip: String,
    noise: String,
    mu: f64,
}

fn others(state: &State, me: PublicKey, ledger: &Ledger) -> Vec<Other> {
    let known: BTreeSet<CommitId> = ledger.releases.iter().filter_map(|release| release.commit).collect();
    let mine = state.commits.iter().filter(|(commit, _)| !known.contains(commit));
    mine.filter_map(|(commit, info)| {
        let Commit::Update(update) = info.commit.as_ref() else { return None };
        let claim =
            update.privacy.as_ref().filter(|claim| claim.unit == SITE && claim.accountant == ACCOUNTANT)?;
        let noise = Decimal::parse(&claim.noise).ok().filter(|_| update.author == me)?;
        Some(Other {
            commit: *commit,
            base: update.base,
            time: info.publication().map_or(0, |publication| publication.time),
            clip: claim.clip.clone(),
            noise: claim.noise.clone(),
            mu: mu(&noise) * (claim.steps as f64).sqrt(),
        })
    })
    .collect()
}

fn together(ledger: &Ledger, others: &[Other]) -> f64 {
    account::compose(others.iter().map(|other| other.mu).chain([ledger.spent()]))
}

fn spent(ledger: &Ledger, others: &[Other], limits: &Limits) -> PrivacySpent {
    let mu = together(ledger, others);
    PrivacySpent {
        epsilon: upwards(epsilon(mu, &limits.delta)),
        delta: limits.delta.as_str().to_owned(),
        budget: limits.epsilon.as_ref().map(|budget| budget.as_str().to_owned()),
        noise: limits.epsilon.as_ref().and_then(|budget| fitting(mu, budget, &limits.delta)),
        releases: (ledger.releases.len() + others.len()) as u64,
    }
}

fn refused(before: f64, after: f64, asked: &Asked, budget: &Decimal, delta: &Decimal) -> Problem {
    let told = |mu: f64| upwards(epsilon(mu, delta));
    let problem = Problem::denied(format!(
        "the privacy budget of this repository does not allow it: ε = {} of {} is spent, this commit alone costs {}, and \
         together they cost {} (δ = {})",
        told(before),
        budget.as_str(),
        told(mu(&asked.noise)),
        told(after),
        delta.as_str(),
    ));
    match fitting(before, budget, delta) {
        Some(noise) => problem.help(format!(
            "nothing was spent. noise={noise} or more fits what is left; `flair privacy` tells what was spent"
        )),
        None => problem.help("nothing is left of the budget; `flair privacy` tells what was spent"),
    }
}
