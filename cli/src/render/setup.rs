//! Repositories that were started or fetched, and tickets.

use std::fmt::Write as _;

use flair_node::api::types::{Cloned, Imported, ImportedFile, Initialised, TicketMade};

use super::{Rows, bytes, count, short};

pub(crate) fn initialised(answer: &Initialised) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "Repository {} is {}", answer.name, answer.repo);
    let _ = writeln!(out, "Branch {} starts at commit {}", answer.branch, short(&answer.commit));
    let _ = writeln!(out, "Folder {}", answer.folder);
    if !answer.side.is_empty() {
        let _ = writeln!(out, "With {}", answer.side.join(", "));
    }
    if !answer.others.is_empty() {
        let _ = writeln!(out, "Not of the model: {}", answer.others.join(", "));
    }
    let _ = writeln!(out);
    let mut rows = Rows::new(&["role", "tensors", "numbers", "one of them", "aggregation"]).right(&[1, 2]);
    for role in &answer.roles {
        rows.row([
            role.role.clone(),
            role.tensors.to_string(),
            role.elements.to_string(),
            role.example.clone(),
            role.treatment.clone(),
        ]);
    }
    let _ = writeln!(out, "{}\n\nPolicy:", rows.text());
    for sentence in &answer.policy {
        let _ = writeln!(out, "- {sentence}");
    }
    out
}

pub(crate) fn imported(answer: &Imported) -> String {
    answer.files.iter().map(imported_file).collect()
}

fn imported_file(file: &ImportedFile) -> String {
    let mut out = String::new();
    let tensors = count(file.tensors, "tensor", "tensors");
    let of = file.key.as_ref().map(|key| format!(" of `{key}`")).unwrap_or_default();
    let _ = writeln!(out, "Wrote {} ({tensors}{of}, {})", file.output, bytes(file.bytes));
    for prefix in &file.prefixes {
        let tensors = count(prefix.tensors, "name", "names");
        let _ = if prefix.stripped {
            writeln!(out, "Took `{}` off {tensors}", prefix.prefix)
        } else {
            writeln!(
                out,
                "{tensors} have `{}`, which a wrapper put there: `--strip` takes it off",
                prefix.prefix
            )
        };
    }
    for tied in &file.tied {
        let _ = writeln!(out, "`{}` is tied to `{}` and written once", tied.name, tied.kept);
    }
    for left in &file.left {
        let _ = writeln!(out, "Left out `{}`: {}", left.key, left.what);
    }
    if file.more > 0 {
        let _ = writeln!(out, "Left out {} more", file.more);
    }
    out
}

pub(crate) fn ticket_notes(answer: &TicketMade) -> String {
    let mut out = String::new();
    if let (Some(role), Some(uses)) = (&answer.role, answer.uses) {
        let who = count(uses, "person", "persons");
        let _ = writeln!(out, "Ticket to {} for {who} as {role}: send it like a password", answer.name);
    } else {
        let _ = writeln!(out, "Ticket to {}", answer.name);
        if answer.private {
            let _ = writeln!(
                out,
                "The repository is private: who has this ticket gets nothing until they have a role. Ask for their key \
                     (`flair id`) and give them one: `flair member grant did:key:z6Mk… --role reader`"
            );
        }
    }
    super::warn(&mut out, &answer.warnings);
    out.trim_end().into()
}

pub(crate) fn cloned(answer: &Cloned) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "Repository {} is in {}", answer.name, answer.folder);
    let _ = writeln!(out, "Branch {} at commit {}", answer.branch, short(&answer.commit));
    let _ = writeln!(out, "Role {}", answer.role);
    for words in answer.join.iter().chain(&answer.notes) {
        let _ = writeln!(out, "{words}");
    }
    out
}
