//! Aggregates, members, branches, repositories, peers.

use std::fmt::Write as _;

use flair_node::api::types::{
    AggregateInput, Aggregated, Approval, Branch, Member, Peer, Repository, Verified,
};

use super::{Rows, count, number, short};

pub(crate) fn aggregated(answer: &Aggregated) -> String {
    let mut out = String::new();
    let what = match (&answer.model, answer.published) {
        (None, _) => "Would make aggregate",
        (Some(_), true) => "Published aggregate",
        (Some(_), false) => "Made aggregate",
    };
    let _ =
        writeln!(out, "{what} {} on {} ({})", short(&answer.commit), short(&answer.parent), answer.branch);
    let persons = count(answer.persons, "person", "persons");
    let _ = writeln!(out, "Inputs of {persons}, {} needed. {}\n", answer.needed, answer.rule);
    match answer.withstands {
        Some(0) => {
            let _ = writeln!(out, "These are too few persons to withstand anybody dishonest.\n");
        }
        Some(most) => {
            let _ = writeln!(
                out,
                "The result holds if at most {most} of them {} dishonest.\n",
                if most == 1 { "is" } else { "are" }
            );
        }
        None => {}
    }
    let _ = writeln!(out, "{}", inputs(&answer.inputs));
    if let Some(model) = &answer.model {
        let _ = writeln!(out, "\nModel {model}");
    }
    out
}

/// The inputs of an aggregate.
pub(crate) fn inputs(inputs: &[AggregateInput]) -> String {
    let mut rows = Rows::new(&["input", "by", "behind", "weight", "norm", ""]).right(&[2, 3, 4]);
    let maybe = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), number);
    for input in inputs {
        let skipped = input.skipped.as_ref().map(|why| format!("skipped: {why}"));
        let shortened = input.shortened.map(|factor| format!("shortened to {} of it", number(factor)));
        rows.row([
            short(&input.commit).into(),
            input.name.clone(),
            input.staleness.to_string(),
            maybe(input.weight),
            maybe(input.norm),
            skipped.or(shortened).unwrap_or_default(),
        ]);
    }
    rows.text()
}

pub(crate) fn verified(answer: &Verified) -> String {
    if answer.rows.is_empty() {
        return "No aggregate to check yet".into();
    }
    let mut rows = Rows::new(&["aggregate", "holds", "claimed", "found", "time"]).right(&[4]);
    for row in &answer.rows {
        rows.row([
            short(&row.commit).into(),
            if row.holds { "yes" } else { "NO" }.into(),
            short(&row.claimed).into(),
            short(&row.found).into(),
            format!("{} ms", row.millis),
        ]);
    }
    let mut out = rows.text() + "\n";
    if answer.absent > 0 {
        let old = count(answer.absent, "older aggregate was", "older aggregates were");
        let _ = writeln!(
            out,
            "{old} taken as attested, and can be run once all history is here: `flair fetch --full`"
        );
    }
    out.trim_end().into()
}

pub(crate) fn members(members: &[Member]) -> String {
    let mut rows = Rows::new(&["name", "role", "updates", "key", "", "approval"]).right(&[2]);
    for member in members {
        rows.row([
            member.name.clone(),
            member.role.clone(),
            member.updates.to_string(),
            member.person.clone(),
            if member.me { "you" } else { "" }.into(),
            member.approval.as_ref().map_or_else(String::new, approval),
        ]);
    }
    rows.text()
}

/// What allows somebody to take part, in a line.
pub(super) fn approval(approval: &Approval) -> String {
    let document = approval.document.as_ref().map(|hash| format!(", document {hash}")).unwrap_or_default();
    format!("{}{document}, says {}", approval.reference, approval.by)
}

pub(crate) fn branches(branches: &[Branch]) -> String {
    let mut rows = Rows::new(&["", "branch", "head", "aggregates", "pending"]).right(&[3, 4]);
    let mut branches: Vec<&Branch> = branches.iter().collect();
    branches.sort_by(|a, b| a.name.cmp(&b.name));
    for branch in branches {
        rows.row([
            if branch.current { "*" } else { "" }.into(),
            branch.name.clone(),
            branch.head.as_deref().map_or("-", short).into(),
            branch.aggregates.to_string(),
            branch.pending.to_string(),
        ]);
    }
    rows.text()
}

pub(crate) fn repositories(repositories: &[Repository]) -> String {
    if repositories.is_empty() {
        return "No repository here yet: `flair init` starts one, `flair clone` gets one".into();
    }
    let mut rows = Rows::new(&["repository", "id", "read by", "role", "followed", "branches", "folders"]);
    for repository in repositories {
        let branches: Vec<String> = repository
            .branches
            .iter()
            .map(|branch| format!("{} {}", branch.name, branch.head.as_deref().map_or("-", short)))
            .collect();
        rows.row([
            repository.name.clone(),
            short(&repository.repo).into(),
            match (repository.private, repository.operations) {
                (_, 0) => "-",
                (true, _) => "members (private)",
                (false, _) => "everybody",
            }
            .into(),
            repository.role.clone(),
            if repository.seeding { "yes" } else { "no" }.into(),
            branches.join(", "),
            repository.folders.join(", "),
        ]);
    }
    rows.text()
}

pub(crate) fn peers(peers: &[Peer]) -> String {
    if peers.is_empty() {
        return "No peer is connected".into();
    }
    let mut rows = Rows::new(&["peer", "name", "state", "addresses"]);
    for peer in peers {
        let state = match (peer.banned, peer.connected) {
            (true, _) => "banned",
            (false, true) => "connected",
            (false, false) => "away",
        };
        rows.row([
            peer.key.clone(),
            peer.name.clone().unwrap_or_default(),
            state.into(),
            peer.addresses.join(" "),
        ]);
    }
    rows.text()
}
