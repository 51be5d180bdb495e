//! What the demo expects of its training, tried without a network: pooled data reaches the goal, alone nobody does,
//! and asynchronous aggregation by persons comes close to pooled.

use flair_testnet::demo::{self, LOCAL, SEED, SPEEDS, WHOLE, WITHIN};
use flair_testnet::digits::{Image, Split};
use flair_testnet::trainer::{Network, Training};

/// Persons an aggregate waits for, three quarters of four.
const EVERY: usize = 3;

/// An update as the aggregation sees it.
struct Update {
    person: usize,
    /// The aggregate that its chain of own updates began on.
    base: usize,
    /// Trained minus its own base; for running statistics the trained value itself.
    change: Network,
}

struct Contributor {
    folder: Network,
    base: usize,
}

/// Buffered asynchronous aggregation (FedBuff, Nguyen et al. 2022, Algorithm 1), counted by persons: what each node
/// computes, without nodes. Returns the accuracy on the held-out images after each aggregate.
fn simulate(split: &Split, aggregates: usize, how: &Training, seed: u64) -> Vec<f64> {
    let mut heads = vec![Network::init(seed)];
    let start = |_| Contributor { folder: heads[0].clone(), base: 0 };
    let mut contributors: Vec<Contributor> = (0..SPEEDS.len()).map(start).collect();
    let (mut pending, mut norms, mut accuracies) = (Vec::new(), Vec::new(), Vec::new());
    for time in 1u64.. {
        for (person, contributor) in contributors.iter_mut().enumerate() {
            // Time in quarters of the slowest's round.
            if !(time * SPEEDS[person]).is_multiple_of(4) {
                continue;
            }
            let before = contributor.folder.clone();
            let seed = how.seed * 1_000_003 + time * 10 + person as u64;
            contributor.folder.train(&split.contributors[person], &Training { seed, ..*how }).unwrap();
            let change = combine(&contributor.folder, &before, |new, old| new - old, |new, _| new);
            pending.push(Update { person, base: contributor.base, change });

            let waiting =
                (0..SPEEDS.len()).filter(|p| pending.iter().any(|u: &Update| u.person == *p)).count();
            if waiting >= EVERY {
                let head = aggregate(&heads, &pending, &mut norms);
                accuracies.push(head.accuracy(&split.held_out));
                heads.push(head);
                pending.clear();
                if accuracies.len() == aggregates {
                    return accuracies;
                }
            }
            // Pull: to a newer head if there is one, else go on from the own update.
            if contributor.base + 1 < heads.len() {
                contributor.base = heads.len() - 1;
                contributor.folder = heads[contributor.base].clone();
            }
        }
    }
    accuracies
}

/// One aggregate: per person the sum of changes, times s(τ) = (1 + τ)^−½, over max(K, persons).
fn aggregate(heads: &[Network], pending: &[Update], norms: &mut Vec<Vec<f64>>) -> Network {
    let mut recent: Vec<f64> = norms.iter().rev().take(5).flatten().copied().collect();
    recent.sort_unstable_by(f64::total_cmp);
    let limit = if recent.len() < 5 { f64::INFINITY } else { 3.0 * recent[recent.len() / 2] };
    norms.push(pending.iter().map(|update| norm(&update.change)).collect());

    let parent = &heads[heads.len() - 1];
    let persons: Vec<usize> =
        (0..SPEEDS.len()).filter(|p| pending.iter().any(|update| update.person == *p)).collect();
    let weights: Vec<f64> = persons
        .iter()
        .map(|person| {
            let oldest = pending.iter().filter(|u| u.person == *person).map(|u| u.base).min().unwrap();
            1.0 / ((heads.len() - oldest) as f64).sqrt()
        })
        .collect();
    let divisor = persons.len().max(EVERY) as f64;
    let total: f64 = weights.iter().sum();
    let mut head = combine(parent, parent, |value, _| value, |_, _| 0.0);
    for (person, weight) in persons.iter().zip(weights) {
        let mut last = None;
        for update in pending.iter().filter(|update| update.person == *person) {
            let scale = weight * (limit / norm(&update.change)).min(1.0) / divisor;
            head = combine(&head, &update.change, |value, change| value + scale * change, |value, _| value);
            last = Some(&update.change);
        }
        let share = weight / total;
        head = combine(&head, last.unwrap(), |value, _| value, |value, other| value + share * other);
    }
    head
}

fn norm(change: &Network) -> f64 {
    let trained = change.tensors().into_iter().filter(|(name, ..)| !name.contains("running"));
    trained.flat_map(|(_, _, values)| values).map(|value| value * value).sum::<f64>().sqrt()
}

/// A network from two, by one rule for what training moves and another for running statistics.
fn combine(
    left: &Network,
    right: &Network,
    trained: impl Fn(f64, f64) -> f64,
    running: impl Fn(f64, f64) -> f64,
) -> Network {
    let mut result = left.clone();
    for ((name, _, values), (_, _, others)) in result.tensors_mut().into_iter().zip(right.tensors()) {
        for (value, other) in values.iter_mut().zip(others) {
            *value = if name.contains("running") { running(*value, *other) } else { trained(*value, *other) };
        }
    }
    result.set_num_batches_tracked(left.num_batches_tracked().max(right.num_batches_tracked()));
    result
}

#[test]
fn pooled_data_reaches_the_goal_and_nobody_does_alone() {
    let split = demo::split().unwrap();
    let whole = |images: &[Image]| {
        let mut network = Network::init(SEED);
        network.train(images, &WHOLE).unwrap();
        network.accuracy(&split.held_out)
    };
    let pooled = whole(&split.pooled());
    println!("pooled: {} images, accuracy {pooled:.3}", split.pooled().len());
    assert!(pooled >= 0.95, "pooled training reached {pooled}");
    for (person, images) in split.contributors.iter().enumerate() {
        let alone = whole(images);
        println!("contributor {person} alone: {} images, accuracy {alone:.3}", images.len());
        assert!(alone < pooled - 0.1, "contributor {person} alone reached {alone}, pooled {pooled}");
    }
}

#[test]
fn aggregates_of_three_persons_come_close_to_pooled_data() {
    let split = demo::split().unwrap();
    let mut network = Network::init(SEED);
    network.train(&split.pooled(), &WHOLE).unwrap();
    let pooled = network.accuracy(&split.held_out);
    for seed in SEED..SEED + 3 {
        let accuracies = simulate(&split, 60, &Training { seed, ..LOCAL }, seed);
        let every_tenth: Vec<f64> = accuracies.iter().skip(9).step_by(10).copied().collect();
        let (last, worst) = (accuracies[59], accuracies[40..].iter().copied().fold(1.0, f64::min));
        println!(
            "seed {seed}: pooled {pooled:.3}, every tenth aggregate {every_tenth:.3?}, worst of the last 20 {worst:.3}"
        );
        assert!(last >= pooled - WITHIN, "seed {seed}: {last} after 60 aggregates, pooled {pooled}");
    }
}
