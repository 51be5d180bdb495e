//! How far from somewhere a person may be before they are pulled in.

use super::rule::median;
use super::setting::{Setting, decimal};

/// A distance: so many times the median over persons, or a fixed one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Radius {
    /// So many times the median of the persons' distances.
    Median(f64),
    /// A Euclidean norm, in units of the weights.
    Fixed(f64),
}

impl Radius {
    /// The setting.
    pub(crate) const SETTING: Setting = Setting {
        name: "radius",
        default: "median",
        expected: "'median', 'median:c' for c times the median such as median:1.5, or a norm such as 0.1",
        meaning: "how far a person's change may reach before it is shortened",
    };

    /// Reads the setting's value.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let radius = match text.strip_prefix("median") {
            Some("") => Self::Median(1.0),
            Some(rest) => Self::Median(decimal(rest.strip_prefix(':')?)?),
            None => Self::Fixed(decimal(text)?),
        };
        let (Self::Median(size) | Self::Fixed(size)) = radius;
        (size > 0.0 && size <= 1e9).then_some(radius)
    }

    /// The distance, given everybody's.
    pub(crate) fn among(self, distances: &[f64]) -> f64 {
        match self {
            Self::Median(times) => times * median(distances).unwrap_or(0.0),
            Self::Fixed(radius) => radius,
        }
    }

    /// In words: "…the median person's".
    pub(crate) fn explain(self, of: &str) -> String {
        match self {
            Self::Median(times) if times.to_bits() == 1.0f64.to_bits() => format!("the median person's {of}"),
            Self::Median(times) => format!("{times} times the median person's {of}"),
            Self::Fixed(radius) => format!("a norm of {radius}"),
        }
    }
}

/// What brings a length within the radius: 1 if it is.
pub(crate) fn shortening(length: f64, radius: f64) -> f64 {
    if length > radius { radius / length } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_radius_is_relative_to_the_median_or_fixed() {
        assert_eq!(Radius::parse("median"), Some(Radius::Median(1.0)));
        assert_eq!(Radius::parse("median:1.5"), Some(Radius::Median(1.5)));
        assert_eq!(Radius::parse("0.25"), Some(Radius::Fixed(0.25)));
        assert_eq!(Radius::Median(1.5).among(&[4.0, 1.0, 2.0]).to_bits(), 3.0f64.to_bits());
        assert_eq!(Radius::Fixed(0.25).among(&[4.0]).to_bits(), 0.25f64.to_bits());
        for text in ["", "0", "median:", "median:0", "mean", "-1", "median1"] {
            assert_eq!(Radius::parse(text), None, "{text}");
        }
    }
}
