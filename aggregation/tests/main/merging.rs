//! Merges: against numpy and the papers, and the same bytes however they are computed.

use super::case::{f32s, f64s, i64s, id, moved, numbers, read_f32s, spec};
use super::golden::{everything, trained};
use super::papers::{python, uniform};
use flair_aggregation::memory::{Kept, Merged, Model, Output};
use flair_aggregation::merge::{METHODS, Method, Parents, Request, Side, Source, Statistics, merge};
use flair_aggregation::{Carried, KERNEL_VERSION, TensorSpec};
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::thread;

fn method(name: &str, settings: &[(&str, &str)]) -> Method {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Method::parse(name, &settings).unwrap()
}

fn parents() -> Parents {
    Parents { base: id("base"), first: id("first"), second: id("second") }
}

/// Three models with what they carry.
struct Trio {
    tensors: Vec<TensorSpec>,
    models: Merged,
}

impl Trio {
    fn new(tensors: Vec<TensorSpec>, models: [Model; 3]) -> Self {
        Self { tensors, models: Merged { models: models.map(|model| (model, Kept::new())) } }
    }

    /// One `f32` tensor.
    fn of_f32(base: &[f32], first: &[f32], second: &[f32]) -> Self {
        let tensors = vec![spec("w", DType::F32, base.len(), Role::Float)];
        Self::new(tensors, [base, first, second].map(|values| Model::new([f32s(values)])))
    }

    /// A tensor of every kind, both heads trained from the base; the first's 16-bit tensors have masters.
    fn everything() -> Self {
        let case = everything();
        let base = case.parent.clone();
        let (mut first, mut second) = (trained(&case, "a", &base), trained(&case, "bb", &base));
        // One tensor frozen on one side, and one on both.
        second.set(1, base.tensor(1).unwrap());
        first.set(4, base.tensor(4).unwrap());
        second.set(4, base.tensor(4).unwrap());
        let mut trio = Self::new(case.tensors, [base, first, second]);
        for side in [1, 2] {
            let (model, kept) = &mut trio.models.models[side];
            for tensor in [2, 3].into_iter().take(side) {
                let float = flair_aggregation::kernel::float::Float::of(trio.tensors[tensor].dtype).unwrap();
                let mut wide = Vec::new();
                flair_aggregation::kernel::sum::widen_master(float, model.tensor(tensor).unwrap(), &mut wide);
                let wide = moved(&format!("master {side} {tensor}"), DType::F32, &wide);
                kept.insert((Carried::Master, tensor), wide.into());
            }
        }
        trio
    }

    fn run(&self, method: &Method) -> (Model, Kept, Statistics) {
        self.run_with(method, &self.models, 2, usize::MAX)
    }

    fn run_with(
        &self,
        method: &Method,
        source: &impl Source<Error = Infallible>,
        threads: usize,
        memory_budget: usize,
    ) -> (Model, Kept, Statistics) {
        let (parents, tensors) = (parents(), &self.tensors);
        let request = Request { method, parents, tensors, threads, memory_budget };
        let mut output = Output::default();
        let found = merge(&request, source, &mut output, &|_| ()).unwrap();
        let (model, kept) = output.finish();
        (model, kept, found)
    }

    /// The merged values of the only tensor.
    fn values(&self, method: &Method) -> Vec<f32> {
        read_f32s(self.run(method).0.tensor(0).unwrap())
    }
}

/// Every method as it is by default, and once more with other settings.
fn methods() -> Vec<Method> {
    let bare = METHODS.iter().map(|entry| method(entry.name, &[]));
    let other = [
        method("linear", &[("weight", "0.3")]),
        method("task", &[("lambda", "0.4")]),
        method("ties", &[("density", "0.7"), ("lambda", "1.5")]),
        method("dare", &[("drop", "0.9"), ("lambda", "0.8")]),
    ];
    bare.chain(other).collect()
}

fn digest(model: &Model, kept: &Kept) -> String {
    let mut hasher = blake3::Hasher::new();
    for tensor in 0..model.len() {
        hasher.update(model.tensor(tensor).unwrap());
        if let Some(master) = kept.get(&(Carried::Master, tensor)) {
            hasher.update(b"master");
            hasher.update(master);
        }
    }
    hasher.finalize().to_hex()[..32].to_owned()
}

/// Which elements of a tensor are dropped: as the module's page says, not as it does.
fn dropped(side: Side, tensor: &str, elements: usize, drop: f64) -> Vec<bool> {
    let mut words = Vec::new();
    for run in 0..elements.div_ceil(4096) as u64 {
        let mut text = Vec::new();
        for commit in ["base", "first", "second"] {
            text.extend_from_slice(id(commit).as_bytes());
        }
        text.push(side as u8);
        text.extend_from_slice(&(tensor.len() as u64).to_le_bytes());
        text.extend_from_slice(tensor.as_bytes());
        text.extend_from_slice(&run.to_le_bytes());
        let mut bytes = [0; 4096 * 4];
        blake3::Hasher::new_derive_key("flair merge dare 1").update(&text).finalize_xof().fill(&mut bytes);
        words.extend(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)));
    }
    words.truncate(elements);
    words.into_iter().map(|word| f64::from(word) < (drop * 2f64.powi(32)).floor()).collect()
}

#[test]
fn every_method_gives_what_its_paper_says() {
    const SIZES: [usize; 3] = [5000, 1, 70];
    let total: usize = SIZES.iter().sum();
    let vector = |name: &str| uniform(name, total);
    let base = vector("base");
    let grown = |name: &str, scale: f64| -> Vec<f64> {
        let moves = vector(name).into_iter().zip(&base).enumerate();
        // A third stays where it was.
        moves.map(|(at, (change, base))| if at % 3 == 0 { *base } else { base + change * scale }).collect()
    };
    let (first, second) = (grown("first", 0.01), grown("second", 0.02));
    let names = ["w", "a bias", "ünicode"];
    let cut = |values: &[f64]| {
        let mut rest = values;
        Model::new(SIZES.map(|size| {
            let (tensor, later) = rest.split_at(size);
            rest = later;
            f64s(tensor)
        }))
    };
    let tensors = names.iter().zip(SIZES).map(|(name, size)| spec(name, DType::F64, size, Role::Float));
    let trio = Trio::new(tensors.collect(), [&base, &first, &second].map(|values| cut(values)));
    let cases: Vec<Value> = methods()
        .iter()
        .map(|method| {
            let drop = method.settings().get("drop").map(|drop| drop.parse::<f64>().unwrap());
            let dropped = drop.map(|drop| {
                [Side::First, Side::Second].map(|side| {
                    let each = names.iter().zip(SIZES);
                    each.flat_map(|(name, size)| dropped(side, name, size, drop)).collect::<Vec<_>>()
                })
            });
            json!({
                "method": method.name(), "settings": method.settings(), "base": base, "first": first,
                "second": second, "dropped": dropped,
            })
        })
        .collect();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/merging.py");
    let mut child = Command::new(python())
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| {
            panic!("python3 is needed to compare with numpy, `make tools` installs both: {error}")
        });
    let mut input = child.stdin.take().unwrap();
    let writer = thread::spawn(move || input.write_all(Value::from(cases).to_string().as_bytes()));
    let output = child.wait_with_output().unwrap();
    let written = writer.join().unwrap();
    assert!(output.status.success(), "numpy is needed to compare with it: `make tools` installs it");
    written.unwrap();
    let answers: Vec<Vec<f64>> = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answers.len(), methods().len());
    for (method, expected) in methods().iter().zip(answers) {
        let (model, ..) = trio.run(method);
        let bytes: Vec<u8> = (0..3).flat_map(|tensor| model.tensor(tensor).unwrap().to_vec()).collect();
        let got: Vec<f64> = bytes.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect();
        assert_eq!(got.len(), expected.len());
        for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
            assert!((got - expected).abs() < 1e-14, "{} at {at}: {got} is not {expected}", method.name());
        }
    }
}

#[test]
fn merges_are_what_they_have_always_been() {
    assert_eq!(KERNEL_VERSION, 1, "new kernel, new digests");
    let trio = Trio::everything();
    let mut given = String::new();
    for method in methods() {
        let (model, kept, _) = trio.run(&method);
        writeln!(given, "{} {}", method.name(), digest(&model, &kept)).unwrap();
    }
    assert!(given == GOLDEN, "{given}");
}

const GOLDEN: &str = "\
linear 5246a3923b02c4905f93bce96e3543cd
task dd3963f3666f14ce6305ce1c58d218e4
ties 879433893cb40260f3a367d578cac1a9
dare e944ea5dea79069e7b4d2aafba1ffd31
linear 01c0da7f681f4da6ba8358b0c315e3fb
task 2bed67ceb9973425235e1512b56c6f74
ties ee5c01ca3aab5e26f250b2cb9bc5025d
dare a597759ebf14729aa65a475dcf587d27
";

/// The same models, of which nothing is known to be equal.
struct Unknowing<'a>(&'a Merged);

impl Source for Unknowing<'_> {
    type Error = Infallible;

    fn read(
        &self,
        side: Side,
        master: bool,
        tensor: usize,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), Infallible> {
        self.0.read(side, master, tensor, range, out)
    }

    fn has_master(&self, side: Side, tensor: usize) -> bool {
        self.0.has_master(side, tensor)
    }
}

#[test]
fn threads_memory_and_what_is_known_have_no_influence() {
    let trio = Trio::everything();
    for method in methods() {
        let expected = trio.run_with(&method, &trio.models, 1, usize::MAX);
        for (threads, megabytes) in [(0, 0), (2, 1), (3, 60), (8, 1 << 20)] {
            let got = trio.run_with(&method, &trio.models, threads, megabytes << 20);
            assert!(got == expected, "{} with {threads} threads in {megabytes} MiB", method.name());
        }
        let (model, kept, _) = trio.run_with(&method, &Unknowing(&trio.models), 2, usize::MAX);
        assert!(model == expected.0, "{}", method.name());
        // What was kept as it was has no master; what was computed to the same has one, of the same values.
        assert!(expected.1.iter().all(|(what, bytes)| kept.get(what) == Some(bytes)), "{}", method.name());
    }
}

#[test]
fn every_role_has_its_rule() {
    let tensors = vec![
        spec("var", DType::F32, 3, Role::BatchNorm),
        spec("seen", DType::I64, 2, Role::Counter),
        spec("table", DType::U8, 2, Role::Exact),
    ];
    let model = |var: &[f32], seen: &[i64], table: &[u8]| Model::new([f32s(var), i64s(seen), table.to_vec()]);
    let base = model(&[9.0, 9.0, 9.0], &[50, 50], &[1, 1]);
    let first = model(&[1.0, -0.0, 3.0], &[7, -7], &[1, 2]);
    let second = model(&[3.0, -0.0, f32::NAN], &[9, -9], &[4, 5]);
    let trio = Trio::new(tensors, [base, first, second]);
    for method in methods() {
        let (model, ..) = trio.run(&method);
        let weight: f64 = method.settings().get("weight").map_or(0.5, |weight| weight.parse().unwrap());
        let mean = (1.0 - weight) + weight * 3.0;
        let var = read_f32s(model.tensor(0).unwrap());
        assert_eq!(
            var.iter().map(|one| one.to_bits()).collect::<Vec<_>>(),
            [(mean as f32).to_bits(), (-0.0f32).to_bits(), 3f32.to_bits()]
        );
        assert_eq!(model.tensor(1).unwrap(), i64s(&[9, -7]));
        assert_eq!(model.tensor(2).unwrap(), [1, 2]);
    }
}

#[test]
fn of_a_lora_pair_b_is_merged_and_a_stays() {
    let pair = [("q.lora_A", Role::LoraA), ("q.lora_B", Role::LoraB)];
    let tensors = pair.map(|(name, role)| spec(name, DType::F32, 2, role));
    let model = |a: &[f32], b: &[f32]| Model::new([f32s(a), f32s(b)]);
    let models =
        [model(&[5.0, 5.0], &[0.0, 0.0]), model(&[5.0, 6.0], &[1.0, 0.0]), model(&[7.0, 5.0], &[0.0, 4.0])];
    let (merged, ..) = Trio::new(tensors.to_vec(), models).run(&method("task", &[]));
    assert_eq!(merged, model(&[5.0, 6.0], &[1.0, 4.0]));
}

#[test]
fn where_no_number_comes_out_the_first_holds() {
    let (big, small) = (f32::MAX, f32::from_bits(1));
    let trio = Trio::of_f32(
        &[f32::NAN, 1.0, 1.0, -big, small],
        &[1.0, f32::INFINITY, 2.0, big, small],
        &[2.0, 1.0, f32::NAN, big, small],
    );
    for method in methods() {
        let values = trio.values(&method);
        if method.name() != "linear" {
            assert_eq!(values[0], 1.0, "{}", method.name());
        }
        // Rounded as everything is: no result holds an infinity.
        assert_eq!((values[1], values[2]), (big, 2.0), "{}", method.name());
        assert!(values[3].is_finite() && values[4] == small, "{}", method.name());
    }
}

#[test]
fn a_branch_that_learned_nothing_changes_nothing() {
    let case = everything();
    let first = trained(&case, "first", &case.parent);
    let one = |base: &Model, first: &Model, second: &Model| {
        let models = [base, first, second].map(|model| Model::new([model.tensor(0).unwrap()]));
        Trio::new(vec![case.tensors[0].clone()], models)
    };
    let ahead = one(&case.parent, &case.parent, &first);
    let behind = one(&case.parent, &first, &case.parent);
    for whole in [method("task", &[]), method("ties", &[("density", "1")]), method("dare", &[("drop", "0")])]
    {
        for trio in [&ahead, &behind] {
            let (merged, _, found) = trio.run(&whole);
            assert_eq!(merged.tensor(0), first.tensor(0), "{}", whole.name());
            assert_eq!(found.opposed, 0);
        }
    }
    let ends = [method("linear", &[("weight", "0")]), method("linear", &[("weight", "1")])];
    assert_eq!(ahead.run(&ends[0]).0.tensor(0), case.parent.tensor(0));
    assert_eq!(ahead.run(&ends[1]).0.tensor(0), first.tensor(0));
}

/// A trio of `f32` values on a grid, so that many changes are equally large.
fn coarse() -> impl Strategy<Value = (Vec<[i8; 3]>, u32)> {
    (prop::collection::vec([-3i8..4, -3i8..4, -3i8..4], 1..400), 1u32..=100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn ties_keeps_the_largest_and_those_as_large((values, percent) in coarse(), fine in any::<bool>()) {
        let side = |side: usize| -> Vec<f32> {
            let scale = |at: usize| if fine { 1.0 + at as f32 * 1e-6 } else { 1.0 };
            values.iter().enumerate().map(|(at, all)| f32::from(all[side]) * 0.25 * scale(at)).collect()
        };
        let trio = Trio::of_f32(&side(0), &side(1), &side(2));
        let density = format!("{}.{:02}", percent / 100, percent % 100);
        let (_, _, found) = trio.run(&method("ties", &[("density", &density)]));
        let keep = (density.parse::<f64>().unwrap() * values.len() as f64).ceil() as usize;
        for (at, branch) in [side(1), side(2)].into_iter().enumerate() {
            let changes = branch.iter().zip(side(0)).map(|(new, old)| (f64::from(*new) - f64::from(old)).abs());
            let mut changes: Vec<f64> = changes.collect();
            changes.sort_by(|one, other| other.total_cmp(one));
            let least = changes[keep - 1];
            let kept = changes.iter().filter(|change| **change >= least && **change > 0.0).count();
            prop_assert_eq!(found.kept[at], kept as u64);
            prop_assert_eq!(found.changed[at], changes.iter().filter(|change| **change > 0.0).count() as u64);
        }
    }

    #[test]
    fn the_order_of_the_parents_matters_only_where_it_must((values, _) in coarse()) {
        let side = |side: usize| -> Vec<f32> { values.iter().map(|all| f32::from(all[side]) * 0.3).collect() };
        let trio = Trio::of_f32(&side(0), &side(1), &side(2));
        let other = Trio::of_f32(&side(0), &side(2), &side(1));
        for method in [method("linear", &[]), method("task", &[]), method("ties", &[])] {
            prop_assert_eq!(trio.values(&method), other.values(&method));
        }
    }
}

#[test]
fn dare_drops_as_many_as_it_says_and_each_branch_by_itself() {
    let elements = 200_000;
    let (zero, one) = (vec![0.0; elements], vec![1.0; elements]);
    let trio = Trio::of_f32(&zero, &one, &one);
    let dare = method("dare", &[("drop", "0.75")]);
    let (_, _, found) = trio.run(&dare);
    for kept in found.kept {
        assert!((kept as f64 / elements as f64 - 0.25).abs() < 0.01, "{kept}");
    }
    let count = |value: f32| trio.values(&dare).iter().filter(|one| **one == value).count() as f64;
    // Both kept, one of them, none.
    for (value, share) in [(8.0, 0.0625), (4.0, 0.375), (0.0, 0.5625)] {
        assert!((count(value) / elements as f64 - share).abs() < 0.01, "{value}");
    }
    // Another pair of commits draws otherwise.
    let tensors = &trio.tensors;
    let parents = Parents { second: id("another"), ..parents() };
    let request = Request { method: &dare, parents, tensors, threads: 1, memory_budget: 0 };
    let mut output = Output::default();
    merge(&request, &trio.models, &mut output, &|_| ()).unwrap();
    assert_ne!(read_f32s(output.finish().0.tensor(0).unwrap()), trio.values(&dare));
}

#[test]
fn masters_are_merged_where_there_are_some() {
    // What 16 bits can't hold is in the masters: the mean of both sees it.
    let tensors = vec![spec("w", DType::BF16, 1, Role::Float)];
    let one = Model::new([numbers("one", DType::BF16, 1)]);
    let bf16 = |value: f32| Model::new([value.to_bits().to_le_bytes()[2..].to_vec()]);
    let mut trio = Trio::new(tensors, [one, bf16(1.0), bf16(1.0)]);
    for (side, master) in [(1, 1.001f32), (2, 1.003)] {
        trio.models.models[side].1.insert((Carried::Master, 0), f32s(&[master]).into());
    }
    let (model, kept, _) = trio.run(&method("linear", &[]));
    assert_eq!(model, bf16(1.0));
    let mean = f64::midpoint(f64::from(1.001f32), f64::from(1.003f32));
    assert_eq!(read_f32s(&kept[&(Carried::Master, 0)]), [mean as f32]);
}
