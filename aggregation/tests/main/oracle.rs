//! Results against the definitions, computed the naive way.

use super::case::{Case, Product, id, read_f32s};
use super::same::random_case;
use flair_aggregation::Base;
use flair_tensors::id::Digest;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// The movement of one coordinate that a group of siblings stands for: by the recursive definition.
fn movement(case: &Case, person: Digest, on: Option<Digest>, tensor: usize, at: usize) -> f64 {
    let in_set: BTreeSet<Digest> = case.updates.iter().map(|update| update.about.commit).collect();
    let siblings: Vec<_> = case
        .updates
        .iter()
        .filter(|update| {
            let stands_on = match update.about.base {
                Base::Own(commit) if in_set.contains(&commit) => Some(commit),
                _ => None,
            };
            update.about.person == person && stands_on == on
        })
        .collect();
    if siblings.is_empty() {
        return 0.0;
    }
    let value =
        |model: &flair_aggregation::memory::Model| f64::from(read_f32s(model.tensor(tensor).unwrap())[at]);
    let total: f64 = siblings
        .iter()
        .map(|update| {
            let above = movement(case, person, Some(update.about.commit), tensor, at);
            value(&update.model) - value(&update.base) + above
        })
        .sum();
    total / siblings.len() as f64
}

/// One coordinate of a FedBuff or FedAvg aggregate, by its formula.
fn expected(case: &Case, tensor: usize, at: usize) -> f64 {
    let persons: BTreeSet<Digest> = case.updates.iter().map(|update| update.about.person).collect();
    let most = |person: Digest, of: fn(&flair_aggregation::Contribution) -> u64| {
        case.updates
            .iter()
            .map(|update| &update.about)
            .filter(|about| about.person == person)
            .map(of)
            .max()
            .unwrap() as f64
    };
    let (mut sum, mut examples) = (0.0, 0.0);
    let fedavg = case.policy.rule() == "fedavg";
    for person in &persons {
        let n = if fedavg { most(*person, |about| about.examples) } else { 1.0 };
        let late = most(*person, |about| u64::from(about.staleness));
        sum += n * (1.0 + late).powf(-0.5) * movement(case, *person, None, tensor, at);
        examples += n;
    }
    let divisor = if fedavg { examples } else { f64::from(case.every).max(persons.len() as f64) };
    let parent = f64::from(read_f32s(case.parent.tensor(tensor).unwrap())[at]);
    if persons.is_empty() { parent } else { parent + sum / divisor }
}

fn agrees(case: &Case, product: &Product) -> Result<(), TestCaseError> {
    let result = product.values(0);
    for at in [0, 1, 16, result.len() / 2, result.len().saturating_sub(1)] {
        let Some(got) = result.get(at).copied().map(f64::from) else { continue };
        let expected = expected(case, 0, at);
        // The naive way rounds differently: allow what a few roundings of the largest operand amount to.
        let size = case
            .updates
            .iter()
            .flat_map(|update| [&update.model, &update.base])
            .map(|model| f64::from(read_f32s(model.tensor(0).unwrap())[at]).abs());
        let size = size.fold(expected.abs(), f64::max);
        prop_assert!(
            (got - expected).abs() <= size * 1e-12 + expected.abs() * 6e-8 + 1e-45,
            "at {at}: {got} is not {expected}"
        );
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_recipe_gives_what_the_formula_says(
        elements in 1usize..200,
        updates in prop::collection::vec((0u8..3, any::<prop::sample::Index>(), 0u32..5, 1u64..1000, Just(false)), 0..9),
        every in 0u32..6,
        rule in prop::sample::select(vec!["fedavg", "fedbuff"]),
    ) {
        let mut case = random_case(elements, &updates, rule);
        case.policy = super::case::policy(rule, &[("cap", "none"), ("clip", "none")]);
        case.every = every;
        agrees(&case, &case.run())?;
    }
}

#[test]
fn the_oracle_bites() {
    let mut case = Case::of_f32(&[1.0]);
    case.update("u", "ann", flair_aggregation::memory::Model::new([super::case::f32s(&[2.0])]));
    let product = case.run();
    case.updates[0].about.person = id("bob");
    agrees(&case, &product).unwrap();
    case.updates[0].about.staleness = 1;
    agrees(&case, &product).unwrap_err();
}
