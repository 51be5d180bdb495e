//! DARE: drop and rescale: θ = o + λ · (δ₁ + δ₂), where δᵢ = 0 with probability p, and τᵢ / (1 − p) else.
//!
//! L. Yu et al., "Language models are super Mario: absorbing abilities from homologous models as a free lunch",
//! ICML 2024, section 3, whose δ are then added up by task arithmetic. The paper drops 0.9 and more of what supervised
//! fine-tuning changed with little loss; 0.5 is the default here, because nothing is known of the branches. `drop` is
//! p, from 0 to 0.99999.
//!
//! Chance is drawn from what is merged, so that everybody draws the same and nobody has a choice: elements are taken in
//! runs of [`CHUNK`]; a run's bytes are the output stream of BLAKE3 in its key derivation mode, with the context
//! [`CONTEXT`], over the ids of base, first and second commit, the side (a byte: 1 or 2), the length of the tensor's
//! name in bytes, the name, and the run's number in the tensor, lengths and numbers as 64 bits, little-endian. Four
//! bytes an element, little-endian, are a number u, and the element is dropped where u < ⌊p · 2³²⌋.

use super::method::{Rule, Values3, lambda, step};
use super::pass::Place;
use super::{Side, Statistics};
use crate::kernel::CHUNK;
use crate::policy::{PolicyError, Setting, Values, decimal};

/// What tells these draws from any others.
pub const CONTEXT: &str = "flair merge dare 1";

pub(super) const DROP: Setting = Setting {
    name: "drop",
    default: "0.5",
    expected: "a decimal number from 0 to 0.99999, such as 0.5 or 0.9",
    meaning: "the share of each branch's changes that is left out, by chance",
};
const MOST: f64 = 0.99999;

/// The rule, with p and λ.
#[derive(Debug)]
pub(super) struct Dare {
    drop: f64,
    lambda: f64,
}

impl Dare {
    pub(super) fn read(values: &Values) -> Result<Self, PolicyError> {
        let share = |text: &str| decimal(text).filter(|drop| *drop <= MOST);
        Ok(Self { drop: values.read(&DROP, share)?, lambda: lambda(values)? })
    }
}

impl Rule for Dare {
    fn explain(&self) -> String {
        format!(
            "Of each branch's changes a random {} are left out and the others divided by {}; what is left is added up, times {}.",
            self.drop,
            1.0 - self.drop,
            self.lambda
        )
    }

    fn merge(&self, place: &Place<'_>, values: Values3<'_>, out: &mut [f64], found: &mut Statistics) {
        // Scaling by a power of two is exact.
        #[allow(clippy::cast_sign_loss, reason = "no share is negative")]
        let below = (self.drop * 4_294_967_296.0) as u64;
        let left = 1.0 - self.drop;
        let kept = |change: f64, word: u32| if u64::from(word) < below { 0.0 } else { change / left };
        let draws = [draw(place, Side::First, out.len()), draw(place, Side::Second, out.len())];
        let words = draws[0].as_chunks().0.iter().zip(draws[1].as_chunks().0);
        for ((out, (base, first, second)), (one, other)) in out.iter_mut().zip(values.each()).zip(words) {
            let changes = [first - base, second - base];
            let kept =
                [kept(changes[0], u32::from_le_bytes(*one)), kept(changes[1], u32::from_le_bytes(*other))];
            found.note(changes, kept);
            *out = step(base, self.lambda, kept[0] + kept[1]);
        }
    }
}

/// Four bytes for each of so many elements from the place on.
fn draw(place: &Place<'_>, side: Side, elements: usize) -> Vec<u8> {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    for id in [place.parents.base, place.parents.first, place.parents.second] {
        hasher.update(id.as_bytes());
    }
    hasher.update(&[if side == Side::First { 1 } else { 2 }]);
    hasher.update(&(place.tensor.len() as u64).to_le_bytes());
    hasher.update(place.tensor.as_bytes());
    hasher.update(&((place.start / CHUNK) as u64).to_le_bytes());
    let mut bytes = vec![0; elements * 4];
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}
