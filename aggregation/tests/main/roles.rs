//! What becomes of tensors that are not plain floats, and of 16-bit ones.

use super::case::{Case, f32s, f64s, i64s, id, policy, read_f32s, spec};
use flair_aggregation::memory::{Inputs, Model, Output};
use flair_aggregation::{Base, Request, Skip, TensorError, aggregate};
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;

/// The master of the first tensor.
const MASTER: (flair_aggregation::Carried, usize) = (flair_aggregation::Carried::Master, 0);

fn bf16s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect()
}

#[test]
fn batch_norm_values_are_averaged_never_scaled_or_shortened() {
    let tensors =
        vec![spec("w", DType::F32, 1, Role::Float), spec("running_mean", DType::F32, 2, Role::BatchNorm)];
    let model = |w: f32, mean: [f32; 2]| Model::new([f32s(&[w]), f32s(&mean)]);
    let mut case = Case::new(tensors, model(0.0, [100.0, 7.0]));
    case.policy = policy("fedavg", &[("eta", "0.5"), ("clip", "0.001"), ("cap", "none")]);
    case.history = vec![vec![1.0; 5]];
    case.update("a", "ann", model(1.0, [1.0, 7.0])).examples = 30;
    let late = case.update("b", "bob", model(1.0, [3.0, 7.0]));
    (late.examples, late.staleness) = (20, 3);
    // Weights 30 and 20 · ½.
    assert_eq!(case.run().values(1), [1.5, 7.0]);
    case.policy = policy("fedbuff", &[("eta", "0.5")]);
    assert_eq!(case.run().values(1), [(1.0 + 0.5 * 3.0) / 1.5, 7.0]);
}

#[test]
fn a_persons_batch_norm_value_is_the_mean_of_its_latest_ones() {
    let tensors = vec![spec("running_mean", DType::F64, 1, Role::BatchNorm)];
    let model = |mean: f64| Model::new([f64s(&[mean])]);
    let mut case = Case::new(tensors, model(0.0));
    case.update("a", "ann", model(1000.0));
    case.update_on("b", "ann", Base::Own(id("a")), model(2.0), model(1000.0));
    case.update("c", "ann", model(4.0));
    case.update("d", "bob", model(5.0));
    assert_eq!(case.run().model.tensor(0).unwrap(), f64s(&[4.0]));
}

#[test]
fn counters_take_the_largest_and_exact_tensors_stay() {
    let tensors = vec![spec("n", DType::I64, 2, Role::Counter), spec("ids", DType::I32, 2, Role::Exact)];
    let model = |n: [i64; 2], ids: u8| Model::new([i64s(&n), vec![ids; 8]]);
    let mut case = Case::new(tensors, model([5, -9], 1));
    case.update("a", "ann", model([7, -10], 1));
    case.update("b", "bob", model([6, -8], 1));
    case.update("c", "cy", model([99, 99], 2));
    let product = case.run();
    assert_eq!(product.model, model([7, -8], 1));
    let skipped = [(product.index("c"), Skip::Changed { tensor: "ids".into() })];
    assert_eq!(product.outcome.skipped, skipped);
}

#[test]
fn sixteen_bit_models_keep_small_steps_in_their_master() {
    for dtype in [DType::BF16, DType::F16] {
        let tensors = vec![spec("w", dtype, 1, Role::Float)];
        // Half of one step of the last place at 1.0: rounded each time, it would be lost each time.
        let (base, up) = match dtype {
            DType::BF16 => ([0x80, 0x3f], [0x81, 0x3f]),
            _ => ([0x00, 0x3c], [0x01, 0x3c]),
        };
        let place = if dtype == DType::BF16 { 2f32.powi(-7) } else { 2f32.powi(-10) };
        let mut case = Case::new(tensors, Model::new([base.to_vec()]));
        case.every = 4;
        for step in 1..=8 {
            case.updates.clear();
            let on = Base::Aggregate(id("old"));
            let (model, from) = (Model::new([up.to_vec()]), Model::new([base.to_vec()]));
            case.update_on("u", "ann", on, model, from);
            let product = case.run();
            (case.parent, case.carried) = (product.model, product.carried);
            assert_eq!(read_f32s(&case.carried[&MASTER]), [1.0 + place * 0.25 * step as f32]);
        }
        let expected = 1.0 + 2.0 * place;
        let expected = match dtype {
            DType::BF16 => half::bf16::from_f32(expected).to_le_bytes(),
            _ => half::f16::from_f32(expected).to_le_bytes(),
        };
        assert_eq!(case.parent.tensor(0).unwrap(), expected);
    }
}

#[test]
fn a_tensor_has_a_master_from_its_first_move_on() {
    let tensors = vec![spec("w", DType::BF16, 1, Role::Float), spec("frozen", DType::BF16, 1, Role::Float)];
    let model = |w: f32| Model::new([bf16s(&[w]), bf16s(&[3.0])]);
    let mut case = Case::new(tensors, model(1.0));
    assert!(case.run().carried.is_empty(), "nothing has moved");
    case.update("a", "ann", model(2.0));
    let product = case.run();
    assert_eq!(product.carried.keys().collect::<Vec<_>>(), [&MASTER]);
    (case.parent, case.carried) = (product.model, product.carried);
    case.updates.clear();
    let product = case.run();
    assert_eq!(
        (product.model, product.carried),
        (case.parent.clone(), case.carried.clone()),
        "kept from then on"
    );
}

#[test]
fn masters_of_several_blocks_meet_their_models() {
    let elements = 1_300_000;
    let tensors = vec![spec("w", DType::BF16, elements, Role::Float)];
    let values: Vec<f32> = (0..elements).map(|index| (index % 251) as f32).collect();
    let mut case = Case::new(tensors, Model::new([bf16s(&values)]));
    let raised: Vec<f32> = values.iter().map(|value| value + 1.0).collect();
    case.every = 2;
    for generation in 1..=2 {
        case.updates.clear();
        let on = Base::Aggregate(id("old"));
        case.update_on("u", "ann", on, Model::new([bf16s(&raised)]), Model::new([bf16s(&values)]));
        let product = case.run();
        (case.parent, case.carried) = (product.model, product.carried);
        let expected: Vec<f32> = values.iter().map(|value| value + 0.5 * generation as f32).collect();
        assert!(read_f32s(&case.carried[&MASTER]) == expected);
        assert!(case.parent.tensor(0).unwrap() == bf16s(&expected));
    }
}

#[test]
fn of_a_pair_one_factor_stays_and_the_mean_of_the_other_is_the_mean_of_products() {
    let names = ["q.lora_A.weight", "q.lora_B.weight"];
    let tensors =
        vec![spec(names[0], DType::F32, 2, Role::LoraA), spec(names[1], DType::F32, 3, Role::LoraB)];
    let (a, b) = ([2.0f32, -1.0], [[1.0f32, 0.0, 4.0], [3.0, 2.0, -4.0]]);
    let mut case = Case::new(tensors, Model::new([f32s(&a), f32s(&[0.0; 3])]));
    case.every = 2;
    case.update("one", "ann", Model::new([f32s(&a), f32s(&b[0])]));
    case.update("two", "bob", Model::new([f32s(&a), f32s(&b[1])]));
    case.update("three", "cem", Model::new([f32s(&[2.0, 1.0]), f32s(&[900.0; 3])]));
    let product = case.run();
    assert_eq!(product.model.tensor(0).unwrap(), f32s(&a));
    let mean: Vec<f32> = (0..3).map(|row| f32::midpoint(b[0][row], b[1][row])).collect();
    assert_eq!(product.model.tensor(1).unwrap(), f32s(&mean));
    // (B₁A + B₂A) / 2, entry by entry.
    for (row, mean) in mean.iter().enumerate() {
        for a in a {
            assert!((mean * a - f32::midpoint(b[0][row] * a, b[1][row] * a)).abs() < 1e-6);
        }
    }
    let skipped: Vec<(usize, String)> =
        product.outcome.skipped.iter().map(|(index, why)| (*index, why.to_string())).collect();
    let words = "tensor 'q.lora_A.weight' was changed, but its role says that it must stay equal";
    assert_eq!(skipped, [(product.index("three"), words.to_owned())]);
}

#[test]
fn tensors_that_cannot_be_averaged_are_refused_with_the_reason() {
    let refused = |dtype, role| {
        let tensors = [spec("layer.t", dtype, 1, role)];
        let policy = policy("fedbuff", &[]);
        let request = Request {
            policy: &policy,
            every: 1,
            contributions: &[],
            tensors: &tensors,
            history: &[],
            threads: 1,
            memory_budget: 0,
        };
        aggregate(&request, &Inputs::default(), &mut Output::default(), &|_| ()).unwrap_err().to_string()
    };
    for (dtype, role) in [
        (DType::F8E4M3, Role::Float),
        (DType::I32, Role::Float),
        (DType::U8, Role::BatchNorm),
        (DType::F32, Role::Counter),
        (DType::Bool, Role::Counter),
    ] {
        assert!(refused(dtype, role).contains("tensor 'layer.t' has type"), "{}", refused(dtype, role));
    }
    assert!(refused(DType::I8, Role::LoraB).contains("has type"));
    let huge =
        flair_aggregation::TensorSpec { shape: vec![u64::MAX, 2], ..spec("t", DType::F32, 0, Role::Float) };
    let policy = policy("fedbuff", &[]);
    let request = Request {
        policy: &policy,
        every: 1,
        contributions: &[],
        tensors: &[huge],
        history: &[],
        threads: 1,
        memory_budget: 0,
    };
    let error = aggregate(&request, &Inputs::default(), &mut Output::default(), &|_| ()).unwrap_err();
    assert!(matches!(error, flair_aggregation::Error::Tensor(TensorError::Size { .. })));
}
