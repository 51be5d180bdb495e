//! The model that an adapter is for: on everybody's own disk, never in the repository, and pinned by what its tensors
//! hold, so that nobody trains on another one unawares.
//!
//! ```text
//! external_base.json   a side file of the adapter: name, dtype, shape and BLAKE3 of every tensor of the external base
//! .flair/external.json where this machine has it, and what its files looked like when they were compared
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flair_protocol::id::{Digest, TensorId};
use serde::{Deserialize, Serialize};

use super::files::Stamp;
use super::layout::{self, Local};
use super::{Folder, FolderError, write};

/// The side file that pins an external base.
pub const EXTERNAL: &str = "external_base.json";
const VERSION: u32 = 1;
/// The record of where this machine has it.
const FOUND: &str = "external.json";

/// An external base, tensor by tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct External {
    version: u32,
    /// What it is called where it was pinned: its file or folder.
    pub name: String,
    /// Its tensors by name.
    pub tensors: BTreeMap<String, Pinned>,
}

/// One tensor of an external base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinned {
    /// As safetensors writes it.
    pub dtype: String,
    /// Elements along each dimension.
    pub shape: Vec<u64>,
    /// BLAKE3 of its raw bytes.
    pub tensor: TensorId,
}

/// Where this machine has the external base.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The model's file or folder.
    pub path: PathBuf,
    /// The pin it was compared with.
    pub pin: Digest,
    /// Its files, as they were then.
    files: BTreeMap<PathBuf, Stamp>,
}

impl External {
    /// Reads every tensor of a model: a file, or a folder as Hugging Face's libraries write it. Gives back its files too.
    ///
    /// # Errors
    /// Something that is no model, or changed while it was read.
    pub fn read(path: &Path) -> Result<(Self, BTreeMap<PathBuf, Stamp>), FolderError> {
        let local = Local::discover(path)?;
        let (mut tensors, mut files) = (BTreeMap::new(), BTreeMap::new());
        for file in local.files() {
            let scanned = layout::scan_file(file)?;
            for (info, scanned) in file.header().tensors().iter().zip(scanned) {
                let pinned = Pinned {
                    dtype: info.dtype.to_string(),
                    shape: info.shape.clone(),
                    tensor: scanned.tensor,
                };
                if tensors.insert(info.name.clone(), pinned).is_some() {
                    let why = format!(
                        "has `{}`, which another file of the folder has too: name one file",
                        info.name
                    );
                    return Err(FolderError::File { file: file.name().to_owned(), why });
                }
            }
            files.insert(file.path().to_owned(), file.stamp());
        }
        local.unchanged()?;
        let name = path.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy());
        Ok((Self { version: VERSION, name: name.into_owned(), tensors }, files))
    }

    /// What a side file pins.
    ///
    /// # Errors
    /// A damaged file, or one of a newer version.
    pub fn parse(bytes: &[u8]) -> Result<Self, FolderError> {
        let refuse = |why: String| FolderError::File { file: EXTERNAL.to_owned(), why };
        let external: Self =
            serde_json::from_slice(bytes).map_err(|error| refuse(format!("can't be read: {error}")))?;
        if external.version != VERSION {
            return Err(refuse(format!(
                "has version {}, this build knows {VERSION}: install a newer version of Flair",
                external.version
            )));
        }
        Ok(external)
    }

    /// Writes the side file into the folder of an adapter; gives back whether it was another before.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn pin(&self, root: &Path) -> Result<(), FolderError> {
        let path = root.join(EXTERNAL);
        let damaged = |why: String| FolderError::State { path: path.clone(), why };
        let mut text = serde_json::to_vec_pretty(self).map_err(|error| damaged(error.to_string()))?;
        text.push(b'\n');
        write::replace(&path, |file| file.write_all(&text))
    }

    /// Compares a model with what is pinned, and says how it differs.
    pub fn differs(&self, found: &Self) -> Option<String> {
        if let Some(name) = self.tensors.keys().find(|name| !found.tensors.contains_key(*name)) {
            return Some(format!("it has no tensor `{name}`"));
        }
        if let Some(name) = found.tensors.keys().find(|name| !self.tensors.contains_key(*name)) {
            return Some(format!("it has a tensor `{name}`, which the pinned model has not"));
        }
        let mut pairs = self.tensors.iter().zip(found.tensors.values());
        let form = |one: &Pinned| format!("{} {:?}", one.dtype.to_lowercase(), one.shape);
        if let Some(((name, pinned), other)) =
            pairs.clone().find(|((_, pinned), other)| form(pinned) != form(other))
        {
            return Some(format!("`{name}` is {}, the pinned model's is {}", form(other), form(pinned)));
        }
        let ((name, _), _) = pairs.find(|((_, pinned), other)| pinned.tensor != other.tensor)?;
        let count = pairs.filter(|((_, pinned), other)| pinned.tensor != other.tensor).count();
        let more = if count == 0 { String::new() } else { format!(", and {count} other tensors,") };
        Some(format!("`{name}`{more} holds other numbers"))
    }
}

impl Found {
    /// What a model at `path` with these files is, compared with the pin `pin`.
    pub fn new(path: PathBuf, pin: Digest, files: BTreeMap<PathBuf, Stamp>) -> Self {
        Self { path, pin, files }
    }

    /// Where this machine has the external base of a folder, as far as it was told.
    pub fn load(folder: &Folder) -> Option<Self> {
        serde_json::from_slice(&fs::read(folder.mark(FOUND)).ok()?).ok()
    }

    /// Remembers it.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn save(&self, folder: &Folder) -> Result<(), FolderError> {
        let path = folder.mark(FOUND);
        let text = serde_json::to_vec_pretty(self)
            .map_err(|error| FolderError::State { path: path.clone(), why: error.to_string() })?;
        write::replace(&path, |file| file.write_all(&text))
    }

    /// Whether its files are as they were when they were compared.
    pub fn same(&self) -> bool {
        self.files.iter().all(|(path, stamp)| Stamp::of(path).is_ok_and(|now| now == *stamp))
    }
}
