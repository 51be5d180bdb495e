//! Some rounds of aggregation in memory, from JSON to JSON: for programs that have results of their own to compare with.
//!
//! `cargo run -p flair-aggregation --example rounds < case.json`
//!
//! A case has a `rule` with its `settings`, `every`, the `parent` (a list of `f32` numbers), and `rounds`: in each, a list
//! of persons with `examples` and the `movement` of what they trained, from the model as it is then. An answer has the
//! model and the persons whom the rule left out, after each round. What one round carries forward, the next begins with.
//! Nothing is stale, and nobody has more than one update in a round.

use flair_aggregation::memory::{Inputs, Model, Output};
use flair_aggregation::{Base, Contribution, Policy, Request, Skip, TensorSpec, aggregate};
use flair_tensors::dtype::DType;
use flair_tensors::id::Digest;
use flair_tensors::role::Role;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::io;

/// The bytes of `f32` numbers.
fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The numbers of a list, each of which is an `f32`.
fn numbers(list: &Value) -> Result<Vec<f32>, String> {
    let list = list.as_array().ok_or("a list of numbers is missing")?;
    list.iter().map(|value| value.as_f64().map(|value| value as f32).ok_or("no number".into())).collect()
}

/// The elements of a list.
fn list<'a>(value: &'a Value, what: &str) -> Result<&'a Vec<Value>, String> {
    value[what].as_array().ok_or(format!("`{what}` is no list"))
}

/// The answer to a case.
fn run(case: &Value) -> Result<Value, Box<dyn Error>> {
    let settings = case["settings"].as_object().ok_or("`settings` is no object")?;
    let text = |value: &Value| value.as_str().map(str::to_owned).ok_or("a setting is no text");
    let settings: BTreeMap<String, String> =
        settings.iter().map(|(name, value)| Ok((name.clone(), text(value)?))).collect::<Result<_, &str>>()?;
    let policy = Policy::parse(case["rule"].as_str().ok_or("`rule` is no text")?, &settings)?;
    let mut values = numbers(&case["parent"])?;
    let shape = vec![values.len() as u64];
    let tensors = [TensorSpec { name: "w".into(), dtype: DType::F32, shape, role: Role::Float }];
    let (mut inputs, mut history, mut answers) = (Inputs::default(), Vec::new(), Vec::new());
    for (round, persons) in list(case, "rounds")?.iter().enumerate() {
        inputs.parent = Model::new([bytes(&values)]);
        let persons = persons.as_array().ok_or("a round is no list")?;
        let mut updates = Vec::new();
        for (index, person) in persons.iter().enumerate() {
            let movement = numbers(&person["movement"])?;
            if movement.len() != values.len() {
                return Err("a movement has another length than the model".into());
            }
            let trained: Vec<f32> = values.iter().zip(movement).map(|(value, by)| value + by).collect();
            let contribution = Contribution {
                commit: Digest::of(format!("{round} {index}").as_bytes()),
                person: Digest::of(format!("person {index}").as_bytes()),
                base: Base::Aggregate(Digest::of(format!("round {round}").as_bytes())),
                examples: person["examples"].as_u64().ok_or("`examples` is no number")?,
                steps: None,
                staleness: 0,
            };
            updates.push((contribution, index, Model::new([bytes(&trained)])));
        }
        updates.sort_by_key(|(contribution, ..)| contribution.commit);
        let contributions: Vec<_> = updates.iter().map(|(contribution, ..)| contribution.clone()).collect();
        let pair = |(_, _, model): &(_, _, Model)| (model.clone(), inputs.parent.clone());
        inputs.updates = updates.iter().map(pair).collect();
        let request = Request {
            policy: &policy,
            every: u32::try_from(case["every"].as_u64().unwrap_or(1))?,
            contributions: &contributions,
            tensors: &tensors,
            history: &history,
            threads: 2,
            memory_budget: 256 << 20,
        };
        let mut output = Output::default();
        let outcome = aggregate(&request, &inputs, &mut output, &|_| ())?;
        let (model, carried) = output.finish();
        inputs.carried = carried;
        let result = model.tensor(0).unwrap_or(&[]).as_chunks::<4>().0.iter();
        values = result.map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let left = outcome.skipped.iter().filter(|(_, why)| matches!(why, Skip::LeftOut { .. }));
        let mut left: Vec<usize> = left.filter_map(|(place, _)| Some(updates.get(*place)?.1)).collect();
        left.sort_unstable();
        history.push(outcome.norms);
        answers.push(json!({ "model": values, "left_out": left }));
    }
    Ok(Value::from(answers))
}

fn main() -> Result<(), Box<dyn Error>> {
    let cases: Vec<Value> = serde_json::from_reader(io::stdin().lock())?;
    let answers = cases.iter().map(run).collect::<Result<Vec<_>, _>>()?;
    serde_json::to_writer(io::stdout().lock(), &answers)?;
    Ok(())
}
