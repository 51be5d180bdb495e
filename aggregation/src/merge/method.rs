//! The one list of methods: their names, their settings, and what reads them.

use super::dare::Dare;
use super::linear::Linear;
use super::pass::Place;
use super::task::Task;
use super::ties::Ties;
use super::{Statistics, dare, linear, ties};
use crate::policy::{PolicyError, Setting, Values, decimal};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The most that task vectors may be scaled by; beyond it a typing error is likelier than an intention.
const LARGEST_LAMBDA: f64 = 100.0;

/// What task vectors are multiplied by.
pub(super) const LAMBDA: Setting = Setting {
    name: "lambda",
    default: "1",
    expected: "a decimal number above 0 and at most 100, such as 1 or 0.4",
    meaning: "scales what the branches learned before it is added to their common ancestor",
};

/// λ, as a method reads it.
pub(super) fn lambda(values: &Values) -> Result<f64, PolicyError> {
    let fits = |text: &str| decimal(text).filter(|lambda| *lambda > 0.0 && *lambda <= LARGEST_LAMBDA);
    values.read(&LAMBDA, fits)
}

/// What becomes of three values, coordinate by coordinate.
pub(crate) trait Rule: fmt::Debug + Send + Sync {
    /// What it does, in a plain sentence.
    fn explain(&self) -> String;
    /// The second's share of values that are averaged.
    fn weight(&self) -> f64 {
        0.5
    }
    /// Whether the common ancestor's values matter.
    fn looks_at_base(&self) -> bool {
        true
    }
    /// The share of every task vector that is kept, where the smallest changes are left out.
    fn density(&self) -> Option<f64> {
        None
    }
    /// Fills `out` with what the values become.
    fn merge(&self, place: &Place<'_>, values: Values3<'_>, out: &mut [f64], found: &mut Statistics);
}

/// The values of a run of elements in all three models; the base's are the first's where they do not matter.
#[derive(Clone, Copy)]
pub(crate) struct Values3<'a> {
    pub(crate) base: &'a [f64],
    pub(crate) first: &'a [f64],
    pub(crate) second: &'a [f64],
}

impl Values3<'_> {
    /// Every element's values.
    pub(super) fn each(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        let all = self.base.iter().zip(self.first).zip(self.second);
        all.map(|((base, first), second)| (*base, *first, *second))
    }
}

/// A method, as the list has it.
#[derive(Debug)]
pub struct Entry {
    /// Its name in the literature, lower-case: what `--method` says.
    pub name: &'static str,
    /// What it is for, in a few words.
    pub summary: &'static str,
    /// Its settings.
    pub settings: &'static [Setting],
    read: fn(&Values) -> Result<Arc<dyn Rule>, PolicyError>,
}

/// The methods, in the order they are offered.
pub const METHODS: &[Entry] = &[
    Entry {
        name: "linear",
        summary: "the weighted mean of both models",
        settings: &[linear::WEIGHT],
        read: |values| Ok(Arc::new(Linear::read(values)?)),
    },
    Entry {
        name: "task",
        summary: "what both branches learned, added up on their common ancestor",
        settings: &[LAMBDA],
        read: |values| Ok(Arc::new(Task::read(values)?)),
    },
    Entry {
        name: "ties",
        summary: "the largest changes of both, where they agree on the direction",
        settings: &[ties::DENSITY, LAMBDA],
        read: |values| Ok(Arc::new(Ties::read(values)?)),
    },
    Entry {
        name: "dare",
        summary: "a random part of both branches' changes, scaled up to make up for the rest",
        settings: &[dare::DROP, LAMBDA],
        read: |values| Ok(Arc::new(Dare::read(values)?)),
    },
];

/// A method that was read and checked.
#[derive(Clone, Debug)]
pub struct Method {
    entry: &'static Entry,
    values: Values,
    rule: Arc<dyn Rule>,
}

/// Why a method cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MethodError {
    /// No method has this name.
    #[error(
        "no method of merging is called '{method}'; the methods are {}",
        METHODS.iter().map(|entry| entry.name).collect::<Vec<_>>().join(", ")
    )]
    Method {
        /// The name that was given.
        method: String,
    },
    /// A setting it does not have, or a value out of its range.
    #[error(transparent)]
    Setting(#[from] PolicyError),
}

impl Method {
    /// Reads a method with its settings.
    ///
    /// # Errors
    /// An unknown method, an unknown setting, or a value out of its range.
    pub fn parse(name: &str, settings: &BTreeMap<String, String>) -> Result<Self, MethodError> {
        let entry = METHODS.iter().find(|entry| entry.name == name);
        let entry = entry.ok_or_else(|| MethodError::Method { method: name.to_owned() })?;
        let values = Values::new(entry.name, entry.settings, settings)?;
        Ok(Self { entry, rule: (entry.read)(&values)?, values })
    }

    /// Its name, as [`Method::parse`] takes it.
    pub fn name(&self) -> &'static str {
        self.entry.name
    }

    /// Every setting with its value, those that were not given too: what a merge that is to be signed should hold, so
    /// that nothing about it depends on a program's defaults.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        self.values.all()
    }

    /// What it does, in a plain sentence.
    pub fn explain(&self) -> String {
        self.rule.explain()
    }

    pub(super) fn rule(&self) -> &dyn Rule {
        self.rule.as_ref()
    }
}

/// `base + lambda · sum`; a sum of zero moves nothing, −0 included.
#[inline]
pub(super) fn step(base: f64, lambda: f64, sum: f64) -> f64 {
    let value = base + lambda * sum;
    if sum == 0.0 { base } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_not_given_has_the_default_and_is_then_said() {
        for entry in METHODS {
            let bare = Method::parse(entry.name, &settings(&[])).unwrap();
            assert_eq!(bare.settings().len(), entry.settings.len());
            let said = Method::parse(entry.name, bare.settings()).unwrap();
            assert_eq!((bare.name(), bare.settings()), (said.name(), said.settings()));
            assert!(bare.explain().ends_with('.'), "{}", bare.explain());
        }
    }

    #[test]
    fn anything_unknown_is_refused_and_what_is_known_is_named() {
        let error = |name, given: &[_]| Method::parse(name, &settings(given)).unwrap_err().to_string();
        assert_eq!(
            error("slerp", &[]),
            "no method of merging is called 'slerp'; the methods are linear, task, ties, dare"
        );
        assert_eq!(
            error("ties", &[("drop", "0.5")]),
            "ties has no setting 'drop'; its settings are density, lambda"
        );
        for (name, setting, values) in [
            ("linear", "weight", ["-0.1", "1.1", "1e-1", "nan", ""].as_slice()),
            ("task", "lambda", &["0", "-1", "101", "inf"]),
            ("ties", "density", &["0", "1.01", "20%"]),
            ("dare", "drop", &["1", "-0.5", "0.9999999999999999999"]),
        ] {
            for value in values {
                let error = error(name, &[(setting, value)]);
                assert!(
                    error.starts_with(&format!("'{value}' is not a value of the setting '{setting}'")),
                    "{error}"
                );
            }
        }
    }
}
