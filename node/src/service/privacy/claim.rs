//! What drafts together claim of privacy.

use flair_aggregation::privacy::account;
use flair_protocol::commit::Privacy;

use super::Asked;
use crate::api::types::Problem;
use crate::folder::{DraftRecord, Private};
use crate::privacy::{ACCOUNTANT, epsilon, mu, upwards};

/// Whether drafts are noised already, in the same way; then the next one follows them.
pub(super) fn chained(drafts: &[DraftRecord], asked: &Asked) -> Result<bool, Problem> {
    let Some(private) = drafts.last().and_then(|draft| draft.privacy.as_ref()) else { return Ok(false) };
    if private.clip == asked.clip && private.noise == asked.noise {
        return Ok(true);
    }
    let (clip, noise) = (private.clip.as_str(), private.noise.as_str());
    Err(Problem::conflict(format!(
        "the draft before was made with `--dp clip={clip},noise={noise}`: one update can't claim two"
    ))
    .help("use the same, or `flair push` first"))
}

/// How drafts together were made private: all in the same way, or none.
pub(crate) fn combined(drafts: &[DraftRecord]) -> Result<Option<Private>, Problem> {
    let mut all = drafts.iter().map(|draft| draft.privacy.as_ref());
    let Some(Some(first)) = all.next() else {
        return match all.flatten().next() {
            None => Ok(None),
            Some(_) => Err(mixed()),
        };
    };
    let mut together = first.clone();
    for one in all {
        match one {
            Some(one) if one.clip == first.clip && one.noise == first.noise => {
                together.releases.extend(&one.releases);
                together.delta = one.delta.clone();
            }
            _ => return Err(mixed()),
        }
    }
    Ok(Some(together))
}

/// Drafts of which some were noised and some were not.
pub(crate) fn mixed() -> Problem {
    Problem::conflict(
        "the draft before was made with `--dp`, and this would follow it without: the update could claim no privacy",
    )
    .help("commit with `--dp` too, or `flair push` first: then this is an update of its own")
}

/// What an update made of such drafts claims.
pub(crate) fn claim(private: &Private) -> Privacy {
    let steps = private.releases.len();
    let mu = account::compose(std::iter::repeat_n(mu(&private.noise), steps));
    Privacy {
        unit: "site".to_owned(),
        neighbouring: "zero-out".to_owned(),
        mechanism: "gaussian".to_owned(),
        clip: private.clip.as_str().to_owned(),
        noise: private.noise.as_str().to_owned(),
        sampling: "1".to_owned(),
        steps: steps as u64,
        epsilon: upwards(epsilon(mu, &private.delta)),
        delta: private.delta.as_str().to_owned(),
        accountant: ACCOUNTANT.to_owned(),
    }
}
