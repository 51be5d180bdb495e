//! Ten contributors of whom five are ten times slower: how long it takes, on simulated clocks, until the model is as good as
//! synchronous training makes it.
//!
//! A round of training takes a fast contributor one unit of time, a slow one ten. Synchronous FedAvg waits for all, as its
//! paper has it. The others go by arrival: whoever is done pushes, takes the newest head and trains on; where their update
//! still waits, they go on from it. An aggregate is made as soon as enough persons have updates waiting. Shares of digits
//! are uneven, so that a model without the slow ones is worse.

use std::collections::BTreeSet;

use super::arena::{Arena, Update, Version};
use super::{CONTRIBUTORS, Settings, StudyError};
use crate::digits::{self, Split};
use crate::trainer::{Network, Training};

/// Contributors who are slow.
const SLOW: usize = 5;
/// What a round takes them.
const SLOWNESS: u64 = 10;
/// Rounds of the synchronous run.
const ROUNDS: u64 = 12;
/// Concentration of the Dirichlet draws that share the digits out.
const CONCENTRATION: f64 = 0.5;

/// The policies that are compared: a name, the rule, its settings, persons an aggregate needs.
pub const POLICIES: [(&str, &str, Settings, usize); 6] = [
    ("fedavg, synchronous", "fedavg", &[("clip", "none"), ("staleness", "constant")], CONTRIBUTORS),
    ("fedbuff of 3", "fedbuff", &[("clip", "3"), ("cap", "2")], 3),
    ("fedbuff of 5", "fedbuff", &[("clip", "3"), ("cap", "2")], 5),
    ("fedavg of 3, by arrival", "fedavg", &[("clip", "none")], 3),
    ("fedasync", "fedasync", &[], 1),
    ("median of 5, by arrival", "median", &[], 5),
];

/// How one policy fared.
#[derive(Clone, Debug)]
pub struct Row {
    /// The policy.
    pub policy: &'static str,
    /// When each aggregate was made, and how accurate it was on the images nobody trained on, 0 to 1.
    pub curve: Vec<(u64, f64)>,
}

impl Row {
    /// Accuracy in the end.
    pub fn accuracy(&self) -> f64 {
        self.curve.last().map_or(0.0, |(_, accuracy)| *accuracy)
    }

    /// When the head was that accurate for the first time.
    pub fn reached(&self, accuracy: f64) -> Option<u64> {
        self.curve.iter().find(|(_, found)| *found >= accuracy).map(|(time, _)| *time)
    }
}

/// Trains by every policy for the time that the synchronous run takes, that one first.
///
/// # Errors
/// When the embedded images are damaged.
pub fn run() -> Result<Vec<Row>, StudyError> {
    let split = digits::split(digits::all()?, CONTRIBUTORS, CONCENTRATION, 11)?;
    let rows = POLICIES.iter().map(|(policy, rule, settings, every)| {
        let arena = Arena::new(rule, settings, *every, Network::init(3))?;
        Ok(Row { policy, curve: follow(arena, &split)? })
    });
    rows.collect()
}

/// What one contributor is at.
struct Worker {
    from: Version,
    /// When they are done; none while they wait for the others.
    done: Option<u64>,
    rounds: u64,
}

fn follow(mut arena: Arena, split: &Split) -> Result<Vec<(u64, f64)>, StudyError> {
    let pace = |person: usize| if person >= CONTRIBUTORS - SLOW { SLOWNESS } else { 1 };
    let synchronous = arena.every == CONTRIBUTORS;
    let mut workers: Vec<Worker> = (0..CONTRIBUTORS)
        .map(|person| Worker { from: arena.head(), done: Some(pace(person)), rounds: 0 })
        .collect();
    let (mut waiting, mut curve): (Vec<Update>, _) = (Vec::new(), Vec::new());
    for now in 1..=ROUNDS * SLOWNESS {
        let mut idle = Vec::new();
        for (person, (worker, images)) in workers.iter_mut().zip(&split.contributors).enumerate() {
            if worker.done != Some(now) {
                continue;
            }
            let seed = worker.rounds * CONTRIBUTORS as u64 + person as u64;
            let how = Training { epochs: 1, batch: 16, learning_rate: 0.05, momentum: 0.9, seed };
            let mut network = worker.from.network.clone();
            network.train(images, &how)?;
            let update = arena.publish(person, worker.from.clone(), network, images.len());
            worker.rounds += 1;
            worker.done = None;
            idle.push((person, update.version()));
            waiting.push(update);
            let persons: BTreeSet<usize> = waiting.iter().map(|update| update.person).collect();
            if persons.len() >= arena.every {
                arena.aggregate(std::mem::take(&mut waiting))?;
                curve.push((now, arena.head().network.accuracy(&split.held_out)));
            }
        }
        let head = arena.head();
        if synchronous {
            if curve.last().is_some_and(|(time, _)| *time == now) {
                for (person, worker) in workers.iter_mut().enumerate() {
                    (worker.from, worker.done) = (head.clone(), Some(now + pace(person)));
                }
            }
            continue;
        }
        for (person, own) in idle {
            if let Some(worker) = workers.get_mut(person) {
                worker.from = if head.newer(&worker.from) { head.clone() } else { own };
                worker.done = Some(now + pace(person));
            }
        }
    }
    Ok(curve)
}
