//! The same recipe gives the same bytes: in any order of arrival, on any number of threads, in any memory.

use super::case::{Case, Product, id, policy};
use super::golden::{crowd, everything, throng};
use flair_aggregation::memory::{Inputs, Output};
use flair_aggregation::policy::RULES;
use flair_aggregation::{Base, Carried, Part, Progress, Request, Sink, Source, Step, Written, aggregate};
use flair_tensors::dtype::DType;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Mutex;

#[test]
fn threads_and_memory_have_no_influence() {
    let case = crowd(everything());
    let expected = case.run_with(1, usize::MAX);
    for threads in 0..=8 {
        assert_eq!(case.run_with(threads, usize::MAX), expected, "{threads} threads");
    }
    for megabytes in [0, 1, 20, 24, 30, 40, 64] {
        assert_eq!(case.run_with(2, megabytes << 20), expected, "{megabytes} MiB");
    }
}

/// Every rule and one optimiser, over tensors of one and of several blocks.
fn every_rule() -> impl Iterator<Item = Case> {
    use super::case::{numbers, spec};
    use flair_aggregation::memory::Model;
    use flair_tensors::role::Role::{BatchNorm, Float};
    let tensors = vec![
        spec("f32", DType::F32, 300_001, Float),
        spec("bf16", DType::BF16, 530_011, Float),
        spec("f64", DType::F64, 140_003, Float),
        spec("var", DType::F32, 257, BatchNorm),
    ];
    let parent =
        Model::new(tensors.iter().map(|spec| numbers(&spec.name, spec.dtype, spec.shape[0] as usize)));
    let case = throng(Case::new(tensors, parent));
    let rules = RULES.iter().map(|entry| policy(entry.name, &[]));
    rules.chain([policy("bulyan", &[("server", "adam")])]).map(move |policy| {
        let mut case = case.clone();
        case.policy = policy;
        // What an optimiser carries is there from the start.
        let product = case.run();
        (case.parent, case.carried) = (product.model, product.carried);
        case
    })
}

#[test]
fn under_every_rule_threads_memory_and_order_have_no_influence() {
    for case in every_rule() {
        let name = case.policy.rule();
        let expected = case.run_with(1, usize::MAX);
        // Little memory, so that persons do not fit side by side; and such that some do.
        for (threads, megabytes) in [(1, 0), (2, 19), (3, 64), (8, 1 << 20)] {
            assert_eq!(
                case.run_with(threads, megabytes << 20),
                expected,
                "{name}: {threads} threads, {megabytes} MiB"
            );
        }
        let mut shuffled = case.clone();
        shuffled.updates.reverse();
        shuffled.updates.rotate_left(3);
        assert_eq!(shuffled.run(), expected, "{name}");
        let prepared = Prepared::new(case);
        assert_eq!(prepared.product(&Ignorant(&prepared.inputs)), expected, "{name}");
    }
}

#[test]
fn the_order_of_arrival_has_no_influence() {
    let case = crowd(everything());
    let expected = case.run();
    let mut shuffled = case.clone();
    shuffled.updates.reverse();
    assert_eq!(shuffled.run(), expected);
    shuffled.updates.rotate_left(2);
    shuffled.updates.swap(0, 3);
    assert_eq!(shuffled.run(), expected);
}

/// Reads like [`Inputs`], but knows no ids, so that nothing is shared or left out for being equal.
struct Ignorant<'a>(&'a Inputs);

impl Source for Ignorant<'_> {
    type Error = Infallible;
    fn block(&self, part: Part, tensor: usize, block: usize, out: &mut Vec<u8>) -> Result<(), Infallible> {
        self.0.block(part, tensor, block, out)
    }
    fn carries(&self, what: Carried, tensor: usize) -> bool {
        self.0.carries(what, tensor)
    }
}

/// A run's parts, for tests that bring their own source or sink.
struct Prepared {
    case: Case,
    contributions: Vec<flair_aggregation::Contribution>,
    inputs: Inputs,
}

impl Prepared {
    fn new(case: Case) -> Self {
        let mut updates = case.updates.clone();
        updates.sort_by_key(|update| update.about.commit);
        let inputs = Inputs {
            parent: case.parent.clone(),
            carried: case.carried.clone(),
            updates: updates.iter().map(|update| (update.model.clone(), update.base.clone())).collect(),
            ..Inputs::default()
        };
        Self { case, contributions: updates.into_iter().map(|update| update.about).collect(), inputs }
    }

    fn request(&self) -> Request<'_> {
        Request {
            policy: &self.case.policy,
            every: self.case.every,
            contributions: &self.contributions,
            tensors: &self.case.tensors,
            history: &self.case.history,
            threads: 3,
            memory_budget: 128 << 20,
        }
    }

    fn product(&self, source: &impl Source) -> Product {
        let mut output = Output::default();
        let outcome = aggregate(&self.request(), source, &mut output, &|_| ()).unwrap();
        let (model, carried) = output.finish();
        Product {
            outcome,
            model,
            carried,
            commits: self.contributions.iter().map(|one| one.commit).collect(),
        }
    }
}

#[test]
fn what_is_known_about_equal_tensors_saves_reading_and_changes_nothing() {
    let prepared = Prepared::new(crowd(everything()));
    assert_eq!(prepared.product(&Ignorant(&prepared.inputs)), prepared.product(&prepared.inputs));
}

/// Writes like [`Output`], but never takes anything back.
#[derive(Default)]
struct Final(Output);

impl Sink for Final {
    type Error = Infallible;
    fn start(&mut self, tensor: usize, kept: bool) -> Result<bool, Infallible> {
        self.0.start(tensor, kept)
    }
    fn block(&mut self, tensor: usize, block: usize, written: Written<'_>) -> Result<(), Infallible> {
        self.0.block(tensor, block, written)
    }
}

#[test]
fn one_pass_and_two_passes_give_one_result() {
    let faulty = crowd(everything());
    let mut sound = faulty.clone();
    sound.updates.retain(|update| update.about.commit != id("broken"));
    let mut clipped = sound.clone();
    clipped.policy = policy("fedbuff", &[("clip", "0.5")]);
    clipped.history = vec![clipped.run().outcome.norms, vec![1e-3, 1e-3]];
    for (case, shortened) in [(faulty, false), (sound, false), (clipped, true)] {
        let prepared = Prepared::new(case);
        let mut sink = Final::default();
        let outcome = aggregate(&prepared.request(), &prepared.inputs, &mut sink, &|_| ()).unwrap();
        assert_eq!(outcome.persons.iter().any(|mover| mover.shortened < 1.0), shortened);
        let product = prepared.product(&prepared.inputs);
        assert_eq!((outcome, sink.0.finish()), (product.outcome, (product.model, product.carried)));
    }
}

#[test]
fn one_pass_reads_every_block_once() {
    let mut case = crowd(everything());
    case.updates.retain(|update| update.about.commit != id("broken"));
    let prepared = Prepared::new(case);
    let counted = Counted(&prepared.inputs, Mutex::default());
    prepared.product(&counted);
    let read = counted.1.into_inner().unwrap();
    // Of tensor 2, which has three blocks: the parent (which is most updates' base as well), an older head, and five
    // updates, one of which is another's base.
    let ids: BTreeSet<_> = read.iter().map(|(part, _)| prepared.inputs.id(*part, 2)).collect();
    assert_eq!(ids.len(), 7);
    assert_eq!(read.iter().filter(|(_, tensor)| *tensor == 2).count(), 7 * 3);
}

/// Counts what is read.
struct Counted<'a>(&'a Inputs, Mutex<Vec<(Part, usize)>>);

impl Source for Counted<'_> {
    type Error = Infallible;
    fn block(&self, part: Part, tensor: usize, block: usize, out: &mut Vec<u8>) -> Result<(), Infallible> {
        self.1.lock().unwrap().push((part, tensor));
        self.0.block(part, tensor, block, out)
    }
    fn id(&self, part: Part, tensor: usize) -> Option<flair_tensors::id::TensorId> {
        self.0.id(part, tensor)
    }
    fn carries(&self, what: Carried, tensor: usize) -> bool {
        self.0.carries(what, tensor)
    }
}

/// A sink that takes the parent's tensors as they are, and declines one it already holds.
#[derive(Default)]
struct Thrifty {
    kept: Vec<usize>,
    written: Vec<(usize, usize)>,
}

impl Sink for Thrifty {
    type Error = Infallible;
    fn start(&mut self, tensor: usize, kept: bool) -> Result<bool, Infallible> {
        if kept {
            self.kept.push(tensor);
        }
        Ok(!kept && tensor != 1)
    }
    fn block(&mut self, tensor: usize, block: usize, _: Written<'_>) -> Result<(), Infallible> {
        self.written.push((tensor, block));
        Ok(())
    }
}

#[test]
fn frozen_tensors_are_neither_read_nor_written_and_blocks_come_in_order() {
    let mut case = crowd(everything());
    case.updates.retain(|update| update.about.commit != id("broken"));
    let frozen = 2;
    let parent = case.parent.tensor(frozen).unwrap().to_vec();
    for update in &mut case.updates {
        update.model.set(frozen, parent.clone());
        update.base.set(frozen, parent.clone());
    }
    let prepared = Prepared::new(case);
    let counted = Counted(&prepared.inputs, Mutex::default());
    let mut sink = Thrifty::default();
    let seen = Mutex::new(Vec::new());
    aggregate(&prepared.request(), &counted, &mut sink, &|progress: Progress| {
        seen.lock().unwrap().push(progress);
    })
    .unwrap();
    assert_eq!(sink.kept, [frozen, 7, 8], "the frozen one, the exact one, and the empty one");
    let read = counted.1.into_inner().unwrap();
    assert!(read.iter().all(|(_, tensor)| *tensor != frozen && *tensor != 7));
    assert!(read.iter().any(|(_, tensor)| *tensor == 1), "a declined tensor is still examined");
    assert_eq!(sink.written, [(0, 0), (0, 1), (0, 2), (3, 0), (3, 1), (4, 0), (5, 0), (6, 0)]);

    let seen = seen.into_inner().unwrap();
    for step in [Step::Check, Step::Combine] {
        let last = seen.iter().rfind(|progress| progress.step == step).unwrap();
        assert_eq!(last.done, last.total);
        assert!(
            seen.iter().filter(|progress| progress.step == step).is_sorted_by_key(|progress| progress.done)
        );
    }
}

#[test]
fn contributions_out_of_order_or_twice_are_refused() {
    let prepared = Prepared::new(crowd(everything()));
    let mut swapped = prepared.contributions.clone();
    swapped.swap(0, 1);
    let mut twice = prepared.contributions.clone();
    twice[1] = twice[0].clone();
    for contributions in [swapped, twice] {
        let request = Request { contributions: &contributions, ..prepared.request() };
        let error = aggregate(&request, &prepared.inputs, &mut Output::default(), &|_| ()).unwrap_err();
        assert!(error.to_string().contains(&contributions[1].commit.to_string()), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_recipe_gives_one_result(
        elements in 0usize..9000,
        updates in prop::collection::vec((0u8..4, any::<prop::sample::Index>(), 0u32..5, 1u64..1000, any::<bool>()), 0..9),
        threads in 1usize..6,
        megabytes in 0usize..40,
        rule in prop::sample::select(RULES.iter().map(|entry| entry.name).collect::<Vec<_>>()),
    ) {
        let case = random_case(elements, &updates, rule);
        let mut shuffled = case.clone();
        shuffled.updates.reverse();
        prop_assert_eq!(case.run_with(1, 64 << 20), shuffled.run_with(threads, megabytes << 20));
    }
}

/// A recipe with updates by a few persons, each on the parent, an old head, or an earlier update of its author.
pub(super) fn random_case(
    elements: usize,
    updates: &[(u8, prop::sample::Index, u32, u64, bool)],
    rule: &str,
) -> Case {
    use super::case::{moved, numbers, spec};
    use flair_aggregation::memory::Model;
    let tensors = vec![
        spec("a", DType::F32, elements, flair_tensors::role::Role::Float),
        spec("b", DType::BF16, elements / 3, flair_tensors::role::Role::Float),
        spec("c", DType::F32, 3, flair_tensors::role::Role::BatchNorm),
    ];
    let parent =
        Model::new(tensors.iter().map(|spec| numbers(&spec.name, spec.dtype, spec.shape[0] as usize)));
    let mut case = Case::new(tensors, parent);
    case.policy = policy(rule, &[]);
    for (number, (person, on, staleness, examples, broken)) in updates.iter().enumerate() {
        let (commit, person) = (format!("commit {number}"), format!("person {person}"));
        let own: Vec<_> = case.updates.iter().filter(|update| update.about.person == id(&person)).collect();
        let (on, base) = match on.index(own.len() + 2) {
            0 => (Base::Aggregate(id("parent")), case.parent.clone()),
            1 => {
                let old =
                    |spec: &flair_aggregation::TensorSpec| numbers("old", spec.dtype, spec.shape[0] as usize);
                (Base::Aggregate(id("old")), Model::new(case.tensors.iter().map(old)))
            }
            earlier => (Base::Own(own[earlier - 2].about.commit), own[earlier - 2].model.clone()),
        };
        let mut model = base.clone();
        for (index, spec) in case.tensors.iter().enumerate() {
            model.set(index, moved(&format!("{commit} {index}"), spec.dtype, base.tensor(index).unwrap()));
        }
        if *broken && number % 3 == 0 {
            model.set(2, super::case::f32s(&[1.0, f32::NAN, 2.0]));
        }
        let about = case.update_on(&commit, &person, on, model, base);
        (about.staleness, about.examples) = (*staleness, *examples);
    }
    case
}
