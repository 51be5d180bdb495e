//! Sites whose updates are clipped and noised before anybody sees them: how good the model gets for an ε.
//!
//! The first model was trained on a few images that are public. From there each site trains on its own, and what it
//! releases has gone through the mechanism of `flair commit --dp`: the change of all weights clipped and noised in
//! integers, rounded to `f32`; running statistics keep the base's value. The unit is the site: ε is what all rounds of the
//! run together tell about all of a site's images, at the δ that is the node's default.

use flair_aggregation::privacy::{Gaussian, Noise, RUN, account};

use super::StudyError;
use super::arena::Arena;
use crate::digits::{self, Image};
use crate::trainer::{Network, Training};

/// Releases of each site.
pub const ROUNDS: u64 = 5;
/// What ε is for.
pub const DELTA: f64 = 1e-5;
/// The most that one update may move the model.
pub const CLIP: f64 = 0.5;
/// How many sites share the images that are not public.
pub const SITES: [usize; 3] = [10, 100, 400];
/// The guarantees that are compared; without a number, updates are clipped and not noised.
pub const EPSILONS: [Option<f64>; 7] =
    [None, Some(1000.0), Some(300.0), Some(100.0), Some(30.0), Some(10.0), Some(1.0)];
/// Runs whose mean is taken.
const SEEDS: u64 = 5;
/// The images are dealt into so many parts, of which one is public.
const PARTS: usize = 14;
/// How alike the parts are: a Dirichlet draw of this concentration.
const ALIKE: f64 = 100.0;

/// What became of the model under one guarantee.
#[derive(Clone, Debug)]
pub struct Row {
    /// ε of the whole run; none without noise.
    pub epsilon: Option<f64>,
    /// The noise multiplier of each release; zero without noise.
    pub noise: f64,
    /// Accuracy on the images nobody trained on, 0 to 1, by number of sites in the order of [`SITES`].
    pub accuracy: [f64; SITES.len()],
}

/// The result.
#[derive(Clone, Debug)]
pub struct Study {
    /// How accurate the public model is, from which all runs begin.
    pub public: f64,
    /// By guarantee, in the order of [`EPSILONS`].
    pub rows: Vec<Row>,
}

/// The noise multiplier with which all releases of a run together cost ε.
pub fn multiplier(epsilon: f64) -> f64 {
    (ROUNDS as f64).sqrt() / account::mu(epsilon, DELTA)
}

/// Trains under every guarantee with every number of sites.
///
/// # Errors
/// When the embedded images are damaged.
pub fn run() -> Result<Study, StudyError> {
    let runs: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..SEEDS).map(|seed| scope.spawn(move || once(seed))).collect();
        runs.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let mut study = Study {
        public: 0.0,
        rows: EPSILONS
            .into_iter()
            .map(|epsilon| Row {
                epsilon,
                noise: epsilon.map_or(0.0, multiplier),
                accuracy: [0.0; SITES.len()],
            })
            .collect(),
    };
    for run in runs {
        let (public, accuracies) = run.map_err(|_| StudyError::Aggregate("a thread ended".to_owned()))??;
        study.public += public / SEEDS as f64;
        for (row, found) in study.rows.iter_mut().zip(accuracies) {
            for (mean, found) in row.accuracy.iter_mut().zip(found) {
                *mean += found / SEEDS as f64;
            }
        }
    }
    Ok(study)
}

/// How accurate the public model is in one run, and what it becomes under every guarantee with every number of sites.
fn once(seed: u64) -> Result<(f64, Vec<[f64; SITES.len()]>), StudyError> {
    let split = digits::split(digits::all()?, PARTS, ALIKE, seed)?;
    let (open, closed) = split.contributors.split_at(1);
    let mut first = Network::init(seed);
    first.train(&open.concat(), &Training { epochs: 20, ..training(seed) })?;
    let images = closed.concat();
    let mut accuracies = Vec::new();
    for epsilon in EPSILONS {
        let mut row = [0.0; SITES.len()];
        for (sites, accuracy) in SITES.into_iter().zip(&mut row) {
            let last = follow(first.clone(), &images, sites, epsilon.map(multiplier), seed)?;
            *accuracy = last.accuracy(&split.held_out);
        }
        accuracies.push(row);
    }
    Ok((first.accuracy(&split.held_out), accuracies))
}

fn training(seed: u64) -> Training {
    Training { epochs: 3, batch: 16, learning_rate: 0.05, momentum: 0.9, seed }
}

/// The model after the rounds.
fn follow(
    first: Network,
    images: &[Image],
    sites: usize,
    noise: Option<f64>,
    seed: u64,
) -> Result<Network, StudyError> {
    let settings = [("clip", "none"), ("cap", "none"), ("staleness", "constant")];
    let mut arena = Arena::new("fedavg", &settings, sites, first)?;
    for round in 0..ROUNDS {
        let head = arena.head();
        let mut updates = Vec::new();
        for site in 0..sites {
            let own: Vec<Image> = images.iter().skip(site).step_by(sites).copied().collect();
            let number = (seed * ROUNDS + round) * sites as u64 + site as u64;
            let mut network = head.network.clone();
            network.train(&own, &training(number))?;
            release(&head.network, &mut network, noise, number)?;
            // Everybody counts the same: how many images a site has is not covered by ε.
            updates.push(arena.publish(site, head.clone(), network, 1));
        }
        arena.aggregate(updates)?;
    }
    Ok(arena.head().network)
}

/// Replaces a trained network by what `flair commit --dp` would leave of it.
fn release(base: &Network, trained: &mut Network, noise: Option<f64>, number: u64) -> Result<(), StudyError> {
    // Without noise the bound is the same, and the grid is finer than an `f32`.
    let gaussian = Gaussian::new(CLIP, noise.unwrap_or(1.0))?;
    let bases = base.tensors().map(|(name, _, values)| (!name.contains("running"), values));
    let news = trained.tensors().map(|(_, _, values)| values.to_vec());
    let noised = || bases.iter().zip(&news).filter(|((noised, _), _)| *noised);
    let norm = noised()
        .flat_map(|((_, base), new)| base.iter().zip(new))
        .fold(0.0, |sum: f64, (base, new)| sum + (new - base) * (new - base))
        .sqrt();
    let mut factor = gaussian.factor(norm);
    let squares = |factor| {
        noised().fold(0u128, |sum, ((_, base), new)| sum.saturating_add(gaussian.squares(base, new, factor)))
    };
    while squares(factor) > gaussian.most() {
        factor *= 1.0 - 1e-12;
    }
    // A study is to be repeatable; a node draws the key from the system's randomness.
    let mut key = [0x5a; 32];
    key.iter_mut().zip(number.to_le_bytes()).for_each(|(place, byte)| *place = byte);
    let source = Noise::new(key);
    let (mut run, mut draws) = (0, Vec::new());
    for (((is_noised, base), new), (_, _, out)) in bases.iter().zip(&news).zip(trained.tensors_mut()) {
        out.copy_from_slice(base);
        for (out, new) in out.chunks_mut(RUN).zip(new.chunks(RUN)).filter(|_| *is_noised) {
            match noise {
                Some(_) => source.run(run, out.len(), &mut draws),
                None => draws = vec![0; out.len()],
            }
            gaussian.release(out, new, factor, &draws);
            run += 1;
        }
    }
    Ok(())
}
