//! Differential privacy: what a commit was made private with, what was spent.

use std::fmt::Write as _;

use flair_node::api::types::{PrivacyLedger, PrivacySpent, PrivateDraft};

use super::{Rows, count, number, short, time};

pub(crate) fn draft(answer: &PrivateDraft) -> String {
    let mut out = String::new();
    let clipped = if answer.factor < 1.0 {
        format!(", clipped to {}", number(answer.norm * answer.factor))
    } else {
        ", not clipped".to_owned()
    };
    let numbers = count(answer.numbers, "number", "numbers");
    let deviation = number(answer.deviation);
    let _ = writeln!(out, "Change L2 {}{clipped}; noise of {deviation} in {numbers}", number(answer.norm));
    if !answer.kept.is_empty() {
        let _ = writeln!(out, "Kept the base's {}", answer.kept.join(", "));
    }
    let _ = writeln!(out, "Privacy ε = {} for this commit, {}", answer.epsilon, spent(&answer.spent));
    let _ = writeln!(out, "The folder holds the noised model now");
    out
}

fn spent(spent: &PrivacySpent) -> String {
    let budget = spent.budget.as_ref().map(|budget| format!(" of {budget}")).unwrap_or_default();
    let releases = count(spent.releases, "release", "releases");
    format!("ε = {}{budget} spent in {releases} (δ = {})", spent.epsilon, spent.delta)
}

pub(crate) fn ledger(answer: &PrivacyLedger) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} ({}): {}", answer.name, short(&answer.repo), spent(&answer.spent));
    match (&answer.spent.budget, &answer.spent.noise) {
        (None, _) => {
            out.push_str("No budget is set: `[privacy] epsilon` in `config.toml` bounds what is spent\n");
        }
        (Some(_), Some(noise)) => {
            let _ = writeln!(out, "Left: one more release with noise={noise}, or several with more");
        }
        (Some(_), None) => out.push_str("Left: nothing\n"),
    }
    if answer.require {
        out.push_str("Commits without `--dp` are refused\n");
    }
    let _ = writeln!(out, "By {}", answer.words);
    if !answer.releases.is_empty() {
        let mut rows =
            Rows::new(&["#", "time", "base", "clip", "noise", "ε alone", "update"]).right(&[0, 3, 4, 5]);
        for release in &answer.releases {
            rows.row([
                release.number.map_or_else(|| "-".to_owned(), |number| number.to_string()),
                time(release.time),
                short(&release.base).to_owned(),
                release.clip.clone(),
                release.noise.clone(),
                release.epsilon.clone(),
                release.commit.as_deref().map_or("not published", short).to_owned(),
            ]);
        }
        let _ = writeln!(out, "\n{}", rows.text());
    }
    if answer.releases.iter().any(|release| release.number.is_none()) {
        out.push_str(
            "\n- is what your key published and this home's ledger does not have: it counts all the same\n",
        );
    }
    out
}
