//! Looking back, and running recipes: log, show, verify, aggregate.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flair_aggregation::run;
use flair_protocol::commit::{Aggregate, Change, Commit};
use flair_protocol::id::CommitId;
use flair_protocol::policy::Role;
use flair_protocol::state::State;

use super::local;
use super::{Service, checked_head, find_branch, find_commit, model_of, name_of, reviews, views};
use crate::api::types::{
    AggregateInput, AggregateRequest, Aggregated, Claim, EgressField, Log, LogRequest, Problem, ShowRequest,
    Shown, Verified, VerifyRequest, VerifyRow,
};
use crate::models::Model;
use crate::repository::Repository;
use crate::worker::trust::Trust;
use crate::worker::{self, compute};

/// For so long nothing may come of what has to be fetched and run, before it is said to be absent.
const STUCK: Duration = Duration::from_secs(30);

impl Service {
    /// A branch's history, newest first: what is pending, then each aggregate with its inputs.
    ///
    /// # Errors
    /// No such branch.
    pub async fn log(&self, request: LogRequest) -> Result<Log, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let branch = find_branch(&state, request.branch.as_deref(), folder.as_ref())?;
        let mut commits: Vec<CommitId> = branch.pending.iter().rev().copied().collect();
        commits.extend(branch.waiting.iter().rev());
        commits.extend(branch.proposed.iter().rev());
        commits.extend(branch.dropped.iter().map(|(commit, _)| *commit));
        for commit in branch.path.iter().rev() {
            commits.push(*commit);
            commits.extend(state.commits.get(commit).into_iter().flat_map(|info| info.commit.inputs()));
        }
        let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
        let entries =
            commits.into_iter().filter_map(|commit| views::entry(&state, commit)).take(limit).collect();
        Ok(Log { branch: branch.name.clone(), head: branch.head.map(|head| head.to_string()), entries })
    }

    /// One commit in full.
    ///
    /// # Errors
    /// No such commit.
    pub async fn show(&self, request: ShowRequest) -> Result<Shown, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let commit = match &request.commit {
            Some(commit) => find_commit(&state, commit)?,
            None => find_branch(&state, None, folder.as_ref())?
                .head
                .ok_or_else(|| Problem::missing("the branch has no commit yet"))?,
        };
        let missing = || Problem::missing(format!("no commit {}", commit.short()));
        let info = state.commits.get(&commit).ok_or_else(missing)?;
        let entry = views::entry(&state, commit).ok_or_else(missing)?;
        let held = repository.shelf().held(commit);
        let note = views::update(&state, commit, self.skipped(&repository, &state, commit).await)
            .or_else(|| views::step(&state, commit));
        let words = match (note, info.effect()) {
            (Some(note), _) => note.words,
            (None, flair_protocol::state::Effect::Full) => match views::doubt(&repository, &state, commit) {
                Some(doubt) => format!("{} of the branch; {doubt}", entry.state),
                None => format!("{} of the branch", entry.state),
            },
            (None, flair_protocol::state::Effect::None(why)) => why.to_string(),
            (None, flair_protocol::state::Effect::Void(why)) => why.to_string(),
        };
        let mut training = Vec::new();
        if let Commit::Update(update) = info.commit.as_ref() {
            let mut field = |name: &str, value: Option<String>| {
                training.extend(value.map(|value| EgressField { name: name.to_owned(), value }));
            };
            field("examples", Some(update.training.examples.to_string()).filter(|text| text != "0"));
            field("epochs", update.training.epochs.map(|count| count.to_string()));
            field("steps", update.training.steps.map(|count| count.to_string()));
            field("seed", update.training.seed.map(|seed| seed.to_string()));
        }
        let mut inputs = Vec::new();
        if let Some(Change::External(external)) = info.commit.step().map(|step| &step.change) {
            training.push(EgressField { name: "engine".to_owned(), value: external.engine.clone() });
            let parent = info.commit.base();
            inputs.extend(parent.into_iter().flat_map(|parent| {
                external.inputs.iter().map(|input| input_view(&state, parent, *input)).collect::<Vec<_>>()
            }));
        }
        if let Some(merge) = info.commit.merge() {
            let mut field = |name: &str, value: String| {
                training.push(EgressField { name: name.to_owned(), value });
            };
            field("merges", merge.other.to_string());
            let parent = info.commit.base();
            let common = parent.and_then(|parent| state.common(parent, merge.other));
            field("ancestor", common.map_or_else(String::new, |common| common.to_string()));
            field("method", merge.method.clone());
            for (name, value) in &merge.settings {
                field(name, value.clone());
            }
        }
        if let Commit::Aggregate(recipe) = info.commit.as_ref() {
            let skipped = match &held {
                Some(held) => Model::load(&self.hub.store, held).await?.state.skipped,
                None => Vec::new(),
            };
            for input in &recipe.inputs {
                let mut view = input_view(&state, recipe.parent, *input);
                view.skipped = skipped
                    .iter()
                    .find(|skipped| skipped.commit == *input)
                    .map(|skipped| skipped.reason.clone());
                inputs.push(view);
            }
        }
        let names = |people: &[flair_protocol::key::PersonId]| {
            people.iter().map(|person| name_of(&state, *person)).collect()
        };
        let claims = info.claims.iter().map(|claim| Claim {
            model: claim.outcome.model.to_string(),
            state: claim.outcome.state.to_string(),
            supporters: names(&claim.supporters),
            refuters: names(&claim.refuters),
        });
        let branch = state.branches.get(&info.commit.branch());
        let bytes = match (info.commit.described(), &held) {
            (Some(described), _) => described.bytes,
            (None, Some(held)) => local::manifest(&self.hub, held.model).await?.bytes(),
            (None, None) => 0,
        };
        Ok(Shown {
            private: state.private(),
            model: model_of(&repository, &state, commit).map(|model| model.to_string()),
            branch: branch.map_or_else(String::new, |branch| branch.name.clone()),
            bytes,
            pack_bytes: info.publication().map_or(0, |publication| publication.pack_bytes),
            here: held.is_some(),
            verified: held.as_ref().is_some_and(|held| held.own_outcome().is_some()),
            training,
            inputs,
            claims: claims.collect(),
            reviews: reviews::all(&state, info),
            words,
            entry,
        })
    }

    /// Runs recipes again and compares with what is claimed.
    ///
    /// # Errors
    /// A commit that is no aggregate or merge, or one whose inputs are not here.
    pub async fn verify(&self, request: VerifyRequest) -> Result<Verified, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let commits = if let Some(text) = &request.commit {
            vec![find_commit(&state, text)?]
        } else {
            let branch = find_branch(&state, None, folder.as_ref())?;
            let aggregate =
                |commit: &&CommitId| state.commits.get(*commit).is_some_and(|info| info.commit.is_recipe());
            branch.path.iter().filter(aggregate).copied().collect()
        };
        let trust = Trust::of(&self.hub, &state);
        if trust.relies() && self.hub.network.get().is_some() {
            self.get_to_run(&repository, &state, &commits).await;
        }
        let (mut rows, mut absent) = (Vec::new(), 0);
        for commit in commits {
            if !can_run(&repository, &state, &trust, commit) {
                absent += 1;
                continue;
            }
            let info = state
                .commits
                .get(&commit)
                .ok_or_else(|| Problem::missing(format!("no commit {}", commit.short())))?;
            let Some(needs) = compute::needs(&state, &info.commit) else {
                return Err(Problem::invalid(format!(
                    "{} is no aggregate or merge, but of kind {}: only these can be run again",
                    commit.short(),
                    info.commit.kind()
                ))
                .help("an update's bytes were checked when they came"));
            };
            let started = Instant::now();
            // Parents first: what they gave is what this one starts from.
            let paths = needs.iter().flat_map(|needed| state.path(*needed)).collect::<Vec<_>>();
            for ancestor in paths {
                let bytes =
                    state.commits.get(&ancestor).is_some_and(|info| info.commit.described().is_some());
                if repository.shelf().since().is_some() || trust.relies() || bytes {
                    continue;
                }
                worker::ensure(&self.hub, &repository, &state, ancestor).await?;
            }
            let made = compute::again(&self.hub, &repository, &state, commit).await?;
            let claimed = info.result.map(|result| result.model);
            rows.push(VerifyRow {
                commit: commit.to_string(),
                claimed: claimed
                    .map_or_else(|| "nobody claims a result".to_owned(), |model| model.to_string()),
                found: made.outcome.model.to_string(),
                holds: info.result == Some(made.outcome),
                millis: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
        }
        let holds = rows.iter().all(|row| row.holds);
        if rows.is_empty() && absent > 0 {
            return Err(Problem::missing("nothing was checked: what the aggregates are made of is not here")
                .help("`flair fetch --full` gets all history, and checks it"));
        }
        Ok(Verified { rows, holds, absent })
    }

    /// Has a node that does not run every aggregate get what these are made of, and run them; waits until it did, or no
    /// longer gets on with it.
    async fn get_to_run(&self, repository: &Arc<Repository>, state: &State, commits: &[CommitId]) {
        let run = |commit: &CommitId| {
            let held = repository.shelf().held(*commit);
            held.is_some_and(|held| !held.attested)
        };
        let recipe =
            |commit: &&CommitId| state.commits.get(*commit).is_some_and(|info| info.commit.is_recipe());
        let wanted: Vec<CommitId> = commits.iter().filter(recipe).copied().collect();
        for commit in wanted.iter().filter(|commit| !run(commit)) {
            self.hub.desk.ask(repository.id(), *commit);
        }
        self.hub.desk.refresh();
        self.hub.wake.notify_one();
        loop {
            let left = || wanted.iter().filter(|commit| !run(commit)).count();
            let before = (left(), repository.shelf().all().len());
            if before.0 == 0 {
                return;
            }
            let got_on = || async { ((left(), repository.shelf().all().len()) != before).then_some(()) };
            if self.wait(STUCK, got_on).await.is_none() {
                return;
            }
        }
    }

    /// Aggregates what is pending, or tells what that would give.
    ///
    /// # Errors
    /// Nothing pending, too few persons, no role.
    pub async fn aggregate(&self, request: AggregateRequest) -> Result<Aggregated, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let branch = find_branch(&state, request.branch.as_deref(), folder.as_ref())?;
        let role = state.role(self.hub.me());
        if !request.dry_run && role.is_none_or(|role| role < Role::Contributor) {
            return Err(Problem::denied("only contributors, maintainers and delegates may aggregate")
                .help("ask with `flair join`"));
        }
        let Some(head) = branch.head else { return Err(Problem::conflict("the branch has no commit yet")) };
        if checked_head(&repository, &state, branch.id) != Some(head) {
            return Err(Problem::conflict(format!("head {} is not fetched and checked yet", head.short()))
                .help("it is while the node runs and peers are connected: try again in a while"));
        }
        let plan = worker::plan(&repository, &state, branch.id).ok_or_else(|| {
            Problem::conflict("nothing to aggregate: no update is pending and here")
                .help("`flair log` shows what there is")
        })?;
        if !plan.ready() && !request.dry_run {
            let text = format!(
                "updates by {} of the {} persons that an aggregate needs are pending",
                plan.persons, plan.needed
            );
            match (request.flush, role) {
                (true, Some(Role::Maintainer | Role::Delegate)) => {}
                (true, _) => {
                    return Err(Problem::denied(format!(
                        "{text}; only a maintainer or delegate may use `--flush`"
                    )));
                }
                (false, Some(Role::Maintainer | Role::Delegate)) => {
                    return Err(Problem::conflict(text)
                        .help("wait for more, or aggregate all the same with `--flush`"));
                }
                (false, _) => return Err(Problem::conflict(text).help("wait for more updates")),
            }
        }
        let (id, made, published) = if request.dry_run {
            let id = Commit::Aggregate(plan.recipe.clone()).id()?;
            (id, compute::compute(&self.hub, &repository, &state, id, &plan.recipe).await?, false)
        } else {
            let (id, made) =
                worker::publish_aggregate(&self.hub, &repository, &state, plan.recipe.clone()).await?;
            (id, made, true)
        };
        let inputs = inputs_view(&state, &plan.recipe, &made.details);
        Ok(Aggregated {
            commit: id.to_string(),
            branch: branch.name.clone(),
            parent: plan.recipe.parent.to_string(),
            inputs,
            persons: plan.persons as u64,
            needed: u64::from(plan.needed),
            withstands: made.details.withstands.and_then(|most| u64::try_from(most).ok()),
            model: published.then(|| made.outcome.model.to_string()),
            published,
            rule: compute::policy(&state, &plan.recipe)?.explain(),
        })
    }
}

/// The inputs of a recipe, with what became of them when it was run.
pub(super) fn inputs_view(state: &State, recipe: &Aggregate, details: &run::Outcome) -> Vec<AggregateInput> {
    let views = recipe.inputs.iter().enumerate().map(|(index, input)| {
        let mut view = input_view(state, recipe.parent, *input);
        view.weight = details.weights.get(index).copied().flatten();
        view.skipped =
            details.skipped.iter().find(|(place, _)| *place == index).map(|(_, why)| why.to_string());
        let person = details.persons.iter().find(|mover| {
            flair_protocol::key::PublicKey::from_bytes(mover.person.to_bytes()).to_string() == view.person
        });
        view.norm = person.map(|mover| mover.norm);
        view.shortened = person.map(|mover| mover.shortened).filter(|factor| *factor < 1.0);
        view
    });
    views.collect()
}

fn input_view(state: &State, parent: CommitId, input: CommitId) -> AggregateInput {
    let author = state.commits.get(&input).and_then(|info| info.commit.author());
    AggregateInput {
        commit: input.to_string(),
        person: author.map_or_else(String::new, |author| author.to_string()),
        name: author.map_or_else(String::new, |author| name_of(state, author)),
        staleness: state.staleness(parent, input).map_or(0, u64::from),
        weight: None,
        norm: None,
        shortened: None,
        skipped: None,
    }
}

/// Whether all that an aggregate or merge is made of is here, in a repository that was cloned without its history or where
/// not every recipe is run; in any other, what is missing is an error that says what.
fn can_run(repository: &Repository, state: &State, trust: &Trust<'_>, commit: CommitId) -> bool {
    let shelf = repository.shelf();
    let needs = state.commits.get(&commit).and_then(|info| compute::needs(state, &info.commit));
    let mut needs = needs.into_iter().flatten();
    let here = |commit: CommitId| shelf.holds(commit) || shelf.faulty(commit).is_some();
    (shelf.since().is_none() && !trust.relies()) || needs.all(here)
}
