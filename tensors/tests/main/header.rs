use std::collections::{BTreeMap, HashMap};

use flair_tensors::header::{MAX_HEADER, MAX_TENSORS};
use flair_tensors::{DType, Header, HeaderError};
use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

fn parse(json: &str) -> Result<Header, HeaderError> {
    Header::parse(json.as_bytes(), None)
}

/// A header of one tensor called `name`.
fn named(name: &str) -> String {
    format!(r#"{{"{name}":{{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}}}"#)
}

#[test]
fn a_header_is_kept_byte_for_byte() {
    // Keys out of order, odd spaces and padding, as other writers leave them.
    let json = r#"{ "b": {"shape":[2, 2],"dtype":"F32","data_offsets":[2,18]},
        "__metadata__":{"format":"pt"},"a":{"dtype":"BF16","shape":[],"data_offsets":[0,2]}}     "#;
    let header = Header::parse(json.as_bytes(), Some(18)).unwrap();
    let names: Vec<&str> = header.tensors().iter().map(|tensor| tensor.name.as_str()).collect();
    assert_eq!(names, ["a", "b"], "in the order of their bytes");
    assert_eq!(header.tensors()[1].shape, [2, 2]);
    assert_eq!(header.tensors()[1].length(), 16);
    assert_eq!(header.metadata()["format"], "pt");
    assert_eq!(header.data_len(), 18);
    assert_eq!(header.bytes()[..8], (json.len() as u64).to_le_bytes());
    assert_eq!(&header.bytes()[8..], json.as_bytes());
    assert_eq!(Header::from_bytes(header.bytes(), Some(18)).unwrap(), header);
}

#[test]
fn empty_and_scalar_tensors_are_tensors() {
    let json = r#"{"a":{"dtype":"F32","shape":[0,7],"data_offsets":[0,0]},"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]},"e":{"dtype":"I8","shape":[0],"data_offsets":[8,8]}}"#;
    let header = parse(json).unwrap();
    let lengths: Vec<u64> = header.tensors().iter().map(flair_tensors::TensorInfo::length).collect();
    assert_eq!(lengths, [0, 8, 0]);
    assert!(parse("{}").unwrap().tensors().is_empty());
}

#[test]
fn what_the_reference_writes_we_read() {
    let data: Vec<u8> = (0..96).collect();
    let view = |dtype, shape: &[usize], range: std::ops::Range<usize>| {
        TensorView::new(dtype, shape.to_vec(), &data[range]).unwrap()
    };
    let tensors = [
        ("layer.0.weight", view(Dtype::F32, &[2, 3], 0..24)),
        ("layer.0.bias", view(Dtype::BF16, &[3], 24..30)),
        ("steps", view(Dtype::I64, &[], 30..38)),
        ("empty", view(Dtype::F16, &[0], 38..38)),
        ("mask", view(Dtype::BOOL, &[5], 38..43)),
        ("small", view(Dtype::F8_E4M3, &[4], 43..47)),
    ];
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let file = safetensors::serialize(tensors, Some(metadata)).unwrap();

    let length = Header::prefix_len(*file.first_chunk().unwrap()).unwrap() as usize;
    let (header, body) = file.split_at(8 + length);
    let header = Header::from_bytes(header, Some(body.len() as u64)).unwrap();
    let reference = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(header.tensors().len(), reference.len());
    for tensor in header.tensors() {
        let view = reference.tensor(&tensor.name).unwrap();
        assert_eq!(tensor.dtype.name(), view.dtype().to_string());
        assert_eq!(&body[tensor.start as usize..tensor.end as usize], view.data());
    }
}

#[test]
fn what_we_build_the_reference_reads() {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let shapes: [(&str, DType, &[u64]); 3] =
        [("z", DType::F32, &[2, 2]), ("a.b", DType::U8, &[3]), ("s", DType::F64, &[])];
    let mut file = Header::build(shapes, &metadata).unwrap();
    assert_eq!(file.len() % 8, 0);
    file.extend(0..27);
    let reference = SafeTensors::deserialize(&file).unwrap();
    assert_eq!(reference.tensor("a.b").unwrap().data(), [16, 17, 18]);
    assert_eq!(reference.tensor("z").unwrap().shape(), [2, 2]);
}

#[test]
fn a_built_header_has_these_bytes() {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let shapes: [(&str, DType, &[u64]); 2] = [("w", DType::BF16, &[4, 2]), ("b", DType::F32, &[])];
    let golden = concat!(
        r#"{"__metadata__":{"format":"pt"},"w":{"dtype":"BF16","shape":[4,2],"data_offsets":[0,16]},"#,
        r#""b":{"dtype":"F32","shape":[],"data_offsets":[16,20]}} "#
    );
    let built = Header::build(shapes, &metadata).unwrap();
    assert_eq!(std::str::from_utf8(&built[8..]).unwrap(), golden);
    assert_eq!(built[..8], [144, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn other_formats_are_named_as_what_they_are() {
    let message = |first: &[u8; 8]| Header::prefix_len(*first).unwrap_err().to_string();
    assert!(message(b"PK\x03\x04\x00\x00\x08\x08").contains("zip file (PyTorch"));
    assert!(message(b"\x80\x02\x8a\nl\xfc\x9cF").contains("pickle"));
    assert!(message(b"\x80\x04\x95\x10\x00\x00\x00\x00").contains("pickle"));
    assert!(message(b"GGUF\x03\x00\x00\x00").contains("GGUF"));
    assert!(message(b"\x89HDF\r\n\x1a\n").contains("Keras"));
    assert!(message(&(1_u64 << 63).to_le_bytes()).contains("9223372036854775808"));
    assert_eq!(Header::prefix_len((MAX_HEADER + 1).to_le_bytes()).ok(), None);
    // 0x0280 is also how a pickle starts, and 0x4b50 a zip file.
    assert_eq!(Header::prefix_len(0x0280_u64.to_le_bytes()), Ok(0x0280));
    assert_eq!(Header::prefix_len(0x4b50_u64.to_le_bytes()), Ok(0x4b50));
}

#[test]
fn a_cut_header_is_refused() {
    let bytes = Header::build([("a", DType::F32, [1_u64].as_slice())], &BTreeMap::new()).unwrap();
    assert!(matches!(Header::from_bytes(&bytes[..4], None), Err(HeaderError::Cut { .. })));
    assert!(matches!(Header::from_bytes(&bytes[..20], None), Err(HeaderError::Cut { .. })));
    assert!(matches!(Header::from_bytes(&bytes, Some(3)), Err(HeaderError::Data { expected: 4, found: 3 })));
    assert!(matches!(Header::from_bytes(&bytes, Some(5)), Err(HeaderError::Data { expected: 4, found: 5 })));
}

#[test]
fn a_name_twice_is_refused_where_the_reference_reads_on() {
    let entry = r#""a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}"#;
    let json = format!("{{{entry},{entry}}}");
    assert_eq!(parse(&json), Err(HeaderError::Duplicate { name: "a".to_owned() }));
    // One of the names hidden behind an escape.
    let escaped = entry.replace("\"a\"", "\"\\u0061\"");
    assert_eq!(
        parse(&format!("{{{entry},{escaped}}}")),
        Err(HeaderError::Duplicate { name: "a".to_owned() })
    );
    let metadata = r#"{"__metadata__":{"k":"1","k":"2"}}"#;
    assert!(matches!(parse(metadata), Err(HeaderError::Duplicate { .. })));
    let metadata = r#"{"__metadata__":{},"__metadata__":{}}"#;
    assert!(matches!(parse(metadata), Err(HeaderError::Duplicate { .. })));
    let field = r#"{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}"#;
    assert!(matches!(parse(field), Err(HeaderError::Json { .. })));
}

#[test]
fn names_that_could_leave_a_folder_are_refused() {
    let long = "a".repeat(256);
    for name in [
        "",
        "/etc/passwd",
        "..",
        "../a",
        "a/../b",
        "a/..",
        "a b",
        "ä",
        "a\\\\b",
        "a\\u0000b",
        "a:b",
        "~",
        &long,
    ] {
        assert!(matches!(parse(&named(name)), Err(HeaderError::Name { .. })), "{name}");
    }
    let longest = "a".repeat(255);
    for name in ["a", "a..b", "...", "a/b-c_d.0", "-", &longest] {
        assert!(parse(&named(name)).is_ok(), "{name}");
    }
}

#[test]
fn two_hundred_traversal_names_are_refused() {
    for depth in 1..=100 {
        let up = "../".repeat(depth);
        assert!(parse(&named(&format!("{up}x"))).is_err());
        assert!(parse(&named(&format!("x/{up}x"))).is_err());
    }
}

#[test]
fn shapes_and_offsets_that_do_not_fit_are_refused() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        parse(&format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#))
            .unwrap_err()
    };
    assert!(matches!(tensor("F4", "[2]", "[0,1]"), HeaderError::DType { .. }));
    assert!(matches!(tensor("F32", "[2]", "[0,4]"), HeaderError::Length { expected: 8, .. }));
    assert!(matches!(tensor("F32", "[2]", "[8,0]"), HeaderError::Length { .. }));
    assert!(matches!(tensor("F32", "[4294967296,4294967296]", "[0,0]"), HeaderError::Overflow { .. }));
    assert!(matches!(tensor("F64", "[2305843009213693952]", "[0,0]"), HeaderError::Overflow { .. }));
    assert!(matches!(tensor("F32", "[4294967296,4294967296,0]", "[0,0]"), HeaderError::Overflow { .. }));
    let ones = format!("[{}1]", "1,".repeat(16));
    assert!(matches!(tensor("U8", &ones, "[0,1]"), HeaderError::Rank { .. }));
    assert!(matches!(tensor("U8", "[1]", "[1,2]"), HeaderError::Hole { .. }));
    for (shape, offsets) in [
        ("[-1]", "[0,1]"),
        ("[1.0]", "[0,1]"),
        ("[1]", "[0]"),
        ("[1]", "[0,1,2]"),
        ("1", "[0,1]"),
        ("[1]", "[0,1e0]"),
    ] {
        assert!(matches!(tensor("U8", shape, offsets), HeaderError::Json { .. }), "{shape} {offsets}");
    }
}

#[test]
fn overlaps_and_holes_are_refused() {
    let two = |b: &str| {
        parse(&format!(
            r#"{{"a":{{"dtype":"U8","shape":[4],"data_offsets":[0,4]}},"b":{{"dtype":"U8","shape":[4],"data_offsets":{b}}}}}"#
        ))
    };
    assert!(two("[4,8]").is_ok());
    assert!(matches!(two("[0,4]"), Err(HeaderError::Overlap { .. })), "the same bytes twice");
    assert!(matches!(two("[3,7]"), Err(HeaderError::Overlap { .. })));
    assert!(matches!(two("[5,9]"), Err(HeaderError::Hole { start: 5, end: 4, .. })));
}

#[test]
fn what_is_not_the_json_of_a_header_is_refused() {
    let nested = format!("{{\"a\":{}", "[".repeat(100_000));
    let extra = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"auto_map":1}}"#;
    for json in [
        "",
        " {}",
        "[]",
        "null",
        "{",
        "{}{}",
        "{} x",
        r#"{"a":1}"#,
        r#"{"__metadata__":{"a":1}}"#,
        &nested,
        extra,
    ] {
        assert!(matches!(parse(json), Err(HeaderError::Json { .. })), "{}", &json[..json.len().min(60)]);
    }
    assert!(matches!(Header::parse(b"{\"\xff\":1}", None), Err(HeaderError::Json { .. })));
}

#[test]
fn too_many_tensors_are_refused() {
    let entries: Vec<String> = (0..=MAX_TENSORS)
        .map(|i| format!(r#""{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#))
        .collect();
    let json = format!("{{{}}}", entries.join(","));
    assert!((json.len() as u64) < MAX_HEADER);
    assert_eq!(parse(&json), Err(HeaderError::TooMany));
}

#[test]
fn a_message_about_a_foreign_name_is_short_and_printable() {
    let name = format!("\\u001b[31m{}", "x".repeat(100_000));
    let message = parse(&named(&name)).unwrap_err().to_string();
    assert!(message.len() < 300, "{message}");
    assert!(!message.contains('\u{1b}'));
    let message =
        parse(&format!(r#"{{"a":{{"\u001b{}":1}}}}"#, "x".repeat(100_000))).unwrap_err().to_string();
    assert!(message.len() < 500 && !message.contains('\u{1b}'), "{message}");
}

proptest! {
    #[test]
    fn what_is_built_is_read_back(
        tensors in prop::collection::btree_map(
            "[A-Za-z0-9_][A-Za-z0-9._-]{0,20}",
            (prop::sample::select(DType::ALL.to_vec()), prop::collection::vec(0_u64..9, 0..4)),
            0..20,
        ),
        metadata in prop::collection::btree_map(".{0,10}", ".{0,10}", 0..4),
    ) {
        let list = tensors.iter().map(|(name, (dtype, shape))| (name.as_str(), *dtype, shape.as_slice()));
        let bytes = Header::build(list, &metadata).unwrap();
        let header = Header::from_bytes(&bytes, None).unwrap();
        prop_assert_eq!(header.bytes(), &bytes);
        prop_assert_eq!(header.metadata(), &metadata);
        prop_assert_eq!(header.tensors().len(), tensors.len());
        for tensor in header.tensors() {
            let (dtype, shape) = &tensors[&tensor.name];
            prop_assert_eq!(tensor.dtype, *dtype);
            prop_assert_eq!(&tensor.shape, shape);
            let elements: u64 = shape.iter().product();
            prop_assert_eq!(tensor.length(), elements * dtype.size() as u64);
        }
    }

    #[test]
    fn a_damaged_header_is_refused_or_consistent(at: prop::sample::Index, byte: u8) {
        let shapes: [(&str, DType, &[u64]); 2] = [("aa", DType::F32, &[2, 2]), ("b", DType::U8, &[3])];
        let mut bytes = Header::build(shapes, &BTreeMap::new()).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(header) = Header::from_bytes(&bytes, Some(19)) {
            prop_assert_eq!(header.data_len(), 19);
            prop_assert_eq!(header.bytes(), &bytes);
        }
    }

    #[test]
    fn any_bytes_are_refused_without_panic(bytes: Vec<u8>) {
        let _ = Header::from_bytes(&bytes, None);
        let _ = Header::parse(&bytes, Some(0));
    }
}
