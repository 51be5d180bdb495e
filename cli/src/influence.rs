//! What each update does to the next aggregate, measured on this person's own data by leaving it out.

use std::collections::BTreeMap;

use flair_node::api::types::{Measured, Problem, ToEvaluate, Trial, TrialRequest};
use flair_node::evaluate::{self, Measurements};
use serde::Serialize;

use crate::context::Context;
use crate::measure::Measure;
use crate::render::short;

/// The next aggregate, measured.
#[derive(Serialize)]
pub(crate) struct Influence {
    /// What it continues.
    pub(crate) parent: String,
    pub(crate) set: String,
    pub(crate) n: u64,
    /// Of the aggregate, beside its parent.
    pub(crate) metrics: Vec<Measured>,
    /// Each of its updates.
    pub(crate) inputs: Vec<Left>,
}

/// An update that was left out, with those that stand on it.
#[derive(Serialize)]
pub(crate) struct Left {
    pub(crate) commit: String,
    pub(crate) by: String,
    /// Of the aggregate without it.
    pub(crate) without: BTreeMap<String, f64>,
    /// What it adds: the aggregate's value less that without it.
    pub(crate) adds: BTreeMap<String, f64>,
}

/// Measures the aggregate, its parent, and the aggregate without each update. Nothing is written or published.
pub(crate) async fn measure(
    context: &mut Context,
    branch: Option<String>,
    on: Option<&str>,
) -> Result<Influence, Problem> {
    let mut measure = Measure::new(context, on)?;
    let (trial, whole) = run(context, &measure, branch.as_ref(), None).await?;
    let parent = measure.commit(context, &trial.parent).await?;
    let metrics = evaluate::compare(&measure.settings, &whole, Some(&parent))?;
    let mut inputs = Vec::new();
    for input in &trial.inputs {
        let (_, left) = run(context, &measure, branch.as_ref(), Some(input)).await?;
        let beside = evaluate::compare(&measure.settings, &whole, Some(&left))?;
        let base = |metric: &Measured| metric.base.unwrap_or(metric.value);
        inputs.push(Left {
            commit: input.commit.clone(),
            by: input.by.clone(),
            without: beside.iter().map(|metric| (metric.name.clone(), base(metric))).collect(),
            adds: beside.iter().map(|metric| (metric.name.clone(), metric.value - base(metric))).collect(),
        });
    }
    Ok(Influence { parent: trial.parent, set: measure.set, n: whole.n, metrics, inputs })
}

async fn run(
    context: &mut Context,
    measure: &Measure,
    branch: Option<&String>,
    without: Option<&ToEvaluate>,
) -> Result<(Trial, Measurements), Problem> {
    let scratch = evaluate::scratch(&measure.root)?;
    let output = scratch.path().join("model");
    let request = TrialRequest {
        place: context.place(),
        branch: branch.cloned(),
        without: without.map(|update| update.commit.clone()),
        output: output.clone(),
    };
    let trial: Trial = context.post("/v1/aggregate/trial", &request).await?;
    let name = without.map_or_else(
        || "the next aggregate".to_owned(),
        |update| format!("the next aggregate without {}", short(&update.commit)),
    );
    let measured = measure.folder(context, &output, &name).await?;
    Ok((trial, measured))
}
