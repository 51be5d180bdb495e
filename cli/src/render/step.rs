//! What was decided about a branch.

use std::fmt::Write as _;

use flair_node::api::types::{Stepped, Taken};

use super::{count, short};

pub(crate) fn stepped(answer: &Stepped) -> String {
    let mut out = String::new();
    let (branch, target) = (&answer.branch, answer.target.as_deref().map_or("", short));
    let _ = match &answer.commit {
        None => {
            writeln!(out, "Would bring branch {branch} back to {target}, from head {}", short(&answer.parent))
        }
        Some(commit) if answer.in_head => {
            writeln!(out, "Branch {branch} is back at {target}, by {} {}", answer.kind, short(commit))
        }
        Some(commit) => {
            writeln!(out, "Proposed {} {}: branch {branch} back to {target}", answer.kind, short(commit))
        }
    };
    list(&mut out, "Out of the head", &answer.out);
    list(&mut out, "Back in the head", &answer.back);
    if !answer.out.is_empty() {
        out.push_str("This does not unlearn: their updates stay in the history, and nodes keep them.\n");
    }
    if !answer.in_head && answer.accepts < answer.needed {
        let from = match answer.asked.as_slice() {
            [] => "nobody else can give one: add a maintainer, or ask for fewer".to_owned(),
            people => format!("{} can give one with `flair review`", people.join(", ")),
        };
        let _ = writeln!(out, "It waits for accepts, {} of {} so far: {from}", answer.accepts, answer.needed);
    }
    out
}

fn list(out: &mut String, title: &str, commits: &[Taken]) {
    for commit in commits {
        let _ = writeln!(
            out,
            "{title}: {} {}, {}",
            commit.kind,
            short(&commit.commit),
            count(commit.updates.len() as u64, "update", "updates")
        );
        for update in &commit.updates {
            let message = update.message.lines().next().unwrap_or_default();
            let _ = writeln!(out, "  {} {} {message}", short(&update.commit), update.name);
        }
    }
}
