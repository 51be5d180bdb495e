//! Faulty inputs weigh nothing, and failing storage is told from faulty inputs.

use super::case::{Case, f32s, id, policy, spec};
use super::golden::{crowd, everything};
use flair_aggregation::memory::{Inputs, Model, Output};
use flair_aggregation::{
    Base, Carried, Contribution, Error, Part, Request, Sink, Skip, Source, Written, aggregate,
};
use flair_tensors::dtype::DType;
use flair_tensors::id::Digest;
use flair_tensors::role::Role;

fn one(value: f32) -> Model {
    Model::new([f32s(&[value])])
}

#[test]
fn an_input_with_nan_or_infinity_is_skipped_and_named() {
    for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut case = Case::of_f32(&[1.0]);
        case.every = 2;
        case.update("good", "ann", one(3.0));
        case.update("bad", "bob", one(bad));
        let product = case.run();
        assert_eq!(product.values(0), [2.0]);
        let (index, skip) = &product.outcome.skipped[0];
        assert_eq!((*index, skip.clone()), (product.index("bad"), Skip::NotFinite { tensor: "w".into() }));
        assert_eq!(product.outcome.weights[*index], Some(0.0));
        assert_eq!(product.outcome.persons.len(), 1);
    }
}

#[test]
fn a_skipped_person_counts_towards_nothing() {
    let mut with = Case::of_f32(&[1.0]);
    with.policy = policy("fedavg", &[]);
    with.update("good", "ann", one(3.0)).examples = 10;
    with.update("fine", "cy", one(5.0)).examples = 30;
    let without = with.run();
    with.update("bad", "bob", one(f32::NAN)).examples = 1_000_000;
    assert_eq!(with.run().model, without.model);
}

#[test]
fn an_input_is_skipped_for_its_batch_norm_or_its_base_too() {
    let tensors = vec![spec("w", DType::F32, 1, Role::Float), spec("var", DType::F32, 1, Role::BatchNorm)];
    let model = |w: f32, var: f32| Model::new([f32s(&[w]), f32s(&[var])]);
    let mut case = Case::new(tensors, model(1.0, 1.0));
    case.update("a", "ann", model(2.0, f32::NAN));
    case.update_on("b", "bob", Base::Own(id("gone")), model(2.0, 1.0), model(f32::INFINITY, 1.0));
    let product = case.run();
    assert_eq!(product.model, case.parent);
    let mut skipped = vec![
        (product.index("a"), Skip::NotFinite { tensor: "var".into() }),
        (product.index("b"), Skip::NotFinite { tensor: "w".into() }),
    ];
    skipped.sort_by_key(|(index, _)| *index);
    assert_eq!(product.outcome.skipped, skipped);
}

#[test]
fn a_fault_takes_along_what_stands_on_it_and_the_rest_is_measured_anew() {
    let mut case = Case::of_f32(&[0.0]);
    case.update("sound", "ann", one(4.0));
    case.update("bad", "ann", one(f32::NAN));
    case.update_on("on bad", "ann", Base::Own(id("bad")), one(7.0), one(f32::NAN));
    case.update_on("on that", "ann", Base::Own(id("on bad")), one(9.0), one(7.0));
    let product = case.run();
    assert_eq!(product.values(0), [4.0], "the sound one is no longer half of a pair");
    assert_eq!(
        product.outcome.norms.iter().map(|norm| norm.to_bits()).collect::<Vec<_>>(),
        [4.0f64.to_bits()]
    );
    assert_eq!(product.outcome.skipped.len(), 3);
    assert!(product.outcome.skipped.contains(&(product.index("on that"), Skip::OnSkipped(id("on bad")))));
}

#[test]
fn the_first_fault_in_file_order_is_named_whatever_the_threads() {
    let mut case = crowd(everything());
    let broken = case.updates.iter_mut().find(|update| update.about.commit == id("alone")).unwrap();
    let mut bf16 = broken.model.tensor(2).unwrap().to_vec();
    bf16[2_100_000..2_100_002].copy_from_slice(&[0xc0, 0x7f]);
    broken.model.set(2, bf16);
    broken.model.set(7, vec![0; 1_100_000]);
    for threads in 1..=8 {
        let product = case.run_with(threads, 256 << 20);
        let fault = (product.index("alone"), Skip::NotFinite { tensor: "bf16".into() });
        assert!(product.outcome.skipped.contains(&fault), "{threads} threads: {:?}", product.outcome.skipped);
    }
}

#[test]
fn if_everything_is_skipped_or_nothing_given_the_result_is_the_parent() {
    let mut case = everything();
    assert_eq!(case.run().model, case.parent);
    case = crowd(case);
    for update in &mut case.updates {
        update.faulty = Some("the bytes do not match their id".to_owned());
    }
    let product = case.run();
    assert_eq!(product.model, case.parent);
    assert!(
        product.carried.is_empty() && product.outcome.norms.is_empty() && product.outcome.persons.is_empty()
    );
    assert_eq!(product.outcome.skipped.len(), case.updates.len());
    assert!(product.outcome.weights.iter().all(|weight| *weight == Some(0.0)));
    let known = Skip::Faulty("the bytes do not match their id".to_owned());
    assert!(product.outcome.skipped.iter().all(|(_, skip)| *skip == known));
}

#[test]
fn a_movement_too_long_to_measure_still_has_a_finite_norm() {
    let elements = 10_000;
    let tensors = vec![spec("w", DType::F64, elements, Role::Float)];
    let far = |value: f64| Model::new([super::case::f64s(&vec![value; elements])]);
    let mut case = Case::new(tensors, far(0.0));
    case.update("far", "ann", far(1e150));
    case.update("further", "bob", far(1.9e152));
    case.update("off the scale", "cy", far(1e200));
    case.policy = policy("fedbuff", &[("clip", "2")]);
    case.history = vec![vec![1.0; 5]];
    let product = case.run();
    assert!(product.outcome.norms.iter().all(|norm| norm.is_finite()), "{:?}", product.outcome.norms);
    assert_eq!(product.outcome.norms.len(), 2, "what does not fit into one run of numbers is skipped");
    let value = f64::from_le_bytes(*product.model.tensor(0).unwrap().first_chunk().unwrap());
    assert!(value.is_finite() && value > 0.0 && value < 1.0, "{value}");
}

#[test]
fn a_parent_with_nan_gives_one_result_too() {
    let mut case = Case::of_f32(&[f32::from_bits(0xffc0_1234), 1.0]);
    let on = Base::Aggregate(id("old"));
    let at = |x, y| Model::new([f32s(&[x, y])]);
    case.update_on("u", "ann", on, at(2.0, 2.0), at(1.0, 1.0));
    let bits: Vec<u32> = case.run().values(0).iter().map(|value| value.to_bits()).collect();
    assert_eq!(bits, [0x7fc0_0000, 2.0f32.to_bits()]);
}

#[derive(Debug, thiserror::Error)]
#[error("the disk is gone")]
struct Gone;

/// Fails at one place, as storage does.
struct Failing {
    inputs: Inputs,
    at: (Part, usize),
    short: bool,
}

impl Source for Failing {
    type Error = Gone;
    fn block(&self, part: Part, tensor: usize, block: usize, out: &mut Vec<u8>) -> Result<(), Gone> {
        self.inputs.block(part, tensor, block, out).map_err(|never| match never {})?;
        if self.at == (part, tensor) {
            if !self.short {
                return Err(Gone);
            }
            out.pop();
        }
        Ok(())
    }
    fn carries(&self, _: Carried, _: usize) -> bool {
        false
    }
}

struct Full;

impl Sink for Full {
    type Error = Gone;
    fn block(&mut self, _: usize, _: usize, _: Written<'_>) -> Result<(), Gone> {
        Err(Gone)
    }
}

#[test]
fn storage_that_fails_ends_the_run_and_says_where() {
    let tensors =
        [spec("a", DType::F32, 1_000_000, Role::Float), spec("b", DType::F32, 1_000_000, Role::Float)];
    let model = |value: f32| Model::new([f32s(&vec![value; 1_000_000]), f32s(&vec![value; 1_000_000])]);
    let inputs = Inputs { parent: model(0.0), updates: vec![(model(1.0), model(0.0))], ..Inputs::default() };
    let policy = policy("fedbuff", &[]);
    let contributions = [Contribution {
        commit: Digest::of(b"u"),
        person: Digest::of(b"ann"),
        base: Base::Aggregate(Digest::of(b"parent")),
        examples: 1,
        steps: None,
        staleness: 0,
    }];
    for threads in [1, 4] {
        let request = Request {
            policy: &policy,
            every: 1,
            contributions: &contributions,
            tensors: &tensors,
            history: &[],
            threads,
            memory_budget: 256 << 20,
        };
        for at in [(Part::Input(0), 1), (Part::Base(0), 0), (Part::Parent, 1)] {
            let source = Failing { inputs: inputs.clone(), at, short: false };
            let error = aggregate(&request, &source, &mut Output::default(), &|_| ()).unwrap_err();
            assert!(matches!(&error, Error::Source { part, source: Gone, .. } if *part == at.0), "{error}");
            let source = Failing { inputs: inputs.clone(), at, short: true };
            let error = aggregate(&request, &source, &mut Output::default(), &|_| ()).unwrap_err();
            assert!(matches!(error, Error::Length { .. }), "{error}");
        }
        let error = aggregate(&request, &inputs, &mut Full, &|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "cannot write tensor 'a' of the result");
    }
}
