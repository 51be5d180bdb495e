//! Drafts, pushes, and folders that move.

use std::fmt::Write as _;

use flair_node::api::types::{Committed, ExternalBase, Moved, Pushed, ResetDone};

use super::{Rows, bytes, count, privacy, short, warn};

pub(crate) fn committed(answer: &Committed) -> String {
    let draft = &answer.draft;
    let mut out = String::new();
    let _ = writeln!(
        out,
        "Draft {} changes {} of {}",
        short(&draft.id),
        draft.changed,
        count(answer.total, "tensor", "tensors")
    );
    if let Some(private) = &answer.privacy {
        out.push_str(&privacy::draft(private));
    }
    warn(&mut out, &answer.warnings);
    out
}

pub(crate) fn pushed(answer: &Pushed) -> String {
    let mut out = String::new();
    match &answer.commit {
        None => {
            let step = answer.fields.iter().any(|field| field.name.starts_with("change."));
            let what = if step { "commit" } else { "update" };
            let _ = writeln!(out, "Would publish one {what} on {}. What would leave:\n", short(&answer.base));
            let mut blobs = Rows::new(&["blob", "size", "what"]).right(&[1]);
            for blob in &answer.blobs {
                blobs.row([short(&blob.id).into(), bytes(blob.bytes), blob.what.clone()]);
            }
            let mut fields = Rows::new(&["field", "value"]);
            for field in &answer.fields {
                fields.row([field.name.clone(), field.value.clone()]);
            }
            let _ = writeln!(out, "{}\n\n{}\n\n{} in all", blobs.text(), fields.text(), bytes(answer.bytes));
        }
        Some(commit) => {
            let size = bytes(answer.bytes);
            let _ = writeln!(out, "Published {} on {}, {size}", short(commit), short(&answer.base));
            let _ = match answer.peers {
                0 => writeln!(out, "Nobody is connected: it leaves with the next connection"),
                peers => writeln!(out, "Told {}", count(peers, "peer", "peers")),
            };
        }
    }
    warn(&mut out, &answer.warnings);
    out
}

pub(crate) fn external(answer: &ExternalBase) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "External base {} ({})", answer.name, count(answer.tensors, "tensor", "tensors"));
    let _ = match (&answer.path, answer.checked) {
        (Some(path), true) => writeln!(out, "Here, and the same: {path}"),
        (Some(path), false) => {
            writeln!(out, "{path} is not there or changed: check again with `flair external-base <path>`")
        }
        (None, _) => writeln!(out, "Not checked on this machine: `flair external-base <path>`"),
    };
    out
}

pub(crate) fn moved(answer: &Moved) -> String {
    let mut out = String::new();
    if !answer.words.is_empty() {
        let _ = writeln!(out, "{}", answer.words);
    } else if answer.from == answer.to {
        let _ = writeln!(out, "Branch {} at {}", answer.branch, short(&answer.to));
    } else {
        let _ =
            writeln!(out, "Branch {} from {} to {}", answer.branch, short(&answer.from), short(&answer.to));
    }
    for file in &answer.files {
        let _ = writeln!(out, "Wrote {file}");
    }
    warn(&mut out, &answer.warnings);
    out
}

pub(crate) fn reset(answer: &ResetDone) -> String {
    let mut out = String::new();
    for draft in &answer.undone {
        let _ = writeln!(out, "Undid draft {} {}", short(&draft.id), draft.message);
    }
    if answer.undone.is_empty() {
        let _ = writeln!(out, "No draft to undo");
    }
    if answer.left > 0 {
        let _ = writeln!(out, "{} left", count(answer.left, "draft", "drafts"));
    }
    let _ = if answer.restored {
        writeln!(out, "The files are as they were committed")
    } else {
        writeln!(out, "The files keep what was trained")
    };
    out
}
