//! What was decided about a branch.

use std::fmt::Write as _;

use flair_node::api::types::{Merged, Stepped, Taken};

use super::{count, short};

pub(crate) fn stepped(answer: &Stepped) -> String {
    let mut out = String::new();
    let (branch, target) = (&answer.branch, answer.target.as_deref().map_or("", short));
    let done = match (&answer.commit, &answer.merged) {
        (None, Some(_)) => {
            Some(format!("Would merge {target} into branch {branch}, at head {}", short(&answer.parent)))
        }
        (Some(commit), Some(_)) if answer.in_head => {
            Some(format!("Merged {target} into branch {branch}, by {} {}", answer.kind, short(commit)))
        }
        (Some(commit), Some(_)) => {
            Some(format!("Proposed {} {}: {target} into branch {branch}", answer.kind, short(commit)))
        }
        (_, None) => None,
    };
    let _ = match &answer.commit {
        _ if done.is_some() => writeln!(out, "{}", done.unwrap_or_default()),
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
    if let Some(merged) = &answer.merged {
        merge(&mut out, merged);
    }
    list(&mut out, "Out of the head", &answer.out);
    let back = if answer.merged.is_some() { "Comes in" } else { "Back in the head" };
    list(&mut out, back, &answer.back);
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

/// What a merge came to.
fn merge(out: &mut String, merged: &Merged) {
    let _ = writeln!(out, "{}", merged.words);
    let _ = writeln!(
        out,
        "Model {}: {:.4} from the branch, {:.4} from what is merged (L2); common ancestor {}",
        short(&merged.model),
        merged.from_branch,
        merged.from_other,
        short(&merged.common)
    );
    if let Some(([ours, theirs], [kept, others])) = merged.changed.zip(merged.kept) {
        let _ = writeln!(
            out,
            "Of {} the branch changed {ours}, of which {kept} are kept, and the other {theirs}, of which {others}; {} in \
             opposite directions",
            count(merged.elements, "number", "numbers"),
            merged.opposed
        );
    }
    if merged.not_finite > 0 {
        let _ = writeln!(out, "{} keep the branch's value: no number came out", merged.not_finite);
    }
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
