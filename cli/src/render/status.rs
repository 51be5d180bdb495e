//! Where folder and repository stand.

use std::fmt::Write as _;

use flair_node::api::types::{Status, WorkStatus};

use super::{count, short, time, warn};

pub(crate) fn status(answer: &Status) -> String {
    let mut out = String::new();
    let private = if answer.private { ", private" } else { "" };
    let _ =
        writeln!(out, "Repository {} ({}){private}, role {}", answer.name, short(&answer.repo), answer.role);
    let node = match (answer.node, answer.peers) {
        (false, _) => "not running: nothing is sent or fetched".to_owned(),
        (true, peers) => format!("running, {}", count(peers, "peer", "peers")),
    };
    let _ = writeln!(out, "Node {node}");
    let head = match (&answer.head, answer.head_verified, answer.head_attested.join(", ")) {
        (None, ..) => "no commit yet".to_owned(),
        (Some(head), false, _) => format!("head {} (not checked here yet)", short(head)),
        (Some(head), true, people) if people.is_empty() => format!("head {}", short(head)),
        (Some(head), true, people) => format!("head {} (as attested by {people}, not run here)", short(head)),
    };
    let _ = writeln!(out, "Branch {}, {head}", answer.branch);
    if let Some(trust) = &answer.trust {
        let _ = writeln!(out, "Trust {trust}");
    }
    if let Some(history) = &answer.history {
        let _ = writeln!(out, "History {history}");
    }
    if let Some(work) = &answer.work {
        folder(&mut out, work);
    }
    if let Some(update) = &answer.last_update {
        let _ = writeln!(out, "Last update {} {}", short(&update.commit), update.words);
    }
    let persons = count(answer.persons, "person", "persons");
    let pending = count(answer.pending, "update", "updates");
    let _ =
        writeln!(out, "Pending {pending} from {persons}, {} needed for the next aggregate", answer.needed);
    for join in &answer.joins {
        let _ = writeln!(
            out,
            "Join request of {} ({}), {}: `flair member grant`",
            join.name,
            join.person,
            time(join.time)
        );
    }
    for proposed in &answer.proposed {
        let _ = writeln!(out, "Proposed {proposed}");
    }
    for asked in &answer.asked {
        let _ = writeln!(out, "Asked {asked}");
    }
    let _ = writeln!(out, "Privacy {}", answer.privacy);
    warn(&mut out, &answer.warnings);
    out
}

fn folder(out: &mut String, work: &WorkStatus) {
    let behind = match work.behind {
        Some(0) => "up to date".to_owned(),
        Some(behind) => format!("{} behind: `flair pull`", count(behind, "commit", "commits")),
        None => "not on the head's path".to_owned(),
    };
    let _ = writeln!(out, "Base {}, {behind}", short(&work.base));
    for change in &work.changes {
        let _ = write!(out, "Changed {}: {}", change.file, change.state);
        if change.count > 0 {
            let _ = write!(out, ", {} of {}", change.count, count(change.total, "tensor", "tensors"));
        }
        out.push('\n');
    }
    if let [first, others @ ..] = work.local.as_slice() {
        let more = if others.is_empty() { String::new() } else { format!(" and {} more", others.len()) };
        let _ = writeln!(out, "Local {first}{more}: this site's own, in no commit");
    }
    if work.changes.is_empty() {
        let _ = writeln!(out, "Changed nothing since the last commit");
    }
    for draft in &work.drafts {
        let _ = writeln!(
            out,
            "Draft {} {}, {}: `flair push` publishes it",
            short(&draft.id),
            draft.message,
            count(draft.examples, "example", "examples")
        );
        if let Some(claim) = &draft.privacy {
            let _ = writeln!(out, "  claims {claim}");
        }
    }
    for queued in &work.queued {
        let _ = writeln!(out, "Queued {}: leaves with the next connection", short(queued));
    }
}
