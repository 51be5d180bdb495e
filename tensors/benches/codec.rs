//! Ratio and speed of each codec on one block, with memcpy and BLAKE3 beside it to compare with, and of a whole tensor on
//! one thread and on all: figures move with the machine, their ratios do not.

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::thread::available_parallelism;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flair_tensors::codec::{decode_into, encode_block};
use flair_tensors::encoding::{EncodingHead, decode, encode};
use flair_tensors::{BLOCK, Codec, DType, Digest};

/// Blocks of the whole tensor.
const BLOCKS: usize = 16;

/// Weights, and the same after one step and after ten of AdamW (Loshchilov and Hutter 2019, PyTorch's defaults but for
/// the rate) on drawn gradients, of which a third is the same in all steps.
fn trained(count: usize) -> [Vec<u8>; 3] {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut normal = || (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
    let [mut base, mut one, mut ten] = [const { Vec::new() }; 3];
    for _ in 0..count {
        let first = (normal() * 0.05) as f32;
        base.extend_from_slice(&first.to_le_bytes());
        let (mut weight, trend, mut mean, mut square) = (f64::from(first), normal(), 0.0, 0.0);
        for step in 1..=10 {
            let gradient = (trend / 3.0 + normal()) * 1e-4;
            mean = 0.9 * mean + 0.1 * gradient;
            square = 0.999 * square + 0.001 * gradient * gradient;
            let (mean, square) = (mean / (1.0 - 0.9_f64.powi(step)), square / (1.0 - 0.999_f64.powi(step)));
            weight = weight * (1.0 - 2e-5 * 0.01) - 2e-5 * mean / (square.sqrt() + 1e-8);
            if step == 1 {
                one.extend_from_slice(&(weight as f32).to_le_bytes());
            }
        }
        ten.extend_from_slice(&(weight as f32).to_le_bytes());
    }
    [base, one, ten]
}

/// Rounded to bf16, ties to even.
fn halves(bytes: &[u8]) -> Vec<u8> {
    let round = |bits: u32| ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    bytes.as_chunks().0.iter().flat_map(|element| round(u32::from_le_bytes(*element)).to_le_bytes()).collect()
}

/// Every hundredth element of `next`, the others of `base`.
fn sparse(base: &[u8], next: &[u8], size: usize) -> Vec<u8> {
    let pairs = base.chunks(size).zip(next.chunks(size)).enumerate();
    pairs.flat_map(|(i, (base, next))| if i % 100 == 0 { next } else { base }).copied().collect()
}

fn speeds(criterion: &mut Criterion) {
    let [base, one, ten] = trained(BLOCK / 4);
    let few = sparse(&base, &ten, 4);
    let (half_base, half_one, half_ten) = (halves(&base), halves(&one), halves(&ten));
    let half_few = sparse(&half_base, &half_ten, 2);
    let cases = [
        ("f32, 1 step", DType::F32, &base, &one),
        ("f32, 10 steps", DType::F32, &base, &ten),
        ("f32, 1 % of 10 steps", DType::F32, &base, &few),
        ("bf16, 1 step", DType::BF16, &half_base, &half_one),
        ("bf16, 10 steps", DType::BF16, &half_base, &half_ten),
        ("bf16, 1 % of 10 steps", DType::BF16, &half_base, &half_few),
    ];

    let mut group = criterion.benchmark_group("block");
    group.sample_size(20).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group.throughput(Throughput::Bytes(BLOCK as u64));
    let mut copy = vec![0; BLOCK];
    group.bench_function("memcpy", |bencher| bencher.iter(|| copy.copy_from_slice(black_box(&ten))));
    group.bench_function("blake3", |bencher| bencher.iter(|| Digest::of(black_box(&ten))));
    for (name, dtype, base, next) in cases {
        for codec in [Codec::Planes, Codec::Ordered, Codec::Grouped, Codec::Sparse] {
            group.throughput(Throughput::Bytes(next.len() as u64));
            let mut coded = Vec::new();
            group.bench_function(format!("{name}/{codec:?}, in"), |bencher| {
                bencher.iter(|| {
                    coded.clear();
                    encode_block(codec, dtype, black_box(next), Some(base), &mut coded)
                });
            });
            let ratio = next.len() as f64 / coded.len().max(1) as f64;
            let mut raw = vec![0; next.len()];
            group.bench_function(format!("{name}/{codec:?}, out, {ratio:.2} to 1"), |bencher| {
                bencher.iter(|| decode_into(codec, dtype, black_box(&coded), Some(base), &mut raw));
            });
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("tensor");
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(2));
    let (base, next) = (base.repeat(BLOCKS), ten.repeat(BLOCKS));
    group.throughput(Throughput::Bytes(next.len() as u64));
    let all = available_parallelism().unwrap_or(NonZeroUsize::MIN);
    for threads in [NonZeroUsize::MIN, all] {
        let (codec, dtype) = (Codec::Ordered, DType::F32);
        let mut coded = Ok(Vec::new());
        group.bench_function(format!("in, on {threads} threads"), |bencher| {
            bencher.iter(|| coded = encode(threads, codec, dtype, black_box(&next), Some(&base)));
        });
        let head = EncodingHead { codec, dtype, raw_len: next.len() as u64 };
        let coded = coded.unwrap_or_default();
        group.bench_function(format!("out, on {threads} threads"), |bencher| {
            bencher.iter(|| decode(threads, head, black_box(&coded), Some(&base)));
        });
    }
    group.finish();
}

criterion_group!(benches, speeds);
criterion_main!(benches);
