//! Promises about folders as Hugging Face's libraries write them, and about getting them back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use flair_node::api::types::{Code, DiffRequest, ExportRequest, Problem};
use flair_tensors::dtype::DType;
use flair_tensors::header::Header;

use crate::together::Person;

/// Writes a safetensors file of f32 tensors, each with its first number.
fn save(path: &Path, tensors: &[(&str, &[u64], f32)]) {
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let rows = tensors.iter().map(|(name, shape, _)| (*name, DType::F32, *shape));
    let mut bytes = Header::build(rows, &metadata).unwrap();
    for (_, shape, first) in tensors {
        for index in 0..shape.iter().product() {
            bytes.extend_from_slice(&(first + index as f32 * 0.01).to_le_bytes());
        }
    }
    fs::write(path, bytes).unwrap();
}

/// A model in two shards with all that comes with one, and what must stay behind.
fn sharded(folder: &Path) {
    fs::create_dir_all(folder).unwrap();
    save(
        &folder.join("model-00001-of-00002.safetensors"),
        &[("embed.weight", &[8, 4], 1.0), ("a.bias", &[4], 2.0)],
    );
    save(&folder.join("model-00002-of-00002.safetensors"), &[("head.weight", &[8, 4], 3.0)]);
    let map = serde_json::json!({"metadata": {"total_size": 272}, "weight_map": {
        "embed.weight": "model-00001-of-00002.safetensors",
        "a.bias": "model-00001-of-00002.safetensors",
        "head.weight": "model-00002-of-00002.safetensors",
    }});
    fs::write(folder.join("model.safetensors.index.json"), map.to_string()).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"]
    {
        fs::write(folder.join(name), format!("{{\"of\": \"{name}\"}}")).unwrap();
    }
    // The same tensors once more, code, and what a training run leaves.
    save(&folder.join("consolidated.safetensors"), &[("embed.weight", &[8, 4], 1.0)]);
    fs::write(folder.join("modeling.py"), "import os").unwrap();
    fs::write(folder.join("training_args.bin"), "x").unwrap();
}

const SHARDED: [&str; 8] = [
    "README.md",
    "chat_template.jinja",
    "config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
];

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

impl Person {
    async fn export(
        &self,
        commit: Option<&str>,
        output: PathBuf,
        force: bool,
    ) -> Result<Vec<String>, Problem> {
        let commit = commit.map(str::to_owned);
        let request = ExportRequest {
            place: self.place(),
            commit,
            output: Some(output),
            onto: None,
            force,
            local: false,
            automerge: None,
        };
        Ok(self.service.export(request).await?.words)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sharded_folder_comes_back_byte_for_byte_and_without_what_is_not_of_the_model() {
    let ana = Person::offline().await;
    sharded(&ana.folder());
    let made = ana.init_from(&ana.folder(), None, &[]).await.unwrap();
    assert_eq!(made.files, ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]);
    assert_eq!(made.others, ["consolidated.safetensors"]);

    let top = ana.folder().parent().unwrap().to_owned();
    let out = top.join("deep/out");
    ana.export(None, out.clone(), false).await.unwrap();
    assert_eq!(names(&out), SHARDED);
    for name in SHARDED {
        assert!(fs::read(out.join(name)).unwrap() == fs::read(ana.folder().join(name)).unwrap(), "{name}");
    }
    // By branch and by id, without a working folder, and never over what is there.
    let taken = ana.export(Some("main"), out.clone(), false).await.unwrap_err();
    assert_eq!(taken.code, Code::Conflict, "{taken}");
    fs::write(out.join("config.json"), "mine").unwrap();
    ana.export(Some(&made.commit[..8]), out.clone(), true).await.unwrap();
    assert_eq!(
        fs::read(out.join("config.json")).unwrap(),
        fs::read(ana.folder().join("config.json")).unwrap()
    );
    let one = ana.export(None, top.join("one.safetensors"), false).await.unwrap_err();
    assert!(one.message.contains("has 2 model files"), "{one}");
    let work = ana.export(None, ana.folder(), true).await.unwrap_err();
    assert!(work.message.contains("is a working folder"), "{work}");
    assert!(ana.export(Some("nothing"), top.join("none"), false).await.is_err());
    assert!(!top.join("none").exists());
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn training_may_save_other_shards_and_a_changed_side_file_is_told() {
    let ana = Person::offline().await;
    let folder = ana.folder();
    sharded(&folder);
    fs::remove_file(folder.join("consolidated.safetensors")).unwrap();
    ana.init_from(&folder, None, &[]).await.unwrap();
    // One file instead of two, in another order, and another config.
    let first = fs::read(folder.join("model-00001-of-00002.safetensors")).unwrap();
    for number in 1..=2 {
        fs::remove_file(folder.join(format!("model-0000{number}-of-00002.safetensors"))).unwrap();
    }
    fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    let tensors: [(&str, &[u64], f32); 3] =
        [("head.weight", &[8, 4], 3.5), ("a.bias", &[4], 2.0), ("embed.weight", &[8, 4], 1.0)];
    save(&folder.join("model.safetensors"), &tensors);
    fs::write(folder.join("config.json"), "{}").unwrap();

    let request = DiffRequest { place: ana.place(), a: None, b: None };
    let diff = ana.service.diff(request).await.unwrap();
    assert_eq!((diff.rows.len(), diff.same), (1, 2));
    let (row, total) = (&diff.rows[0], diff.total.unwrap());
    assert_eq!((row.name.as_str(), row.changed), ("head.weight", 1.0));
    assert!((row.l2 - 0.5 * 32f64.sqrt()).abs() < 1e-5 && (total.l2 - row.l2).abs() < 1e-12, "{row:?}");
    assert!((total.changed - 32.0 / 68.0).abs() < 1e-12, "{total:?}");
    assert!(row.cosine.unwrap() > 0.99 && (row.max - 0.5).abs() < 1e-5, "{row:?}");

    let made = ana.commit().await.unwrap();
    assert_eq!(made.draft.changed, 1);
    assert!(made.warnings.iter().any(|words| words.contains("`config.json` differs")), "{:?}", made.warnings);
    // The draft has the branch's files again.
    let out = ana.folder().parent().unwrap().join("out");
    ana.export(Some(&made.draft.id), out.clone(), false).await.unwrap();
    assert_eq!(names(&out), SHARDED);
    assert!(fs::read(out.join("model-00001-of-00002.safetensors")).unwrap() == first);
    let twice = ana.commit().await.unwrap_err();
    assert!(twice.message.contains("nothing to commit"), "{twice}");
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_is_a_model_of_its_own() {
    let ana = Person::offline().await;
    let folder = ana.folder();
    fs::create_dir_all(&folder).unwrap();
    let (a, b) = ("base.q.lora_A.weight", "base.q.lora_B.weight");
    save(&folder.join("adapter_model.safetensors"), &[(a, &[2, 8], 1.0), (b, &[8, 2], 0.0)]);
    fs::write(folder.join("adapter_config.json"), "{\"r\": 2}").unwrap();
    let made = ana.init_from(&folder, None, &[]).await.unwrap();
    assert_eq!(
        (made.files, made.side),
        (vec!["adapter_model.safetensors".into()], vec!["adapter_config.json".into()])
    );
    let roles: Vec<&str> = made.roles.iter().map(|role| role.role.as_str()).collect();
    assert_eq!(roles, ["lora-a", "lora-b"]);
    let treated: Vec<&str> = made.roles.iter().map(|role| role.treatment.as_str()).collect();
    assert!(treated[0].contains("stays as it is now") && treated[1].contains("averaged"), "{treated:?}");
    let alone = folder.parent().unwrap().join("alone.safetensors");
    let words = ana.export(None, alone.clone(), false).await.unwrap();
    assert!(words.iter().any(|words| words.contains("without adapter_config.json")), "{words:?}");
    assert!(fs::read(alone).unwrap() == fs::read(folder.join("adapter_model.safetensors")).unwrap());
    ana.service.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_not_one_model_is_refused_with_the_way_out() {
    let ana = Person::offline().await;
    let folder = ana.folder();
    let refused = async |words: &str| {
        let problem = ana.init_from(&folder, None, &[]).await.unwrap_err();
        assert!(problem.message.contains(words), "{problem}");
    };
    sharded(&folder);
    fs::remove_file(folder.join("model-00002-of-00002.safetensors")).unwrap();
    refused("names `model-00002-of-00002.safetensors`, which is not there").await;
    fs::write(folder.join("model.safetensors.index.json"), r#"{"weight_map": {"w": "../w.safetensors"}}"#)
        .unwrap();
    refused("../w.safetensors").await;
    fs::remove_file(folder.join("model.safetensors.index.json")).unwrap();
    refused("`embed.weight` is in two files").await;
    fs::remove_file(folder.join("consolidated.safetensors")).unwrap();
    fs::write(folder.join("config.json"), r#"{"auto_map": {"AutoModel": "modeling.Net"}}"#).unwrap();
    refused("code never travels").await;
    fs::remove_file(folder.join("config.json")).unwrap();
    fs::remove_file(folder.join("model-00001-of-00002.safetensors")).unwrap();
    refused("`flair import` makes one").await;
    ana.service.close().await;
}
