//! Reviews.

use std::fmt::Write as _;

use flair_node::api::types::{Review, Reviewed};

use super::{Rows, short};

pub(crate) fn waiting(waiting: &[Reviewed]) -> String {
    if waiting.is_empty() {
        return "Nothing waits for a review".into();
    }
    let mut rows = Rows::new(&["commit", "kind", "branch", "by", "accepts", "", "message"]);
    for update in waiting {
        rows.row([
            short(&update.commit).into(),
            update.kind.clone(),
            update.branch.clone(),
            update.by.clone(),
            format!("{} of {}", update.accepts, update.needed),
            if update.mine { "for you" } else { "" }.into(),
            update.message.clone(),
        ]);
    }
    let mut out = rows.text();
    for update in waiting.iter().filter(|update| !update.reviews.is_empty() || !update.evaluations.is_empty())
    {
        let _ = write!(out, "\n\n{}", short(&update.commit));
        for lacking in &update.evaluations {
            let _ = write!(out, "\n  waits for evaluations: {lacking}");
        }
        for review in &update.reviews {
            let _ = write!(out, "\n  {}", said(review));
        }
    }
    out
}

/// Who says what, in a line.
pub(crate) fn said(review: &Review) -> String {
    let text = if review.text.is_empty() { String::new() } else { format!(": {}", review.text) };
    format!("{} by {}{text}", review.judgement, review.by)
}
