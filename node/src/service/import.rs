//! Checkpoints of PyTorch to safetensors files, without running anything in them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flair_protocol::model;
use flair_tensors::checkpoint::{Choice, Selection, select};
use serde::{Deserialize, Serialize};

use super::Service;
use super::local::blocking;
use crate::api::types::{ImportRequest, Imported, ImportedFile, LeftOut, Prefix, Problem, TiedTensor};
use crate::checkpoint::Checkpoint;
use crate::folder::{FolderError, at, write};
use crate::hub::Hub;

/// Most bytes of an index of shards.
const INDEX: u64 = 64 << 20;
/// Bytes between two messages about how far it is.
const STEP: u64 = 64 << 20;
/// What a sharded checkpoint's index is called.
const INDEX_NAME: &str = "pytorch_model.bin.index.json";
/// Checkpoints that are looked for in a folder, by name.
const NAMES: [&str; 2] = ["pytorch_model.bin", "adapter_model.bin"];

/// The index of a sharded checkpoint, as Hugging Face's libraries write it.
#[derive(Serialize, Deserialize)]
struct Index {
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
    weight_map: BTreeMap<String, String>,
}

impl Service {
    /// Converts a checkpoint, or those of a folder, to safetensors.
    ///
    /// # Errors
    /// A file that holds code or no model, is damaged, or would be written over another.
    pub async fn import(&self, request: ImportRequest) -> Result<Imported, Problem> {
        let hub = self.hub.clone();
        blocking(move || {
            let whole = request.source.is_dir();
            let (sources, index) =
                if whole { shards(&request.source)? } else { (vec![request.source.clone()], None) };
            let folder = match &request.output {
                Some(output) if whole => output.clone(),
                _ => sources.first().and_then(|path| path.parent()).unwrap_or(Path::new(".")).to_owned(),
            };
            let output = |source: &Path| match &request.output {
                Some(output) if !whole => output.clone(),
                _ => folder.join(renamed(source)),
            };
            let outputs: Vec<PathBuf> = sources.iter().map(|source| output(source)).collect();
            for path in &outputs {
                vacant(path, request.force)?;
            }
            if whole && !folder.is_dir() {
                fs::create_dir_all(&folder).map_err(|error| at(&folder, error))?;
            }
            let mut files = Vec::new();
            for (source, output) in sources.iter().zip(&outputs) {
                files.push(convert(&hub, &request, source, output)?);
            }
            if let Some(index) = index {
                let path = folder.join("model.safetensors.index.json");
                vacant(&path, request.force)?;
                write_index(index, &files, &path)?;
            }
            Ok(Imported { files })
        })
        .await
    }
}

/// The checkpoints of a folder, with the index if there are several.
fn shards(folder: &Path) -> Result<(Vec<PathBuf>, Option<Index>), Problem> {
    let path = folder.join(INDEX_NAME);
    if path.is_file() {
        let damaged = |why: String| Problem::invalid(format!("`{INDEX_NAME}` can't be read: {why}"));
        let length = fs::metadata(&path).map_err(|error| at(&path, error))?.len();
        if length > INDEX {
            return Err(damaged(format!("it has {length} bytes, at most {INDEX} are read")));
        }
        let text = fs::read(&path).map_err(|error| at(&path, error))?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        let mut names: Vec<&String> = index.weight_map.values().collect();
        names.sort_unstable();
        names.dedup();
        for name in &names {
            model::file_name(name).map_err(|error| damaged(error.to_string()))?;
        }
        let paths = names.into_iter().map(|name| folder.join(name)).collect();
        return Ok((paths, Some(index)));
    }
    let found = NAMES.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    match found {
        Some(path) => Ok((vec![path], None)),
        None => Err(Problem::missing(format!(
            "{} has neither {INDEX_NAME} nor {}",
            folder.display(),
            NAMES.join(" nor ")
        ))
        .help("name the checkpoint itself")),
    }
}

/// What the safetensors file of a checkpoint is called: as Hugging Face's libraries look for it.
fn renamed(source: &Path) -> String {
    let stem = source.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let stem = stem.strip_prefix("pytorch_model").map_or(stem.clone(), |rest| format!("model{rest}"));
    format!("{stem}.safetensors")
}

fn vacant(path: &Path, force: bool) -> Result<(), Problem> {
    if !force && path.exists() {
        return Err(Problem::conflict(format!("{} exists already", path.display()))
            .help("choose another file with `-o`, or replace it with `--force`"));
    }
    Ok(())
}

fn convert(
    hub: &Arc<Hub>,
    request: &ImportRequest,
    source: &Path,
    output: &Path,
) -> Result<ImportedFile, Problem> {
    let checkpoint = Checkpoint::open(source)?;
    let choice = Choice { key: request.key.as_deref(), strip: request.strip, untie: request.untie };
    let selection = select(checkpoint.object(), choice).map_err(|error| checkpoint.explain(&error))?;
    let total = selection.bytes();
    space(output, total)?;
    let text = format!("importing {}", source.display());
    let mut told = 0;
    let staged = write::stage::<Problem>(output, |out| {
        checkpoint.write(&selection, out, output, |done| {
            if done >= told + STEP {
                told = done;
                hub.progress(None, text.clone(), done, total);
            }
        })
    })?;
    staged.persist()?;
    Ok(view(output, request, selection))
}

/// Refuses what would not fit on the disk, before anything is written.
fn space(output: &Path, bytes: u64) -> Result<(), Problem> {
    let folder = output.parent().unwrap_or(Path::new("."));
    let disk = rustix::fs::statvfs(folder).map_err(|error| at(folder, error.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    if free < bytes {
        return Err(Problem::new(
            crate::api::types::Code::Full,
            format!("{} needs {bytes} bytes, the disk has {free} free", output.display()),
        )
        .help("make space, or write to another disk with `-o`"));
    }
    Ok(())
}

fn view(output: &Path, request: &ImportRequest, selection: Selection) -> ImportedFile {
    ImportedFile {
        output: output.display().to_string(),
        key: Some(selection.key.clone()).filter(|key| !key.is_empty()),
        tensors: selection.tensors.len() as u64,
        bytes: selection.bytes(),
        names: selection.tensors.iter().map(|tensor| tensor.name.clone()).collect(),
        tied: selection
            .tied
            .into_iter()
            .map(|tied| TiedTensor { name: tied.name, kept: tied.kept })
            .collect(),
        prefixes: selection
            .prefixes
            .into_iter()
            .map(|(prefix, tensors)| Prefix { prefix, tensors, stripped: request.strip })
            .collect(),
        left: selection.left.into_iter().map(|left| LeftOut { key: left.key, what: left.what }).collect(),
        more: selection.more,
    }
}

/// Writes the index of the new shards.
fn write_index(mut index: Index, files: &[ImportedFile], path: &Path) -> Result<(), Problem> {
    let total: u64 = files.iter().map(|file| file.bytes).sum();
    index.metadata.insert("total_size".to_owned(), total.into());
    index.weight_map.clear();
    for file in files {
        let name = Path::new(&file.output).file_name().map(|name| name.to_string_lossy().into_owned());
        let name = name.unwrap_or_default();
        index.weight_map.extend(file.names.iter().map(|tensor| (tensor.clone(), name.clone())));
    }
    let text = serde_json::to_vec_pretty(&index).map_err(Problem::internal)?;
    write::replace(path, |out| out.write_all(&text)).map_err(|error: FolderError| error.into())
}
