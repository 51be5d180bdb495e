//! Results checked in as digests: a change of one bit of one number anywhere breaks them.
//!
//! A digest may only change together with `KERNEL_VERSION`: repositories out there name results by these bits.

use super::case::{Case, i64s, moved, numbers, policy, spec};
use flair_aggregation::memory::Model;
use flair_aggregation::{Base, KERNEL_VERSION};
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;

/// One tensor of every kind, some of several blocks and none a whole number of anything.
pub(super) fn everything() -> Case {
    let float = |name: &str, dtype, elements| {
        (spec(name, dtype, elements, Role::Float), numbers(name, dtype, elements))
    };
    let norm = |name: &str, dtype, elements| {
        (spec(name, dtype, elements, Role::BatchNorm), numbers(name, dtype, elements))
    };
    let tensors = [
        float("f32", DType::F32, 700_001),
        float("f64", DType::F64, 140_003),
        float("bf16", DType::BF16, 1_060_007),
        float("f16", DType::F16, 530_011),
        norm("running_mean", DType::F32, 257),
        norm("running_var", DType::BF16, 257),
        (spec("num_batches_tracked", DType::I64, 1, Role::Counter), i64s(&[41])),
        (spec("table", DType::U8, 1_100_000, Role::Exact), super::case::noise("table", 1_100_000)),
        float("empty", DType::F32, 0),
    ];
    let (specs, parent): (Vec<_>, Vec<_>) = tensors.into_iter().unzip();
    Case::new(specs, Model::new(parent))
}

/// A model that moved from another as training moves it.
pub(super) fn trained(case: &Case, seed: &str, from: &Model) -> Model {
    let mut model = from.clone();
    for (index, tensor) in case.tensors.iter().enumerate() {
        let old = from.tensor(index).unwrap();
        match tensor.role {
            Role::Float | Role::BatchNorm => {
                model.set(index, moved(&format!("{seed} {}", tensor.name), tensor.dtype, old));
            }
            Role::Counter => model.set(index, i64s(&[40 + seed.len() as i64])),
            _ => {}
        }
    }
    model
}

/// Six updates by four persons: parallel, chained, late, on another base; one of them faulty.
pub(super) fn crowd(mut case: Case) -> Case {
    let old = trained(&case, "an older head", &case.parent);
    let one = trained(&case, "one", &case.parent);
    let two = trained(&case, "two", &one);
    let late = trained(&case, "late", &old);
    let alone = trained(&case, "alone", &case.parent);
    let beside = trained(&case, "beside", &case.parent);
    let mut broken = trained(&case, "broken", &case.parent);
    broken.set(0, super::case::f32s(&vec![f32::NAN; 700_001]));

    case.update("one", "ann", one.clone()).examples = 120;
    let two = case.update_on("two", "ann", Base::Own(super::case::id("one")), two, one);
    (two.examples, two.staleness) = (150, 1);
    let late = case.update_on("late", "bob", Base::Aggregate(super::case::id("old")), late, old);
    (late.examples, late.staleness) = (1000, 3);
    case.update("alone", "cy", alone).examples = 77;
    case.update("beside", "cy", beside).examples = 78;
    case.update("broken", "dan", broken).examples = 9;
    case.every = 5;
    case
}

#[test]
fn results_are_what_they_have_always_been() {
    assert_eq!(KERNEL_VERSION, 1, "new kernel, new digests");
    let mut case = crowd(everything());
    let mut digests = Vec::new();
    for (rule, settings) in [
        ("fedbuff", [("eta", "1"), ("clip", "none")].as_slice()),
        ("fedbuff", &[("eta", "0.7"), ("staleness", "hinge:0.5,1")]),
        ("fedavg", &[("staleness", "polynomial:2"), ("cap", "1.5")]),
        ("fedavg", &[("staleness", "constant"), ("cap", "none"), ("clip", "0.25")]),
    ] {
        case.policy = policy(rule, settings);
        case.history = vec![vec![1e3, 2e3, 4e3], vec![3e3, 5e3, 6e3]];
        digests.push(case.run().digest());
    }
    // Two generations: masters carried on.
    let product = case.run();
    (case.parent, case.masters) = (product.model, product.masters);
    digests.push(case.run().digest());
    assert_eq!(digests, GOLDEN);
}

const GOLDEN: [&str; 5] = [
    "3856a7d3c36877b7636c8dac0005eb32bd5b4369ec17480a8783e65f84c23e67",
    "300dc4ecdcae92e11f19b37d3c828b21b340309b9922d0c0eb7bf5bb88150367",
    "a973ad70b86cc4855713fa80297d33e583dd241ffd6668e716ca7ff966d493b7",
    "7096824f3d3ad8717b9f2c2fad2f39ab48fc8ed33d410fb4dd2bec6bb73bc4e3",
    "347dc7df5f20cc1f4c627abb00dd37f34177b63840a7dd50baa093a08603288d",
];

#[test]
fn the_data_are_what_they_have_always_been() {
    let case = crowd(everything());
    let mut hasher = blake3::Hasher::new();
    for update in &case.updates {
        for tensor in 0..case.tensors.len() {
            hasher.update(update.model.tensor(tensor).unwrap());
        }
    }
    let digest = hasher.finalize().to_hex().to_string();
    assert_eq!(digest, "90077ea7a56d920359842fd6129e7f5be164d3d77e85e8a92d14ed3db8014a9e");
}
