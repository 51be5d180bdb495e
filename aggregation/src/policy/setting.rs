//! Settings: text with a meaning, a default and a range.
//!
//! A setting is decimal text wherever it is stored and signed, so that no two machines read it differently. Each is
//! declared once, as a [`Setting`], and named by the rules that have it ([`super::registry`]).

use super::PolicyError;
use std::collections::BTreeMap;

/// A setting that rules can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Its name, as in `--set name=value`.
    pub name: &'static str,
    /// What it is when nothing is said.
    pub default: &'static str,
    /// What a value looks like, for error messages: "give …".
    pub expected: &'static str,
    /// What it does, in a few words.
    pub meaning: &'static str,
}

/// The step's scale.
pub(super) const ETA: Setting = Setting {
    name: "eta",
    default: "1",
    expected: "a decimal number above 0 and at most 100, such as 1 or 0.5",
    meaning: "scales the step that the model takes",
};
/// How much less late updates count.
pub(super) const STALENESS: Setting = Setting {
    name: "staleness",
    default: "polynomial:0.5",
    expected: super::staleness::Staleness::EXPECTED,
    meaning: "how much less an update counts that was made on an old aggregate",
};
/// How far claims may lie from the median claim.
pub(super) const CAP: Setting = Setting {
    name: "cap",
    default: "2",
    expected: "a decimal number of at least 1, such as 2, or 'none'",
    meaning: "claimed examples (and steps) count at most this many times the median person's",
};
/// How far a movement may exceed the usual one.
pub(super) const CLIP: Setting = Setting {
    name: "clip",
    default: "3",
    expected: "a decimal number above 0, such as 3, or 'none'",
    meaning: "a person's change is shortened to this many times the median of the last 5 aggregates",
};

/// The settings of one policy, each with its value: what was given, or the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Values(BTreeMap<String, String>);

impl Values {
    /// Fills in what was not given.
    ///
    /// # Errors
    /// A setting that is given and not among the known ones.
    pub(crate) fn new(
        rule: &'static str,
        known: &[Setting],
        given: &BTreeMap<String, String>,
    ) -> Result<Self, PolicyError> {
        let is_known = |name: &str| known.iter().any(|setting| setting.name == name);
        if let Some(unknown) = given.keys().find(|name| !is_known(name)) {
            let known = known.iter().map(|setting| setting.name).collect();
            return Err(PolicyError::Setting { rule, setting: unknown.clone(), known });
        }
        let value = |setting: &Setting| given.get(setting.name).map_or(setting.default, String::as_str);
        Ok(Self(known.iter().map(|setting| (setting.name.to_owned(), value(setting).to_owned())).collect()))
    }

    /// Every setting with its value.
    pub(crate) fn all(&self) -> &BTreeMap<String, String> {
        &self.0
    }

    /// The value of a setting, as `parse` reads it.
    ///
    /// # Errors
    /// What `parse` does not take.
    pub(crate) fn read<T>(
        &self,
        setting: &Setting,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<T, PolicyError> {
        let value = self.0.get(setting.name).map_or(setting.default, String::as_str);
        let wrong =
            || PolicyError::Value { setting: setting.name, value: value.into(), expected: setting.expected };
        parse(value).ok_or_else(wrong)
    }
}

/// Digits with an optional fraction: no sign, exponent, infinity or NaN.
pub(crate) fn decimal(text: &str) -> Option<f64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    if text.len() > 32 || !digits(whole) || !digits(fraction) {
        return None;
    }
    text.parse().ok()
}

/// A whole number in range.
pub(crate) fn count(text: &str, least: u32, most: u32) -> Option<u32> {
    let count = Some(text).filter(|text| digits(text)).and_then(|text| text.parse().ok())?;
    (least..=most).contains(&count).then_some(count)
}

/// `none`, or what `parse` takes.
#[allow(clippy::option_option, reason = "a value that is none is not one that is wrong")]
pub(crate) fn optional<T>(text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<Option<T>> {
    if text == "none" { Some(None) } else { parse(text).map(Some) }
}

/// At least one digit and nothing else.
pub(crate) fn digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
