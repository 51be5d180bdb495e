//! Evaluations.

use std::cmp::Ordering;
use std::fmt::Write as _;

use flair_node::api::types::{Evaluation, Measured};

use super::{Rows, number, short};
use crate::command::evaluate::Evaluated;
use crate::influence::Influence;

pub(crate) fn evaluated(all: &[Evaluated]) -> String {
    let mut out = String::new();
    for one in all {
        let by = if one.by.is_empty() { String::new() } else { format!(" by {}", one.by) };
        let _ = writeln!(out, "{}{by} on {}{}\n", short(&one.commit), one.set, examples(one.n));
        let mut rows = Rows::new(&["metric", "base", "commit", ""]).right(&[1, 2]);
        for metric in &one.metrics {
            rows.row([
                metric.name.clone(),
                metric.base.map_or_else(|| "-".to_owned(), number),
                number(metric.value),
                verdict(metric).into(),
            ]);
        }
        let _ = writeln!(out, "{}\n\n{}\n", rows.text(), one.words.join("\n"));
    }
    out
}

pub(crate) fn influence(answer: &Influence) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "The next aggregate on {}, on {}{}\n",
        short(&answer.parent),
        answer.set,
        examples(answer.n)
    );
    let mut rows = Rows::new(&["metric", "parent", "aggregate", ""]).right(&[1, 2]);
    for metric in &answer.metrics {
        let (base, value) = (metric.base.map_or_else(|| "-".to_owned(), number), number(metric.value));
        rows.row([metric.name.clone(), base, value, verdict(metric).into()]);
    }
    let _ = writeln!(out, "{}\n", rows.text());
    let mut rows = Rows::new(&["left out", "by", "metric", "without it", "it adds", ""]).right(&[3, 4]);
    for input in &answer.inputs {
        for metric in &answer.metrics {
            let without = input.without.get(&metric.name).copied();
            let beside = Measured { base: without, ..metric.clone() };
            rows.row([
                short(&input.commit).into(),
                input.by.clone(),
                metric.name.clone(),
                without.map_or_else(|| "-".to_owned(), number),
                input.adds.get(&metric.name).map_or_else(|| "-".to_owned(), |adds| format!("{adds:+.4}")),
                verdict(&beside).into(),
            ]);
        }
    }
    let _ = writeln!(out, "{}\n\nNothing was published.", rows.text());
    out
}

/// Whether a commit is better than its base, in a word.
fn verdict(metric: &Measured) -> &'static str {
    let order = metric.base.and_then(|base| metric.value.partial_cmp(&base));
    match (order, metric.better == "higher") {
        (None, _) => "",
        (Some(Ordering::Equal), _) => "the same",
        (Some(Ordering::Greater), true) | (Some(Ordering::Less), false) => "better",
        _ => "worse",
    }
}

fn examples(n: u64) -> String {
    if n == 0 { String::new() } else { format!(", n = {n}") }
}

/// What somebody measured, in a line: `auc 0.81 → 0.83, Site B, n = 412`.
pub(crate) fn line(evaluation: &Evaluation) -> String {
    let metric = |metric: &Measured| match metric.base {
        Some(base) => format!("{} {} → {}", metric.name, number(base), number(metric.value)),
        None => format!("{} {}", metric.name, number(metric.value)),
    };
    let metrics: Vec<String> = evaluation.metrics.iter().map(metric).collect();
    format!("{}, {}{}", metrics.join(", "), evaluation.by, examples(evaluation.n))
}

/// Each person's last evaluation on each set.
pub(crate) fn last(all: &[Evaluation]) -> impl Iterator<Item = &Evaluation> {
    all.iter().enumerate().filter_map(|(place, one)| {
        let mut later = all.iter().skip(place + 1);
        (!later.any(|other| (&other.person, &other.set) == (&one.person, &one.set))).then_some(one)
    })
}
