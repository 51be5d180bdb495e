//! What the server's optimiser remembers is carried from one aggregate to the next, and only as far as it is of use.

use super::case::{Case, Product, f32s, numbers, policy, spec};
use flair_aggregation::Carried::{Master, Momentum, Variance};
use flair_aggregation::memory::Model;
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;

fn read(bytes: &[u8]) -> Vec<f32> {
    super::case::read_f32s(bytes)
}

/// One update that moves the one weight by one.
fn step(case: &mut Case) -> Product {
    case.updates.clear();
    let from = read(case.parent.tensor(0).unwrap());
    case.update("u", "ann", Model::new([f32s(&from.iter().map(|value| value + 1.0).collect::<Vec<_>>())]));
    let product = case.run();
    (case.parent, case.carried) = (product.model.clone(), product.carried.clone());
    product
}

#[test]
fn momentum_is_carried_on() {
    let mut case = Case::of_f32(&[0.0]);
    case.policy = policy("fedavgm", &[("momentum", "0.5"), ("clip", "none")]);
    let values: Vec<f32> = (0..3).map(|_| step(&mut case).values(0)[0]).collect();
    assert_eq!(values, [1.0, 2.5, 4.25]);
    assert_eq!(read(&case.carried[&(Momentum, 0)]), [1.75]);
    assert!(!case.carried.contains_key(&(Variance, 0)));
}

#[test]
fn without_an_optimiser_nothing_is_carried_and_what_was_is_dropped() {
    let mut case = Case::of_f32(&[0.0]);
    case.policy = policy("fedadam", &[]);
    step(&mut case);
    assert_eq!(case.carried.keys().collect::<Vec<_>>(), [&(Momentum, 0), &(Variance, 0)]);
    case.policy = policy("fedavg", &[]);
    step(&mut case);
    assert!(case.carried.is_empty());
}

#[test]
fn moments_live_on_where_nobody_takes_part_and_where_nothing_moved() {
    let mut case = Case::of_f32(&[0.0]);
    case.policy = policy("fedavgm", &[("momentum", "0.5")]);
    let first = step(&mut case);
    // Nobody sound: the result is the parent, with all it carries.
    case.updates.clear();
    case.update("bad", "ann", Model::new([f32s(&[f32::NAN])]));
    let product = case.run();
    assert_eq!((&product.model, &product.carried), (&first.model, &first.carried));
    // Somebody who moved nothing: momentum goes on by itself.
    case.updates.clear();
    case.update("still", "ann", case.parent.clone());
    let product = case.run();
    assert_eq!(product.values(0), [1.5]);
    assert_eq!(read(&product.carried[&(Momentum, 0)]), [0.5]);
}

#[test]
fn a_tensor_that_never_moved_has_no_moments() {
    let tensors = vec![spec("w", DType::F32, 1, Role::Float), spec("frozen", DType::F32, 1, Role::Float)];
    let mut case = Case::new(tensors, Model::new([f32s(&[0.0]), f32s(&[3.0])]));
    case.policy = policy("fedyogi", &[]);
    case.update("u", "ann", Model::new([f32s(&[1.0]), f32s(&[3.0])]));
    assert_eq!(case.run().carried.keys().collect::<Vec<_>>(), [&(Momentum, 0), &(Variance, 0)]);
}

#[test]
fn moments_of_tensors_of_any_width_meet_their_weights() {
    // 16 bits: two blocks of moments a block; 64 bits: half a block.
    for (dtype, elements) in
        [(DType::BF16, 1_060_007), (DType::F16, 600_000), (DType::F32, 600_001), (DType::F64, 400_003)]
    {
        let parent = Model::new([numbers("parent", dtype, elements)]);
        let mut case = Case::new(vec![spec("w", dtype, elements, Role::Float)], parent);
        case.policy = policy("fedavgm", &[("momentum", "0.5"), ("clip", "none"), ("eta", "0.001")]);
        let moved = super::case::moved("update", dtype, case.parent.tensor(0).unwrap());
        case.update("u", "ann", Model::new([moved]));
        let first = case.run();
        assert_eq!(first.carried[&(Momentum, 0)].len(), elements * 4);
        assert_eq!(first.carried.contains_key(&(Master, 0)), dtype.size() == 2);
        (case.parent, case.carried) = (first.model, first.carried.clone());
        case.updates.clear();
        case.update("still", "ann", case.parent.clone());
        let second = case.run();
        let halved: Vec<f32> = read(&first.carried[&(Momentum, 0)]).iter().map(|value| value * 0.5).collect();
        let got = read(&second.carried[&(Momentum, 0)]);
        // Subnormal numbers are not always halved exactly.
        assert!(
            got.iter().zip(&halved).all(|(got, halved)| (got - halved).abs() <= f32::from_bits(1)),
            "{dtype}"
        );
    }
}
