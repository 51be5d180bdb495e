//! Speed of each codec on one block, with memcpy and BLAKE3 beside it to compare with: figures move with the machine,
//! their ratios do not.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flair_tensors::codec::{decode_into, encode_block};
use flair_tensors::{BLOCK, Codec, DType, Digest};

/// A block of weights, and the same after a first AdamW step.
fn step() -> (Vec<u8>, Vec<u8>) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut uniform = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    };
    let (mut base, mut next) = (Vec::new(), Vec::new());
    for _ in 0..BLOCK / 4 {
        let normal = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        let weight = (normal * 0.04) as f32;
        let gradient = ((uniform() - 0.5) * 1e-3) as f32;
        let moved = weight - 2e-5 * gradient / (gradient.abs() + 1e-8);
        base.extend_from_slice(&weight.to_le_bytes());
        next.extend_from_slice(&moved.to_le_bytes());
    }
    (base, next)
}

fn halves(bytes: &[u8]) -> Vec<u8> {
    bytes.chunks_exact(4).flat_map(|element| [element[2], element[3]]).collect()
}

fn speeds(criterion: &mut Criterion) {
    let (base, next) = step();
    let sparse: Vec<u8> = base
        .chunks_exact(4)
        .zip(next.chunks_exact(4))
        .enumerate()
        .flat_map(|(i, (base, next))| if i % 100 == 0 { next } else { base })
        .copied()
        .collect();
    let cases = [
        ("f32-alone", Codec::Planes, DType::F32, base.clone(), next.clone()),
        ("f32-step", Codec::Ordered, DType::F32, base.clone(), next.clone()),
        ("f32-sparse", Codec::Ordered, DType::F32, base.clone(), sparse),
        ("f32-same", Codec::Ordered, DType::F32, base.clone(), base.clone()),
        ("bf16-step", Codec::Ordered, DType::BF16, halves(&base), halves(&next)),
    ];

    let mut group = criterion.benchmark_group("block");
    group.throughput(Throughput::Bytes(BLOCK as u64));
    let mut copy = vec![0; BLOCK];
    group.bench_function("memcpy", |bencher| bencher.iter(|| copy.copy_from_slice(black_box(&next))));
    group.bench_function("blake3", |bencher| bencher.iter(|| Digest::of(black_box(&next))));
    for (name, codec, dtype, base, next) in cases {
        group.throughput(Throughput::Bytes(next.len() as u64));
        let mut coded = Vec::new();
        group.bench_function(format!("encode/{name}"), |bencher| {
            bencher.iter(|| {
                coded.clear();
                encode_block(codec, dtype, black_box(&next), Some(&base), &mut coded)
            });
        });
        let ratio = next.len() as f64 / coded.len() as f64;
        let mut raw = vec![0; next.len()];
        group.bench_function(format!("decode/{name}, {ratio:.2} to 1"), |bencher| {
            bencher.iter(|| decode_into(codec, dtype, black_box(&coded), Some(&base), &mut raw));
        });
    }
    group.finish();
}

criterion_group!(benches, speeds);
criterion_main!(benches);
