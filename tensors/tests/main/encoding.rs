use std::num::NonZeroUsize;

use flair_tensors::encoding::{HEAD, decode, encode, max_len};
use flair_tensors::{BLOCK, Codec, DType, Encoder, Encoding, EncodingError, EncodingHead, codec};
use proptest::prelude::*;

use crate::noise::{Noise, bytes, step};

const ONE: NonZeroUsize = NonZeroUsize::MIN;

/// Two and a half blocks: as weights, and as weights a step later.
fn model() -> (Vec<u8>, Vec<u8>) {
    let (base, next) = step(BLOCK / 4 * 5 / 2, 11);
    (bytes(&base), bytes(&next))
}

fn head(codec: Codec, raw: &[u8]) -> EncodingHead {
    EncodingHead { codec, dtype: DType::F32, raw_len: raw.len() as u64 }
}

#[test]
fn a_tensor_of_several_blocks_survives_every_codec() {
    let (base, next) = model();
    for codec in Codec::ALL {
        let coded = encode(ONE, codec, DType::F32, &next, Some(&base)).unwrap();
        assert!(decode(ONE, head(codec, &next), &coded, Some(&base)).unwrap() == next);
        assert!(coded.len() as u64 <= max_len(codec, next.len() as u64));
    }
    assert!(encode(ONE, Codec::Raw, DType::F32, &next, None).unwrap() == next, "raw is the tensor itself");
}

#[test]
fn any_block_is_decoded_alone() {
    let (base, next) = model();
    for codec in Codec::ALL {
        let coded = encode(ONE, codec, DType::F32, &next, Some(&base)).unwrap();
        let encoding = match codec {
            Codec::Raw => Encoding::raw(DType::F32, next.len() as u64),
            _ => Encoding::from_bytes(&coded).unwrap(),
        };
        assert_eq!(encoding.blocks(), 3);
        assert_eq!(encoding.total_len(), coded.len() as u64);
        for block in [2, 0, 1] {
            let (at, place) = (encoding.block_range(block), encoding.raw_range(block));
            let place = place.start as usize..place.end as usize;
            let mut out = Vec::new();
            let piece = &coded[at.start as usize..at.end as usize];
            codec::decode_block(codec, DType::F32, piece, Some(&base[place.clone()]), place.len(), &mut out)
                .unwrap();
            assert!(out == next[place]);
        }
        assert!(encoding.block_range(3).is_empty() && encoding.block_range(u64::MAX).is_empty());
    }
}

#[test]
fn coding_needs_one_block_in_memory() {
    let (base, next) = model();
    let mut whole = Vec::new();
    let mut buffer = Vec::new();
    let mut encoder = Encoder::new(Codec::Ordered, DType::F32, next.len() as u64, &mut buffer);
    for (raw, base) in next.chunks(BLOCK).zip(base.chunks(BLOCK)) {
        encoder.push(raw, Some(base), &mut buffer).unwrap();
        assert!(buffer.len() <= BLOCK + 1 + HEAD);
        whole.append(&mut buffer);
    }
    let length = encoder.finish(&mut buffer).unwrap();
    whole.append(&mut buffer);
    assert_eq!(length, whole.len() as u64);
    assert!(whole == encode(ONE, Codec::Ordered, DType::F32, &next, Some(&base)).unwrap());
}

#[test]
fn the_bytes_are_the_same_on_any_number_of_threads() {
    let mut noise = Noise::new(12);
    let base = noise.bytes(7 * BLOCK + 4000);
    let mut next = base.clone();
    // Blocks that change everywhere, hardly, not at all.
    for (block, bytes) in next.chunks_mut(BLOCK).enumerate() {
        for byte in bytes.iter_mut().step_by([4, 4000, usize::MAX][block % 3]) {
            *byte ^= noise.next() as u8 & 7;
        }
    }
    for codec in Codec::ALL {
        let alone = encode(ONE, codec, DType::F32, &next, Some(&base)).unwrap();
        for threads in (1..=8).filter_map(NonZeroUsize::new) {
            assert!(encode(threads, codec, DType::F32, &next, Some(&base)).unwrap() == alone);
            assert!(decode(threads, head(codec, &next), &alone, Some(&base)).unwrap() == next);
        }
    }
}

#[test]
fn empty_and_scalar_tensors_survive() {
    for raw in [&[][..], &[0, 0, 128, 63]] {
        for codec in Codec::ALL {
            let coded = encode(ONE, codec, DType::F32, raw, Some(raw)).unwrap();
            assert_eq!(decode(ONE, head(codec, raw), &coded, Some(raw)).unwrap(), raw);
        }
    }
}

#[test]
fn an_encoding_has_these_bytes() {
    let raw = [[1, 2, 3, 4], [5, 6, 7, 8]].concat();
    let coded = encode(ONE, Codec::Planes, DType::F32, &raw, None).unwrap();
    let golden = [
        b"FLE\x01".as_slice(),
        &[1, 11, 0, 0],
        &[8, 0, 0, 0, 0, 0, 0, 0],
        &[0, 1, 2, 3, 4, 5, 6, 7, 8],
        &[9, 0, 0, 0],
    ]
    .concat();
    assert_eq!(coded, golden);
    let same = encode(ONE, Codec::Ordered, DType::BF16, &raw, Some(&raw)).unwrap();
    let golden =
        [b"FLE\x01".as_slice(), &[2, 8, 0, 0], &[8, 0, 0, 0, 0, 0, 0, 0], &[2], &[1, 0, 0, 0]].concat();
    assert_eq!(same, golden);
}

#[test]
fn blocks_of_the_wrong_length_are_refused() {
    let mut out = Vec::new();
    let mut encoder = Encoder::new(Codec::Planes, DType::U8, BLOCK as u64 + 5, &mut out);
    assert!(matches!(encoder.push(&[0; 5], None, &mut out), Err(EncodingError::Given { block: 0, .. })));
    encoder.push(&vec![0; BLOCK], None, &mut out).unwrap();
    let missing = encoder.clone().finish(&mut out);
    assert_eq!(missing, Err(EncodingError::Given { block: 1, expected: 5, found: 0 }));
    encoder.push(&[0; 5], None, &mut out).unwrap();
    assert!(matches!(encoder.push(&[], None, &mut out), Err(EncodingError::Given { block: 2, .. })));
    assert!(matches!(encoder.push(&[0], None, &mut out), Err(EncodingError::Given { block: 2, .. })));
    assert!(encoder.finish(&mut out).is_ok());
    assert!(encode(ONE, Codec::Ordered, DType::U8, &[0; 4], Some(&[0; 5])).is_err());
    assert!(encode(ONE, Codec::Ordered, DType::U8, &[0; 4], None).is_err());
}

#[test]
fn hostile_encodings_are_refused_before_anything_is_allocated() {
    let good = encode(ONE, Codec::Planes, DType::F32, &[0; 64], None).unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        Encoding::from_bytes(&bad).unwrap_err()
    };
    assert_eq!(with(0, b"X"), EncodingError::Magic);
    assert_eq!(with(3, &[2]), EncodingError::Magic);
    assert!(matches!(with(4, &[0]), EncodingError::Head { .. }), "raw has no head");
    assert_eq!(with(4, &[9]), EncodingError::Unknown { codec: 9 });
    assert!(matches!(with(5, &[15]), EncodingError::Head { .. }));
    assert!(matches!(with(6, &[1]), EncodingError::Head { .. }));
    assert!(matches!(with(8, &[65]), EncodingError::Head { .. }), "no whole elements");
    assert!(matches!(with(8, &(1_u64 << 63).to_le_bytes()), EncodingError::Length { .. }));
    assert!(matches!(with(8, &(u64::MAX - 3).to_le_bytes()), EncodingError::Length { .. }));
    assert!(matches!(with(8, &[0]), EncodingError::Length { .. }), "longer than no elements can be");
    let table = good.len() - 4;
    assert!(matches!(with(table, &[0; 4]), EncodingError::Block { block: 0, length: 0 }));
    assert!(matches!(with(table, &[255; 4]), EncodingError::Block { .. }));
    assert!(matches!(with(table, &[1]), EncodingError::Sum { .. }));
    for cut in 0..good.len() {
        assert!(Encoding::from_bytes(&good[..cut]).is_err());
    }
    let head = EncodingHead::parse(good.first_chunk().unwrap()).unwrap();
    assert!(matches!(
        Encoding::parse(head, good.len() as u64, &[0; 8]),
        Err(EncodingError::Table { expected: 4, found: 8 })
    ));
    let other = EncodingHead { dtype: DType::I32, ..head };
    assert!(decode(ONE, other, &good, None).is_err(), "another tensor than was asked for");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_head_goes_there_and_back(codec in 1..5_u8, dtype in 0..15_u8, raw_len: u64) {
        let dtype = DType::from_number(dtype).unwrap();
        let raw_len = raw_len / dtype.size() as u64 * dtype.size() as u64;
        let head = EncodingHead { codec: Codec::from_number(codec).unwrap(), dtype, raw_len };
        prop_assert_eq!(EncodingHead::parse(&head.encode()), Ok(head));
    }

    #[test]
    fn any_head_is_refused_or_canonical(bytes: [u8; HEAD], known: bool) {
        let mut bytes = bytes;
        if known {
            bytes[..8].copy_from_slice(b"FLE\x01\x01\x0b\0\0");
        }
        if let Ok(head) = EncodingHead::parse(&bytes) {
            prop_assert_eq!(head.encode(), bytes);
            let _ = head.table(u64::from(bytes[0]));
        }
    }

    #[test]
    fn a_damaged_encoding_is_refused_or_another_tensor(seed: u64, at: prop::sample::Index, byte: u8) {
        let raw = Noise::new(seed).bytes(4000);
        let mut base = raw.clone();
        base[1000] ^= 1;
        for codec in Codec::ALL.into_iter().filter(|codec| *codec != Codec::Raw) {
            let mut coded = encode(ONE, codec, DType::F32, &raw, Some(&base)).unwrap();
            let at = at.index(coded.len());
            coded[at] = byte;
            if let Ok(back) = decode(ONE, head(codec, &raw), &coded, Some(&base)) {
                prop_assert_eq!(back.len(), raw.len());
            }
        }
    }
}
