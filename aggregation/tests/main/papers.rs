//! Every rule against numpy, written from the papers (`tests/oracle.py`), within what rounding accounts for.

use super::case::{Case, f64s, id, noise, policy, spec};
use flair_aggregation::Base;
use flair_aggregation::memory::Model;
use flair_aggregation::policy::RULES;
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, thread};

const WEIGHTS: usize = 120;
const VALUES: usize = 7;
const ROUNDS: usize = 3;

/// The interpreter that has numpy: `make tools` puts it there.
pub(super) fn python() -> PathBuf {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/bin/python3");
    match env::var_os("FLAIR_PYTHON") {
        Some(named) => named.into(),
        None if installed.exists() => installed,
        None => "python3".into(),
    }
}

/// Numbers from −1 to 1.
pub(super) fn uniform(seed: &str, count: usize) -> Vec<f64> {
    let word = |bytes: &[u8; 4]| f64::from(i32::from_le_bytes(*bytes)) / 2f64.powi(31);
    noise(seed, count * 4).as_chunks::<4>().0.iter().map(word).collect()
}

/// A person in a round.
struct Person {
    movement: Vec<f64>,
    values: Vec<f64>,
    examples: u64,
    steps: Option<u64>,
    staleness: u32,
    /// Whether the movement comes as two updates beside each other, whose mean it is.
    twice: bool,
}

/// A crowd around a common direction; every fourth is far away from it.
///
/// With `beyond`, the last one is out of all proportion.
fn crowd(seed: &str, persons: usize, beyond: bool) -> Vec<Person> {
    let common = uniform(&format!("{seed} common"), WEIGHTS);
    (0..persons)
        .map(|index| {
            let own = uniform(&format!("{seed} {index}"), WEIGHTS + VALUES);
            let draws = noise(&format!("{seed} draws {index}"), 4);
            let far = match index {
                last if beyond && last == persons - 1 => 1e9,
                fourth if fourth % 4 == 3 => -8.0,
                _ => 1.0,
            };
            let movement =
                common.iter().zip(&own).map(|(common, own)| far * (0.5 * common + 0.2 * own) * 0.01);
            Person {
                movement: movement.collect(),
                values: own[WEIGHTS..].iter().map(|value| far * value + 2.0).collect(),
                examples: u64::from(draws[0]) * 10,
                steps: (draws[1] > 60).then_some(u64::from(draws[1])),
                staleness: u32::from(draws[2] % 4),
                twice: draws[3].is_multiple_of(3),
            }
        })
        .collect()
}

struct Trial {
    rule: &'static str,
    settings: Vec<(&'static str, &'static str)>,
    rounds: Vec<Vec<Person>>,
    every: u32,
}

impl Trial {
    fn json(&self) -> Value {
        let person = |person: &Person| {
            json!({
                "movement": person.movement, "values": person.values, "examples": person.examples,
                "steps": person.steps, "staleness": person.staleness,
            })
        };
        let settings: serde_json::Map<_, _> =
            self.settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let round = |persons: &Vec<Person>| json!({ "every": self.every, "persons": persons.iter().map(person).collect::<Vec<_>>() });
        json!({
            "rule": self.rule, "settings": settings, "parent": uniform("parent", WEIGHTS),
            "rounds": self.rounds.iter().map(round).collect::<Vec<_>>(),
        })
    }

    /// What Flair makes of it: weights and values after each round.
    fn run(&self) -> Vec<(Vec<f64>, Vec<f64>)> {
        let tensors = vec![
            spec("w", DType::F64, WEIGHTS, Role::Float),
            spec("running_mean", DType::F64, VALUES, Role::BatchNorm),
        ];
        let model = |weights: &[f64], values: &[f64]| Model::new([f64s(weights), f64s(values)]);
        let zero = model(&[0.0; WEIGHTS], &[0.0; VALUES]);
        let mut case = Case::new(tensors, model(&uniform("parent", WEIGHTS), &[0.0; VALUES]));
        case.policy = policy(self.rule, &self.settings);
        case.every = self.every;
        let mut results = Vec::new();
        for (number, persons) in self.rounds.iter().enumerate() {
            case.updates.clear();
            for (index, person) in persons.iter().enumerate() {
                // Ids that are ascending in the order of the oracle's list, so that ties are broken alike.
                let name = format!("person {}", ascending(index));
                let parts: &[f64] = if person.twice { &[1.75, 0.25] } else { &[1.0] };
                for (part, share) in parts.iter().enumerate() {
                    let movement: Vec<f64> = person.movement.iter().map(|value| value * share).collect();
                    let values: Vec<f64> = person.values.iter().map(|value| value * share).collect();
                    let commit = format!("{number} {index} {part}");
                    let on = Base::Aggregate(id("zero"));
                    let about = case.update_on(&commit, &name, on, model(&movement, &values), zero.clone());
                    about.examples = if part == 0 { person.examples } else { 0 };
                    (about.steps, about.staleness) = (person.steps, person.staleness);
                }
            }
            let product = case.run();
            case.history.push(product.outcome.norms.clone());
            let read = |tensor: usize| {
                let bytes = product.model.tensor(tensor).unwrap();
                bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()
            };
            results.push((read(0), read(1)));
            (case.parent, case.carried) = (product.model, product.carried);
        }
        results
    }
}

/// The number of a person whose id is the `index`th of twelve.
fn ascending(index: usize) -> usize {
    let mut numbers: Vec<usize> = (0..12).collect();
    numbers.sort_by_key(|number| id(&format!("person {number}")));
    numbers[index]
}

fn trials() -> Vec<Trial> {
    let mut kinds: Vec<(&'static str, Vec<(&'static str, &'static str)>)> =
        RULES.iter().map(|entry| (entry.name, vec![])).collect();
    kinds.extend([
        ("fedbuff", vec![("staleness", "hinge:0.5,1"), ("clip", "0.5"), ("eta", "0.7")]),
        ("fedavg", vec![("staleness", "constant"), ("cap", "none"), ("clip", "none")]),
        ("fedavg", vec![("server", "momentum"), ("momentum", "0.5"), ("eta", "2")]),
        ("fedasync", vec![("eta", "1"), ("staleness", "polynomial:2"), ("clip", "none")]),
        ("fednova", vec![("cap", "none")]),
        ("trimmed-mean", vec![("dishonest", "1"), ("staleness", "constant")]),
        ("krum", vec![("dishonest", "2"), ("clip", "none")]),
        ("krum", vec![("dishonest", "0.0"), ("server", "adam"), ("beta1", "0.5"), ("tau", "0.01")]),
        ("multi-krum", vec![("keep", "2"), ("dishonest", "0.25")]),
        ("bulyan", vec![("dishonest", "2"), ("staleness", "polynomial:1")]),
        ("geometric-median", vec![("iterations", "3"), ("clip", "none")]),
        ("centred-clipping", vec![("radius", "0.05"), ("iterations", "1"), ("clip", "none")]),
        ("centred-clipping", vec![("radius", "median:0.5"), ("iterations", "7")]),
        ("norm-clipping", vec![("radius", "0.03")]),
        ("median", vec![("server", "yogi"), ("beta2", "0.5")]),
    ]);
    let mut trials = Vec::new();
    for (rule, settings) in kinds {
        for persons in [1, 2, 3, 4, 5, 8, 11, 12] {
            // Where nobody is left out for it, so large numbers leave no digits to compare.
            for beyond in if rule == "geometric-median" || rule == "centred-clipping" { 0..2 } else { 0..1 } {
                let beyond = beyond == 1 && persons > 3;
                let crowd = |round| crowd(&format!("{persons} {round}"), persons, beyond);
                let rounds = (0..ROUNDS).map(crowd).collect();
                trials.push(Trial { rule, settings: settings.clone(), rounds, every: 3 });
            }
        }
    }
    trials
}

/// What the program answers to all trials.
fn ask(trials: &[Trial]) -> Value {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/oracle.py");
    let mut child = Command::new(python())
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("python3 is needed to compare with numpy, `make tools` installs both: {error}")
        });
    let mut input = child.stdin.take().unwrap();
    let cases = Value::from(trials.iter().map(Trial::json).collect::<Vec<_>>()).to_string();
    let writer = thread::spawn(move || input.write_all(cases.as_bytes()));
    let output = child.wait_with_output().unwrap();
    let written = writer.join().unwrap();
    assert!(output.status.success(), "numpy is needed to compare with it: `make tools` installs it");
    written.unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

#[test]
fn every_rule_gives_what_its_paper_says() {
    let trials = trials();
    let answers = ask(&trials);
    let answers = answers.as_array().unwrap();
    assert_eq!(answers.len(), trials.len());
    for (trial, answer) in trials.iter().zip(answers) {
        let name = format!("{} {:?}, {} persons", trial.rule, trial.settings, trial.rounds[0].len());
        for (round, (got, expected)) in trial.run().iter().zip(answer.as_array().unwrap()).enumerate() {
            // Moments are kept as f32; the centre of a geometric median is found from distances, whose differences
            // lose digits near a person.
            for (got, expected) in
                [(&got.0, numbers(&expected["model"])), (&got.1, numbers(&expected["values"]))]
            {
                assert_eq!(got.len(), expected.len());
                for (place, (got, expected)) in got.iter().zip(expected).enumerate() {
                    assert!(
                        (got - expected).abs() < 2e-8,
                        "{name}, round {round}, at {place}: {got} is not {expected}"
                    );
                }
            }
        }
    }
}
