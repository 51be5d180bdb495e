//! How a node checks the aggregates of others: by running all of them, some, or none.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Others who must attest a result at least before a node takes it without running it. One alone could be whoever
/// published it.
const FEWEST: u32 = 2;
/// As many as a repository may have members.
const MOST: u32 = 10_000;
/// What can be written.
const WAYS: &str = "write `verify = \"always\"` (run every aggregate), `\"sample:0.1\"` (run each with that probability, \
                    and take what others attest else) or `\"quorum:3\"` (take what 3 others attest)";

/// How a node checks the aggregates of others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub enum Verify {
    /// Run every aggregate.
    #[default]
    Always,
    /// Run each aggregate with this probability; of the others take what members attest.
    Sample(Share),
    /// Run none: take a result that so many other members attest and nobody contradicts. A *light* node.
    Quorum(u32),
}

/// A probability, above 0 and at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Share(f64);

// A share is never a NaN.
impl Eq for Share {}

impl Share {
    /// Its value.
    pub fn value(self) -> f64 {
        self.0
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Flag(bool),
    Text(String),
    Other(toml::Value),
}

impl TryFrom<Written> for Verify {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        match written {
            // What earlier versions wrote.
            Written::Flag(true) => Ok(Self::Always),
            Written::Flag(false) => Err(format!(
                "`verify = false` is no setting any more (it ran every aggregate and said nothing of it): {WAYS}"
            )),
            Written::Text(text) => Self::parse(&text),
            Written::Other(value) => Err(format!("`verify = {value}` says no way to verify: {WAYS}")),
        }
    }
}

impl From<Verify> for String {
    fn from(verify: Verify) -> Self {
        verify.to_string()
    }
}

impl Verify {
    /// Reads `always`, `sample:p` or `quorum:k`.
    ///
    /// # Errors
    /// Anything else, with what can be written.
    pub fn parse(text: &str) -> Result<Self, String> {
        let shown: String = text.chars().take(40).collect();
        match text.split_once(':') {
            None if text == "always" => Ok(Self::Always),
            Some(("sample", share)) => match share.trim().parse::<f64>() {
                Ok(share) if share > 0.0 && share <= 1.0 => Ok(Self::Sample(Share(share))),
                _ => Err(format!(
                    "`verify = \"{shown}\"`: the probability is a number above 0 and at most 1; to run none, write \
                     `verify = \"quorum:3\"`"
                )),
            },
            Some(("quorum", count)) => match count.trim().parse::<u32>() {
                Ok(count) if (FEWEST..=MOST).contains(&count) => Ok(Self::Quorum(count)),
                _ => Err(format!(
                    "`verify = \"{shown}\"`: the number of members is a whole one from {FEWEST} on: of 1, whoever \
                     published a result would vouch for it alone"
                )),
            },
            _ => Err(format!("`verify = \"{shown}\"` says no way to verify: {WAYS}")),
        }
    }
}

impl fmt::Display for Verify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Sample(share) => write!(f, "sample:{}", share.0),
            Self::Quorum(count) => write!(f, "quorum:{count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn each_way_is_read_and_written_alike() {
        for text in ["always", "sample:0.1", "sample:1", "quorum:2", "quorum:30"] {
            let config = Config::parse(&format!("verify = \"{text}\"")).unwrap();
            assert_eq!(config.verify.to_string(), text);
            assert_eq!(Config::parse(&toml::to_string(&config).unwrap()).unwrap(), config);
        }
        assert_eq!(Config::parse("verify = true\nattesters = 3").unwrap().verify, Verify::Always);
    }

    #[test]
    fn what_says_no_way_is_named_with_the_way_out() {
        for (text, named, way) in [
            ("verify = false", "verify = false", "quorum:3"),
            ("verify = 3", "verify = 3", "always"),
            ("verify = \"qorum:3\"", "qorum:3", "sample:0.1"),
            ("verify = \"sample:0\"", "sample:0", "quorum:3"),
            ("verify = \"sample:NaN\"", "sample:NaN", "above 0"),
            ("verify = \"quorum:1\"", "quorum:1", "from 2 on"),
            ("verify = \"quorum:two\"", "quorum:two", "from 2 on"),
            ("[verify_in]\nabcd = \"never\"", "never", "always"),
            ("[verify_in]\nab = \"always\"", "ab", "4 characters"),
        ] {
            let error = Config::parse(text).unwrap_err();
            assert!(error.contains(named) && error.contains(way), "{text}: {error}");
        }
    }

    #[test]
    fn a_repositorys_own_way_comes_before_that_of_all() {
        let text = "verify = \"quorum:3\"\n[verify_in]\nabcd = \"always\"\nabcdef = \"sample:0.5\"";
        let config = Config::parse(text).unwrap();
        let of = |repo| config.verify_of(repo).to_string();
        assert_eq!([of("abcdefgh"), of("abcdzz"), of("zzzz")], ["sample:0.5", "always", "quorum:3"]);
    }
}
