//! Manifests and states as they come from peers.

use flair_protocol::cbor::{self, CborError};
use flair_protocol::commit::Metric;
use flair_protocol::id::{Digest, TensorId};
use flair_protocol::limits;
use flair_protocol::model::{Carried, File, Manifest, ModelError, Server, SideFile, State, Tensor};
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;
use serde_bytes::ByteBuf;

use crate::world::*;

/// A file with these tensors of four f32 each, by name.
fn file(name: &str, tensors: &[&str]) -> File {
    let entries = tensors.iter().enumerate().map(|(number, tensor)| {
        format!(
            r#""{tensor}":{{"dtype":"F32","shape":[4],"data_offsets":[{},{}]}}"#,
            number * 16,
            number * 16 + 16
        )
    });
    let json = format!("{{{}}}", entries.collect::<Vec<_>>().join(","));
    let header = [&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat();
    let tensors = tensors.iter().map(|tensor| Tensor {
        name: (*tensor).to_owned(),
        dtype: DType::F32,
        shape: vec![4],
        tensor: TensorId::of(tensor.as_bytes()),
        length: 16,
        role: Role::Float,
    });
    File { name: name.into(), header: ByteBuf::from(header), tensors: tensors.collect() }
}

fn manifest() -> Manifest {
    let side = SideFile { name: "config.json".into(), blob: Digest::of(b"config"), length: 6 };
    Manifest { files: vec![file("model.safetensors", &["a", "b"])], side: vec![side] }
}

fn refused(change: impl FnOnce(&mut Manifest)) -> ModelError {
    let mut manifest = manifest();
    change(&mut manifest);
    Manifest::decode(&manifest.encode().unwrap()).unwrap_err()
}

#[test]
fn a_manifest_comes_back_with_the_same_id() {
    let manifest = manifest();
    let back = Manifest::decode(&manifest.encode().unwrap()).unwrap();
    assert_eq!((back.id().unwrap(), back.bytes()), (manifest.id().unwrap(), manifest.bytes()));
    assert_eq!(back, manifest);
}

#[test]
fn names_that_leave_the_folder_are_refused() {
    for name in [
        "../model.safetensors",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "..",
        ".",
        ".hidden",
        "",
        "a\0b",
        "C:model",
        "a b",
        "модель",
        "\u{202e}txt",
    ] {
        assert!(
            matches!(refused(|manifest| manifest.files[0].name = name.into()), ModelError::Name(_)),
            "{name}"
        );
        assert!(
            matches!(refused(|manifest| manifest.side[0].name = name.into()), ModelError::Name(_)),
            "{name}"
        );
    }
    let long = "a".repeat(256);
    assert!(matches!(refused(|manifest| manifest.side[0].name = long), ModelError::Name(_)));
    let taken = "model.safetensors";
    assert!(matches!(refused(|manifest| manifest.side[0].name = taken.into()), ModelError::Name(_)));
}

#[test]
fn a_list_of_tensors_other_than_the_headers_is_refused() {
    let differs = |change: &dyn Fn(&mut Tensor)| {
        let error = refused(|manifest| change(&mut manifest.files[0].tensors[1]));
        assert!(matches!(error, ModelError::Differs { .. }), "{error}");
    };
    differs(&|tensor| tensor.name = "c".into());
    differs(&|tensor| tensor.dtype = DType::I32);
    differs(&|tensor| tensor.shape = vec![2, 2]);
    differs(&|tensor| tensor.length = 17);
    assert!(matches!(refused(|m| drop(m.files[0].tensors.pop())), ModelError::Differs { .. }));
}

#[test]
fn two_tensors_of_one_name_are_refused_within_a_file_and_across_shards() {
    let twice = refused(|manifest| manifest.files[0] = file("model.safetensors", &["a", "a"]));
    assert!(matches!(twice, ModelError::Header { .. }), "{twice}");
    let shards = refused(|manifest| manifest.files.push(file("second.safetensors", &["b"])));
    assert_eq!(shards, ModelError::Duplicate("b".into()));
}

#[test]
fn a_hostile_header_is_refused() {
    let header = |bytes: Vec<u8>| refused(|manifest| manifest.files[0].header = ByteBuf::from(bytes));
    for bytes in [
        vec![],
        u64::MAX.to_le_bytes().to_vec(),
        [&(1_u64 << 63).to_le_bytes()[..], b"{}"].concat(),
        b"\x80\x02}q\x00.".to_vec(),
        b"PK\x03\x04 and more".to_vec(),
    ] {
        assert!(matches!(header(bytes), ModelError::Header { .. }));
    }
}

#[test]
fn too_many_files_and_too_many_bytes_are_refused() {
    let files = refused(|manifest| {
        manifest.files = (0..=limits::FILES).map(|number| file(&format!("{number}.st"), &[])).collect();
    });
    assert!(matches!(files, ModelError::Count { limit: limits::FILES, .. }));
    let side = refused(|manifest| manifest.side = vec![manifest.side[0].clone(); limits::SIDE_FILES + 1]);
    assert!(matches!(side, ModelError::Count { limit: limits::SIDE_FILES, .. }));
    let error = Manifest::decode(&vec![0; limits::MANIFEST + 1]).unwrap_err();
    assert!(matches!(error, ModelError::Cbor(CborError::Size { .. })));
}

#[test]
fn the_architecture_is_names_types_shapes_and_roles_and_nothing_else() {
    let plain = manifest();
    let mut other = plain.clone();
    other.files[0].tensors[0].tensor = TensorId::of(b"trained");
    other.side.clear();
    other.files[0].name = "renamed.safetensors".into();
    assert_eq!(other.architecture(), plain.architecture());
    let shards = Manifest { files: vec![file("2.st", &["b"]), file("1.st", &["a"])], side: vec![] };
    assert_eq!(shards.architecture(), plain.architecture());
    other.files[0].tensors[0].role = Role::BatchNorm;
    assert_ne!(other.architecture(), plain.architecture());
}

#[test]
fn nan_cannot_be_signed() {
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        assert!(State { norms: vec![vec![value]], ..State::default() }.encode().is_err());
        let mut commit = update(2, World::new(&[]).branch, World::new(&[]).root, 0);
        if let flair_protocol::commit::Commit::Update(update) = &mut commit {
            let (name, split) = ("loss".to_owned(), "val".to_owned());
            update.metrics.push(Metric { name, split, value, n: 0 });
        }
        assert!(commit.id().is_err());
    }
    // Nor read: half-precision NaN, single-precision infinity, and a whole number as a short float.
    for bytes in [&[0xf9, 0x7e, 0x00][..], &[0xfa, 0x7f, 0x80, 0, 0], &[0xf9, 0x3c, 0x00]] {
        assert!(cbor::decode::<f64>("number", bytes, 100).is_err());
    }
}

#[test]
fn a_state_carries_only_what_its_model_has_a_place_for() {
    let carried =
        |name: &str, length| Carried { name: name.into(), tensor: TensorId::of(b"moments"), length };
    let server = |momentum, variance| Some(Server { optimiser: "adam".into(), momentum, variance });
    let whole = vec![carried("a", 16), carried("b", 16)];
    let state =
        State { masters: vec![carried("b", 16)], server: server(whole.clone(), whole), ..State::default() };
    assert_eq!(state.fits(&manifest()), Ok(()));
    assert_eq!(State::decode(&state.encode().unwrap()).unwrap(), state);
    for wrong in [
        vec![carried("c", 16)],
        vec![carried("a", 17)],
        vec![carried("a", u64::MAX)],
        vec![carried("a", 16), carried("a", 16)],
        vec![carried("b", 16), carried("a", 16)],
    ] {
        let states = [
            State { masters: wrong.clone(), ..State::default() },
            State { server: server(wrong.clone(), vec![]), ..State::default() },
            State { server: server(vec![], wrong), ..State::default() },
        ];
        for state in states {
            assert!(matches!(state.fits(&manifest()), Err(ModelError::Carried(_))), "{state:?}");
        }
    }
}

#[test]
fn a_state_without_an_optimiser_is_written_as_before_there_were_any() {
    let bytes = State::default().encode().unwrap();
    assert!(!bytes.windows(6).any(|window| window == b"server"));
    assert_eq!(State::decode(&bytes).unwrap(), State::default());
}

#[test]
fn one_type_of_object_is_not_taken_for_another() {
    let state = State::default().encode().unwrap();
    assert!(matches!(Manifest::decode(&state), Err(ModelError::Cbor(CborError::Shape { .. }))));
    assert!(State::decode(&manifest().encode().unwrap()).is_err());
    assert!(flair_protocol::commit::Commit::decode(&state).is_err());
}
