//! The store: what takes space, what is damaged.

use std::fmt::Write as _;

use flair_node::api::types::{Collected, Du, Fsck};

use super::{Rows, bytes, count, short};

pub(crate) fn usage(answer: &Du) -> String {
    let mut out = String::new();
    if !answer.repositories.is_empty() {
        let headings = ["repository", "branch", "head", "commits", "head's model", "history", "pending"];
        let mut rows = Rows::new(&headings).right(&[3, 4, 5, 6]);
        for repository in &answer.repositories {
            for branch in &repository.branches {
                rows.row([
                    repository.name.clone(),
                    branch.branch.clone(),
                    branch.head.as_deref().map_or("-", short).to_owned(),
                    branch.commits.to_string(),
                    bytes(branch.head_bytes),
                    bytes(branch.history_bytes),
                    bytes(branch.pending_bytes),
                ]);
            }
        }
        let _ = writeln!(out, "{}\n", rows.text());
    }
    for repository in &answer.repositories {
        let _ = writeln!(
            out,
            "{} ({}): {} of {} allowed; drafts {}, on no branch {}, operations {}",
            repository.name,
            short(&repository.repo),
            bytes(repository.bytes),
            bytes(repository.quota),
            bytes(repository.draft_bytes),
            bytes(repository.other_bytes),
            bytes(repository.operation_bytes),
        );
    }
    let quota = answer.quota.map(|quota| format!(" of {} allowed", bytes(quota))).unwrap_or_default();
    let _ = writeln!(out, "Together {}{quota}, {} on disk", bytes(answer.referenced), bytes(answer.disk));
    let _ = write!(out, "Reclaimable {}", bytes(answer.reclaimable));
    if answer.reclaimable > 0 {
        out.push_str(": `flair gc` gives it back");
    }
    let _ = writeln!(out, "\nFree {}", bytes(answer.free));
    out
}

pub(crate) fn collected(answer: &Collected) -> String {
    let mut out = format!("Gave back {}, {} on disk", bytes(answer.freed), bytes(answer.disk));
    if answer.left > 0 {
        let _ = write!(out, "\n{} are in use by work under way", bytes(answer.left));
    }
    out
}

pub(crate) fn checked(answer: &Fsck) -> String {
    let mut out = String::new();
    for damage in &answer.damage {
        let of = if damage.of.is_empty() { "nothing that is known" } else { &damage.of };
        let _ = write!(out, "{} of {of} is {}", short(&damage.blob), damage.problem);
        let _ = match (damage.mended, &damage.why) {
            (true, _) => writeln!(out, ": it is here again"),
            (false, Some(why)) => writeln!(out, ": {why}"),
            (false, None) => writeln!(out),
        };
    }
    let operations = count(answer.operations, "operation", "operations");
    let damaged = if answer.damage.is_empty() {
        "all is well".to_owned()
    } else {
        let mended = answer.damage.iter().filter(|damage| damage.mended).count();
        format!("{} damaged, {mended} mended", answer.damage.len())
    };
    let _ = writeln!(out, "Read {} and {operations}: {damaged}", bytes(answer.bytes));
    out
}
