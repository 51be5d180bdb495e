use flair_tensors::block::{BLOCK, blocks, range};
use flair_tensors::codec::{Choice, decode_into, encode_block};
use flair_tensors::{Codec, CodecError, DType, Digest, codec};
use proptest::prelude::*;

use crate::noise::{Noise, bytes, halves, step};

fn coded(codec: Codec, dtype: DType, raw: &[u8], base: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    encode_block(codec, dtype, raw, base, &mut out).unwrap();
    assert!(out.len() <= codec.max_block(raw.len()));
    out
}

/// Codes and decodes with every codec; the bits must be the same.
fn there_and_back(dtype: DType, raw: &[u8], base: &[u8]) {
    for codec in Codec::ALL {
        let coded = coded(codec, dtype, raw, Some(base));
        let mut back = vec![7];
        codec::decode_block(codec, dtype, &coded, Some(base), raw.len(), &mut back).unwrap();
        assert_eq!(back[0], 7, "what was there stays");
        assert!(back[1..] == *raw, "{codec:?} {dtype}");
    }
}

#[test]
fn random_bits_survive_in_every_dtype() {
    let mut noise = Noise::new(1);
    for dtype in DType::ALL {
        for count in [0, 1, 2, 3, 511, 512, 513, 5000, BLOCK / dtype.size()] {
            let length = count * dtype.size();
            there_and_back(dtype, &noise.bytes(length), &noise.bytes(length));
        }
    }
}

#[test]
fn every_16_bit_float_survives_against_every_kind_of_base() {
    let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    for dtype in [DType::F16, DType::BF16, DType::I16, DType::U16] {
        for turn in [0, 2, 0x1_0000, 0xfffe, 0x7c00 * 2] {
            let mut base = all.clone();
            base.rotate_left(turn);
            there_and_back(dtype, &all, &base);
        }
    }
}

#[test]
fn every_pair_of_8_bit_values_survives() {
    let raw: Vec<u8> = (0..=u16::MAX).map(|pair| pair as u8).collect();
    let base: Vec<u8> = (0..=u16::MAX).map(|pair| (pair >> 8) as u8).collect();
    for dtype in [DType::Bool, DType::U8, DType::I8, DType::F8E4M3, DType::F8E5M2] {
        there_and_back(dtype, &raw, &base);
    }
}

#[test]
fn special_floats_keep_their_bits() {
    let singles = [
        0.0_f32.to_bits(),
        (-0.0_f32).to_bits(),
        1,
        0x8000_0001,
        0x007f_ffff,
        f32::MIN_POSITIVE.to_bits(),
        f32::MAX.to_bits(),
        f32::INFINITY.to_bits(),
        f32::NEG_INFINITY.to_bits(),
        0x7fc0_0000,
        0x7f80_0001,
        0xffff_ffff,
        0xffc1_2345,
    ];
    let doubles = [
        0.0_f64.to_bits(),
        (-0.0_f64).to_bits(),
        1,
        f64::MIN_POSITIVE.to_bits() - 1,
        f64::INFINITY.to_bits(),
        f64::NEG_INFINITY.to_bits(),
        0x7ff8_0000_0000_0000,
        0x7ff0_0000_0000_0001,
        u64::MAX,
        0xfff8_dead_beef_0001,
    ];
    let pairs = |values: Vec<Vec<u8>>| {
        let mut raw = Vec::new();
        let mut base = Vec::new();
        for a in &values {
            for b in &values {
                // Often enough that it is compressed and not stored.
                for _ in 0..16 {
                    raw.extend_from_slice(a);
                    base.extend_from_slice(b);
                }
            }
        }
        (raw, base)
    };
    let (raw, base) = pairs(singles.iter().map(|bits| bits.to_le_bytes().to_vec()).collect());
    there_and_back(DType::F32, &raw, &base);
    there_and_back(DType::I32, &raw, &base);
    let (raw, base) = pairs(doubles.iter().map(|bits| bits.to_le_bytes().to_vec()).collect());
    there_and_back(DType::F64, &raw, &base);
    there_and_back(DType::U64, &raw, &base);
}

#[test]
fn a_step_across_zero_or_a_power_of_two_is_as_small_as_any() {
    // One unit in the last place each time: the difference is 1 or −1 everywhere, so one plane holds it all.
    let base: Vec<f32> = [0.0, -0.0, 1.0, 2.0, 0.5, f32::MIN_POSITIVE].repeat(1000);
    let next: Vec<f32> = base
        .iter()
        .map(|value| if *value == 0.0 && value.is_sign_positive() { -0.0 } else { value.next_down() })
        .collect();
    let length = coded(Codec::Ordered, DType::F32, &bytes(&next), Some(&bytes(&base))).len();
    assert!(length < 100, "{length} bytes");
}

#[test]
fn a_block_that_equals_its_base_takes_one_byte() {
    let raw = Noise::new(2).bytes(BLOCK);
    for codec in Codec::ALL.into_iter().filter(|codec| codec.needs_base()) {
        assert_eq!(coded(codec, DType::F32, &raw, Some(&raw)), [2]);
    }
}

#[test]
fn what_does_not_shrink_grows_by_one_byte_only() {
    let mut noise = Noise::new(3);
    let (raw, base) = (noise.bytes(BLOCK), noise.bytes(BLOCK));
    for codec in Codec::ALL.into_iter().skip(1) {
        assert_eq!(coded(codec, DType::F32, &raw, Some(&base)).len(), BLOCK + 1);
    }
}

#[test]
fn coded_blocks_have_these_bytes() {
    // An element that differs by 2 and one that is equal: one byte of difference, folded, and zeros.
    let base: Vec<u8> = [1.0_f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let next: Vec<u8> =
        [f32::from_bits(1.0_f32.to_bits() + 2), -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!(coded(Codec::Raw, DType::F32, &next, None), next);
    let stored = coded(Codec::Ordered, DType::F32, &next, Some(&base));
    assert_eq!(stored, [&[0], next.as_slice()].concat(), "too short to shrink");
    assert_eq!(coded(Codec::Ordered, DType::F32, &base, Some(&base)), [2]);

    // Zeros, and the third and the last of them one and two steps further: a list of 2, after gaps of 2 and 129.
    let base = vec![0; 4 * 133];
    let mut next = base.clone();
    (next[4 * 2], next[4 * 132]) = (1, 2);
    let list = [3, 2, 2, 0x81, 1, 2, 4, 0, 0, 0, 0, 0, 0];
    assert_eq!(coded(Codec::Sparse, DType::U32, &next, Some(&base)), list);
    assert_eq!(coded(Codec::Sparse, DType::F32, &next, Some(&base)), list);
    // Of other dtypes the values have other widths.
    assert_eq!(coded(Codec::Sparse, DType::U8, &next, Some(&base))[..6], [3, 2, 8, 0x87, 4, 2]);

    // Elements with exponents 2, 1, 2, 1 in the base, each one step further: first the two with 1, then the others.
    let base: Vec<u8> = [4.0_f32, 2.0, 5.0, 3.0].repeat(16).iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut next = base.clone();
    for (n, element) in next.chunks_exact_mut(4).enumerate() {
        element[0] += 1 + (n % 4) as u8;
    }
    let grouped = coded(Codec::Grouped, DType::F32, &next, Some(&base));
    let planes = [[4, 8].repeat(16), [2, 6].repeat(16), vec![0; 3 * 64]].concat();
    assert_eq!(zstd::bulk::decompress(&grouped[1..], 1000).unwrap(), planes);
    assert_eq!(grouped[0], 1);

    // Longer: the compressor's output is part of the format, so its digests are pinned.
    let (base, next) = step(BLOCK / 4, 4);
    let (base, next) = (bytes(&base), bytes(&next));
    let digest = |codec| Digest::of(&coded(codec, DType::F32, &next, Some(&base))).short();
    assert_eq!(digest(Codec::Planes), "cjuu7uao3l");
    assert_eq!(digest(Codec::Ordered), "li6lhbcz2y");
    assert_eq!(digest(Codec::Grouped), "23lbwrtxe5");
    let mut few = base.clone();
    for at in (0..BLOCK).step_by(400) {
        few[at..at + 4].copy_from_slice(&next[at..at + 4]);
    }
    assert_eq!(Digest::of(&coded(Codec::Sparse, DType::F32, &few, Some(&base))).short(), "jmaftujqqr");
    let zeros = coded(Codec::Planes, DType::F32, &[0; 64], None);
    assert_eq!(zeros, [1, 0x28, 0xb5, 0x2f, 0xfd, 0x20, 64, 0x45, 0, 0, 0x10, 0, 0, 1, 0, 0x93, 0, 0x16]);
}

#[test]
fn a_training_step_is_a_third_of_the_model_or_less() {
    let (base, next) = step(BLOCK / 4, 5);
    let ratio = |dtype, base: &[u8], next: &[u8], codec| {
        next.len() as f64 / coded(codec, dtype, next, Some(base)).len() as f64
    };
    let single = ratio(DType::F32, &bytes(&base), &bytes(&next), Codec::Ordered);
    let alone = ratio(DType::F32, &bytes(&base), &bytes(&next), Codec::Planes);
    let half = ratio(DType::BF16, &halves(&base), &halves(&next), Codec::Ordered);
    let grouped = ratio(DType::F32, &bytes(&base), &bytes(&next), Codec::Grouped);
    println!("f32 {single:.2}, grouped {grouped:.2}, alone {alone:.2}, bf16 {half:.2}");
    assert!(grouped > 1.5 * single, "{grouped}");
    assert!(single > 2.9, "{single}");
    assert!(alone > 1.15, "{alone}");
    assert!(half > 7.0, "{half}");
}

#[test]
fn a_wrong_base_is_an_error() {
    let mut out = vec![1];
    for base in [None, Some([0_u8; 4].as_slice())] {
        let error = encode_block(Codec::Ordered, DType::F32, &[0; 8], base, &mut out).unwrap_err();
        assert!(matches!(error, CodecError::Base { expected: 8, .. }));
        let error = decode_into(Codec::Ordered, DType::F32, &[2], base, &mut [0; 8]).unwrap_err();
        assert!(matches!(error, CodecError::Base { expected: 8, .. }));
    }
    let large = vec![0; BLOCK + 1];
    let error = encode_block(Codec::Raw, DType::U8, &large, None, &mut out).unwrap_err();
    assert_eq!(error, CodecError::TooLarge { length: BLOCK + 1 });
    let error = codec::decode_block(Codec::Planes, DType::U8, &[0], None, usize::MAX, &mut out).unwrap_err();
    assert_eq!(error, CodecError::TooLarge { length: usize::MAX });
    assert_eq!(out, [1], "nothing is appended on an error");
}

#[test]
fn damaged_blocks_are_refused() {
    let decode = |codec, coded: &[u8]| decode_into(codec, DType::F32, coded, Some(&[0; 64]), &mut [0; 64]);
    assert!(matches!(decode(Codec::Planes, &[]), Err(CodecError::Length { .. })));
    assert!(matches!(decode(Codec::Raw, &[0; 63]), Err(CodecError::Length { .. })));
    assert!(
        matches!(decode(Codec::Planes, &[0; 66]), Err(CodecError::Length { .. })),
        "longer than raw and tag"
    );
    assert!(matches!(decode(Codec::Planes, &[0; 64]), Err(CodecError::Length { .. })), "stored, but short");
    assert!(matches!(decode(Codec::Planes, &[9; 5]), Err(CodecError::Tag { tag: 9 })));
    assert!(matches!(decode(Codec::Planes, &[2]), Err(CodecError::Tag { tag: 2 })), "same as no base");
    assert!(matches!(decode(Codec::Ordered, &[2, 0]), Err(CodecError::Tag { tag: 2 })));
    let good = coded(Codec::Planes, DType::F32, &[0; 64], None);
    assert_eq!(decode(Codec::Planes, &good), Ok(()));
    for cut in 1..good.len() {
        assert!(decode(Codec::Planes, &good[..cut]).is_err());
    }
    let twice = [good.as_slice(), &good[1..]].concat();
    assert!(matches!(decode(Codec::Planes, &twice), Err(CodecError::Damaged { .. })), "two frames");
    let skippable = [good.as_slice(), &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 0, 0]].concat();
    assert!(matches!(decode(Codec::Planes, &skippable), Err(CodecError::Damaged { .. })));
}

#[test]
fn damaged_lists_are_refused() {
    // 64 bytes: sixteen elements.
    let decode = |list: &[u8]| {
        let coded = [&[3], list].concat();
        decode_into(Codec::Sparse, DType::U32, &coded, Some(&[0; 64]), &mut [0; 64])
    };
    assert_eq!(decode(&[0]), Ok(()));
    assert_eq!(decode(&[1, 15, 2, 0, 0, 0]), Ok(()));
    let bad: [(&[u8], &str); 11] = [
        (&[], "cut"),
        (&[1], "cut"),
        (&[1, 15, 2, 0, 0], "cut"),
        (&[17, 0, 0], "cut"),
        (&[0xff, 0xff, 0x7f, 0], "cut"),
        (&[0xff, 0xff, 0xff, 0xff, 0], "cut"),
        (&[1, 16, 2, 0, 0, 0], "past its end"),
        (&[2, 15, 0, 2, 2, 0, 0, 0, 0, 0, 0], "past its end"),
        (&[1, 0xff, 0xff, 0x7f, 2, 0, 0, 0], "past its end"),
        (&[1, 15, 0, 0, 0, 0], "does not differ"),
        (&[1, 0x8f, 0, 2, 0, 0, 0], "not as short"),
    ];
    for (list, why) in bad {
        let error = decode(list).unwrap_err().to_string();
        assert!(error.contains(why), "{list:?}: {error}");
    }
    assert!(decode(&[1, 1, 15, 2, 0, 0, 0]).unwrap_err().to_string().contains("too long"));
    assert!(decode(&[0, 0]).unwrap_err().to_string().contains("too long"));
    for codec in [Codec::Planes, Codec::Ordered, Codec::Grouped] {
        for tag in [3, 4] {
            let error = decode_into(codec, DType::U32, &[tag, 0], Some(&[0; 64]), &mut [0; 64]).unwrap_err();
            assert_eq!(error, CodecError::Tag { tag }, "{codec:?} has no lists");
        }
    }
    // A frame with a list that is longer than the block.
    let long = [&[4], zstd::bulk::compress(&[0; 65], 1).unwrap().as_slice()].concat();
    let error = decode_into(Codec::Sparse, DType::U32, &long, Some(&[0; 64]), &mut [0; 64]).unwrap_err();
    assert!(error.to_string().contains("more bytes than the block"), "{error}");
}

#[test]
fn samples_are_a_twentieth_of_few_blocks() {
    let starts = |length: u64| Choice::ranges(length).map(|range| range.start >> 10).collect::<Vec<_>>();
    assert_eq!(starts(4 << 20), [0, 1280, 2560, 3840]);
    assert_eq!(starts((8 << 20) + 8), [0, 256, 512, 768, 5120, 5376, 5632, 5888]);
    assert_eq!(starts((10 << 20) + 8).last(), Some(&10_240));
    assert_eq!(Choice::ranges((10 << 20) + 8).last(), Some((10 << 20)..(10 << 20) + 8));
    assert_eq!(Choice::ranges(0).count(), 0);
}

#[test]
fn a_bomb_costs_no_more_than_a_block() {
    // 64 MiB of zeros, with and without its size in the frame, and with a lie about it.
    let zeros = vec![0; 64 << 20];
    let honest = zstd::bulk::compress(&zeros, 19).unwrap();
    let silent = zstd::stream::encode_all(zeros.as_slice(), 19).unwrap();
    let mut lying = honest.clone();
    // The four bytes after the frame's descriptor and window are its size.
    let at = lying.windows(4).position(|size| size == (64_u32 << 20).to_le_bytes()).unwrap();
    lying[at..at + 4].copy_from_slice(&(BLOCK as u32).to_le_bytes());
    let mut out = vec![0; BLOCK];
    for bomb in [honest, silent, lying] {
        assert!(bomb.len() < 16 << 10);
        let coded = [&[1], bomb.as_slice()].concat();
        let error = decode_into(Codec::Planes, DType::F32, &coded, None, &mut out).unwrap_err();
        assert!(matches!(error, CodecError::Damaged { .. }), "{error}");
        let coded = [&[4], bomb.as_slice()].concat();
        let base = vec![0; BLOCK];
        let error = decode_into(Codec::Sparse, DType::F32, &coded, Some(&base), &mut out).unwrap_err();
        assert!(matches!(error, CodecError::Damaged { .. }), "{error}");
        assert_eq!(out.len(), BLOCK);
    }
}

#[test]
fn blocks_cover_a_tensor_once() {
    assert_eq!((blocks(0), blocks(1), blocks(1 << 20), blocks((1 << 20) + 1)), (0, 1, 1, 2));
    assert_eq!(blocks(u64::MAX), 1 << 44);
    let length = 5 * BLOCK as u64 / 2;
    let ranges: Vec<_> = (0..blocks(length)).map(|index| range(length, index)).collect();
    assert_eq!(ranges.first().unwrap().start, 0);
    assert!(ranges.windows(2).all(|pair| pair[0].end == pair[1].start));
    assert_eq!(ranges.last().unwrap().end, length);
    assert!(range(length, 3).is_empty() && range(u64::MAX, u64::MAX).is_empty());
}

/// Whether decoding gives a block or an error.
fn ends_well(codec: Codec, dtype: DType, coded: &[u8], base: &[u8]) -> bool {
    let mut out = Vec::new();
    match codec::decode_block(codec, dtype, coded, Some(base), base.len(), &mut out) {
        Ok(()) => out.len() == base.len(),
        Err(_) => out.is_empty(),
    }
}

fn chosen(dtype: DType, raw: &[u8], base: Option<&[u8]>) -> Codec {
    let mut choice = Choice::new(dtype);
    let mut sampled = 0;
    for range in Choice::ranges(raw.len() as u64) {
        let range = range.start as usize..range.end as usize;
        sampled += range.len();
        choice.sample(&raw[range.clone()], base.map(|base| &base[range])).unwrap();
    }
    assert!(sampled <= raw.len() / 20 + (256 << 10));
    choice.codec()
}

#[test]
fn the_choice_follows_what_shrinks() {
    let (base, next) = step(BLOCK, 6);
    let (base, next) = (bytes(&base), bytes(&next));
    let noise = Noise::new(7).bytes(BLOCK);
    // A first step moves all weights equally far, and the sizes of the differences are those of the exponents.
    assert_eq!(chosen(DType::F32, &next, Some(&base)), Codec::Grouped);
    assert_eq!(chosen(DType::F32, &next, None), Codec::Planes);
    assert_eq!(chosen(DType::U8, &noise, None), Codec::Raw);
    assert_eq!(chosen(DType::U8, &noise, Some(&vec![0; BLOCK])), Codec::Raw);
    // A layer that was set to zero needs no base.
    assert_eq!(chosen(DType::F32, &vec![0; BLOCK], Some(&noise)), Codec::Planes);
    // Noise of eight bits in the last places: no exponent tells of its size.
    let mut noisy = base.clone();
    for (element, noise) in noisy.chunks_exact_mut(4).zip(&noise) {
        element[0] = *noise;
    }
    assert_eq!(chosen(DType::F32, &noisy, Some(&base)), Codec::Ordered);
    // One weight in fifty, rows of a thousand weights now and then, nothing.
    for (width, period) in [(1, 50), (1000, 50_000)] {
        let mut few = base.clone();
        for at in (0..few.len()).filter(|at| at / 4 % period < width) {
            few[at] = noisy[at];
        }
        assert_eq!(chosen(DType::F32, &few, Some(&base)), Codec::Sparse);
    }
    assert_eq!(chosen(DType::F32, &base, Some(&base)), Codec::Sparse);
    assert_eq!(chosen(DType::I32, &noise, Some(&noise)), Codec::Sparse);
    assert_eq!(chosen(DType::F32, &[], None), Codec::Raw);
    assert_eq!(chosen(DType::F32, &[0, 0, 128, 63], None), Codec::Raw);
}

/// A tensor and its base: unlike each other, or a little so everywhere, or in one element of `rare`.
fn tensor() -> impl Strategy<Value = (DType, Vec<u8>, Vec<u8>)> {
    let dtype = prop::sample::select(DType::ALL.to_vec());
    (dtype, 0..3000_usize, any::<u64>(), 0..3, 0..4_u32, 1..400_u64).prop_map(
        |(dtype, count, seed, like, kind, rare)| {
            let mut noise = Noise::new(seed);
            let length = count * dtype.size();
            let base = noise.bytes(length);
            let mut raw = if like == 0 { noise.bytes(length) } else { base.clone() };
            for byte in raw.iter_mut().step_by(dtype.size()) {
                if like == 1 {
                    *byte = byte.wrapping_add((noise.next() & ((1 << kind) - 1)) as u8);
                } else if like == 2 && noise.next().is_multiple_of(rare) {
                    *byte = noise.next() as u8;
                }
            }
            (dtype, raw, base)
        },
    )
}

proptest! {
    #[test]
    fn any_tensor_survives((dtype, raw, base) in tensor()) {
        there_and_back(dtype, &raw, &base);
    }

    #[test]
    fn any_bytes_that_are_no_whole_elements_survive(raw in prop::collection::vec(any::<u8>(), 0..600), seed: u64) {
        let base = Noise::new(seed).bytes(raw.len());
        for dtype in DType::ALL {
            there_and_back(dtype, &raw, &base);
        }
    }

    #[test]
    fn a_damaged_block_never_overruns((dtype, raw, base) in tensor(), at: prop::sample::Index, byte: u8) {
        for codec in Codec::ALL {
            let mut coded = coded(codec, dtype, &raw, Some(&base));
            if coded.is_empty() {
                continue;
            }
            let at = at.index(coded.len());
            coded[at] = byte;
            prop_assert!(ends_well(codec, dtype, &coded, &base));
            coded.truncate(at);
            prop_assert!(ends_well(codec, dtype, &coded, &base));
        }
    }

    #[test]
    fn no_bytes_overrun(
        tag in 0..6_u8,
        rest in prop::collection::vec(any::<u8>(), 0..300),
        dtype in prop::sample::select(DType::ALL.to_vec()),
        length in 0..2000_usize,
    ) {
        let coded = [&[tag], rest.as_slice()].concat();
        let framed = [&[tag], zstd::bulk::compress(&rest, 1).unwrap().as_slice()].concat();
        let base = Noise::new(9).bytes(length);
        for codec in Codec::ALL {
            prop_assert!(ends_well(codec, dtype, &coded, &base));
            prop_assert!(ends_well(codec, dtype, &framed, &base));
        }
    }
}
