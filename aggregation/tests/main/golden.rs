//! Results checked in as digests: a change of one bit of one number anywhere breaks them.
//!
//! A digest may only change together with `KERNEL_VERSION`: repositories out there name results by these bits.

use super::case::{Case, i64s, moved, numbers, policy, spec};
use flair_aggregation::memory::Model;
use flair_aggregation::policy::RULES;
use flair_aggregation::{Base, KERNEL_VERSION};
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;
use std::fmt::Write;

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
    broken.set(0, super::case::f32s(&vec![f32::NAN; case.parent.tensor(0).unwrap().len() / 4]));

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
    (case.parent, case.carried) = (product.model, product.carried);
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

/// The crowd and six more persons, two of them far from the others: enough for every rule to have something to say.
pub(super) fn throng(case: Case) -> Case {
    let mut case = crowd(case);
    for (name, examples, steps, staleness) in [
        ("eve", 50, 5, 0),
        ("fay", 60, 10, 1),
        ("gus", 70, 0, 0),
        ("hal", 80, 20, 2),
        ("ida", 90, 40, 0),
        ("jon", 99, 7, 0),
    ] {
        let mut model = trained(&case, name, &case.parent);
        if name == "gus" || name == "jon" {
            // Moved much further than the lower bits of each number allow.
            let far: Vec<f32> =
                (0..model.tensor(0).unwrap().len() / 4).map(|at| (at % 91) as f32 - 45.0).collect();
            model.set(0, super::case::f32s(&far));
        }
        let about = case.update(name, name, model);
        (about.examples, about.steps, about.staleness) = (examples, (steps > 0).then_some(steps), staleness);
    }
    case
}

#[test]
fn every_rule_gives_what_it_has_always_given() {
    let mut given = String::new();
    for entry in RULES {
        let mut case = throng(everything());
        case.policy = policy(entry.name, &[]);
        let first = case.run();
        // A second generation: what is carried is used, and somebody is shortened.
        case.history = vec![first.outcome.norms.clone()];
        let digest = first.digest();
        (case.parent, case.carried) = (first.model, first.carried);
        writeln!(given, "{} {} {}", entry.name, &digest[..32], &case.run().digest()[..32]).unwrap();
    }
    assert!(given == BY_RULE, "{given}");
}

/// Of each rule the first halves of two digests: of a first generation, and of one that stands on it.
const BY_RULE: &str = "\
fedbuff d8281abb752408a8942cbab4dfaae139 de1c7f1d4896919a70289693538ef55b
fedavg eed0c75564ffbad40e88a5122fd7b7e7 66daeb55d3ebaf1140586b2b4757c03f
fedasync a43dfc6a4f9165f456f7a649623716ae ba7233e33f61439cd28b0b9715dbe112
fedavgm 770a1bbeba13980a6c1972e87d5c9ecd 1de63dff2f96ac2499024c734a1ad4b9
fedadagrad b4e6a609d922beb6b4dc40c42e72deb0 9df271c8a0ba216af4b9bd254ad78e0c
fedadam 6e44520730df33015d571914b70d0ef5 0e7023a5becb26b7b8be4db03286ba46
fedyogi ea2b1b13c3b1de3cd24518485c5e3da1 c80051e04a94d00f43ea7309ebedf830
fednova e386c09116c9984b28cf0f314949100c e93dc6f4e7b38e76f8b95187f97e7b2d
median 16bc686bceceb71557c1812f18dda0d1 72d00b9d56b4174084fd2308dbc6fd76
trimmed-mean d5607bcb309e5aa6d70fd2d31fdbcb0c 58e92f1b886a1a13cf0b1f99040536ef
krum 2bb0175b07f960974fcc5bb554e4ada8 4274778ed8fb035fd4e38cfafb4a8e18
multi-krum 98ba64a89f8e755288108b87fd2e4b36 8ab638d16bebd60df429a45ad0adbef0
bulyan 56eff259605bbd82330a79d0074e7a35 cf0b47cd7f7ac39cef00b8b479220668
geometric-median 66b4088b0fbce27f68f4e8b606f20617 a0720b53f01fb5631370995127707d95
centred-clipping daf9bd5c76303784841abc3c08b55de5 c4bacb454902759870bd77830caa3aa1
norm-clipping 07735a671300ea573cfcb7dad162259d 58c050949a3b27fef942375047067fad
";

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
