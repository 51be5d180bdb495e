use flair_tensors::encoding::max_len;
use flair_tensors::pack::{Listed, Place, SMALL};
use flair_tensors::{Codec, DType, Digest, PackBuilder, PackError, PackIndex, Row, TensorId};
use proptest::prelude::*;

fn id(n: u64) -> TensorId {
    TensorId::of(&n.to_le_bytes())
}

fn row(n: u64, blob: u32, offset: u64, raw_length: u64) -> Row {
    Row {
        tensor: id(n),
        blob,
        offset,
        length: raw_length,
        codec: Codec::Raw,
        dtype: DType::F32,
        base: None,
        raw_length,
    }
}

/// Two small tensors and two large ones, one of them against a base.
fn sample() -> (PackIndex, Vec<Listed>) {
    let mut builder = PackBuilder::new();
    let manifest = vec![
        (id(1), DType::F32, 4 * SMALL),
        (id(2), DType::F32, 40),
        (id(3), DType::BF16, SMALL),
        (id(4), DType::I64, 8),
    ];
    assert_eq!(builder.shared(), None);
    assert_eq!(builder.push(manifest[0], Codec::Raw, None, 4 * SMALL), Place::Own { position: 0 });
    assert_eq!(builder.push(manifest[1], Codec::Planes, None, 33), Place::Shared { offset: 0 });
    assert_eq!(builder.push(manifest[2], Codec::Ordered, Some(id(9)), 700), Place::Own { position: 1 });
    assert_eq!(builder.push(manifest[3], Codec::Raw, None, 8), Place::Shared { offset: 33 });
    assert_eq!(builder.shared(), Some(41));
    (builder.finish().unwrap(), manifest)
}

#[test]
fn small_tensors_share_one_blob() {
    let (index, _) = sample();
    let places: Vec<_> = index.rows().iter().map(|row| (row.tensor, row.blob, row.offset)).collect();
    assert_eq!(places, [(id(2), 1, 0), (id(4), 1, 33), (id(1), 2, 0), (id(3), 3, 0)]);
    assert_eq!(index.blobs(), 3);
    assert_eq!(index.blob_lengths(), [41, 4 * SMALL, 700]);
    assert_eq!(index.coded_length(), 41 + 4 * SMALL + 700);
    assert_eq!(index.find(id(3)).unwrap().base, Some(id(9)));
    assert_eq!(index.by_tensor().len(), 4);
}

#[test]
fn an_index_has_these_bytes() {
    let base = id(9);
    let index = PackIndex::new(vec![Row {
        codec: Codec::Ordered,
        base: Some(base),
        length: 300,
        ..row(1, 1, 0, SMALL)
    }])
    .unwrap();
    let golden = [
        b"FLP\x01".as_slice(),
        &[1, 0, 0, 0],
        id(1).as_bytes(),
        &[1, 0, 0, 0],
        &[2, 11, 1, 0],
        &[0; 8],
        &[44, 1, 0, 0, 0, 0, 0, 0],
        &[0, 0, 1, 0, 0, 0, 0, 0],
        base.as_bytes(),
    ]
    .concat();
    assert_eq!(index.encode(), golden);
    assert_eq!(PackIndex::decode(&golden).unwrap(), index);
    assert_eq!(PackIndex::default().encode(), b"FLP\x01\0\0\0\0");
}

#[test]
fn an_index_belongs_to_its_manifest_and_base() {
    let (index, manifest) = sample();
    let base: Vec<Listed> = vec![(id(9), DType::BF16, SMALL), (id(10), DType::F32, 4)];
    assert_eq!(index.check_against(&manifest, &base), Ok(()));

    // A tensor that the base holds needs no row.
    let more = [manifest.as_slice(), &[(id(10), DType::F32, 4)]].concat();
    assert_eq!(index.check_against(&more, &base), Ok(()));
    // One that nobody holds does.
    let lacking = [manifest.as_slice(), &[(id(11), DType::F32, 4)]].concat();
    assert_eq!(index.check_against(&lacking, &base), Err(PackError::Missing { tensor: id(11) }));

    assert!(matches!(index.check_against(&manifest[1..], &base), Err(PackError::Unlisted { .. })));
    let mut other = manifest.clone();
    other[0].1 = DType::I32;
    assert!(matches!(index.check_against(&other, &base), Err(PackError::Unlisted { .. })));
    // The same bytes under two dtypes are one tensor.
    other.push(manifest[0]);
    assert_eq!(index.check_against(&other, &base), Ok(()));

    for base in [vec![], vec![(id(9), DType::F16, SMALL)], vec![(id(9), DType::BF16, SMALL + 2)]] {
        assert_eq!(
            index.check_against(&manifest, &base),
            Err(PackError::Base { tensor: id(3), base: id(9) })
        );
    }
}

#[test]
fn an_index_belongs_to_its_hash_sequence() {
    let (index, _) = sample();
    let blobs = [Digest::of(b"shared"), id(1).digest(), Digest::of(b"coded")];
    assert_eq!(index.check_blobs(&blobs), Ok(()));
    assert_eq!(index.check_blobs(&blobs[..2]), Err(PackError::Blobs { expected: 3, found: 2 }));
    let swapped = [blobs[0], blobs[2], blobs[1]];
    assert_eq!(index.check_blobs(&swapped), Err(PackError::Raw { blob: 2, tensor: id(1) }));
}

#[test]
fn rows_out_of_place_are_refused() {
    let large = SMALL;
    let wrong: Vec<(&str, Vec<Row>)> = vec![
        ("blob 0 is the index", vec![row(1, 0, 0, large)]),
        ("a gap in the numbers", vec![row(1, 2, 0, large)]),
        ("a number twice", vec![row(1, 1, 0, large), row(2, 1, 0, large)]),
        ("the last number", vec![row(1, u32::MAX, 0, large)]),
        ("a gap before a large tensor", vec![row(1, 1, 1, large)]),
        ("a gap between small ones", vec![row(1, 1, 0, 4), row(2, 1, 5, 4)]),
        ("small ones that overlap", vec![row(1, 1, 0, 4), row(2, 1, 3, 4)]),
        ("small ones apart", vec![row(1, 1, 0, 4), row(2, 2, 0, 4)]),
        ("a small one after a large one", vec![row(1, 1, 0, large), row(2, 2, 0, 4)]),
        ("a large one in the shared blob", vec![row(1, 1, 0, 4), row(2, 1, 4, large)]),
        ("a tensor twice", vec![row(1, 1, 0, large), row(1, 2, 0, large)]),
        ("half an element", vec![row(1, 1, 0, 3)]),
        ("raw with a base", vec![Row { base: Some(id(9)), ..row(1, 1, 0, large) }]),
        ("a difference without a base", vec![Row { codec: Codec::Ordered, ..row(1, 1, 0, large) }]),
        ("its own base", vec![Row { codec: Codec::Ordered, base: Some(id(1)), ..row(1, 1, 0, large) }]),
        ("raw with another length", vec![Row { length: 4, ..row(1, 1, 0, large) }]),
        (
            "longer than any encoding",
            vec![Row { codec: Codec::Planes, length: large + 22, ..row(1, 1, 0, large) }],
        ),
        ("too large together", vec![row(1, 1, 0, u64::MAX - 3), row(2, 2, 0, u64::MAX - 3)]),
    ];
    for (what, rows) in wrong {
        assert!(matches!(PackIndex::new(rows.clone()), Err(PackError::Row { .. })), "{what}");
    }
    let mut twice = PackBuilder::new();
    for _ in 0..2 {
        twice.push((id(1), DType::F32, 4), Codec::Raw, None, 4);
    }
    assert!(twice.finish().is_err());
}

#[test]
fn hostile_indexes_are_refused_before_anything_is_allocated() {
    let good = sample().0.encode();
    let with = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        PackIndex::decode(&bad)
    };
    assert_eq!(with(0, b"X"), Err(PackError::Magic));
    assert_eq!(with(3, &[2]), Err(PackError::Magic));
    assert_eq!(with(4, &[255; 4]), Err(PackError::TooMany { rows: u64::from(u32::MAX) }));
    assert!(matches!(with(4, &[0, 0, 1, 0]), Err(PackError::Length { .. })), "65,536 rows in a few bytes");
    assert!(matches!(with(4, &[3]), Err(PackError::Length { .. })));
    let first = 8 + 32;
    assert_eq!(with(first + 4, &[5]), Err(PackError::Codec { row: 0, codec: 5 }));
    assert_eq!(
        with(first + 4, &[5]).unwrap_err().to_string(),
        "row 0 of the pack index is coded with codec 5, which this version of Flair does not know: install a newer one"
    );
    for based in [2, 3, 4] {
        assert!(matches!(with(first + 4, &[based]), Err(PackError::Row { row: 0, .. })), "no base");
    }
    assert!(matches!(with(first + 5, &[15]), Err(PackError::Row { row: 0, .. })), "dtype");
    assert!(matches!(with(first + 6, &[2]), Err(PackError::Row { row: 0, .. })), "base flag");
    assert!(matches!(with(first + 7, &[1]), Err(PackError::Row { row: 0, .. })), "reserved");
    assert!(matches!(with(first + 32, &[1]), Err(PackError::Row { row: 0, .. })), "a base without its flag");
    assert!(matches!(with(first + 16, &(1_u64 << 63).to_le_bytes()), Err(PackError::Row { row: 0, .. })));
    for cut in 0..good.len() {
        assert!(PackIndex::decode(&good[..cut]).is_err());
    }
    assert!(PackIndex::decode(&[good.as_slice(), &[0]].concat()).is_err());
}

fn index() -> impl Strategy<Value = PackIndex> {
    let tensor = (0..200_u64, 0..15_u8, 0..3_u8, any::<bool>());
    prop::collection::vec(tensor, 0..40).prop_map(|tensors| {
        let mut builder = PackBuilder::new();
        for (n, (elements, dtype, codec, large)) in (0..).zip(tensors) {
            let dtype = DType::from_number(dtype).unwrap();
            let elements = if large { elements + SMALL } else { elements };
            let raw = elements * dtype.size() as u64;
            let codec = Codec::from_number(codec).unwrap();
            let base = codec.needs_base().then(|| id(n + 1000));
            let length = if codec == Codec::Raw { raw } else { raw / 2 + 20 };
            builder.push((id(n), dtype, raw), codec, base, length.min(max_len(codec, raw)));
        }
        builder.finish().unwrap()
    })
}

proptest! {
    #[test]
    fn an_index_goes_there_and_back(index in index()) {
        let bytes = index.encode();
        let back = PackIndex::decode(&bytes).unwrap();
        prop_assert_eq!(back.encode(), bytes);
        prop_assert_eq!(back, index);
    }

    #[test]
    fn a_damaged_index_is_refused_or_canonical(index in index(), at: prop::sample::Index, byte: u8) {
        let mut bytes = index.encode();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(index) = PackIndex::decode(&bytes) {
            prop_assert_eq!(index.encode(), bytes);
        }
    }

    #[test]
    fn any_bytes_are_refused_or_canonical(mut bytes: Vec<u8>, known: bool) {
        if known {
            bytes.splice(..bytes.len().min(8), *b"FLP\x01\x01\0\0\0");
        }
        if let Ok(index) = PackIndex::decode(&bytes) {
            prop_assert_eq!(index.encode(), bytes);
        }
    }
}
