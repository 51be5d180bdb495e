//! Promises about checkpoints of PyTorch: the real ones in `tests/checkpoints` (see `make.py` there) are imported byte
//! for byte, and what holds code or lies about itself is refused.

use std::fs;
use std::path::{Path, PathBuf};

use flair_node::api::types::{ImportRequest, ImportedFile, Problem};
use flair_node::checkpoint::Checkpoint;
use flair_tensors::checkpoint::{Choice, select};
use flair_tensors::header::Header;
use rawzip::path::EntryPath;
use rawzip::{CompressionMethod, ZipArchiveWriter};
use tempfile::TempDir;

use crate::together::Person;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/checkpoints").join(name)
}

/// Imports into memory.
fn read(path: &Path, choice: Choice<'_>) -> Result<Vec<u8>, Problem> {
    let checkpoint = Checkpoint::open(path)?;
    let selection = select(checkpoint.object(), choice).map_err(|error| checkpoint.explain(&error))?;
    let mut out = Vec::new();
    checkpoint.write(&selection, &mut out, path, |_| {})?;
    Ok(out)
}

fn request(source: PathBuf, output: Option<PathBuf>) -> ImportRequest {
    ImportRequest { source, output, key: None, strip: false, untie: false, force: false }
}

impl Person {
    async fn import(&self, request: ImportRequest) -> Result<ImportedFile, Problem> {
        let mut done = self.service.import(request).await?;
        assert_eq!(done.files.len(), 1);
        Ok(done.files.remove(0))
    }
}

#[test]
fn what_torch_saved_is_what_safetensors_would_have_saved() {
    let strip = Choice { strip: true, ..Choice::default() };
    for (checkpoint, expected, choice) in [
        ("types.pt", "types.safetensors", Choice::default()),
        ("legacy.pt", "types.safetensors", Choice::default()),
        ("protocol4.pt", "types.safetensors", Choice::default()),
        ("views.pt", "views.safetensors", Choice::default()),
        ("legacy_views.pt", "views.safetensors", Choice::default()),
        ("unchecked.pt", "unchecked.safetensors", Choice::default()),
        ("run.pt", "run.safetensors", Choice::default()),
        ("run.pt", "run.safetensors", Choice { key: Some("state_dict"), ..Choice::default() }),
        ("run.pt", "run.stripped.safetensors", strip),
        ("compiled.pt", "run.stripped.safetensors", strip),
        ("several.pt", "run.stripped.safetensors", Choice { key: Some("model"), ..Choice::default() }),
    ] {
        let read = read(&fixture(checkpoint), choice).unwrap();
        assert!(read == fs::read(fixture(expected)).unwrap(), "{checkpoint} is not {expected}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_runs_file_gives_its_model_and_names_the_rest() {
    let ana = Person::offline().await;
    let top = TempDir::new().unwrap();
    let output = top.path().join("model.safetensors");
    let run = ana.import(request(fixture("run.pt"), Some(output.clone()))).await.unwrap();
    assert_eq!((run.key.as_deref(), run.tensors), (Some("state_dict"), 7));
    assert_eq!((run.prefixes[0].prefix.as_str(), run.prefixes[0].tensors), ("module.", 7));
    let left: Vec<&str> = run.left.iter().map(|left| left.key.as_str()).collect();
    assert_eq!(left, ["epoch", "best", "note", "optimizer", "names"]);

    // Nothing is written over another file, unless that is wanted.
    let taken = ana.import(request(fixture("types.pt"), Some(output.clone()))).await.unwrap_err();
    assert!(taken.message.contains("exists already"), "{taken}");
    let forced = ImportRequest { force: true, ..request(fixture("types.pt"), Some(output.clone())) };
    assert_eq!(ana.import(forced).await.unwrap().tensors, 18);

    let several = ana.import(request(fixture("several.pt"), None)).await.unwrap_err();
    assert!(several.message.contains("`model`, `ema`"), "{several}");
    let unknown = ImportRequest { key: Some("nets".into()), ..request(fixture("several.pt"), None) };
    let unknown = ana.import(unknown).await.unwrap_err();
    assert!(unknown.message.contains("no state dict `nets`, but `model`, `ema`"), "{unknown}");
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tied_weights_are_stored_once_and_may_come_back_under_either_name_or_both() {
    let ana = Person::offline().await;
    let path = ana.folder().join("model.safetensors");
    fs::create_dir_all(ana.folder()).unwrap();
    let made = ana.import(request(fixture("tied.pt"), Some(path.clone()))).await.unwrap();
    let tied = (made.tied[0].name.as_str(), made.tied[0].kept.as_str());
    assert_eq!((tied, made.tensors), (("head.weight", "embed.weight"), 6));
    ana.init_from(&path, None, &[]).await.unwrap();

    // The same numbers moved, as other programs save them.
    let bytes = fs::read(&path).unwrap();
    let data = Header::prefix_len(bytes[..8].try_into().unwrap()).unwrap() as usize + 8;
    let header = Header::parse(&bytes[8..data], None).unwrap();
    let save = |renamed: Option<&str>, both: Option<f32>| {
        let mut rows = Vec::new();
        let mut out = Vec::new();
        for info in header.tensors() {
            let mut raw = bytes[data + info.start as usize..data + info.end as usize].to_vec();
            if info.name == "embed.weight" {
                let first = f32::from_le_bytes(raw[..4].try_into().unwrap()) + 0.5;
                raw[..4].copy_from_slice(&first.to_le_bytes());
            }
            let name = renamed.filter(|_| info.name == "embed.weight").unwrap_or(&info.name);
            rows.push((name.to_owned(), info.dtype, info.shape.clone()));
            out.extend_from_slice(&raw);
            if let Some(shift) = both.filter(|_| info.name == "embed.weight") {
                let first = f32::from_le_bytes(raw[..4].try_into().unwrap()) + shift;
                raw[..4].copy_from_slice(&first.to_le_bytes());
                rows.push(("head.weight".to_owned(), info.dtype, info.shape.clone()));
                out.extend_from_slice(&raw);
            }
        }
        let rows = rows.iter().map(|(name, dtype, shape)| (name.as_str(), *dtype, shape.as_slice()));
        let mut file = Header::build(rows, &std::collections::BTreeMap::new()).unwrap();
        file.extend_from_slice(&out);
        fs::write(&path, file).unwrap();
    };
    save(Some("head.weight"), None);
    assert_eq!(ana.commit().await.unwrap().draft.changed, 1);
    save(None, Some(0.0));
    let same = ana.commit().await.unwrap_err();
    assert!(same.message.contains("nothing to commit"), "{same}");
    save(None, Some(0.25));
    let apart = ana.commit().await.unwrap_err();
    assert!(apart.message.contains("`head.weight` is tied in the branch"), "{apart}");
    save(Some("headline.weight"), None);
    assert!(ana.commit().await.unwrap_err().message.contains("`embed.weight` is missing"));

    let untied = top(&ana, "untied.safetensors");
    let request = ImportRequest { untie: true, ..request(fixture("tied.pt"), Some(untied)) };
    assert_eq!(ana.import(request).await.unwrap().tensors, 7);
    ana.service.close().await;
}

fn top(person: &Person, name: &str) -> PathBuf {
    person.folder().parent().unwrap().join(name)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_shards_becomes_one_that_init_takes() {
    let ana = Person::offline().await;
    let folder = top(&ana, "sharded");
    fs::create_dir_all(&folder).unwrap();
    fs::copy(fixture("run.pt"), folder.join("pytorch_model-00001-of-00002.bin")).unwrap();
    fs::copy(fixture("unchecked.pt"), folder.join("pytorch_model-00002-of-00002.bin")).unwrap();
    let index = |second: &str| {
        let text = serde_json::json!({
            "metadata": {"total_size": 1},
            "weight_map": {"module.head.weight": "pytorch_model-00001-of-00002.bin", "w": second},
        });
        fs::write(folder.join("pytorch_model.bin.index.json"), text.to_string()).unwrap();
    };
    index("../elsewhere.bin");
    let outside = ana.service.import(request(folder.clone(), None)).await.unwrap_err();
    assert!(outside.message.contains("../elsewhere.bin"), "{outside}");
    index("pytorch_model-00002-of-00002.bin");
    let strip = ImportRequest { strip: true, ..request(folder.clone(), None) };
    let made = ana.service.import(strip).await.unwrap();
    assert_eq!(made.files.len(), 2);
    let text = fs::read(folder.join("model.safetensors.index.json")).unwrap();
    let index: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(index["weight_map"]["head.weight"], "model-00001-of-00002.safetensors");
    assert_eq!(index["weight_map"]["w"], "model-00002-of-00002.safetensors");
    assert_eq!(index["metadata"]["total_size"], made.files.iter().map(|file| file.bytes).sum::<u64>());
    ana.init_from(&folder, None, &[]).await.unwrap();
    ana.service.close().await;
}

#[test]
fn what_holds_code_or_no_model_is_refused_by_name() {
    for (name, words) in [
        ("system.pt", "it calls `posix.system`"),
        ("legacy_system.pt", "it calls `posix.system`"),
        ("module.pt", "it calls `__main__.Net`"),
        ("script.pt", "holds code: it is a TorchScript module"),
        ("compressed.pt", "is compressed (`types/data.pkl`)"),
        ("complex.pt", "holds `w`, a complex tensor"),
        ("list.pt", "no state dict: a list of 2 values"),
        ("optimiser.pt", "holds no state dict"),
    ] {
        let problem = read(&fixture("refused").join(name), Choice::default()).unwrap_err();
        assert!(problem.message.contains(words), "{name}: {problem}");
        assert!(problem.help.is_some() || name == "complex.pt", "{name} leaves no way out");
    }
    assert!(!Path::new("flair-was-here").exists());
}

#[test]
fn a_file_that_is_cut_or_changed_anywhere_is_refused_or_gives_the_same_tensors() {
    let top = TempDir::new().unwrap();
    let path = top.path().join("model.pt");
    for (name, checked) in [("types.pt", true), ("legacy.pt", false), ("views.pt", true)] {
        let good = fs::read(fixture(name)).unwrap();
        let right = read(&fixture(name), Choice::default()).unwrap();
        for length in (0..good.len()).step_by(7) {
            fs::write(&path, &good[..length]).unwrap();
            assert!(read(&path, Choice::default()).is_err(), "{name} cut to {length}");
        }
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1 << (at % 8);
            fs::write(&path, &bytes).unwrap();
            if let Ok(read) = read(&path, Choice::default()) {
                assert!(!checked || read == right, "{name} with another byte {at}");
            }
        }
    }
}

/// A zip file of entries that are stored as they are.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut archive = ZipArchiveWriter::new(&mut out);
    for (name, data) in entries {
        let file = archive.new_file(EntryPath::verbatim(name.as_bytes()));
        let (mut entry, config) = file.compression_method(CompressionMethod::STORE).start().unwrap();
        let mut writer = config.wrap(&mut entry);
        std::io::Write::write_all(&mut writer, data).unwrap();
        let (_, descriptor) = writer.finish().unwrap();
        entry.finish(descriptor).unwrap();
    }
    archive.finish().unwrap();
    out
}

#[test]
fn a_zip_file_that_lies_is_refused() {
    let top = TempDir::new().unwrap();
    let path = top.path().join("model.pt");
    let refused = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        read(&path, Choice::default()).unwrap_err().message
    };
    // {} with nothing in it.
    let pickle: &[u8] = b"\x80\x02}.";
    let says = |bytes: &[u8], words: &str| {
        let message = refused(bytes);
        assert!(message.contains(words), "{message}");
    };
    says(&zip(&[("a/data.pkl", pickle)]), "holds no state dict");
    says(&zip(&[("a/data.pkl", pickle), ("a/data.pkl", pickle)]), "two entries");
    says(&zip(&[("a/data.pkl", pickle), ("b/data.pkl", pickle)]), "two pickles");
    says(&zip(&[("a/data.pkl", pickle), ("../../etc/passwd", b"x")]), "torch.save does not write");
    says(&zip(&[("a/data.pkl", pickle), ("/etc/passwd", b"x")]), "torch.save does not write");
    says(&zip(&[("a/data.pkl", pickle), ("a/byteorder", b"big")]), "another order of bytes");
    says(&zip(&[("a/weights.npy", b"x")]), "NumPy");
    says(&zip(&[("a/readme", b"x")]), "no data.pkl");

    // Two entries that are one: the second's directory row points to the first.
    let mut both = zip(&[("a/data.pkl", pickle), ("a/data.pkm", pickle)]);
    let rows: Vec<usize> = (0..both.len() - 4).filter(|at| both[*at..].starts_with(b"PK\x01\x02")).collect();
    let first: [u8; 4] = both[rows[0] + 42..rows[0] + 46].try_into().unwrap();
    both[rows[1] + 42..rows[1] + 46].copy_from_slice(&first);
    says(&both, "share the same bytes");
}
