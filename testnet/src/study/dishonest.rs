//! Ten contributors of whom three lie: which rules keep the model.
//!
//! Everybody has a tenth of the images, drawn alike: bounds on dishonest persons presuppose that the honest do not differ
//! much. In each round all train from the head, and one aggregate takes all ten updates in.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::arena::Arena;
use super::attack::{Attack, little};
use super::{CONTRIBUTORS, Settings, StudyError};
use crate::digits::{self, Split};
use crate::trainer::{Network, Training};

/// Contributors who lie.
pub const DISHONEST: usize = 3;
/// Aggregates.
const ROUNDS: u64 = 15;
/// How alike the contributors' shares of each digit are: a Dirichlet draw of this concentration.
const ALIKE: f64 = 100.0;
/// z of [`Attack::Little`] for n = 10 and f = 3: s = ⌊n/2 + 1⌋ − f = 3 of the honest must be deceived, and
/// Φ(z) = (n − f − s) / (n − f) = 4/7.
const DEVIATIONS: f64 = 0.18;

/// The rules that are compared, with settings: without clipping, which is a defence of its own, where the rule has it.
pub const RULES: [(&str, Settings); 10] = [
    ("fedavg", &[("clip", "none")]),
    ("fedbuff", &[("clip", "3"), ("cap", "2")]),
    ("norm-clipping", &[]),
    ("centred-clipping", &[]),
    ("median", &[]),
    ("trimmed-mean", &[("dishonest", "3")]),
    ("geometric-median", &[]),
    ("krum", &[("dishonest", "3")]),
    ("multi-krum", &[("dishonest", "3")]),
    ("bulyan", &[("dishonest", "3")]),
];

/// What became of the model by one rule.
#[derive(Clone, Debug)]
pub struct Row {
    /// The rule.
    pub rule: &'static str,
    /// Dishonest contributors of ten whom it withstands by its own word; none where it promises nothing.
    pub withstands: Option<usize>,
    /// Accuracy on the images nobody trained on, 0 to 1, by attack in the order of [`Attack::ALL`].
    pub accuracy: [f64; Attack::ALL.len()],
}

/// Trains with every rule under every attack.
///
/// # Errors
/// When the embedded images are damaged.
pub fn run() -> Result<Vec<Row>, StudyError> {
    let split = digits::split(digits::all()?, CONTRIBUTORS, ALIKE, 5)?;
    std::thread::scope(|scope| {
        let shares: Vec<_> = RULES
            .chunks(RULES.len().div_ceil(2))
            .map(|share| {
                let split = &split;
                scope.spawn(move || {
                    share.iter().map(|(rule, settings)| row(rule, settings, split)).collect::<Vec<_>>()
                })
            })
            .collect();
        let gone = || StudyError::Aggregate("a thread ended".to_owned());
        let mut rows = Vec::new();
        for share in shares {
            rows.extend(share.join().map_err(|_| gone())?);
        }
        rows.into_iter().collect()
    })
}

fn row(rule: &'static str, settings: &[(&str, &str)], split: &Split) -> Result<Row, StudyError> {
    let mut accuracy = [0.0; Attack::ALL.len()];
    let mut withstands = None;
    for (attack, accuracy) in Attack::ALL.into_iter().zip(&mut accuracy) {
        let mut arena = Arena::new(rule, settings, CONTRIBUTORS, Network::init(3))?;
        withstands = arena.withstands(CONTRIBUTORS);
        for round in 0..ROUNDS {
            self::round(&mut arena, attack, split, round)?;
        }
        *accuracy = arena.head().network.accuracy(&split.held_out);
    }
    Ok(Row { rule, withstands, accuracy })
}

fn round(arena: &mut Arena, attack: Attack, split: &Split, round: u64) -> Result<(), StudyError> {
    let head = arena.head();
    let mut models = Vec::new();
    for (person, images) in split.contributors.iter().enumerate() {
        let lies = person >= CONTRIBUTORS - DISHONEST;
        let seed = round * CONTRIBUTORS as u64 + person as u64;
        let how = Training { epochs: 1, batch: 16, learning_rate: 0.05, momentum: 0.9, seed };
        let mut network = head.network.clone();
        if lies {
            network.train(&attack.images(images), &how)?;
            network = attack.forge(&head.network, network, &mut ChaCha8Rng::seed_from_u64(seed));
        } else {
            network.train(images, &how)?;
        }
        models.push(network);
    }
    if attack == Attack::Little {
        let (honest, lies) = models.split_at_mut(CONTRIBUTORS - DISHONEST);
        if let Some(forged) = little(honest, DEVIATIONS) {
            lies.fill(forged);
        }
    }
    let updates = models.into_iter().zip(&split.contributors).enumerate();
    let updates = updates
        .map(|(person, (network, images))| arena.publish(person, head.clone(), network, images.len()))
        .collect();
    arena.aggregate(updates)
}
