//! History as a drawing: the head's path downwards, each aggregate with its inputs beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use flair_node::api::types::{Log, LogEntry};

use super::history::summary;
use super::{short, time};

pub(crate) fn log(answer: &Log) -> String {
    let by_id: BTreeMap<&str, &LogEntry> =
        answer.entries.iter().map(|entry| (entry.commit.as_str(), entry)).collect();
    let inputs: BTreeSet<&str> =
        answer.entries.iter().flat_map(|entry| &entry.inputs).map(String::as_str).collect();
    let (path, apart): (Vec<&LogEntry>, Vec<&LogEntry>) = answer
        .entries
        .iter()
        .filter(|entry| !inputs.contains(entry.commit.as_str()))
        .partition(|entry| entry.in_head && entry.kind != "update");
    let mut out = String::new();
    for entry in apart {
        let _ = writeln!(out, "| o {}", line(entry));
    }
    for entry in path {
        let _ = writeln!(out, "*   {}", line(entry));
        if entry.inputs.is_empty() {
            continue;
        }
        let _ = writeln!(out, "|\\");
        for input in &entry.inputs {
            let text = by_id.get(input.as_str()).map_or_else(|| short(input).to_owned(), |entry| line(entry));
            let _ = writeln!(out, "| o {text}");
        }
        let _ = writeln!(out, "|/");
    }
    if out.is_empty() {
        return format!("Branch {} has no commit yet", answer.branch);
    }
    out
}

fn line(entry: &LogEntry) -> String {
    let state =
        if entry.in_head && entry.state == "in-head" { String::new() } else { format!("[{}] ", entry.state) };
    format!("{} {} {} {state}{}", short(&entry.commit), time(entry.time), entry.name, summary(entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(commit: &str, kind: &str, state: &str, inputs: &[&str]) -> LogEntry {
        LogEntry {
            commit: commit.into(),
            kind: kind.into(),
            author: String::new(),
            name: "ana".into(),
            time: 0,
            message: format!("about {commit}"),
            parent: None,
            inputs: inputs.iter().map(|input| (*input).into()).collect(),
            examples: 0,
            metrics: Vec::new(),
            privacy: None,
            evaluations: Vec::new(),
            in_head: state != "pending",
            state: state.into(),
            attestations: 0,
            refutations: 0,
        }
    }

    #[test]
    fn aggregates_are_drawn_with_their_inputs_and_what_waits_above() {
        let log = Log {
            branch: "main".into(),
            head: Some("c".into()),
            entries: vec![
                entry("d", "update", "pending", &[]),
                entry("c", "aggregate", "head", &["a", "b"]),
                entry("a", "update", "in-head", &[]),
                entry("i", "initial", "in-head", &[]),
            ],
        };
        let drawn = super::log(&log).replace("1970-01-01 00:00 ana ", "");
        assert_eq!(
            drawn,
            "| o d [pending] about d\n*   c [head] about c\n|\\\n| o a about a\n| o b\n|/\n*   i about i\n"
        );
    }
}
