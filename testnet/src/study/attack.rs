//! What dishonest contributors publish.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_distr::StandardNormal;

use crate::digits::{CLASSES, Image};
use crate::trainer::Network;

/// How the dishonest lie. They know one another, and in one case what the honest publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attack {
    /// Not at all.
    None,
    /// The opposite of what was trained, four times as far.
    SignFlip,
    /// What was trained, thirty times as far.
    Scaling,
    /// What was trained, with Gaussian noise of deviation 1 on every weight.
    Noise,
    /// Trained well, on labels 9 − y.
    LabelFlip,
    /// The honest mean less z deviations at every weight, z as large as stays unsuspicious for n and f (Baruch et al.
    /// 2019, "A Little Is Enough").
    Little,
}

impl Attack {
    /// All of them, the honest run first.
    pub const ALL: [Self; 6] =
        [Self::None, Self::SignFlip, Self::Scaling, Self::Noise, Self::LabelFlip, Self::Little];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "honest",
            Self::SignFlip => "sign flip",
            Self::Scaling => "scaling",
            Self::Noise => "noise",
            Self::LabelFlip => "label flip",
            Self::Little => "a little",
        }
    }

    /// What a dishonest contributor trains on.
    pub(super) fn images(self, images: &[Image]) -> Vec<Image> {
        let flip = |image: &Image| Image { label: CLASSES as u8 - 1 - image.label, ..*image };
        match self {
            Self::LabelFlip => images.iter().map(flip).collect(),
            _ => images.to_vec(),
        }
    }

    /// What they publish, from what they trained.
    pub(super) fn forge(self, base: &Network, trained: Network, random: &mut ChaCha8Rng) -> Network {
        let factor = match self {
            Self::SignFlip => -4.0,
            Self::Scaling => 30.0,
            _ => 1.0,
        };
        let noise = if self == Self::Noise { 1.0 } else { 0.0 };
        let mut forged = trained;
        for ((_, _, values), (_, _, from)) in forged.tensors_mut().into_iter().zip(base.tensors()) {
            for (value, from) in values.iter_mut().zip(from) {
                let drawn: f64 = random.sample(StandardNormal);
                *value = from + factor * (*value - from) + noise * drawn;
            }
        }
        forged
    }
}

/// The forgery of [`Attack::Little`], which every dishonest contributor publishes.
pub(super) fn little(honest: &[Network], deviations: f64) -> Option<Network> {
    let count = honest.len() as f64;
    let mut forged = honest.first()?.clone();
    for (index, (_, _, values)) in forged.tensors_mut().into_iter().enumerate() {
        for (place, value) in values.iter_mut().enumerate() {
            let at = |network: &Network| {
                network.tensors().get(index).and_then(|tensor| tensor.2.get(place).copied()).unwrap_or(0.0)
            };
            let mean = honest.iter().map(at).sum::<f64>() / count;
            let variance = honest.iter().map(|network| (at(network) - mean).powi(2)).sum::<f64>() / count;
            *value = mean - deviations * variance.sqrt();
        }
    }
    Some(forged)
}
