//! Promises about the model that an adapter is for: nobody trains on another one unawares.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use flair_node::api::types::{At, ExternalBaseRequest, PinRequest, Problem};
use flair_node::home::Config;
use flair_tensors::dtype::DType;
use flair_tensors::header::Header;

use crate::together::{Person, write_model};

/// Writes a LoRA pair whose B holds `value`.
fn write_adapter(folder: &Path, value: f32) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("adapter_config.json"), r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 4}"#)
        .unwrap();
    let rows: [(&str, DType, &[u64]); 2] =
        [("fc.lora_A.weight", DType::F32, &[2, 32]), ("fc.lora_B.weight", DType::F32, &[64, 2])];
    let mut bytes = Header::build(rows, &BTreeMap::new()).unwrap();
    for index in 0..64 {
        bytes.extend_from_slice(&(index as f32).to_le_bytes());
    }
    for _ in 0..128 {
        bytes.extend_from_slice(&value.to_le_bytes());
    }
    fs::write(folder.join("adapter_model.safetensors"), bytes).unwrap();
}

impl Person {
    /// A model on this person's disk, outside of any working folder.
    fn external(&self, scale: f32) -> PathBuf {
        let path = self.top.path().join("llama.safetensors");
        write_model(&path, |index| index as f32 * scale);
        path
    }

    async fn compare(&self, path: PathBuf) -> Result<bool, Problem> {
        let request = ExternalBaseRequest { place: self.place(), path: Some(path) };
        Ok(self.service.external(request).await?.checked)
    }

    async fn warns(&self) -> bool {
        let status = self.service.status(At { place: self.place() }).await.unwrap();
        status.warnings.iter().any(|warning| warning.contains("external base `llama.safetensors`"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_is_trained_on_the_model_that_was_pinned_or_not_at_all() {
    let ana = Person::online(Config::default()).await;
    write_adapter(&ana.folder(), 0.0);
    let pin = PinRequest { folder: ana.folder(), path: ana.external(0.5) };
    assert_eq!(ana.service.external_pin(pin).await.unwrap().tensors, 5);
    let begun = ana.init_from(&ana.folder(), None, &[]).await.unwrap();
    assert!(begun.side.contains(&"external_base.json".to_owned()), "{begun:?}");

    let bo = Person::online(Config::default()).await;
    bo.clone_from(&ana.ticket(1).await, "bo").await;
    assert!(bo.warns().await);
    let shown = bo.service.external(ExternalBaseRequest { place: bo.place(), path: None }).await.unwrap();
    assert!(!shown.checked && shown.path.is_none() && shown.tensors == 5, "{shown:?}");

    // Not checked: said with each draft. Another model, the adapter, a model that is none: refused by name.
    write_adapter(&bo.folder(), 0.25);
    let committed = bo.commit().await.unwrap();
    assert!(committed.warnings.iter().any(|warning| warning.contains("was not checked")), "{committed:?}");
    let other = bo.compare(bo.external(0.75)).await.unwrap_err();
    assert!(
        other.message.contains("`bn.running_mean`") && other.message.contains("other numbers"),
        "{other:?}"
    );
    let adapter = bo.compare(bo.folder()).await.unwrap_err();
    assert!(adapter.message.contains("no tensor `bn.num_batches_tracked`"), "{adapter:?}");
    bo.compare(bo.top.path().join("nowhere")).await.unwrap_err();
    assert!(bo.warns().await);

    assert!(bo.compare(bo.external(0.5)).await.unwrap());
    assert!(!bo.warns().await);
    write_adapter(&bo.folder(), 0.5);
    assert!(bo.commit().await.unwrap().warnings.iter().all(|warning| !warning.contains("external base")));
    bo.push().await;

    // The file is replaced: by the same model, which is compared again and found good, then by another.
    write_adapter(&bo.folder(), 0.75);
    bo.external(0.5);
    assert!(bo.warns().await);
    assert!(bo.commit().await.unwrap().warnings.iter().all(|warning| !warning.contains("external base")));
    assert!(!bo.warns().await);
    bo.external(0.625);
    write_adapter(&bo.folder(), 1.0);
    let refused = bo.commit().await.unwrap_err();
    assert!(refused.message.contains("is not the external base `llama.safetensors`"), "{refused:?}");

    for person in [ana, bo] {
        person.service.close().await;
    }
}
