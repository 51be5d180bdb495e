//! Looking back.

use std::fmt::Write as _;

use flair_node::api::types::{Diff, Log, LogEntry, MetricValue, Shown};

use super::together::inputs;
use super::{Rows, bytes, count, evaluation, number, review, short, time};

pub(crate) fn log(answer: &Log) -> String {
    if answer.entries.is_empty() {
        return format!("Branch {} has no commit yet", answer.branch);
    }
    let mut rows = Rows::new(&["commit", "kind", "time", "by", "state", "message"]);
    for entry in &answer.entries {
        rows.row([
            short(&entry.commit).into(),
            entry.kind.clone(),
            time(entry.time),
            entry.name.clone(),
            entry.state.clone(),
            summary(entry),
        ]);
    }
    rows.text()
}

/// Message and measurements in a line.
pub(crate) fn summary(entry: &LogEntry) -> String {
    let mut text = entry.message.lines().next().unwrap_or_default().to_owned();
    if entry.examples > 0 {
        let _ = write!(text, " ({})", count(entry.examples, "example", "examples"));
    }
    for measured in &entry.metrics {
        let _ = write!(text, " {}", metric(measured));
    }
    if let Some(claim) = &entry.privacy {
        let _ = write!(text, "; {}", claim.split(" (").next().unwrap_or_default());
    }
    for by in evaluation::last(&entry.evaluations) {
        let _ = write!(text, "; {}", evaluation::line(by));
    }
    text.trim_start_matches([';', ' ']).into()
}

pub(super) fn metric(metric: &MetricValue) -> String {
    format!("{}/{}={}", metric.split, metric.name, number(metric.value))
}

pub(crate) fn shown(answer: &Shown) -> String {
    let entry = &answer.entry;
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = writeln!(out, "{name:<12}{value}");
        }
    };
    line("commit", &entry.commit);
    line("private", if answer.private { "only members can read it" } else { "" });
    line("kind", &entry.kind);
    line("state", if answer.words.is_empty() { &entry.state } else { &answer.words });
    line("branch", &answer.branch);
    line("by", &format!("{} {}", entry.name, entry.author));
    line("time", &time(entry.time));
    line(if entry.kind == "update" { "base" } else { "parent" }, entry.parent.as_deref().unwrap_or_default());
    line("model", answer.model.as_deref().unwrap_or("not known here yet"));
    if answer.bytes > 0 {
        let size = format!("{} as files, {} in its pack", bytes(answer.bytes), bytes(answer.pack_bytes));
        line("size", &size);
    }
    let here = match (answer.here, answer.verified) {
        (_, true) => "yes, and checked by this node",
        (true, false) if !answer.claims.is_empty() => "yes, as others attest it; this node has not run it",
        (true, false) => "yes",
        (false, false) => "not yet",
    };
    line("here", here);
    if entry.examples > 0 {
        line("examples", &format!("{} (as the author says)", entry.examples));
    }
    // The examples are in the line above.
    for field in answer.training.iter().filter(|field| field.name != "examples") {
        line(&field.name, &field.value);
    }
    let metrics: Vec<String> = entry.metrics.iter().map(metric).collect();
    line("metrics", &metrics.join(" "));
    if let Some(claim) = &entry.privacy {
        line("privacy", &format!("{claim}, as the author says"));
    }
    line("message", &entry.message);
    for claim in &answer.claims {
        line("claim", &claim.model);
        line("  attested", &claim.supporters.join(", "));
        line("  refuted", &claim.refuters.join(", "));
    }
    for by in &entry.evaluations {
        line("evaluated", &format!("{} ({})", evaluation::line(by), by.set));
        line("  data", &by.data);
        line("  code", by.code.as_deref().unwrap_or("not named"));
    }
    for review in &answer.reviews {
        line("review", &review::said(review));
    }
    if !answer.inputs.is_empty() {
        let _ = writeln!(out, "\n{}", inputs(&answer.inputs));
    }
    out
}

pub(crate) fn diff(answer: &Diff) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} and {}", name(&answer.a), name(&answer.b));
    if !answer.rows.is_empty() {
        let headings = ["tensor", "dtype", "shape", "L2", "relative", "cosine", "max", "changed"];
        let mut rows = Rows::new(&headings).right(&[3, 4, 5, 6, 7]);
        let maybe = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
        for row in &answer.rows {
            let shape: Vec<String> = row.shape.iter().map(ToString::to_string).collect();
            rows.row([
                row.name.clone(),
                row.dtype.clone(),
                shape.join("×"),
                number(row.l2),
                maybe(row.relative),
                maybe(row.cosine),
                number(row.max),
                format!("{:.1} %", row.changed * 100.0),
            ]);
        }
        let _ = writeln!(out, "{}", rows.text());
    }
    if let Some(total) = answer.total.as_ref().filter(|_| answer.rows.len() > 1) {
        let (l2, max, changed) = (number(total.l2), number(total.max), total.changed * 100.0);
        let _ = writeln!(out, "Together: L2 {l2}, max {max}, {changed:.1} % of all numbers changed");
    }
    for row in answer.rows.iter().filter(|row| row.not_finite > 0) {
        let numbers = count(row.not_finite, "NaN or infinity", "NaNs or infinities");
        let _ = writeln!(out, "{} has {numbers}, left out of the figures", row.name);
    }
    for words in &answer.reshaped {
        let _ = writeln!(out, "{words}");
    }
    for (names, whose) in [(&answer.only_a, &answer.a), (&answer.only_b, &answer.b)] {
        if !names.is_empty() {
            let _ = writeln!(out, "Only in {}: {}", name(whose), names.join(", "));
        }
    }
    let differ = count(answer.rows.len() as u64, "tensor differs", "tensors differ");
    let _ = writeln!(out, "{differ}, {} equal", answer.same);
    let _ = match &answer.incompatible {
        None => writeln!(out, "One can be aggregated onto the other"),
        Some(reason) => writeln!(out, "One can't be aggregated onto the other: {reason}"),
    };
    out
}

/// An id by its beginning, anything else (a branch, words) as it is.
fn name(text: &str) -> &str {
    if text.len() > 40 && !text.contains(' ') { short(text) } else { text }
}
