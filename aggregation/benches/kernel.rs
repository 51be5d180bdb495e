//! The arithmetic and a whole FedAvg in memory.
//!
//! `FLAIR_BENCH_MILLIONS` sets how many million `f32` elements a model has (5 unless told; 50 is the size that the
//! figures in the documentation are for, and needs about 2.5 GB).

#![allow(clippy::expect_used, reason = "a benchmark that cannot run should say so at once")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flair_aggregation::kernel::{CHUNK, float::Float, norm, sum};
use flair_aggregation::memory::{Inputs, Model, Output};
use flair_aggregation::{Base, Contribution, Policy, Request, TensorSpec, aggregate};
use flair_tensors::dtype::DType;
use flair_tensors::id::Digest;
use flair_tensors::role::Role;
use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

/// Deterministic bytes that are small `f32` numbers.
fn weights(elements: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 16_777_216.0 - 0.5
    };
    (0..elements).flat_map(|_| next().to_le_bytes()).collect()
}

fn loops(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("loop");
    group.throughput(Throughput::Elements(CHUNK as u64));
    for (name, float) in [("f32", Float::F32), ("f16", Float::F16), ("bf16", Float::BF16)] {
        let sized = |seed| {
            let mut bytes = Vec::new();
            let mut values = Vec::new();
            Float::F32.widen_into(&weights(CHUNK, seed), &mut values);
            float.round_into(&values, &mut bytes);
            bytes
        };
        let (input, base) = (sized(1), sized(2));
        let mut sums = vec![0.0; CHUNK];
        group.bench_function(format!("add_difference {name}"), |bencher| {
            bencher.iter(|| sum::add_difference(float, &mut sums, 0.5, black_box(&input), black_box(&base)));
        });
        group.bench_function(format!("squared_distance {name}"), |bencher| {
            bencher.iter(|| norm::squared_distance(float, black_box(&input), black_box(&base)));
        });
        let mut out = Vec::new();
        group.bench_function(format!("step {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                sum::step(float, black_box(&base), &sums, 1.0, 3.0, &mut out);
            });
        });
    }
    group.finish();
}

fn whole(criterion: &mut Criterion) {
    let millions = std::env::var("FLAIR_BENCH_MILLIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let elements = millions * 1_000_000;
    let parent = Model::new([weights(elements, 0)]);
    let updates = (1..=10).map(|seed| (Model::new([weights(elements, seed)]), parent.clone())).collect();
    let inputs = Inputs { parent, updates, ..Inputs::default() };
    let mut contributions: Vec<_> = (0..10u8)
        .map(|index| Contribution {
            commit: Digest::of(&[index]),
            person: Digest::of(&[index, index]),
            base: Base::Aggregate(Digest::of(b"parent")),
            examples: 100 + u64::from(index),
            steps: None,
            staleness: 0,
        })
        .collect();
    contributions.sort_by_key(|contribution| contribution.commit);
    let tensors =
        [TensorSpec { name: "w".into(), dtype: DType::F32, shape: vec![elements as u64], role: Role::Float }];
    let policy = Policy::parse("fedavg", &BTreeMap::new()).expect("the defaults are right");

    let mut group = criterion.benchmark_group("fedavg of 10");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.throughput(Throughput::Elements(elements as u64));
    for threads in [1, 2] {
        let request = Request {
            policy: &policy,
            every: 2,
            contributions: &contributions,
            tensors: &tensors,
            history: &[],
            threads,
            memory_budget: 256 << 20,
        };
        group.bench_function(format!("{millions} M f32, {threads} threads"), |bencher| {
            bencher.iter(|| {
                let mut output = Output::default();
                aggregate(&request, &inputs, &mut output, &|_| ()).expect("models in memory can be read");
                output
            });
        });
    }
    group.finish();
}

criterion_group!(benches, loops, whole);
criterion_main!(benches);
