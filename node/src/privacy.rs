//! Differential privacy on this machine: what was spent, what must not leave, and the noise itself.
//!
//! ```text
//! privacy/<repository>.json    the ledger: every release, written before its noise is drawn
//! privacy/<repository>.clean   ids of the tensors that releases were made from: they are never published
//! ```
//!
//! Both are in the home and not in a clone, so that they outlive clones and resets. They are replaced as a whole, and on
//! disk before what they are about exists.

mod change;
mod ledger;

use flair_aggregation::privacy::account;

pub use change::{Change, Noised, is_noised};
pub use ledger::{Clean, Ledger, Release};

use crate::home::Decimal;

/// The unit of what this machine noises and its ledger counts, as claims name it.
pub const SITE: &str = "site";
/// The accountant, as claims name it.
pub const ACCOUNTANT: &str = "gaussian-dp";
/// Digits of an ε that are told.
const DIGITS: i32 = 4;

/// An ε as text, rounded up to four digits.
pub fn upwards(value: f64) -> String {
    if value <= 0.0 || !value.is_finite() {
        return value.abs().to_string();
    }
    let places = DIGITS - 1 - value.log10().floor() as i32;
    let scale = 10f64.powi(places);
    let digits = usize::try_from(places).unwrap_or(0);
    // What has few digits already is told as it is: 2e-5 · 10⁸ is a little more than 2000 in floating point.
    let nearest = format!("{value:.digits$}");
    let exact = places >= 0 && nearest.parse::<f64>().is_ok_and(|told| told >= value);
    let rounded = (value * scale).ceil() / scale;
    let text = if exact { nearest } else { format!("{rounded:.digits$}") };
    let short = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    short.to_owned()
}

/// The μ of a release with this noise multiplier.
pub fn mu(noise: &Decimal) -> f64 {
    noise.value().recip()
}

/// The ε that releases of this μ together cost.
pub fn epsilon(mu: f64, delta: &Decimal) -> f64 {
    account::epsilon(mu, delta.value())
}

/// The least noise multiplier that fits between what was spent and a budget, rounded up; none when nothing is left.
pub fn fitting(spent: f64, budget: &Decimal, delta: &Decimal) -> Option<String> {
    let most = account::mu(budget.value(), delta.value());
    let left = most * most - spent * spent;
    // Beyond what can be asked for, nothing is left.
    (left > 1e-12).then(|| upwards(left.sqrt().recip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epsilon_is_never_told_smaller_than_it_is() {
        for (value, text) in [
            (4.377_178, "4.378"),
            (0.160_042, "0.1601"),
            (8.0, "8"),
            (2e-5, "0.00002"),
            (12.34, "12.34"),
            (577.011, "577.1"),
            (123_456.0, "123500"),
            (0.0, "0"),
        ] {
            assert_eq!(upwards(value), text);
        }
    }

    #[test]
    fn the_noise_that_is_said_to_fit_fits_and_a_little_less_does_not() {
        let decimal = |text| Decimal::parse(text).unwrap();
        let (budget, delta) = (decimal("8"), decimal("1e-5"));
        let spent = mu(&decimal("1"));
        let least = decimal(&fitting(spent, &budget, &delta).unwrap());
        let together = |noise: f64| epsilon(account::compose([spent, noise.recip()]), &delta);
        assert!(together(least.value()) <= 8.0);
        assert!(together(least.value() * 0.99) > 8.0);
        assert_eq!(fitting(account::mu(8.0, 1e-5), &budget, &delta), None);
    }
}
