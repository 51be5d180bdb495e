//! How contributions are weighed: the rules by name, their settings, and what they mean in plain words.
//!
//! A policy is plain data wherever it is stored and signed: a rule's name and a map of text settings. This module
//! is the one place that gives them meaning. Numbers are decimal text, so that no two machines read them
//! differently, and anything unknown is refused rather than ignored.
//!
//! A policy has three stages, each of which goes with any other:
//!
//! 1. **clip**: a person's movement is shortened against those of earlier aggregates ([`Policy::limit`]);
//! 2. **rule**: the persons' movements become one direction ([`RULES`] lists the rules);
//! 3. **server**: an optimiser makes a step of the direction ([`mod@server`]).
//!
//! Every rule counts *persons*: a person's updates on one base are averaged and updates on top of each other add
//! up ([`crate::plan`]), whatever their number, and bounds apply to the person as a whole. A rule that names a bound
//! on dishonest persons, f of n, takes f for the largest number that its bound allows where fewer persons take part
//! than it needs; [`Policy::withstands`] says what is left.
//!
//! | rule | paper | module |
//! |---|---|---|
//! | `fedbuff` | Nguyen et al. 2022 | [`mod@fedbuff`] |
//! | `fedavg` | McMahan et al. 2017 | [`mod@fedavg`] |
//! | `fedasync` | Xie et al. 2019 | [`mod@fedasync`] |
//! | `fedavgm` | Hsu et al. 2019 | [`mod@fedavgm`] |
//! | `fedadagrad`, `fedadam`, `fedyogi` | Reddi et al. 2021 | [`mod@fedadagrad`], [`mod@fedadam`], [`mod@fedyogi`] |
//! | `fednova` | Wang et al. 2020 | [`mod@fednova`] |
//! | `median`, `trimmed-mean` | Yin et al. 2018 | [`mod@median`], [`mod@trimmed`] |
//! | `krum`, `multi-krum` | Blanchard et al. 2017 | [`mod@krum`], [`mod@multikrum`] |
//! | `bulyan` | El Mhamdi et al. 2018 | [`mod@bulyan`] |
//! | `geometric-median` | Pillutla et al. 2022 | [`mod@geometric`] |
//! | `centred-clipping` | Karimireddy et al. 2021 | [`mod@centred`] |
//! | `norm-clipping` | Sun et al. 2019 | [`mod@norm`] |

pub mod bulyan;
pub mod centre;
pub mod centred;
mod dishonest;
pub mod fedadagrad;
pub mod fedadam;
pub mod fedasync;
pub mod fedavg;
pub mod fedavgm;
pub mod fedbuff;
pub mod fednova;
pub mod fedyogi;
pub mod geometric;
pub mod krum;
pub mod lora;
pub mod median;
pub mod multikrum;
pub mod norm;
mod radius;
mod registry;
mod rule;
pub mod server;
mod setting;
pub mod staleness;
pub mod trimmed;

pub use registry::{Entry, RULES};
pub use rule::{Crowd, Distances, Standing, Weights};
pub use setting::Setting;

pub(crate) use rule::Need;
use rule::{Rule, median};
use server::{Kind, Server};
use setting::{CAP, CLIP, STALENESS, optional};
pub(crate) use setting::{Values, decimal};
use staleness::Staleness;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The most a step may be scaled by; beyond it a typing error is likelier than an intention.
const LARGEST_ETA: f64 = 100.0;
/// How many norms must be known before any update is shortened.
const NORMS_BEFORE_CLIPPING: usize = 5;
/// From how many aggregates back norms are taken.
const AGGREGATES_REMEMBERED: usize = 5;
/// The most persons that are looked through for what a rule withstands: the most an aggregate takes in.
const PERSONS: usize = 256;

/// A policy that was read and checked.
#[derive(Clone, Debug)]
pub struct Policy {
    entry: &'static Entry,
    /// Every setting with its value, as text.
    values: Values,
    rule: Arc<dyn Rule>,
    /// Scales the step the head takes (η, the server's learning rate).
    eta: f64,
    staleness: Staleness,
    /// Claims are capped at this many times the persons' median.
    cap: Option<f64>,
    /// A person's movement is shortened to this many times the median of the last aggregates.
    clip: Option<f64>,
    server: Server,
}

impl PartialEq for Policy {
    /// Everything follows from the rule and the values.
    fn eq(&self, other: &Self) -> bool {
        self.entry.name == other.entry.name && self.values == other.values
    }
}

/// Why a policy cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// No rule has this name.
    #[error("no aggregation rule is called '{rule}'; the rules are {}", names(RULES.iter().map(|entry| entry.name)))]
    Rule {
        /// The name that was given.
        rule: String,
    },
    /// What has this name is no rule of this list.
    #[error("'{rule}' is not an aggregation rule here: {instead}")]
    Elsewhere {
        /// The name that was given.
        rule: String,
        /// What to do.
        instead: &'static str,
    },
    /// The rule has no such setting.
    #[error("{rule} has no setting '{setting}'; its settings are {}", names(known.iter().copied()))]
    Setting {
        /// The rule.
        rule: &'static str,
        /// The setting that was given.
        setting: String,
        /// The settings it has.
        known: Vec<&'static str>,
    },
    /// Both factors of LoRA pairs would be combined, each by itself.
    #[error("the setting 'lora': {why}")]
    Lora {
        /// Why not.
        why: &'static str,
    },
    /// The setting's value makes no sense.
    #[error("'{value}' is not a value of the setting '{setting}': give {expected}")]
    Value {
        /// The setting.
        setting: &'static str,
        /// The value that was given.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

impl Policy {
    /// Reads a policy. A setting that is not given has the default that [`Policy::settings`] then shows.
    ///
    /// | setting | value | meaning |
    /// |---|---|---|
    /// | `eta` | a decimal number above 0, at most 100 | scales the step |
    /// | `staleness` | `constant`, `polynomial:0.5`, `polynomial:1`, `polynomial:2`, `hinge:a,b` | how much less a late update counts ([`staleness`]) |
    /// | `cap` | a decimal number, at least 1, or `none` | example counts are capped at this many times their median over persons |
    /// | `clip` | a decimal number above 0, or `none` | a person's movement is shortened to this many times the median of the last 5 aggregates |
    /// | `server` | `none`, `momentum`, `adagrad`, `adam`, `yogi` | the server's optimiser ([`mod@server`]), with settings of its own |
    ///
    /// `lora` can be `ffa` alone, which is what happens anyway ([`mod@lora`]): it is taken and not kept.
    ///
    /// Rules have further settings, which [`Entry::own`] lists and their modules explain. `cap` belongs to rules that
    /// look at claims; `server` to those whose name does not say it.
    ///
    /// # Errors
    /// An unknown rule, an unknown setting, or a value out of its range.
    pub fn parse(rule: &str, settings: &BTreeMap<String, String>) -> Result<Self, PolicyError> {
        let entry = Entry::find(rule)?;
        let settings = &lora::only_frozen(settings)?;
        let kind = match (entry.server, settings.get(Kind::SETTING.name)) {
            (Some(kind), _) => kind,
            (None, None) => Kind::Plain,
            (None, Some(text)) => Kind::parse(text).ok_or_else(|| PolicyError::Value {
                setting: Kind::SETTING.name,
                value: text.clone(),
                expected: Kind::SETTING.expected,
            })?,
        };
        let values = Values::new(entry.name, &entry.settings(kind), settings)?;
        let positive = |text: &str| decimal(text).filter(|clip| *clip > 0.0);
        let at_least_one = |text: &str| decimal(text).filter(|cap| *cap >= 1.0);
        let cap = if entry.capped { values.read(&CAP, |text| optional(text, at_least_one))? } else { None };
        Ok(Self {
            rule: (entry.read)(&values)?,
            eta: entry.read_eta(kind, &values)?,
            staleness: values.read(&STALENESS, Staleness::parse)?,
            cap,
            clip: values.read(&CLIP, |text| optional(text, positive))?,
            server: kind.read(&values)?,
            entry,
            values,
        })
    }

    /// The settings of a new repository's policy, whose rule is `fedbuff`.
    pub fn default_settings() -> BTreeMap<String, String> {
        [("eta", "1"), ("staleness", "polynomial:0.5"), ("cap", "2"), ("clip", "3")]
            .map(|(setting, value)| (setting.to_owned(), value.to_owned()))
            .into()
    }

    /// The rule's name, as [`Policy::parse`] takes it.
    pub fn rule(&self) -> &'static str {
        self.entry.name
    }

    /// Every setting with its value, those that were not given too: what a policy that is to be signed should hold, so
    /// that nothing about it depends on a program's defaults.
    pub fn settings(&self) -> &BTreeMap<String, String> {
        self.values.all()
    }

    /// The step's scale, η.
    pub fn eta(&self) -> f64 {
        self.eta
    }

    /// How much an update counts that is `behind` aggregates late: 1 at most, above 0.
    pub fn discount(&self, behind: u32) -> f64 {
        self.staleness.discount(behind)
    }

    /// The name of the server's optimiser, if there is one. What an aggregate carries forward for it is of no use to
    /// another.
    pub fn server(&self) -> Option<&'static str> {
        self.server.name()
    }

    /// How many dishonest persons among so many the rule withstands; `None` for a rule that makes no such promise.
    pub fn withstands(&self, persons: usize) -> Option<usize> {
        self.rule.withstands(persons)
    }

    /// What the policy does, in a few plain sentences.
    pub fn explain(&self) -> String {
        let mut sentences = vec![self.rule.explain()];
        sentences.extend(self.promise());
        sentences.push(self.staleness.explain());
        if let (Some(cap), true) = (self.cap, self.entry.name != "fedbuff") {
            sentences.push(format!("Nobody's examples count more than {cap} times the median person's."));
        }
        if let Some(clip) = self.clip {
            sentences.push(format!(
                "A person's change that is larger than {clip} times the median of the last {AGGREGATES_REMEMBERED} aggregates is shortened to that size."
            ));
        }
        sentences.extend(self.server.explain());
        if self.eta.to_bits() != 1.0f64.to_bits() {
            sentences.push(format!("The step is multiplied by {}.", self.eta));
        }
        sentences.join(" ")
    }

    /// Against how many dishonest persons the rule holds, in words.
    fn promise(&self) -> Option<String> {
        self.withstands(0)?;
        let least = |dishonest| {
            let holds = |persons: &usize| self.withstands(*persons).is_some_and(|most| most >= dishonest);
            (0..=PERSONS).find(holds).map(|persons| (dishonest, persons))
        };
        let known: Vec<(usize, usize)> = (1..=3).filter_map(least).collect();
        let (Some((_, first)), list) = (known.first(), &known) else {
            return Some("With these settings it holds against no dishonest person.".to_owned());
        };
        let list: Vec<String> =
            list.iter().map(|(dishonest, persons)| format!("{dishonest} of {persons}")).collect();
        Some(format!(
            "It holds against dishonest persons: {}; against none where fewer than {first} take part.",
            list.join(", ")
        ))
    }

    /// What has to be measured before persons can be weighed.
    pub(crate) fn needs(&self) -> Need {
        self.rule.needs()
    }

    /// Whether persons' numbers have to be seen side by side.
    pub(crate) fn gathers(&self) -> bool {
        self.rule.needs() > Need::Nothing || self.rule.withstands(0).is_some()
    }

    /// Whether movements are measured from the parent.
    pub(crate) fn mixes(&self) -> bool {
        self.rule.mixes()
    }

    /// The optimiser that makes steps of directions.
    pub(crate) fn optimiser(&self) -> Server {
        self.server
    }

    /// The weights of the persons in a set; `every` is the number of persons an aggregate waits for. `lengths` and
    /// `distances` are those of the weighed movements ([`Crowd`]), where the rule needs them.
    pub fn weigh(&self, persons: &[Standing], every: u32, lengths: &[f64], distances: &Distances) -> Weights {
        let (staleness, cap) = (self.staleness, self.cap);
        self.rule.weigh(&Crowd { persons, every, staleness, cap, lengths, distances })
    }

    /// The norm beyond which a person's movement is shortened, given the norms of earlier aggregates' inputs
    /// (oldest first; only the last 5 aggregates are looked at).
    ///
    /// There is no limit before 5 norms are known. Persons who moved nothing, and norms that overflowed, say
    /// nothing about size and are left out.
    pub fn limit(&self, history: &[Vec<f64>]) -> Option<f64> {
        let recent = history.iter().rev().take(AGGREGATES_REMEMBERED).flatten().copied();
        let norms: Vec<f64> = recent.filter(|norm| norm.is_finite() && *norm > 0.0).collect();
        if norms.len() < NORMS_BEFORE_CLIPPING {
            return None;
        }
        Some(self.clip? * median(&norms)?)
    }
}

/// What the rules' own tests have in common.
#[cfg(test)]
mod testing {
    use super::*;

    /// A person with so many examples, so late.
    pub(super) fn person(examples: u64, staleness: u32) -> Standing {
        Standing { examples, staleness, steps: None }
    }

    /// These persons, of whom nothing is discounted, capped or measured.
    pub(super) fn crowd(persons: &[Standing]) -> Crowd<'_> {
        static NONE: std::sync::LazyLock<Distances> = std::sync::LazyLock::new(Distances::default);
        Crowd { persons, every: 1, staleness: Staleness::Constant, cap: None, lengths: &[], distances: &NONE }
    }

    /// The distances of persons whose movements are these numbers.
    pub(super) fn on_a_line(points: &[f64]) -> Distances {
        let mut distances = Distances::new(points.len());
        for (one, left) in points.iter().enumerate() {
            for (other, right) in points.iter().enumerate() {
                distances.set(one, other, (left - right) * (left - right));
            }
        }
        distances
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn what_is_not_given_has_the_default_and_is_then_said() {
        for entry in RULES {
            let bare = Policy::parse(entry.name, &settings(&[])).unwrap();
            assert_eq!(bare.rule(), entry.name);
            assert_eq!(bare, Policy::parse(entry.name, bare.settings()).unwrap());
        }
        for rule in ["fedbuff", "fedavg"] {
            let bare = Policy::parse(rule, &settings(&[])).unwrap();
            assert_eq!(bare, Policy::parse(rule, &Policy::default_settings()).unwrap());
        }
    }

    #[test]
    fn names_are_listed_once_and_in_lower_case() {
        let mut names: Vec<&str> = RULES.iter().map(|entry| entry.name).collect();
        assert!(names.iter().all(|name| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), RULES.len());
        for entry in RULES {
            for kind in ["none", "momentum", "adagrad", "adam", "yogi"].map(|text| Kind::parse(text).unwrap())
            {
                let known = entry.settings(kind);
                for setting in &known {
                    assert_eq!(known.iter().filter(|other| other.name == setting.name).count(), 1);
                }
            }
        }
    }

    #[test]
    fn anything_unknown_is_refused_and_what_is_known_is_named() {
        let error = Policy::parse("fedfoo", &settings(&[])).unwrap_err().to_string();
        assert!(
            error.starts_with("no aggregation rule is called 'fedfoo'; the rules are fedbuff, fedavg, "),
            "{error}"
        );
        assert!(RULES.iter().all(|entry| error.contains(entry.name)), "{error}");
        let error = Policy::parse("fedavg", &settings(&[("Eta", "1")])).unwrap_err().to_string();
        assert_eq!(error, "fedavg has no setting 'Eta'; its settings are eta, staleness, cap, clip, server");
        let error = Policy::parse("krum", &settings(&[("beta1", "0.9")])).unwrap_err().to_string();
        assert_eq!(
            error,
            "krum has no setting 'beta1'; its settings are eta, staleness, clip, dishonest, server"
        );
        let error = Policy::parse("fedadam", &settings(&[("server", "yogi")])).unwrap_err().to_string();
        assert!(error.ends_with("its settings are eta, staleness, cap, clip, beta1, beta2, tau"), "{error}");
    }

    #[test]
    fn names_from_elsewhere_are_explained() {
        let error = Policy::parse("fedprox", &settings(&[])).unwrap_err().to_string();
        assert!(
            error.contains("it changes how each site trains") && error.contains("fedavg or fedbuff"),
            "{error}"
        );
        let error = Policy::parse("fedmedian", &settings(&[])).unwrap_err().to_string();
        assert_eq!(error, "'fedmedian' is not an aggregation rule here: it is called median here");
    }

    #[test]
    fn values_out_of_range_are_refused() {
        let refused = [
            (
                "fedbuff",
                "eta",
                ["0", "-1", "1e3", "101", "inf", "nan", "", "1.", ".5", "+1", "1,5"].as_slice(),
            ),
            (
                "fedbuff",
                "staleness",
                &["", "linear", "polynomial", "polynomial:3", "polynomial:.5", "hinge:1", "hinge:-1,2"],
            ),
            ("fedbuff", "cap", &["0.9", "nan", "None", ""]),
            ("fedbuff", "clip", &["0", "-3", "inf", "0.000000000000000000000000000000001"]),
            ("fedbuff", "server", &["sgd", "", "Adam"]),
            ("fedasync", "eta", &["0", "1.1", "2"]),
            ("fedavgm", "momentum", &["1", "1.5", "-0.1"]),
            ("fedadam", "beta1", &["1", "x"]),
            ("fedyogi", "beta2", &["1", "x"]),
            ("fedadagrad", "tau", &["0", "x"]),
            ("krum", "dishonest", &["0.5", "1.0", "-1", "257"]),
            ("multi-krum", "keep", &["0", "257", "all"]),
            ("geometric-median", "iterations", &["0", "1001", "1.5"]),
            ("centred-clipping", "radius", &["0", "mean", "median:0"]),
            ("norm-clipping", "radius", &["0", "-1"]),
        ];
        for (rule, setting, values) in refused {
            for value in values {
                let error = Policy::parse(rule, &settings(&[(setting, value)])).unwrap_err();
                let message = error.to_string();
                assert!(
                    message.starts_with(&format!("'{value}' is not a value of the setting '{setting}'")),
                    "{message}"
                );
            }
        }
    }

    #[test]
    fn an_optimiser_brings_its_settings_and_a_step_size() {
        let policy = Policy::parse("krum", &settings(&[("server", "adam"), ("beta1", "0.5")])).unwrap();
        assert_eq!((policy.server(), policy.eta().to_bits()), (Some("adam"), 0.01f64.to_bits()));
        assert_eq!(policy.settings().get("beta2").map(String::as_str), Some("0.99"));
        assert_eq!(Policy::parse("fedasync", &settings(&[])).unwrap().eta().to_bits(), 0.6f64.to_bits());
        assert_eq!(Policy::parse("fedavgm", &settings(&[])).unwrap().server(), Some("momentum"));
    }

    #[test]
    fn there_is_no_limit_before_five_norms_and_only_five_aggregates_count() {
        let policy = Policy::parse("fedbuff", &settings(&[("clip", "3")])).unwrap();
        assert_eq!(policy.limit(&[vec![1.0, 2.0], vec![3.0, 4.0]]), None);
        assert_eq!(policy.limit(&[vec![1.0, 2.0], vec![3.0, 4.0, 0.0, f64::INFINITY]]), None);
        assert_eq!(policy.limit(&[vec![1.0, 2.0], vec![3.0, 4.0, 5.0]]), Some(9.0));
        assert_eq!(policy.limit(&[vec![1.0, 2.0], vec![3.0, 4.0, 5.0, 6.0]]), Some(10.5));
        let six = [vec![9.0; 100], vec![1.0], vec![1.0], vec![1.0], vec![1.0], vec![1.0]];
        assert_eq!(policy.limit(&six), Some(3.0));
        let without = Policy::parse("fedbuff", &settings(&[("clip", "none")])).unwrap();
        assert_eq!(without.limit(&six), None);
    }

    #[test]
    fn policies_explain_themselves_in_words() {
        let words = Policy::parse("fedbuff", &settings(&[])).unwrap().explain();
        assert!(words.contains("1 behind counts 0.71, 3 behind 0.50"), "{words}");
        assert!(words.contains("3 times the median"), "{words}");
        let words = Policy::parse("fedavg", &settings(&[("eta", "0.5"), ("cap", "4"), ("clip", "none")]))
            .unwrap()
            .explain();
        assert!(
            words.contains("4 times the median person's") && words.ends_with("multiplied by 0.5."),
            "{words}"
        );
    }

    #[test]
    fn robust_rules_say_how_many_they_withstand() {
        let words = |rule, given: &[(&str, &str)]| Policy::parse(rule, &settings(given)).unwrap().explain();
        let says = |words: String, what: &str| assert!(words.contains(what), "{words}");
        says(words("krum", &[]), "1 of 5, 2 of 7, 3 of 10; against none where fewer than 5 take part");
        says(words("bulyan", &[]), "1 of 7, 2 of 11, 3 of 15;");
        says(words("median", &[]), "1 of 3, 2 of 5, 3 of 7;");
        says(words("trimmed-mean", &[("dishonest", "1")]), "1 of 3; against none where fewer than 3");
        says(words("krum", &[("dishonest", "0")]), "holds against no dishonest person");
        says(words("norm-clipping", &[]), "bounds how far one person can move the model");
    }
}
