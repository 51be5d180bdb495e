//! How persons and their updates are weighed.

use super::case::{Case, f32s, id, policy};
use flair_aggregation::Base;
use flair_aggregation::memory::Model;

fn one(value: f32) -> Model {
    Model::new([f32s(&[value])])
}

#[test]
fn one_update_three_behind_moves_the_head_by_exactly_half_its_change() {
    for rule in ["fedavg", "fedbuff"] {
        let mut case = Case::of_f32(&[10.0, -3.0, 0.1]);
        case.policy = policy(rule, &[("staleness", "polynomial:0.5")]);
        let (model, base) = (Model::new([f32s(&[3.0, 5.0, 0.3])]), Model::new([f32s(&[1.0, 6.0, 0.3])]));
        let about = case.update_on("u", "ann", Base::Aggregate(id("old")), model, base);
        (about.staleness, about.examples) = (3, 1234);
        assert_eq!(case.run().values(0), [11.0, -3.5, 0.1], "{rule}");
    }
}

#[test]
fn an_updates_change_is_against_its_own_base_and_not_the_parent() {
    let mut case = Case::of_f32(&[100.0]);
    case.update_on("u", "ann", Base::Aggregate(id("old")), one(5.0), one(1.0));
    assert_eq!(case.run().values(0), [104.0]);
}

#[test]
fn a_chain_adds_up_whether_its_beginning_is_in_the_set_or_not() {
    let mut case = Case::of_f32(&[0.0]);
    case.update("first", "ann", one(1.0));
    case.update_on("second", "ann", Base::Own(id("first")), one(1.5), one(1.0));
    assert_eq!(case.run().values(0), [1.5]);
    case.updates.remove(0);
    assert_eq!(case.run().values(0), [0.5], "the first was taken in earlier");
}

#[test]
fn many_updates_by_one_person_pull_no_harder_than_one() {
    let mut case = Case::of_f32(&[0.0]);
    case.update("b", "bob", one(-1.0));
    for name in ["a", "c", "d", "e"] {
        case.update(name, "ann", one(1.0));
    }
    let product = case.run();
    assert_eq!(product.values(0), [0.0]);
    assert_eq!(product.outcome.persons.len(), 2);
    assert_eq!(product.outcome.weights[product.index("b")], Some(0.5));
    assert_eq!(product.outcome.weights.iter().flatten().sum::<f64>(), 1.0);
}

#[test]
fn fewer_persons_than_awaited_take_a_smaller_step_in_fedbuff_only() {
    let mut case = Case::of_f32(&[0.0]);
    case.every = 4;
    case.update("u", "ann", one(8.0));
    assert_eq!(case.run().values(0), [2.0]);
    case.policy = policy("fedavg", &[]);
    assert_eq!(case.run().values(0), [8.0]);
}

#[test]
fn fedavg_weighs_by_examples_and_caps_boasts() {
    let mut case = Case::of_f32(&[0.0]);
    case.policy = policy("fedavg", &[("cap", "none")]);
    for (name, examples, value) in [("a", 10, 0.0), ("b", 20, 0.0), ("c", 1_000_000, 1.0)] {
        case.update(name, name, one(value)).examples = examples;
    }
    assert_eq!(case.run().values(0), [(1_000_000.0f64 / 1_000_030.0) as f32]);
    case.policy = policy("fedavg", &[("cap", "2")]);
    assert_eq!(case.run().values(0), [(40.0f64 / 70.0) as f32]);
}

#[test]
fn eta_scales_the_step() {
    let mut case = Case::of_f32(&[1.0]);
    case.policy = policy("fedbuff", &[("eta", "0.25")]);
    case.update("u", "ann", one(3.0));
    let product = case.run();
    assert_eq!(product.values(0), [1.5]);
    assert_eq!(product.outcome.weights, [Some(0.25)]);
}

#[test]
fn a_person_who_moves_too_far_is_shortened_as_a_whole() {
    let mut case = Case::of_f32(&[0.0, 0.0]);
    let at = |x, y| Model::new([f32s(&[x, y])]);
    case.policy = policy("fedbuff", &[("clip", "2")]);
    case.update("a", "ann", at(3.0, 4.0));
    case.history = vec![vec![1.0, 1.0], vec![1.0, 1.0]];
    assert_eq!(case.run().values(0), [3.0, 4.0], "four norms are too few to tell");
    case.history.push(vec![1.0]);
    let product = case.run();
    assert_eq!(product.values(0), [1.2, 1.6]);
    let norms: Vec<u64> = product.outcome.norms.iter().map(|norm| norm.to_bits()).collect();
    assert_eq!(norms, [5.0f64.to_bits()], "the history keeps the size before shortening");

    // The same movement in two steps is shortened all the same.
    case.updates.clear();
    case.update("a", "ann", at(1.5, 2.0));
    case.update_on("b", "ann", Base::Own(id("a")), at(3.0, 4.0), at(1.5, 2.0));
    let in_two = case.run();
    assert_eq!(in_two.values(0), [1.2, 1.6]);
    assert_eq!(in_two.outcome.persons, product.outcome.persons);
}

#[test]
fn a_later_aggregate_takes_over_norms_as_history() {
    let mut case = Case::of_f32(&[0.0]);
    for name in ["a", "b", "c", "d", "e"] {
        case.update(name, name, one(1.0));
    }
    case.policy = policy("fedbuff", &[("clip", "3")]);
    case.history.push(case.run().outcome.norms);
    case.updates.clear();
    case.update("x", "ann", one(1000.0));
    assert_eq!(case.run().values(0), [3.0]);
}
