//! Dishonest persons against every rule: on a small training task, and one by one.
//!
//! Fifteen persons train a linear classifier, three of them against the others. Rules that promise to hold against three
//! of fifteen must come within five points of what all get when everybody is honest; FedAvg falls, which is shown
//! beside them (`cargo test -p flair-aggregation dishonest -- --nocapture`).

use super::case::{Case, f32s, noise, policy};
use flair_aggregation::memory::Model;
use flair_aggregation::policy::RULES;

const FEATURES: usize = 20;
const PERSONS: usize = 15;
const DISHONEST: usize = 3;
const EXAMPLES: usize = 250;
const ROUNDS: usize = 12;

/// Numbers that are nearly normally distributed, with mean 0 and variance 1.
fn normal(seed: &str, count: usize) -> Vec<f64> {
    let bytes = noise(seed, count * 24);
    let sum = |bytes: &[u8; 24]| {
        let words =
            bytes.as_chunks::<2>().0.iter().map(|word| f64::from(u16::from_le_bytes(*word)) / 65536.0);
        words.sum::<f64>() - 6.0
    };
    bytes.as_chunks::<24>().0.iter().map(sum).collect()
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

/// Examples with the class that a hidden direction gives them, some of them wrong.
struct Data(Vec<(Vec<f64>, f64)>);

impl Data {
    fn new(seed: &str, count: usize) -> Self {
        let hidden = normal("hidden", FEATURES);
        let example = |index: usize| {
            let features = normal(&format!("{seed} {index}"), FEATURES + 1);
            let class = if dot(&features, &hidden) + features[FEATURES] > 0.0 { 1.0 } else { -1.0 };
            (features[..FEATURES].to_vec(), class)
        };
        Self((0..count).map(example).collect())
    }

    fn accuracy(&self, weights: &[f64]) -> f64 {
        let right = self.0.iter().filter(|(features, class)| dot(features, weights) * class > 0.0).count();
        right as f64 / self.0.len() as f64
    }

    /// How a few steps of logistic regression move these weights.
    fn train(&self, weights: &[f64]) -> Vec<f64> {
        let mut trained = weights.to_vec();
        for _ in 0..5 {
            let mut gradient = vec![0.0; FEATURES];
            for (features, class) in &self.0 {
                let pull = class / (1.0 + (class * dot(features, &trained)).exp());
                gradient.iter_mut().zip(features).for_each(|(sum, feature)| *sum += pull * feature);
            }
            trained
                .iter_mut()
                .zip(gradient)
                .for_each(|(weight, pull)| *weight += 0.5 * pull / self.0.len() as f64);
        }
        trained.iter().zip(weights).map(|(trained, weight)| trained - weight).collect()
    }
}

/// What dishonest persons do with the movement they would have made.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Lie {
    None,
    SignFlip,
    Scaling,
    Noise,
    /// Baruch, Baruch and Goldberg 2019: the honest mean, moved by so many standard deviations at every weight that it
    /// still looks like one of them.
    LittleIsEnough,
}

impl Lie {
    const ALL: [Self; 5] = [Self::None, Self::SignFlip, Self::Scaling, Self::Noise, Self::LittleIsEnough];

    fn tell(self, own: &[f64], honest: &[Vec<f64>], seed: &str) -> Vec<f64> {
        let column = |at: usize| honest.iter().map(move |movement| movement[at]);
        let mean = |at: usize| column(at).sum::<f64>() / honest.len() as f64;
        let deviation = |at: usize| {
            (column(at).map(|x| (x - mean(at)).powi(2)).sum::<f64>() / honest.len() as f64).sqrt()
        };
        match self {
            Self::None => own.to_vec(),
            Self::SignFlip => own.iter().map(|value| -8.0 * value).collect(),
            Self::Scaling => own.iter().rev().map(|value| 100.0 * value).collect(),
            Self::Noise => normal(seed, own.len()).iter().map(|value| 3.0 * value).collect(),
            Self::LittleIsEnough => (0..own.len()).map(|at| mean(at) - 1.2 * deviation(at)).collect(),
        }
    }
}

/// How good the model gets.
fn accuracy(rule: &str, settings: &[(&str, &str)], lie: Lie) -> f64 {
    let data: Vec<Data> =
        (0..PERSONS).map(|person| Data::new(&format!("person {person}"), EXAMPLES)).collect();
    let mut case = Case::of_f32(&[0.0; FEATURES]);
    case.policy = policy(rule, settings);
    case.every = PERSONS as u32;
    for round in 0..ROUNDS {
        let weights: Vec<f32> = super::case::read_f32s(case.parent.tensor(0).unwrap());
        let wide: Vec<f64> = weights.iter().copied().map(f64::from).collect();
        let movements: Vec<Vec<f64>> = data.iter().map(|data| data.train(&wide)).collect();
        case.updates.clear();
        for (person, movement) in movements.iter().enumerate() {
            let told = if person < DISHONEST {
                lie.tell(movement, &movements[DISHONEST..], &format!("{round} {person}"))
            } else {
                movement.clone()
            };
            let model: Vec<f32> =
                wide.iter().zip(&told).map(|(weight, moved)| (weight + moved) as f32).collect();
            let name = format!("person {person}");
            // They claim a lot, too.
            let examples = if person < DISHONEST { 1_000_000 } else { EXAMPLES as u64 };
            let about = case.update(&format!("{round} {person}"), &name, Model::new([f32s(&model)]));
            (about.examples, about.steps) = (examples, Some(5));
        }
        let product = case.run();
        case.history.push(product.outcome.norms.clone());
        (case.parent, case.carried) = (product.model, product.carried);
    }
    let weights: Vec<f64> =
        super::case::read_f32s(case.parent.tensor(0).unwrap()).into_iter().map(f64::from).collect();
    Data::new("test", 2000).accuracy(&weights)
}

#[test]
fn robust_rules_hold_where_they_promise_to() {
    let honest = accuracy("fedavg", &[("clip", "none")], Lie::None);
    assert!(honest > 0.85, "{honest}");
    println!("{:18}{}", "", Lie::ALL.map(|lie| format!("{:>16}", format!("{lie:?}"))).concat());
    for entry in RULES.iter().filter(|entry| entry.summary.starts_with("robust") || entry.name == "fedavg") {
        let own = entry.own.iter().any(|setting| setting.name == "dishonest").then_some(("dishonest", "3"));
        let settings: Vec<_> = [("clip", "none")].into_iter().chain(own).collect();
        let policy = policy(entry.name, &settings);
        let reached = Lie::ALL.map(|lie| accuracy(entry.name, &settings, lie));
        println!("{:18}{}", entry.name, reached.map(|share| format!("{:>15.1}%", share * 100.0)).concat());
        if policy.withstands(PERSONS).is_some_and(|most| most >= DISHONEST)
            || entry.name.ends_with("clipping")
        {
            let worst = reached.iter().copied().fold(1.0, f64::min);
            assert!(worst > honest - 0.05, "{}: {worst} of {honest}", entry.name);
        } else {
            let [_, flipped, scaled, noisy, _] = reached;
            assert!([flipped, scaled, noisy].iter().all(|share| *share < honest - 0.1), "{reached:?}");
        }
    }
}

/// Five persons who agree and one who does not, and what the policy makes of them.
fn against_one(rule: &str, liar: &[f32], copies: usize) -> Vec<f32> {
    let mut case = Case::of_f32(&[0.0; 3]);
    case.policy = policy(rule, &[("clip", "none")]);
    for (name, shift) in [("ann", 0.0), ("bob", 0.1), ("cy", 0.2), ("dan", 0.3), ("eve", 0.4)] {
        case.update(name, name, Model::new([f32s(&[1.0 + shift, 2.0 - shift, -1.0])]));
    }
    for copy in 0..copies {
        case.update(&format!("lie {copy}"), "liar", Model::new([f32s(liar)]));
    }
    case.run().values(0)
}

#[test]
fn one_person_with_many_updates_counts_once() {
    for entry in RULES {
        let once = against_one(entry.name, &[-50.0, 70.0, 3.0], 1);
        // A power of two, so that their mean is exact.
        assert_eq!(against_one(entry.name, &[-50.0, 70.0, 3.0], 64), once, "{}", entry.name);
    }
}

#[test]
fn faulty_inputs_are_skipped_before_anybody_is_compared() {
    for entry in RULES {
        let without = against_one(entry.name, &[0.0; 3], 0);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(against_one(entry.name, &[1.0, bad, 1.0], 1), without, "{}", entry.name);
        }
    }
}

#[test]
fn the_largest_numbers_there_are_break_no_robust_rule() {
    // Bulyan needs seven persons to hold against one.
    let holds =
        |rule: &str| policy(rule, &[]).withstands(6).map_or(rule.ends_with("clipping"), |most| most > 0);
    let holding: Vec<_> = RULES.iter().filter(|entry| holds(entry.name)).collect();
    assert_eq!(holding.len(), 7);
    for entry in holding {
        let held = against_one(entry.name, &[f32::MAX, -f32::MAX, f32::MAX], 1);
        let near = held.iter().zip([1.2, 1.8, -1.0]).all(|(held, honest)| (held - honest).abs() < 1.0);
        assert!(near, "{}: {held:?}", entry.name);
    }
}

#[test]
fn who_is_left_out_is_named_and_how_many_are_withstood_is_said() {
    let mut case = Case::of_f32(&[0.0; 2]);
    case.policy = policy("multi-krum", &[("dishonest", "1"), ("clip", "none")]);
    for (name, value) in [("ann", 1.0), ("bob", 1.1), ("cy", 0.9), ("dan", 1.05), ("liar", -40.0)] {
        case.update(name, name, Model::new([f32s(&[value, value])]));
    }
    let product = case.run();
    assert_eq!(product.outcome.withstands, Some(1));
    let left_out: Vec<usize> = product.outcome.skipped.iter().map(|(index, _)| *index).collect();
    assert!(left_out.contains(&product.index("liar")));
    // Of five with one dishonest, two may be averaged.
    assert_eq!(left_out.len(), 3);
    let reason = product.outcome.skipped[0].1.to_string();
    assert_eq!(reason, "the rule multi-krum left its author out: others' changes are closer to one another");
    assert_eq!(product.outcome.persons.iter().filter(|mover| mover.left_out).count(), 3);
    assert_eq!(product.outcome.norms.len(), 5, "their norms are known all the same");
    for (index, weight) in product.outcome.weights.iter().enumerate() {
        assert_eq!(*weight, Some(if left_out.contains(&index) { 0.0 } else { 0.5 }));
    }
}

#[test]
fn a_coordinate_that_everybody_decides_alone_has_no_weights() {
    let mut case = Case::of_f32(&[0.0]);
    case.policy = policy("median", &[]);
    for (name, value) in [("ann", 1.0), ("bob", 5.0), ("cy", 2.0)] {
        case.update(name, name, Model::new([f32s(&[value])]));
    }
    let product = case.run();
    assert_eq!((product.values(0), product.outcome.weights), (vec![2.0], vec![None; 3]));
    assert_eq!(product.outcome.withstands, Some(1));
}
