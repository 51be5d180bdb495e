//! Test vectors: coded tensors and a pack index, as `docs/tensors.txt` shows them to whoever writes a second
//! implementation.

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use data_encoding::HEXLOWER;
use flair_tensors::encoding::encode;
use flair_tensors::pack::PackBuilder;
use flair_tensors::{Codec, DType, Digest, TensorId};

const ONE: NonZeroUsize = NonZeroUsize::MIN;

/// 300 f32 numbers, and the same after a step that moved some of them, one across zero.
fn tensors() -> (Vec<u8>, Vec<u8>) {
    let base: Vec<f32> = (0..300_u16).map(|k| f32::from(k) * 0.01 - 1.0).collect();
    let step = |(k, value): (usize, &f32)| if k % 3 == 0 { value + 0.001 } else { *value };
    let raw: Vec<f32> = base.iter().enumerate().map(step).collect();
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect();
    (bytes(&base), bytes(&raw))
}

fn vectors() -> String {
    let mut out = String::new();
    let mut line = |name: &str, bytes: &[u8]| writeln!(out, "{name} {}", HEXLOWER.encode(bytes)).unwrap();
    let (base, raw) = tensors();
    let planes = encode(ONE, Codec::Planes, DType::F32, &raw, None).unwrap();
    let ordered = encode(ONE, Codec::Ordered, DType::F32, &raw, Some(&base)).unwrap();
    line("base", &base);
    line("raw", &raw);
    line("planes", &planes);
    line("ordered", &ordered);
    line("grouped", &encode(ONE, Codec::Grouped, DType::F32, &raw, Some(&base)).unwrap());
    let mut few = base.clone();
    for place in [1, 2, 2 * 151, 4 * 299 + 3] {
        few[place] ^= 1;
    }
    line("few", &few);
    line("sparse", &encode(ONE, Codec::Sparse, DType::F32, &few, Some(&base)).unwrap());
    line("same", &encode(ONE, Codec::Ordered, DType::F32, &base, Some(&base)).unwrap());

    let mut pack = PackBuilder::new();
    let (id, under) = (TensorId::of(&raw), TensorId::of(&base));
    let listed = (id, DType::F32, raw.len() as u64);
    pack.push(listed, Codec::Ordered, Some(under), ordered.len() as u64);
    let large = vec![5; 70_000];
    pack.push((TensorId::of(&large), DType::U8, 70_000), Codec::Raw, None, 70_000);
    let index = pack.finish().unwrap().encode();
    line("index", &index);
    let blobs = [Digest::of(&index), Digest::of(&ordered), Digest::of(&large)];
    let sequence: Vec<u8> = blobs.iter().flat_map(|blob| blob.to_bytes()).collect();
    line("pack", Digest::of(&sequence).as_bytes());
    out
}

#[test]
fn the_bytes_are_those_that_are_published() {
    let found = vectors();
    assert_eq!(found, include_str!("../../../docs/tensors.txt"), "{found}");
}
