//! The policy.

use std::fmt::Write as _;

use flair_node::api::types::{Delegate, PolicyShown};

use super::{Rows, short};

pub(crate) fn shown(answer: &PolicyShown) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "Policy {}, version {}", short(&answer.revision), answer.version);
    let name = |delegate: &Delegate| format!("{}{}", delegate.name, if delegate.me { " (you)" } else { "" });
    let delegates: Vec<String> = answer.delegates.iter().map(name).collect();
    let _ = writeln!(
        out,
        "Delegates: {}; {} of {} decide\n",
        delegates.join(", "),
        answer.threshold,
        delegates.len()
    );
    for words in &answer.words {
        let _ = writeln!(out, "{words}");
    }
    if answer.frozen {
        let _ = writeln!(
            out,
            "\nFrozen: approved revisions contradict each other. The delegates choose with `flair policy resolve`."
        );
    }
    if !answer.revisions.is_empty() {
        let mut rows = Rows::new(&["revision", "version", "status", "by", "approved", "changes"]).right(&[1]);
        for revision in &answer.revisions {
            let approvals = &revision.approvals;
            rows.row([
                short(&revision.revision).into(),
                revision.version.to_string(),
                revision.status.clone(),
                revision.by.clone(),
                match revision.version {
                    0 => "-".to_owned(),
                    _ => format!("{} of {}: {}", approvals.len(), revision.needed, approvals.join(", ")),
                },
                match (revision.version, revision.reason.as_str()) {
                    (0, _) => "the first policy".to_owned(),
                    (_, "") => revision.changes.join(" "),
                    (_, reason) => format!("{reason}: {}", revision.changes.join(" ")),
                },
            ]);
        }
        let _ = write!(out, "\n{}", rows.text());
    }
    out.trim_end().to_owned()
}
