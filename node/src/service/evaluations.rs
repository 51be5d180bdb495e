//! Evaluations: what is to be measured, and publishing what was.

use flair_protocol::commit::Commit;
use flair_protocol::id::{CommitId, Digest};
use flair_protocol::operation::evaluation::{Better, Evaluation, Measured};
use flair_protocol::operation::{Body, body};
use flair_protocol::policy::Role;
use flair_protocol::state::{CommitInfo, State};
use serde::Serialize;

use super::local::blocking;
use super::publish::fields_of;
use super::{Service, find_branch, find_commit, name_of, views};
use crate::api::types::{
    self, Done, EgressField, EvaluateRequest, Evaluations, EvaluationsRequest, Problem, SealRequest, Sealed,
    ToEvaluate,
};
use crate::evaluate;
use crate::home::Home;
use crate::repository::{Extras, wall};

/// A line of `egress.jsonl`.
#[derive(Debug, Serialize)]
struct Egress<'a> {
    time: u64,
    repository: String,
    evaluation: String,
    fields: &'a [EgressField],
}

impl Service {
    /// What is to be evaluated: one commit, or the updates that wait.
    ///
    /// # Errors
    /// No working folder, no such commit.
    pub async fn evaluations(&self, request: EvaluationsRequest) -> Result<Evaluations, Problem> {
        let (repository, folder) = self.work(&request.place).await?;
        let state = repository.state().await;
        let me = self.hub.me();
        let commits = if let Some(text) = &request.commit {
            vec![find_commit(&state, text)?]
        } else {
            let branch = find_branch(&state, None, Some(&folder))?;
            let others = |commit: &&CommitId| {
                let info = state.commits.get(*commit);
                let evaluated = |info: &CommitInfo| {
                    info.evaluations.iter().any(|by| by.person == me && by.evaluation.set == request.set)
                };
                info.is_some_and(|info| info.commit.author() != Some(me) && !evaluated(info))
            };
            branch.waiting.iter().chain(&branch.pending).filter(others).copied().collect()
        };
        let view = |commit: CommitId| {
            let about = state.commits.get(&commit).map(|info| info.commit.as_ref());
            ToEvaluate {
                commit: commit.to_string(),
                by: about.and_then(Commit::author).map_or_else(String::new, |author| name_of(&state, author)),
                base: about.and_then(Commit::base).map(|base| base.to_string()),
            }
        };
        Ok(Evaluations {
            repo: repository.id().to_string(),
            folder: folder.root().to_owned(),
            commits: commits.into_iter().map(view).collect(),
        })
    }

    /// Hashes what models are evaluated on, with this home's salt, and what measures them. Nothing of it is kept.
    ///
    /// # Errors
    /// A path that is not absolute, a file that can't be read, no data at all.
    pub async fn evaluate_seal(&self, request: SealRequest) -> Result<Sealed, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        if let Some(path) = request.data.iter().chain(&request.code).find(|path| !path.is_absolute()) {
            return Err(Problem::invalid(format!("{} is not absolute", path.display())));
        }
        body::name(&request.set).map_err(|error| Problem::invalid(error.to_string()))?;
        let (id, salt) = (repository.id(), Home::salt(self.hub.home.path())?);
        let SealRequest { set, data, code, .. } = request;
        let sealed = blocking(move || evaluate::seal(id, &set, &data, &code, &salt)).await?;
        Ok(Sealed { data: sealed.data.to_string(), code: sealed.code.map(|code| code.to_string()) })
    }

    /// Publishes what was measured.
    ///
    /// # Errors
    /// No such commit, figures out of bounds, no right to.
    pub async fn evaluate(&self, request: EvaluateRequest) -> Result<Done, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let commit = find_commit(&state, &request.commit)?;
        let info =
            state.commits.get(&commit).ok_or_else(|| Problem::internal("a commit without publication"))?;
        if state.role(self.hub.me()) < Some(Role::Verifier) {
            return Err(Problem::denied(
                "only verifiers, contributors, maintainers and delegates publish evaluations",
            )
            .help("ask with `flair join`; `flair evaluate --dry-run` measures without publishing"));
        }
        let digest = |text: &str| -> Result<Digest, Problem> {
            text.parse().map_err(|error| Problem::invalid(format!("`{text}` is no hash: {error}")))
        };
        let mut metrics = request.metrics.iter().map(measured).collect::<Result<Vec<_>, _>>()?;
        metrics.sort_by(|a, b| a.name.cmp(&b.name));
        let evaluation = Evaluation {
            commit,
            base: info.commit.base(),
            set: request.set.clone(),
            n: request.n,
            metrics,
            data: digest(&request.data)?,
            code: request.code.as_deref().map(digest).transpose()?,
        };
        let fields = fields_of(&evaluation)?;
        // Written before anything leaves, as with a push.
        self.hub.home.egress(&Egress {
            time: wall(),
            repository: repository.id().to_string(),
            evaluation: commit.to_string(),
            fields: &fields,
        })?;
        self.hub.publish(&repository, Body::Evaluate(Box::new(evaluation)), Extras::default()).await?;
        let state = repository.state().await;
        let mut words = vec![format!("Published the evaluation of {} on {}.", commit.short(), request.set)];
        words.extend(
            views::update(&state, commit, None)
                .map(|note| format!("Update {} {}.", commit.short(), note.words)),
        );
        Ok(Done { words })
    }
}

fn measured(metric: &types::Measured) -> Result<Measured, Problem> {
    let better = match metric.better.as_str() {
        "higher" => Better::Higher,
        "lower" => Better::Lower,
        other => {
            return Err(
                Problem::invalid(format!("`{other}` is no direction of a metric")).help("higher or lower")
            );
        }
    };
    let finite = |value: f64| {
        if value.is_finite() {
            // There is one zero.
            Ok(value + 0.0)
        } else {
            Err(Problem::invalid(format!("{} is {value}: only finite numbers can be compared", metric.name)))
        }
    };
    let base = metric.base.map(finite).transpose()?;
    Ok(Measured { name: metric.name.clone(), better, value: finite(metric.value)?, base })
}

/// What people measured of a commit.
pub(super) fn all(state: &State, info: &CommitInfo) -> Vec<types::Evaluation> {
    let view = |by: &flair_protocol::state::EvaluationInfo| types::Evaluation {
        operation: by.operation.to_string(),
        by: name_of(state, by.person),
        person: by.person.to_string(),
        set: by.evaluation.set.clone(),
        n: by.evaluation.n,
        base: by.evaluation.base.map(|base| base.to_string()),
        metrics: by
            .evaluation
            .metrics
            .iter()
            .map(|metric| types::Measured {
                name: metric.name.clone(),
                better: match metric.better {
                    Better::Higher => "higher",
                    Better::Lower => "lower",
                }
                .to_owned(),
                value: metric.value,
                base: metric.base,
            })
            .collect(),
        data: by.evaluation.data.to_string(),
        code: by.evaluation.code.map(|code| code.to_string()),
        time: by.time,
    };
    info.evaluations.iter().map(view).collect()
}
