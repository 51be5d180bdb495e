//! Bundles in words.

use std::fmt::Write as _;

use flair_node::api::types::{BundleApplied, BundleContent};

use super::text::{bytes, count, short};

pub(crate) fn content(answer: &BundleContent) -> String {
    let mut out = format!("{} ({})\n", answer.file, bytes(answer.bytes));
    let name = if answer.name.is_empty() { "" } else { &answer.name };
    let _ = writeln!(out, "  repository  {} {name}", short(&answer.repo));
    let _ = writeln!(
        out,
        "  has         {}, {}",
        count(answer.operations, "operation", "operations"),
        count(answer.commits, "model", "models")
    );
    if answer.since.is_empty() {
        let _ = writeln!(out, "  stands alone");
    } else {
        let since: Vec<&str> = answer.since.iter().map(|id| short(id)).collect();
        let _ = writeln!(out, "  follows     {}", since.join(", "));
    }
    if answer.attested.is_some() {
        let _ = writeln!(out, "  without the history: old aggregates are taken over as members attest them");
    }
    if answer.private {
        let _ = writeln!(
            out,
            "  private: it is not encrypted, whoever has the file can read it. Give it to members only"
        );
    }
    for note in &answer.notes {
        let _ = writeln!(out, "  {note}");
    }
    out
}

pub(crate) fn applied(answer: &BundleApplied) -> String {
    let mut out = format!(
        "{}: {}, {}, {} run\n",
        if answer.name.is_empty() { short(&answer.repo) } else { &answer.name },
        count(answer.operations, "new operation", "new operations"),
        count(answer.commits, "new model", "new models"),
        count(answer.aggregates, "aggregate", "aggregates"),
    );
    for note in &answer.notes {
        let _ = writeln!(out, "{note}");
    }
    out
}
