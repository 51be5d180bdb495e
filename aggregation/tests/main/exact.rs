//! Results against integer arithmetic: where the sum is exact, so is the result, to the last bit.

use super::case::{Case, f32s, noise, policy};
use flair_aggregation::memory::Model;

/// The `f32` nearest to `numerator · 2⁻ˢᶜᵃˡᵉ`, ties to even, by integers alone.
fn nearest_f32(numerator: i128, scale: i32) -> f32 {
    let magnitude = numerator.unsigned_abs();
    if magnitude == 0 {
        return 0.0;
    }
    let bits = 128 - magnitude.leading_zeros() as i32;
    let drop = (bits - 24).max(-149 + scale).max(0);
    let (kept, rest, half) = (magnitude >> drop, magnitude & ((1 << drop) - 1), (1u128 << drop) / 2);
    let up = drop > 0 && (rest > half || (rest == half && kept & 1 == 1));
    // At most 2²⁴ times a power of two: exact in f64, and in f32.
    let value = (kept + u128::from(up)) as f64 * 2f64.powi(drop - scale);
    let value = if numerator < 0 { -value } else { value };
    value as f32
}

/// Integers of 24 bits and a sign.
fn integers(seed: &str, count: usize) -> Vec<i32> {
    noise(seed, count * 4).as_chunks::<4>().0.iter().map(|bytes| i32::from_le_bytes(*bytes) >> 7).collect()
}

fn grid(values: &[i32]) -> Vec<u8> {
    f32s(&values.iter().map(|value| *value as f32 * 2f32.powi(-24)).collect::<Vec<_>>())
}

#[test]
fn fedavg_equals_an_integer_sum_on_every_coordinate() {
    let count = 300_000;
    let parent = integers("parent", count);
    let mut case = Case::of_f32(&vec![0.0; count]);
    case.parent = Model::new([grid(&parent)]);
    case.policy = policy("fedavg", &[("cap", "none"), ("clip", "none"), ("staleness", "polynomial:1")]);
    // The example counts add up to 2¹⁰, so the division is exact as well.
    let people = [(1, 0), (2, 1), (61, 3), (200, 0), (260, 7), (500, 15)];
    let mut sums = vec![0i128; count];
    for (index, (examples, staleness)) in people.into_iter().enumerate() {
        let update = integers(&format!("update {index}"), count);
        for ((sum, update), parent) in sums.iter_mut().zip(&update).zip(&parent) {
            // In units of 2⁻²⁴ · 2⁻⁴: s(τ) is a sixteenth or a multiple.
            *sum += i128::from(examples * (16 / (staleness + 1))) * i128::from(update - parent);
        }
        let name = format!("person {index}");
        let about = case.update(&name, &name, Model::new([grid(&update)]));
        (about.examples, about.staleness) = (examples as u64, staleness as u32);
    }
    let result = case.run().values(0);
    for index in 0..count {
        let exact = (i128::from(parent[index]) << 14) + sums[index];
        assert_eq!(result[index].to_bits(), nearest_f32(exact, 38).to_bits(), "coordinate {index}");
    }
}

#[test]
fn ties_go_to_even_in_both_directions() {
    let mut case = Case::of_f32(&[1.0, 1.0 + f32::EPSILON, -1.0, f32::from_bits(1), f32::from_bits(2)]);
    case.policy = policy("fedbuff", &[("clip", "none")]);
    case.every = 2;
    // Each moves by half a step of the last place, after division by two.
    let model = [
        1.0 + f32::EPSILON,
        1.0 + 2.0 * f32::EPSILON,
        -1.0 - f32::EPSILON,
        f32::from_bits(2),
        f32::from_bits(3),
    ];
    case.update("u", "ann", Model::new([f32s(&model)]));
    let expected = [1.0, 1.0 + 2.0 * f32::EPSILON, -1.0, f32::from_bits(2), f32::from_bits(2)];
    assert_eq!(case.run().values(0), expected);
}

#[test]
fn negative_zero_survives_unless_it_moves() {
    let mut case = Case::of_f32(&[-0.0, -0.0, -0.0, 5.0]);
    case.update("u", "ann", Model::new([f32s(&[-0.0, 0.0, 1.0, 5.5])]));
    case.update("v", "bob", Model::new([f32s(&[-0.0, -0.0, -1.0, 5.5])]));
    let bits: Vec<u32> = case.run().values(0).iter().map(|value| value.to_bits()).collect();
    assert_eq!(bits, [-0.0f32, -0.0, -0.0, 5.5].map(f32::to_bits));
}

#[test]
fn subnormal_steps_are_not_lost() {
    let least = f32::from_bits(1);
    let mut case = Case::of_f32(&[0.0, least * 10.0]);
    case.update("u", "ann", Model::new([f32s(&[least * 3.0, 0.0])]));
    case.update("v", "bob", Model::new([f32s(&[least * 5.0, least * 4.0])]));
    assert_eq!(case.run().values(0), [least * 4.0, least * 2.0]);
}

#[test]
fn updates_that_cancel_leave_the_rest() {
    let mut case = Case::of_f32(&[0.0]);
    case.policy = policy("fedbuff", &[("clip", "none")]);
    for (name, value) in [("u", 3e38), ("v", -3e38), ("w", 3.0), ("x", 3e38), ("y", -3e38)] {
        case.update(name, name, Model::new([f32s(&[value])]));
    }
    // Whatever the order of the commit ids: f64 has no room for 3 beside 3·10³⁸, so it may be lost, but never
    // becomes something else, and always the same.
    let value = case.run().values(0)[0];
    assert!(value == 0.0 || value == 3.0f32 / 5.0, "{value}");
    let mut small = Case::of_f32(&[0.0]);
    small.updates.clear();
    for (name, value) in [("u", 1e8), ("v", -1e8), ("w", 3.0)] {
        small.update(name, name, Model::new([f32s(&[value])]));
    }
    assert_eq!(small.run().values(0), [1.0]);
}

#[test]
fn a_step_out_of_range_ends_at_the_largest_number() {
    let mut case = Case::of_f32(&[f32::MAX, -1.0]);
    let base = Model::new([f32s(&[0.0, 0.0])]);
    let on = flair_aggregation::Base::Aggregate(super::case::id("old"));
    case.update_on("u", "ann", on, Model::new([f32s(&[f32::MAX, -f32::MAX])]), base);
    case.policy = policy("fedbuff", &[("eta", "100")]);
    assert_eq!(case.run().values(0), [f32::MAX, -f32::MAX]);
}
