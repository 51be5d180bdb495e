use flair_tensors::{DType, Digest, Hasher, TensorId};
use proptest::prelude::*;

/// The first bytes of the digest of no bytes, from BLAKE3's published test vectors.
const EMPTY: [u8; 8] = [0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6];
const EMPTY_TEXT: &str = "v4jutopv7gq2nicajxvdnxgjjgn4wjojvxarfn6mtkj4vza7gjra";

#[test]
fn an_id_is_plain_blake3_shown_in_lower_case_base32() {
    let id = TensorId::of(b"");
    assert_eq!(id.as_bytes()[..8], EMPTY);
    assert_eq!(id.to_string(), EMPTY_TEXT);
    assert_eq!(id.short(), "v4jutopv7g");
    assert_eq!(format!("{id:?}"), EMPTY_TEXT);
    assert_eq!(format!("{id:>54}"), format!("  {EMPTY_TEXT}"));
}

#[test]
fn hashing_in_pieces_gives_the_same_id() {
    let bytes: Vec<u8> = (0..100_000_u32).map(|i| i as u8).collect();
    let mut hasher = Hasher::new();
    for piece in bytes.chunks(777) {
        hasher.update(piece);
    }
    assert_eq!(hasher.finalize(), Digest::of(&bytes));
}

#[test]
fn only_the_canonical_text_is_an_id() {
    let wrong = [
        "",
        "v4ju",
        &EMPTY_TEXT.to_uppercase(),
        &EMPTY_TEXT.replace('v', "1"),
        &EMPTY_TEXT.replace('v', "é"),
        &format!("{EMPTY_TEXT}===="),
        // 256 bits leave four bits of the last character, which must be zero.
        &format!("{}b", &EMPTY_TEXT[..51]),
    ];
    for text in wrong {
        assert!(text.parse::<Digest>().is_err(), "{text}");
    }
}

#[test]
fn json_holds_the_text_and_binary_formats_the_bytes() {
    let id = TensorId::of(b"");
    assert_eq!(serde_json::to_string(&id).unwrap(), format!("\"{EMPTY_TEXT}\""));
    assert_eq!(serde_json::from_str::<TensorId>(&format!("\"{EMPTY_TEXT}\"")).unwrap(), id);

    let cbor = serde_ipld_dagcbor::to_vec(&id).unwrap();
    assert_eq!(cbor[..2], [0x58, 32], "a byte string of 32 bytes");
    assert_eq!(&cbor[2..], id.as_bytes());
    assert_eq!(serde_ipld_dagcbor::from_slice::<TensorId>(&cbor).unwrap(), id);

    let short = serde_ipld_dagcbor::to_vec(&serde_bytes(31)).unwrap();
    assert!(serde_ipld_dagcbor::from_slice::<TensorId>(&short).is_err());
    let list = serde_ipld_dagcbor::to_vec(&vec![0_u8; 32]).unwrap();
    assert!(serde_ipld_dagcbor::from_slice::<TensorId>(&list).is_err(), "a list of numbers is no id");
}

fn serde_bytes(length: usize) -> impl serde::Serialize {
    struct Bytes(Vec<u8>);
    impl serde::Serialize for Bytes {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(&self.0)
        }
    }
    Bytes(vec![0; length])
}

#[test]
fn every_dtype_is_found_by_name_and_number() {
    for dtype in DType::ALL {
        assert_eq!(dtype.name().parse::<DType>(), Ok(dtype));
        assert_eq!(DType::from_number(dtype.number()), Some(dtype));
        assert_eq!(serde_json::from_str::<DType>(&serde_json::to_string(&dtype).unwrap()).unwrap(), dtype);
    }
    assert_eq!(DType::from_number(15), None);
    assert!("f32".parse::<DType>().is_err());
}

proptest! {
    #[test]
    fn text_goes_there_and_back(bytes: [u8; 32]) {
        let id = Digest::from_bytes(bytes);
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn any_text_is_an_id_or_refused(text in ".{0,60}") {
        if let Ok(id) = text.parse::<Digest>() {
            prop_assert_eq!(id.to_string(), text);
        }
    }
}
