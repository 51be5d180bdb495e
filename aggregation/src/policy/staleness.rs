//! How much less an update counts that was made on an old aggregate.
//!
//! An update's staleness τ counts the aggregates made on the branch since its base. It is weighed by s(τ), one of
//! the functions that Xie, Koyejo and Gupta propose for asynchronous training ("Asynchronous Federated
//! Optimization", 2019, section 5.2):
//!
//! | setting | s(τ) |
//! |---|---|
//! | `constant` | 1 |
//! | `polynomial:a` | (1 + τ)⁻ᵃ with a = ½, 1 or 2 |
//! | `hinge:a,b` | 1 up to τ = b, then 1 / (a (τ − b) + 1) |
//!
//! The exponents are those three because they need only a square root, a product and a division, which every
//! processor rounds alike; a general power does not exist in that form.

/// A staleness function s(τ): 1 for an update that is not late, above 0 for all.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Staleness {
    /// s(τ) = 1.
    Constant,
    /// s(τ) = 1 / √(1 + τ).
    Root,
    /// s(τ) = 1 / (1 + τ).
    Reciprocal,
    /// s(τ) = 1 / (1 + τ)².
    Square,
    /// s(τ) = 1 up to τ = `from`, then 1 / (`slope` (τ − `from`) + 1).
    Hinge {
        /// How fast the weight falls; a decimal number of at most 1,000.
        slope: f64,
        /// How late an update may be without losing weight.
        from: u32,
    },
}

impl Staleness {
    /// What a setting may hold, for error messages.
    pub const EXPECTED: &'static str =
        "'constant', 'polynomial:0.5', 'polynomial:1', 'polynomial:2' or 'hinge:a,b' such as hinge:0.5,4";

    /// Reads a setting's value; `None` if it is none of those.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "constant" => Some(Self::Constant),
            "polynomial:0.5" => Some(Self::Root),
            "polynomial:1" => Some(Self::Reciprocal),
            "polynomial:2" => Some(Self::Square),
            _ => {
                let (slope, from) = text.strip_prefix("hinge:")?.split_once(',')?;
                let slope = super::decimal(slope).filter(|slope| *slope <= 1000.0)?;
                let from = super::decimal(from).filter(|_| !from.contains('.')).and(from.parse().ok())?;
                Some(Self::Hinge { slope, from })
            }
        }
    }

    /// s(τ) for an update that is `behind` aggregates late.
    pub fn discount(self, behind: u32) -> f64 {
        let age = 1.0 + f64::from(behind);
        match self {
            Self::Constant => 1.0,
            Self::Root => 1.0 / age.sqrt(),
            Self::Reciprocal => 1.0 / age,
            Self::Square => 1.0 / (age * age),
            Self::Hinge { slope, from } => 1.0 / (slope * f64::from(behind.saturating_sub(from)) + 1.0),
        }
    }

    /// The function in plain words.
    pub fn explain(self) -> String {
        let at = |behind| self.discount(behind);
        match self {
            Self::Constant => "An update made on an old aggregate counts in full.".to_owned(),
            Self::Root | Self::Reciprocal | Self::Square => format!(
                "An update made on an old aggregate counts less: 1 behind counts {:.2}, 3 behind {:.2}, 10 behind {:.2}.",
                at(1),
                at(3),
                at(10)
            ),
            Self::Hinge { from, .. } => format!(
                "An update up to {from} aggregates behind counts in full, then less: {} behind counts {:.2}, {} behind {:.2}.",
                from.saturating_add(1),
                at(from.saturating_add(1)),
                from.saturating_add(10),
                at(from.saturating_add(10))
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_behind_with_the_square_root_counts_exactly_half() {
        assert_eq!(Staleness::Root.discount(3).to_bits(), 0.5f64.to_bits());
    }

    #[test]
    fn nothing_late_counts_in_full_and_everything_counts_something() {
        let all =
            ["constant", "polynomial:0.5", "polynomial:1", "polynomial:2", "hinge:1000,0", "hinge:0.5,4"];
        for text in all {
            let staleness = Staleness::parse(text).unwrap();
            assert_eq!(staleness.discount(0).to_bits(), 1.0f64.to_bits(), "{text}");
            assert!(staleness.discount(u32::MAX) > 0.0, "{text}");
            for behind in 0..100 {
                assert!(staleness.discount(behind + 1) <= staleness.discount(behind), "{text} at {behind}");
            }
        }
    }

    #[test]
    fn a_hinge_is_flat_and_then_falls() {
        let hinge = Staleness::parse("hinge:0.5,4").unwrap();
        let expected = [1.0, 1.0, 1.0, 1.0, 1.0, 1.0 / 1.5, 0.5, 1.0 / 2.5];
        for (behind, expected) in (0..).zip(expected) {
            assert_eq!(hinge.discount(behind).to_bits(), f64::to_bits(expected), "at {behind}");
        }
        assert_eq!(Staleness::parse("hinge:0.5,4.0"), None);
        assert_eq!(Staleness::parse("hinge:0.5,99999999999"), None);
    }
}
