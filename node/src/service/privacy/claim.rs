//! What drafts together claim of privacy.

use flair_aggregation::privacy::account;
use flair_protocol::commit::Privacy;
use flair_protocol::limits;

use super::Asked;
use crate::api::types::{PrivacyClaim, Problem};
use crate::folder::{DraftRecord, Private};
use crate::home::Decimal;
use crate::privacy::{ACCOUNTANT, SITE, epsilon, mu, upwards};

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
    if drafts.iter().any(|draft| draft.privacy.is_some()) && drafts.iter().any(|draft| draft.claim.is_some())
    {
        return Err(mixed());
    }
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

/// What an update made of these drafts claims.
pub(crate) fn claimed(drafts: &[DraftRecord]) -> Result<Option<Privacy>, Problem> {
    match combined(drafts)? {
        Some(private) => Ok(Some(claim(&private))),
        None => stated(drafts),
    }
}

/// What a draft claims by itself.
pub(crate) fn said(draft: &DraftRecord) -> Option<Privacy> {
    draft.privacy.as_ref().map(claim).or_else(|| draft.claim.clone())
}

/// What drafts claim together of training that was private itself. Their ε and δ add up, which holds for any mechanisms
/// in a row (Dwork and Roth 2014, theorem 3.16), and may be more than an accountant would say.
pub(crate) fn stated(drafts: &[DraftRecord]) -> Result<Option<Privacy>, Problem> {
    let mut all = drafts.iter().map(|draft| draft.claim.as_ref());
    let Some(Some(first)) = all.next() else {
        return if all.flatten().next().is_none() { Ok(None) } else { Err(unclaimed()) };
    };
    let mut together = first.clone();
    for one in all {
        let one = one.ok_or_else(unclaimed)?;
        let alike = Privacy { steps: 0, epsilon: String::new(), delta: String::new(), ..one.clone() };
        if alike != (Privacy { steps: 0, epsilon: String::new(), delta: String::new(), ..first.clone() }) {
            return Err(Problem::conflict(
                "the draft before claims privacy in another way: one update can't claim two",
            )
            .help("`flair push` first: then this is an update of its own"));
        }
        together.steps = together.steps.saturating_add(one.steps);
        together.epsilon = sum(&together.epsilon, &one.epsilon);
        together.delta = sum(&together.delta, &one.delta);
    }
    Ok(Some(together))
}

fn sum(a: &str, b: &str) -> String {
    let value = |text: &str| text.parse::<f64>().unwrap_or(f64::INFINITY);
    upwards(value(a) + value(b))
}

fn unclaimed() -> Problem {
    Problem::conflict(
        "one draft claims privacy of its training and another does not: the update could claim none",
    )
    .help("`flair push` first: then each is an update of its own")
}

/// Reads a claim as it is stated with a commit. Nobody can check one; this only keeps it readable.
pub(crate) fn read(claim: &PrivacyClaim) -> Result<Privacy, Problem> {
    let wrong = |name: &str, why: String| Problem::invalid(format!("the privacy claim's {name}: {why}"));
    if !["example", "person"].contains(&claim.unit.as_str()) {
        let why = "it is `example` or `person`; for a site there is `--dp`".to_owned();
        return Err(wrong("unit", why));
    }
    for (name, text) in [
        ("neighbouring", &claim.neighbouring),
        ("mechanism", &claim.mechanism),
        ("accountant", &claim.accountant),
    ] {
        let plain = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
        if text.is_empty() || text.len() > limits::NAME || !text.bytes().all(plain) {
            return Err(wrong(name, "a few plain words are needed".to_owned()));
        }
    }
    if claim.steps == 0 {
        return Err(wrong("steps", "0 is no number of steps".to_owned()));
    }
    let number = |name: &str, text: &str, most: f64| match Decimal::parse(text) {
        Ok(number) if number.value() <= most => Ok(number.as_str().to_owned()),
        Ok(number) => Err(wrong(name, format!("{} is more than {most}", number.as_str()))),
        Err(why) => Err(wrong(name, why)),
    };
    Ok(Privacy {
        unit: claim.unit.clone(),
        neighbouring: claim.neighbouring.clone(),
        mechanism: claim.mechanism.clone(),
        clip: number("clip", &claim.clip, f64::MAX)?,
        noise: number("noise", &claim.noise, f64::MAX)?,
        sampling: number("sampling", &claim.sampling, 1.0)?,
        steps: claim.steps,
        epsilon: number("epsilon", &claim.epsilon, f64::MAX)?,
        delta: number("delta", &claim.delta, 1.0)?,
        accountant: claim.accountant.clone(),
    })
}

/// What an update made of noised drafts claims.
fn claim(private: &Private) -> Privacy {
    let steps = private.releases.len();
    let mu = account::compose(std::iter::repeat_n(mu(&private.noise), steps));
    Privacy {
        unit: SITE.to_owned(),
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
