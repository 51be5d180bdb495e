//! How many of the persons may be dishonest: f in the literature on robust rules.

use super::setting::{Setting, count, digits};

/// How many persons may be dishonest, out of those that take part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dishonest {
    /// So many.
    Persons(u32),
    /// So many of a power of ten, rounded down: an exact decimal fraction, because 0.29 times 100 is less than 29 in
    /// binary floating point.
    Share(u64, u64),
}

impl Dishonest {
    /// The setting.
    pub(crate) const SETTING: Setting = Setting {
        name: "dishonest",
        default: "0.3",
        expected: "a number of persons such as 2, or a share of them below one half such as 0.3",
        meaning: "how many of the persons may be dishonest, at most",
    };

    /// Reads the setting's value.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let Some((whole, fraction)) = text.split_once('.') else {
            return count(text, 0, 256).map(Self::Persons);
        };
        if whole != "0" || !digits(fraction) || fraction.len() > 9 {
            return None;
        }
        let share = Self::Share(fraction.parse().ok()?, 10u64.pow(u32::try_from(fraction.len()).ok()?));
        share.is_minority().then_some(share)
    }

    /// f for so many persons, but at most the `bound` that a rule sets.
    pub(crate) fn among(self, persons: usize, bound: usize) -> usize {
        let asked = match self {
            Self::Persons(count) => count as usize,
            Self::Share(part, whole) => {
                let persons = u128::try_from(persons).unwrap_or(0);
                usize::try_from(persons * u128::from(part) / u128::from(whole)).unwrap_or(0)
            }
        };
        asked.min(bound)
    }

    fn is_minority(self) -> bool {
        match self {
            Self::Persons(_) => true,
            Self::Share(part, whole) => part * 2 < whole,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_exact_and_rounded_down() {
        let share = Dishonest::parse("0.29").unwrap();
        assert_eq!([3, 4, 100, 103].map(|persons| share.among(persons, 256)), [0, 1, 29, 29]);
        assert_eq!(Dishonest::parse("2").unwrap().among(100, 256), 2);
        assert_eq!(Dishonest::parse("2").unwrap().among(5, 1), 1, "never beyond the rule's bound");
        assert_eq!(Dishonest::parse("0.0").unwrap().among(256, 256), 0);
    }

    #[test]
    fn half_and_more_are_refused() {
        for text in ["0.5", "0.9", "1.0", "-1", "", ".3", "0.", "257", "0.0000000001", "1e-1"] {
            assert_eq!(Dishonest::parse(text), None, "{text}");
        }
    }
}
