//! Promises about pickles: data is read, code is named and refused, and nothing makes the reader large or slow.

use std::time::{Duration, Instant};

use flair_tensors::checkpoint::{CheckpointError, Choice, Object, Unpickler, select};
use proptest::prelude::*;

fn object(bytes: &[u8]) -> Result<Object, CheckpointError> {
    Unpickler::new(bytes).object()
}

/// `{"w": a tensor of `shape` in `stride` over a storage of `count` floats}`, as torch writes it.
fn tensor(count: u32, offset: u32, shape: &[u32], stride: &[u32]) -> Vec<u8> {
    let mut out =
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage".to_vec();
    out.extend_from_slice(b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu");
    let int = |out: &mut Vec<u8>, number: u32| {
        out.push(b'J');
        out.extend_from_slice(&number.to_le_bytes());
    };
    let ints = |out: &mut Vec<u8>, numbers: &[u32]| {
        out.push(b'(');
        for number in numbers {
            int(out, *number);
        }
        out.push(b't');
    };
    int(&mut out, count);
    out.extend_from_slice(b"tQ");
    int(&mut out, offset);
    ints(&mut out, shape);
    ints(&mut out, stride);
    out.extend_from_slice(b"\x89ccollections\nOrderedDict\n)RtRs.");
    out
}

#[test]
fn a_tensor_is_where_its_pickle_says_and_never_outside_its_storage() {
    let choice = Choice::default();
    let held = object(&tensor(24, 2, &[3, 4], &[1, 3])).unwrap();
    let selection = select(&held, choice).unwrap();
    assert_eq!(selection.tensors[0].name, "w");
    assert_eq!(selection.tensors[0].shape, [3, 4]);
    assert_eq!((held.storages()[0].bytes, selection.bytes()), (96, 48));
    for (offset, shape, stride) in [
        (0, vec![25], vec![1]),
        (24, vec![1], vec![1]),
        (1, vec![24], vec![1]),
        (0, vec![2, 2], vec![1, 23]),
        (0, vec![u32::MAX >> 1; 9], vec![u32::MAX >> 1; 9]),
        (0, vec![2, 2], vec![1]),
        (0, vec![1; 17], vec![1; 17]),
        (u32::MAX, vec![1], vec![1]),
    ] {
        let refused = object(&tensor(24, offset, &shape, &stride));
        assert!(refused.is_err(), "{offset} {shape:?} {stride:?}");
    }
    // Empty ones are nowhere.
    let empty = object(&tensor(0, 7, &[0, 5], &[5, 1])).unwrap();
    assert_eq!(select(&empty, choice).unwrap().bytes(), 0);
    // One number that fills a disk.
    let large = object(&tensor(1, 0, &[1 << 30, 1 << 10], &[0, 0])).unwrap();
    assert!(matches!(select(&large, choice), Err(CheckpointError::Grows { .. })));
}

#[test]
fn every_call_that_is_not_data_is_refused_by_name() {
    for (pickle, name) in [
        (&b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R."[..], "os.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93.", "posix.system"),
        (b"\x80\x02cbuiltins\neval\n.", "builtins.eval"),
        (b"\x80\x02cbuiltins\ngetattr\n.", "builtins.getattr"),
        (b"\x80\x02ctorch\nload\n.", "torch.load"),
        (b"\x80\x02ctorch.hub\nload\n.", "torch.hub.load"),
        (b"\x80\x02ctorch._utils\n_import_dotted_name\n.", "torch._utils._import_dotted_name"),
        (b"\x80\x02ctorch\nos.system\n.", "torch.os.system"),
        (b"\x80\x02cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray.scalar"),
    ] {
        let Err(CheckpointError::Code { name: found }) = object(pickle) else { panic!("{name} was let in") };
        assert_eq!(found, name);
    }
    // Ways to call something without naming it first.
    for code in [b'i', b'o', 0x82, b'P', 0x92] {
        let refused = object(&[0x80, 2, b'(', code, b'\n', b'.']);
        assert!(matches!(refused, Err(CheckpointError::Opcode { .. })), "{code:#x}: {refused:?}");
    }
}

#[test]
fn bombs_cost_no_more_than_their_bytes() {
    let start = Instant::now();
    let check = |what: &str, pickle: &[u8]| {
        let outcome = object(pickle).and_then(|object| select(&object, Choice::default()));
        assert!(outcome.is_err(), "{what} gave a model");
        outcome.unwrap_err()
    };
    // Lists of the list before, twice each: 2^100,000 values if they were written out.
    let mut doubling = b"\x80\x02]".to_vec();
    for _ in 0..100_000 {
        doubling.extend_from_slice(b"q\x000](h\x00h\x00e");
    }
    doubling.push(b'.');
    check("doubling lists", &doubling);
    // Dicts that hold each other under long names, and one that holds itself.
    let mut dicts = b"\x80\x02}".to_vec();
    for _ in 0..50_000 {
        dicts.extend_from_slice(b"q\x000}(X\x01\x00\x00\x00ah\x00X\x01\x00\x00\x00bh\x00u");
    }
    dicts.push(b'.');
    check("doubling dicts", &dicts);
    check("a dict in itself", b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.");
    // Depth.
    let mut deep = vec![b']'; 1_000_000];
    deep.extend(vec![b'a'; 999_999]);
    deep.push(b'.');
    check("a million lists in each other", &deep);
    // Numbers that promise much.
    check("a text of 2^63 bytes", b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7f");
    check("bytes of 2^63 bytes", b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f");
    check("a long of 2^31 bytes", b"\x80\x02\x8b\xff\xff\xff\x7f");
    check("a far place to remember", b"\x80\x02Nr\xff\xff\xff\xff.");
    // More steps, or values, than any model takes.
    let steps = [b"N0".repeat(10 << 20), vec![b'.']].concat();
    assert!(matches!(check("steps", &steps), CheckpointError::Limit { .. }));
    let values = [b"N".repeat(5 << 20), vec![b'.']].concat();
    assert!(matches!(check("values", &values), CheckpointError::Limit { .. }));
    // A dict made of one long list again and again.
    let mut copies = b"\x80\x02](".to_vec();
    copies.extend(b"NN\x86".repeat(10_000));
    copies.extend_from_slice(b"eq\x000ccollections\nOrderedDict\nq\x010");
    copies.extend(b"h\x01h\x00\x85R0".repeat(10_000));
    copies.extend_from_slice(b"N.");
    assert!(matches!(check("copies", &copies), CheckpointError::Limit { .. }));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn what_is_cut_short_is_an_error() {
    let whole = tensor(24, 2, &[3, 4], &[1, 3]);
    for length in 0..whole.len() {
        assert!(object(&whole[..length]).is_err(), "{length}");
    }
    for wrong in
        [&b"\x80\x02."[..], b"\x80\x020.", b"\x80\x02e.", b"\x80\x02h\x05.", b"\x80\x09N.", b"\x80\x02N)R."]
    {
        assert!(object(wrong).is_err(), "{wrong:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(object) = object(&bytes) {
            let _ = select(&object, Choice::default());
        }
    }

    #[test]
    fn no_change_makes_it_panic(changes in proptest::collection::vec((0_usize..150, any::<u8>()), 1..4)) {
        let mut bytes = tensor(24, 2, &[3, 4], &[1, 3]);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if let Ok(object) = object(&bytes) {
            let _ = select(&object, Choice { strip: true, ..Choice::default() });
        }
    }
}
