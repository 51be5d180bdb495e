//! `flair simulate`

use std::collections::BTreeMap;

use flair_node::api::types::{Measured, Problem, RuleChoice, SimulateRequest, Simulated};
use flair_node::evaluate;
use serde::Serialize;

use crate::context::Context;
use crate::measure::Measure;
use crate::render::simulation;

/// Run the same updates through several aggregation rules and compare what comes out
///
/// Each rule gets the updates that the next aggregate would take in, those of an aggregate that exists, or those you
/// name. The first row is the rule in force; what the others give is compared with it. Nothing is published or kept.
///
/// A rule reads as in `flair init --aggregation RULE --set NAME=VALUE`, in one word or several; settings alone change the
/// rule in force.
#[derive(clap::Args)]
#[command(after_help = "Examples:
  flair simulate                                    # every rule, on what is pending
  flair simulate --policy median --policy \"trimmed-mean trim=1\" --policy \"staleness=constant eta=0.5\"
  flair simulate 4f5a6b7c8d --policy \"krum dishonest=1\" --evaluate")]
pub(crate) struct Arguments {
    /// An aggregate, to run its updates again [default: the branch's next one]
    aggregate: Option<String>,
    /// The branch [default: the folder's]
    #[arg(long, conflicts_with = "aggregate")]
    branch: Option<String>,
    /// An update to take, instead of the aggregate's; can be given often
    #[arg(long = "update", value_name = "COMMIT")]
    updates: Vec<String>,
    /// A rule with its settings; can be given often [default: every rule there is]
    #[arg(long = "policy", value_name = "RULE SETTING=VALUE…", value_parser = rule)]
    policies: Vec<RuleChoice>,
    /// Measure each result on your own data; see `flair evaluate`
    #[arg(long)]
    evaluate: bool,
    /// The set of data to measure on, where .flair/config.toml has several
    #[arg(long, value_name = "NAME", requires = "evaluate")]
    on: Option<String>,
}

/// What came out, and how good it is.
#[derive(Serialize)]
pub(crate) struct Simulation {
    #[serde(flatten)]
    pub(crate) simulated: Simulated,
    /// What this person calls the data that was measured on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) set: Option<String>,
    /// Examples in it; 0 when not said.
    pub(crate) n: u64,
    /// Of each row, beside the parent; empty where nothing was measured.
    pub(crate) metrics: Vec<Vec<Measured>>,
}

fn rule(text: &str) -> Result<RuleChoice, String> {
    let mut choice = RuleChoice { rule: None, settings: BTreeMap::new() };
    for (place, word) in text.split_whitespace().enumerate() {
        if place == 0 && !word.contains('=') {
            choice.rule = Some(word.to_owned());
            continue;
        }
        let (name, value) = super::init::setting(word)?;
        if choice.settings.insert(name.clone(), value).is_some() {
            return Err(format!("the setting `{name}` is given twice"));
        }
    }
    if choice.rule.is_none() && choice.settings.is_empty() {
        return Err("a rule reads `trimmed-mean trim=1`, say".into());
    }
    Ok(choice)
}

impl Arguments {
    pub(super) async fn run(self, context: &mut Context) -> Result<(), Problem> {
        let mut measure = if self.evaluate { Some(Measure::new(context, self.on.as_deref())?) } else { None };
        let scratch = measure.as_ref().map(|measure| evaluate::scratch(&measure.root)).transpose()?;
        let output = scratch.as_ref().map(|scratch| scratch.path().join("models"));
        let request = SimulateRequest {
            place: context.place(),
            branch: self.branch,
            aggregate: self.aggregate,
            updates: self.updates,
            rules: self.policies,
            output: output.clone(),
        };
        let simulated: Simulated = context.post("/v1/aggregate/simulate", &request).await?;
        let mut simulation = Simulation { simulated, set: None, n: 0, metrics: Vec::new() };
        if let (Some(measure), Some(output)) = (&mut measure, output) {
            let parent = measure.commit(context, &simulation.simulated.parent).await?;
            for (number, row) in simulation.simulated.rows.iter().enumerate() {
                let model = output.join(number.to_string());
                let found = measure.folder(context, &model, &simulation::name(row)).await?;
                simulation.metrics.push(evaluate::compare(&measure.settings, &found, Some(&parent))?);
                simulation.n = found.n;
            }
            simulation.set = Some(measure.set.clone());
        }
        context.print(&simulation, simulation::simulated)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_with_settings_is_read_from_one_argument() {
        let read = rule("trimmed-mean trim=1  eta=0.5").unwrap();
        assert_eq!(read.rule.as_deref(), Some("trimmed-mean"));
        assert_eq!(read.settings.len(), 2);
        let settings = rule("staleness=hinge:4,10").unwrap();
        assert_eq!((settings.rule, settings.settings["staleness"].as_str()), (None, "hinge:4,10"));
        assert!(rule(" ").is_err() && rule("median trim").is_err() && rule("krum eta=1 eta=2").is_err());
    }
}
