//! A rule over models in memory: seconds and peak memory, for comparison with other tools (`benches/rules.py`).
//!
//! `cargo run -p flair-aggregation --example rule -- [RULE] [MILLIONS OF ELEMENTS] [MODELS] [THREADS]`
//!
//! Without arguments: FedAvg of 10 models of 50 million `f32` elements (about 2.5 GB), on as many threads as there are
//! processors. Robust rules bear with 2 who are dishonest. Prints one line of JSON. `seconds` and `cpu` are of a whole run:
//! checking every input, measuring every movement (and for rules that compare persons, every two), adding up. For FedAvg,
//! `kernel_seconds` and `kernel_cpu` are of the weighted sum and rounding alone, by the same loops over the same bytes.
//! `checksum` is the sum of the result's 32-bit words.

use flair_aggregation::kernel::{CHUNK, float::Float, sum};
use flair_aggregation::memory::{Inputs, Model};
use flair_aggregation::{Base, Contribution, Policy, Request, Sink, TensorSpec, Written, aggregate};
use flair_tensors::dtype::DType;
use flair_tensors::id::Digest;
use flair_tensors::role::Role;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::error::Error;
use std::io::Write;
use std::time::Instant;
use std::{env, fs, io, thread};

const RUNS: usize = 3;
/// Clock ticks a second, as `/proc` counts them.
const TICKS: f64 = 100.0;

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

/// Seconds that this process has spent on processors.
fn cpu() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    Some((next()? + next()?) / TICKS)
}

/// The least of some runs, in seconds and in seconds of processors.
fn least(mut run: impl FnMut() -> Result<(), Box<dyn Error>>) -> Result<(f64, f64), Box<dyn Error>> {
    let (mut wall, mut used) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..RUNS {
        let (start, before) = (Instant::now(), cpu().unwrap_or(0.0));
        run()?;
        wall = wall.min(start.elapsed().as_secs_f64());
        used = used.min(cpu().unwrap_or(0.0) - before);
    }
    Ok((wall, used))
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
                    sum::step(Float::F32, parent, &sums, 1.0, 100.0 * models.len() as f64, &mut rounded);
                    out.copy_from_slice(&rounded);
                }
            });
        }
    });
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let rule = arguments.next().unwrap_or_else(|| "fedavg".to_owned());
    let millions = arguments.next().map_or(Ok(50), |text| text.parse::<usize>())?;
    let models = arguments.next().map_or(Ok(10), |text| text.parse::<u8>())?;
    let processors = thread::available_parallelism()?.get();
    let threads = arguments.next().map_or(Ok(processors), |text| text.parse())?;
    let elements = millions * 1_000_000;

    let parent = Model::new([weights(elements, 0)]);
    let updates: Vec<_> =
        (1..=models).map(|seed| (Model::new([weights(elements, seed.into())]), parent.clone())).collect();
    let inputs = Inputs { parent, updates, ..Inputs::default() };
    let mut contributions: Vec<_> = (0..models)
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
    let mut settings = BTreeMap::from([("clip".to_owned(), "none".to_owned())]);
    if !["fedavg", "median"].contains(&rule.as_str()) {
        settings.insert("dishonest".to_owned(), "2".to_owned());
    }
    let policy = Policy::parse(&rule, &settings)?;
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
    let (seconds, used) = least(|| {
        kept.0.clear();
        aggregate(&request, &inputs, &mut kept, &|_| ())?;
        Ok(())
    })?;
    let after = peak();
    let digest = Digest::of(&kept.0);
    let words = kept.0.as_chunks::<4>().0.iter();
    let checksum = words.fold(0u64, |sum, word| sum + u64::from(u32::from_le_bytes(*word)));

    let mut alone = String::new();
    if rule == "fedavg" {
        let models: Vec<&[u8]> = inputs.updates.iter().filter_map(|(model, _)| model.tensor(0)).collect();
        let (seconds, used) = least(|| {
            kept.0.fill(0);
            kernel(inputs.parent.tensor(0).unwrap_or(&[]), &models, &mut kept.0, threads);
            Ok(())
        })?;
        if Digest::of(&kept.0) != digest {
            return Err("the loops alone gave another result than the whole run".into());
        }
        alone = format!(",\"kernel_seconds\":{seconds:.3},\"kernel_cpu\":{used:.2}");
    }

    let own = after.zip(before).map_or(0, |(after, before)| after - before);
    writeln!(
        io::stdout(),
        "{{\"what\":\"flair\",\"rule\":\"{rule}\",\"models\":{models},\"elements\":{elements},\"threads\":{threads},\"seconds\":{seconds:.3},\"cpu\":{used:.2}{alone},\"peak_mib\":{},\"beyond_the_models_mib\":{own},\"checksum\":{checksum}}}",
        after.unwrap_or(0)
    )?;
    Ok(())
}
