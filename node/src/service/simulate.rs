//! What other aggregation rules would have made of updates that exist. Nothing is published or kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use flair_aggregation::policy::RULES;
use flair_protocol::commit::{Aggregate, Commit};
use flair_protocol::id::{BranchId, CommitId, ModelId};
use flair_protocol::model::Manifest;
use flair_protocol::policy::Aggregation;
use flair_protocol::state::State;

use super::history::inputs_view;
use super::local::{self, blocking};
use super::{Service, checked_head, diff, find_branch, find_commit, model_of, rules};
use crate::api::types::{Code, Problem, RuleChoice, SimulateRequest, Simulated, SimulatedRule};
use crate::folder::at;
use crate::repository::Repository;
use crate::worker::{self, compute};

/// Rules that one request may compare.
const MOST: usize = 64;

/// A rule to try.
struct Candidate {
    choice: RuleChoice,
    aggregation: Aggregation,
}

impl Service {
    /// Runs the same updates through several rules and compares what comes out with what the rule in force gives.
    ///
    /// # Errors
    /// Nothing to aggregate, an update that can't go in, a model that is not here, a rule or setting that is not
    /// known, a folder that exists.
    pub async fn simulate(&self, request: SimulateRequest) -> Result<Simulated, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let recipe = if let Some(text) = &request.aggregate {
            taken_from(&state, text)?
        } else {
            let branch = find_branch(&state, request.branch.as_deref(), folder.as_ref())?;
            next(&repository, &state, branch.id, request.updates.is_empty())?
        };
        let recipe =
            if request.updates.is_empty() { recipe } else { with(&state, recipe, &request.updates)? };
        let force = state.policy_at(recipe.policy).ok_or_else(|| {
            Problem::missing(format!("policy revision {} is not here", recipe.policy.short()))
        })?;
        let candidates = candidates(&force.aggregation, request.rules)?;
        if let Some(output) = &request.output {
            std::fs::create_dir(output).map_err(|error| at(output, error))?;
        }
        let authors = recipe.inputs.iter().filter_map(|input| state.commits.get(input)?.commit.author());
        let persons = authors.collect::<BTreeSet<_>>().len() as u64;
        let mut simulated = Simulated { parent: recipe.parent.to_string(), persons, rows: Vec::new() };
        // The first result is compared with all others: it is kept until the end.
        let mut first: Option<(compute::Made, Arc<Manifest>, f64)> = None;
        let parent = model_of(&repository, &state, recipe.parent).ok_or_else(|| {
            Problem::missing(format!("the model of {} is not here yet", recipe.parent.short()))
                .help("`flair fetch --full` gets all history")
        })?;
        let parent = self.weights(parent).await?;
        for (number, candidate) in candidates.into_iter().enumerate() {
            let started = Instant::now();
            let (recipe, made) = self.run_by(&repository, &state, &recipe, &candidate.aggregation).await?;
            let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let manifest = self.weights(made.outcome.model).await?;
            let step = self.distance(&parent, &manifest).await?;
            let (apart, cosine) = match &first {
                None => (0.0, (step > 0.0).then_some(1.0)),
                Some((_, other, length)) => {
                    let apart = self.distance(other, &manifest).await?;
                    (apart, cosine(step, *length, apart))
                }
            };
            if let Some(output) = &request.output {
                let output = output.join(number.to_string());
                self.write_model(made.outcome.model, &output, folder.as_ref()).await?;
            }
            simulated.rows.push(SimulatedRule {
                words: compute::rule(&candidate.aggregation)?.explain(),
                rule: candidate.aggregation.rule,
                settings: candidate.choice.settings,
                withstands: made.details.withstands.and_then(|most| u64::try_from(most).ok()),
                step,
                apart,
                cosine,
                inputs: inputs_view(&state, &recipe, &made.details),
                model: made.outcome.model.to_string(),
                millis,
            });
            first.get_or_insert((made, manifest, step));
        }
        Ok(simulated)
    }

    /// Runs a recipe by another rule.
    async fn run_by(
        &self,
        repository: &Arc<Repository>,
        state: &State,
        recipe: &Aggregate,
        aggregation: &Aggregation,
    ) -> Result<(Aggregate, compute::Made), Problem> {
        let mut recipe = recipe.clone();
        let fresh = |input: &CommitId| {
            let staleness = state.staleness(recipe.parent, *input);
            staleness.is_none_or(|behind| behind <= aggregation.max_staleness)
        };
        let inputs: Vec<CommitId> = recipe.inputs.iter().copied().filter(fresh).collect();
        if inputs.is_empty() {
            return Err(Problem::invalid(format!(
                "all of the updates are more than {} aggregates behind, the `max_staleness` of {}",
                aggregation.max_staleness, aggregation.rule
            )));
        }
        recipe.inputs = inputs;
        let every = state.every_by(aggregation.every, &recipe);
        let terms = compute::Terms {
            policy: compute::rule(aggregation)?,
            every: every.ok_or_else(|| Problem::internal("a parent that counts for nothing"))?,
        };
        let what = format!("trying {}", aggregation.rule);
        let made = compute::compute_by(&self.hub, repository, state, what, &recipe, terms).await;
        let made = made.map_err(|problem| match problem.code {
            Code::NotFound => problem.help("`flair fetch --full` gets all history"),
            _ => problem,
        })?;
        Ok((recipe, made))
    }

    /// What a model has of weights: statistics and counters say nothing of how far it moved.
    async fn weights(&self, model: ModelId) -> Result<Arc<Manifest>, Problem> {
        let mut manifest = local::manifest(&self.hub, model).await?;
        for file in &mut manifest.files {
            file.tensors.retain(|tensor| tensor.role.is_moved());
        }
        Ok(Arc::new(manifest))
    }

    /// L2 norm of the difference of two models of one architecture.
    async fn distance(&self, one: &Arc<Manifest>, other: &Arc<Manifest>) -> Result<f64, Problem> {
        let (store, threads) = (self.hub.store.clone(), self.hub.config.threads.get());
        let (one, other) = (one.clone(), other.clone());
        blocking(move || diff::distance(&store, threads, &one, &other)).await
    }
}

/// The recipe of a branch's next aggregate; without updates where they are going to be named.
fn next(
    repository: &Arc<Repository>,
    state: &State,
    branch: BranchId,
    pending: bool,
) -> Result<Aggregate, Problem> {
    let head = checked_head(repository, state, branch);
    let plan = worker::plan(repository, state, branch)
        .filter(|plan| head == Some(plan.recipe.parent))
        .map(|plan| plan.recipe);
    match (plan, head) {
        (Some(recipe), _) => Ok(recipe),
        (None, Some(head)) if !pending => Ok(state.recipe(branch, head, &[])),
        _ => Err(Problem::conflict("nothing to aggregate: no update is pending and here")
            .help("name an aggregate, to run its updates through other rules, or updates with `--update`")),
    }
}

/// The recipe of an aggregate that exists.
fn taken_from(state: &State, text: &str) -> Result<Aggregate, Problem> {
    let commit = find_commit(state, text)?;
    match state.commits.get(&commit).map(|info| info.commit.as_ref()) {
        Some(Commit::Aggregate(recipe)) => Ok(recipe.clone()),
        Some(other) => {
            Err(Problem::invalid(format!("{} is an {}, not an aggregate", commit.short(), other.kind()))
                .help("updates are named with `--update`"))
        }
        None => Err(Problem::missing(format!("no commit {}", commit.short()))),
    }
}

/// A recipe with other updates.
fn with(state: &State, recipe: Aggregate, updates: &[String]) -> Result<Aggregate, Problem> {
    let mut inputs = BTreeSet::new();
    for text in updates {
        let commit = find_commit(state, text)?;
        if state.staleness(recipe.parent, commit).is_none() {
            return Err(Problem::invalid(format!(
                "{} can't go into an aggregate on {}: it is no update, or was trained from another history",
                commit.short(),
                recipe.parent.short()
            )));
        }
        inputs.insert(commit);
    }
    Ok(Aggregate { inputs: inputs.into_iter().collect(), ..recipe })
}

/// The rule in force, then those to compare it with.
fn candidates(force: &Aggregation, asked: Vec<RuleChoice>) -> Result<Vec<Candidate>, Problem> {
    if asked.len() > MOST {
        return Err(Problem::invalid(format!("{} rules at once; at most {MOST} are compared", asked.len())));
    }
    let asked = if asked.is_empty() {
        let others = RULES.iter().filter(|entry| entry.name != force.rule);
        others.map(|entry| choice(entry.name)).collect()
    } else {
        asked
    };
    let mut all = vec![Candidate { choice: choice(&force.rule), aggregation: force.clone() }];
    for choice in asked {
        let aggregation = rules::aggregation(force, choice.rule.as_deref(), &choice.settings)?;
        all.push(Candidate { choice, aggregation });
    }
    Ok(all)
}

fn choice(rule: &str) -> RuleChoice {
    RuleChoice { rule: Some(rule.to_owned()), settings: BTreeMap::new() }
}

/// Cosine of the angle between two sides of a triangle, by the lengths of all three.
fn cosine(a: f64, b: f64, opposite: f64) -> Option<f64> {
    let product = 2.0 * a * b;
    (product > 0.0).then(|| ((a * a + b * b - opposite * opposite) / product).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use flair_protocol::key::SecretKey;

    #[test]
    fn the_angle_between_two_steps_follows_from_three_lengths() {
        assert_eq!(cosine(3.0, 4.0, 5.0), Some(0.0));
        assert_eq!(cosine(2.0, 2.0, 0.0), Some(1.0));
        assert_eq!(cosine(1.0, 2.0, 3.0), Some(-1.0));
        assert_eq!(cosine(0.0, 2.0, 2.0), None);
    }

    #[test]
    fn without_a_choice_every_rule_is_tried_once_and_the_one_in_force_first() {
        let force = flair_protocol::policy::Policy::standard(SecretKey::from_bytes(&[7; 32]).public());
        let all = candidates(&force.aggregation, Vec::new()).unwrap();
        assert_eq!((all.len(), &all[0].aggregation), (RULES.len(), &force.aggregation));
        assert!(all.iter().all(|one| compute::rule(&one.aggregation).is_ok()));
        assert!(candidates(&force.aggregation, vec![choice("median"); MOST + 1]).is_err());
    }
}
