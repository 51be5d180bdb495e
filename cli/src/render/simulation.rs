//! What several rules made of the same updates.

use std::fmt::Write as _;

use flair_node::api::types::SimulatedRule;

use super::{Rows, count, number, short};
use crate::command::simulate::Simulation;

/// More columns of weights than this do not fit a terminal.
const COLUMNS: usize = 6;

pub(crate) fn simulated(answer: &Simulation) -> String {
    let mut out = String::new();
    let simulated = &answer.simulated;
    let persons = count(simulated.persons, "person", "persons");
    let _ = writeln!(out, "Updates of {persons} on {}\n", short(&simulated.parent));
    let metrics = answer.metrics.first().map(Vec::as_slice).unwrap_or_default();
    let mut head = vec!["rule", "withstands", "without", "step", "apart", "cosine"];
    head.extend(metrics.iter().map(|metric| metric.name.as_str()));
    let right: Vec<usize> = (1..head.len()).collect();
    let mut rows = Rows::new(&head).right(&right);
    let maybe = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    if !metrics.is_empty() {
        let mut cells = vec!["(the parent)".to_owned()];
        cells.extend(std::iter::repeat_n(String::new(), 5));
        cells.extend(metrics.iter().map(|metric| maybe(metric.base)));
        rows.row(cells);
    }
    for (place, row) in simulated.rows.iter().enumerate() {
        let without = row.inputs.iter().filter(|input| input.skipped.is_some()).count();
        let mut cells = vec![
            if place == 0 { format!("{}, in force", row.rule) } else { name(row) },
            row.withstands.map_or_else(|| "-".to_owned(), |most| most.to_string()),
            without.to_string(),
            number(row.step),
            if place == 0 { String::new() } else { number(row.apart) },
            if place == 0 { String::new() } else { maybe(row.cosine) },
        ];
        let measured = answer.metrics.get(place).map(Vec::as_slice).unwrap_or_default();
        cells.extend(measured.iter().map(|metric| number(metric.value)));
        rows.row(cells);
    }
    let _ = writeln!(out, "{}\n", rows.text());
    if simulated.rows.len() <= COLUMNS {
        let _ = writeln!(out, "{}\n", weights(&simulated.rows));
    }
    out.push_str(
        "withstands: how many dishonest persons among these; without: updates that have no part in the result; step: how \
         far the model moves (L2); apart, cosine: between a rule's step and that of the rule in force.",
    );
    if let Some(set) = &answer.set {
        let n = if answer.n == 0 { String::new() } else { format!(", n = {}", answer.n) };
        let _ = write!(out, " Measured on {set}{n}.");
    }
    out.push_str(" Nothing was published.");
    out
}

/// A rule with the settings that were asked for.
pub(crate) fn name(row: &SimulatedRule) -> String {
    let settings = row.settings.iter().map(|(name, value)| format!(" {name}={value}"));
    format!("{}{}", row.rule, settings.collect::<String>())
}

/// What each update counts by each rule.
fn weights(rules: &[SimulatedRule]) -> String {
    let names: Vec<String> = rules.iter().map(name).collect();
    let mut head = vec!["update", "by", "behind"];
    head.extend(names.iter().map(String::as_str));
    let right: Vec<usize> = (2..head.len()).collect();
    let mut rows = Rows::new(&head).right(&right);
    // Rules with a narrower limit leave stale ones out.
    let longest = rules.iter().max_by_key(|row| row.inputs.len());
    for input in longest.map(|row| row.inputs.as_slice()).unwrap_or_default() {
        let mut cells =
            vec![short(&input.commit).to_owned(), input.name.clone(), input.staleness.to_string()];
        for row in rules {
            let own = row.inputs.iter().find(|own| own.commit == input.commit);
            cells.push(match own {
                None => "too stale".into(),
                Some(own) if own.skipped.is_some() => "skipped".into(),
                Some(own) => own.weight.map_or_else(|| "-".into(), number),
            });
        }
        rows.row(cells);
    }
    rows.text()
}
