//! FedAvg of 10 models in memory: seconds and peak memory, for comparison with other tools.
//!
//! `cargo run -p flair-aggregation --example fedavg -- [MILLIONS OF ELEMENTS] [THREADS]`
//!
//! Without arguments: 50 million `f32` elements (about 2.5 GB) and as many threads as there are processors. Prints
//! one line of JSON. `seconds` is a whole run: checking every input, measuring every movement, adding up.
//! `kernel_seconds` is the weighted sum and rounding alone, by the same loops over the same bytes.

use flair_aggregation::kernel::{CHUNK, float::Float, sum};
use flair_aggregation::memory::{Inputs, Model};
use flair_aggregation::{Base, Contribution, Policy, Request, Sink, TensorSpec, Written, aggregate};
use flair_tensors::dtype::DType;
use flair_tensors::id::Digest;
use flair_tensors::role::Role;
use std::convert::Infallible;
use std::error::Error;
use std::io::Write;
use std::time::Instant;
use std::{env, fs, io, thread};

const MODELS: u8 = 10;
const RUNS: usize = 3;

/// Deterministic small `f32` numbers as bytes.
fn weights(elements: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(elements * 4);
    for _ in 0..elements {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bytes.extend_from_slice(&((state >> 8) as f32 / 16_777_216.0 - 0.5).to_le_bytes());
    }
    bytes
}

/// Keeps a result of known size.
struct Kept(Vec<u8>);

impl Sink for Kept {
    type Error = Infallible;
    const REWINDS: bool = true;

    fn rewind(&mut self) -> Result<(), Infallible> {
        self.0.clear();
        Ok(())
    }

    fn block(&mut self, _: usize, _: usize, written: Written<'_>) -> Result<(), Infallible> {
        self.0.extend_from_slice(written.model);
        Ok(())
    }
}

/// The most memory this process ever used, in MiB.
fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? / 1024)
}

/// The weighted sum and its rounding, by the loops that the passes use, on some threads.
fn kernel(parent: &[u8], models: &[&[u8]], out: &mut [u8], threads: usize) {
    let share = parent.len().div_ceil(threads * CHUNK * 4) * CHUNK * 4;
    thread::scope(|scope| {
        for (index, (parent, out)) in parent.chunks(share).zip(out.chunks_mut(share)).enumerate() {
            scope.spawn(move || {
                let mut sums = vec![0.0; CHUNK];
                let mut rounded = Vec::with_capacity(CHUNK * 4);
                for (run, (parent, out)) in
                    parent.chunks(CHUNK * 4).zip(out.chunks_mut(CHUNK * 4)).enumerate()
                {
                    let start = index * share + run * CHUNK * 4;
                    let bytes = start..start + parent.len();
                    sums.resize(parent.len() / 4, 0.0);
                    sums.fill(0.0);
                    for model in models {
                        let model = model.get(bytes.clone()).unwrap_or(&[]);
                        sum::add_difference(Float::F32, &mut sums, 100.0, model, parent);
                    }
                    rounded.clear();
                    sum::step(Float::F32, parent, &sums, 1.0, 1000.0, &mut rounded);
                    out.copy_from_slice(&rounded);
                }
            });
        }
    });
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let millions = arguments.next().map_or(Ok(50), |text| text.parse::<usize>())?;
    let processors = thread::available_parallelism()?.get();
    let threads = arguments.next().map_or(Ok(processors), |text| text.parse())?;
    let elements = millions * 1_000_000;

    let parent = Model::new([weights(elements, 0)]);
    let updates: Vec<_> =
        (1..=MODELS).map(|seed| (Model::new([weights(elements, seed.into())]), parent.clone())).collect();
    let inputs = Inputs { parent, updates, ..Inputs::default() };
    let mut contributions: Vec<_> = (0..MODELS)
        .map(|index| Contribution {
            commit: Digest::of(&[index]),
            person: Digest::of(&[index, index]),
            base: Base::Aggregate(Digest::of(b"parent")),
            examples: 100,
            steps: None,
            staleness: 0,
        })
        .collect();
    contributions.sort_by_key(|contribution| contribution.commit);
    let tensors =
        [TensorSpec { name: "w".into(), dtype: DType::F32, shape: vec![elements as u64], role: Role::Float }];
    let policy = Policy::parse("fedavg", &Policy::default_settings())?;
    let request = Request {
        policy: &policy,
        every: 2,
        contributions: &contributions,
        tensors: &tensors,
        history: &[],
        threads,
        memory_budget: 256 << 20,
    };

    let mut kept = Kept(Vec::with_capacity(elements * 4));
    let before = peak();
    let mut best = f64::INFINITY;
    for _ in 0..RUNS {
        kept.0.clear();
        let start = Instant::now();
        aggregate(&request, &inputs, &mut kept, &|_| ())?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    let after = peak();
    let digest = Digest::of(&kept.0);

    let models: Vec<&[u8]> = inputs.updates.iter().filter_map(|(model, _)| model.tensor(0)).collect();
    let mut best_kernel = f64::INFINITY;
    for _ in 0..RUNS {
        kept.0.fill(0);
        let start = Instant::now();
        kernel(inputs.parent.tensor(0).unwrap_or(&[]), &models, &mut kept.0, threads);
        best_kernel = best_kernel.min(start.elapsed().as_secs_f64());
    }
    if Digest::of(&kept.0) != digest {
        return Err("the loops alone gave another result than the whole run".into());
    }

    let own = after.zip(before).map_or(0, |(after, before)| after - before);
    writeln!(
        io::stdout(),
        "{{\"what\":\"fedavg\",\"models\":{MODELS},\"elements\":{elements},\"threads\":{threads},\"seconds\":{best:.3},\"kernel_seconds\":{best_kernel:.3},\"peak_mib\":{},\"beyond_the_models_mib\":{own},\"result\":\"{digest}\"}}",
        after.unwrap_or(0)
    )?;
    Ok(())
}
