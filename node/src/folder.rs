//! The working folder: the user's model files, and `.flair/` beside them.
//!
//! ```text
//! .flair/folder.json   repository, branch, base, files, drafts; replaced as a whole, never edited in place
//! .flair/cache.json    hashes of files by size and time, so that an unchanged file is not read again
//! .flair/external.json where this machine has the model that an adapter is for, see `external`
//! .flair/intent.json   a checkout of several files that is under way; carried on by the next command
//! .flair/local         what never leaves: this site's own values of `local` tensors; curves and kept weights of Python's
//! ```
//!
//! Files of the user are read block by block into our own buffers, and written only through a temporary file
//! beside the target: a reader sees the old model or the new one, never half of each.

pub mod cast;
pub mod external;
pub mod files;
pub mod layout;
pub mod own;
mod pairs;
pub mod reflink;
pub mod write;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use flair_protocol::commit::{Metric, Privacy, Training};
use flair_protocol::id::{BranchId, CommitId, Digest, ModelId, RepositoryId};
use serde::{Deserialize, Serialize};

use crate::home::Decimal;

/// The folder that marks a working folder.
pub const MARK: &str = ".flair";
const VERSION: u32 = 1;

/// What can go wrong with a working folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The operating system refused something.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither this folder nor one above it is a working folder.
    #[error("{0} is not in a working folder (no `.flair` here or above)")]
    Outside(PathBuf),
    /// There is a working folder already.
    #[error("{0} is a working folder already")]
    Taken(PathBuf),
    /// Something is in the way.
    #[error("{0} exists already and is not empty")]
    Occupied(PathBuf),
    /// `.flair/` is damaged or of another version.
    #[error("{path}: {why}")]
    State {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A model file can't be used.
    #[error("`{file}`: {why}")]
    File {
        /// The file.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A file was written to while it was read.
    #[error("`{0}` changed while it was read: wait until training has finished writing, then try again")]
    Changed(String),
    /// A model does not fit the branch.
    #[error("{0}")]
    Unfit(String),
}

/// Puts `source` together with the path it is about.
pub(crate) fn at(path: &Path, source: io::Error) -> FolderError {
    FolderError::Io { path: path.to_owned(), source }
}

/// A local commit that was not pushed. Its model is in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DraftRecord {
    /// Names the draft on this machine.
    pub id: Digest,
    /// Its model.
    pub model: ModelId,
    /// The pack with its tensors.
    pub pack: Digest,
    /// The pack's blobs with their sizes in bytes, the index first.
    pub blobs: Vec<(Digest, u64)>,
    /// What the user says of it.
    pub message: String,
    /// How it was trained.
    pub training: Training,
    /// Measurements.
    pub metrics: Vec<Metric>,
    /// How it was clipped and noised; none for a model as training left it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privacy: Option<Private>,
    /// What training itself did for privacy, as whoever trained it says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<Privacy>,
    /// Tensors that differ from the model before.
    pub changed: u64,
    /// Milliseconds since 1970.
    pub time: u64,
    /// What it is, if no update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepDraft>,
    /// Side files that the model has and its base's has not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub side: Vec<Digest>,
}

/// A draft that becomes a step of the branch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepDraft {
    /// What was made outside Flair.
    External {
        /// What made it.
        engine: String,
        /// Of which updates.
        inputs: Vec<CommitId>,
    },
    /// Another architecture, or other side files.
    Migrate,
}

/// How a draft was clipped and noised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    /// The clipping norm of each release.
    pub clip: Decimal,
    /// The noise multiplier of each.
    pub noise: Decimal,
    /// The δ with which ε is told.
    pub delta: Decimal,
    /// The releases it is made of, by their numbers in the ledger.
    pub releases: Vec<u64>,
}

impl DraftRecord {
    /// What it refers to: manifest, pack, side files.
    pub fn blobs(&self) -> Vec<Digest> {
        [self.model.digest(), self.pack].into_iter().chain(self.side.iter().copied()).collect()
    }

    /// A draft's id: that of its model, when it was made, and what the user says of it.
    pub fn name(model: ModelId, time: u64, message: &str) -> Digest {
        Digest::of(&[model.as_bytes().as_slice(), &time.to_le_bytes(), message.as_bytes()].concat())
    }
}

/// What a working folder knows of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FolderState {
    version: u32,
    /// The repository.
    pub repo: RepositoryId,
    /// The branch.
    pub branch: BranchId,
    /// The published commit that the folder stands on.
    pub base: CommitId,
    /// That commit's model.
    pub base_model: ModelId,
    /// Drafts, oldest first.
    pub drafts: Vec<DraftRecord>,
}

/// A working folder.
#[derive(Clone, Debug)]
pub struct Folder {
    root: PathBuf,
    /// What it knows of itself; [`save`](Folder::save) after a change.
    pub state: FolderState,
}

impl Folder {
    /// Finds the working folder that `start` is in.
    ///
    /// # Errors
    /// [`FolderError::Outside`], or a damaged `.flair/`.
    pub fn find(start: &Path) -> Result<Self, FolderError> {
        let root = start
            .ancestors()
            .find(|folder| folder.join(MARK).join("folder.json").is_file())
            .ok_or_else(|| FolderError::Outside(start.to_owned()))?;
        Self::open(root)
    }

    /// Opens the working folder at `root`.
    ///
    /// # Errors
    /// A damaged or newer `.flair/folder.json`.
    pub fn open(root: &Path) -> Result<Self, FolderError> {
        let path = root.join(MARK).join("folder.json");
        let text = fs::read(&path).map_err(|error| at(&path, error))?;
        let damaged = |why: String| FolderError::State { path: path.clone(), why };
        let state: FolderState = serde_json::from_slice(&text)
            .map_err(|error| damaged(format!("is damaged ({error}): clone into another folder")))?;
        if state.version != VERSION {
            return Err(damaged(format!(
                "has version {}, this build knows {VERSION}: install a newer version of Flair",
                state.version
            )));
        }
        Ok(Self { root: root.to_owned(), state })
    }

    /// Refuses a place where a working folder can't be made.
    ///
    /// # Errors
    /// [`FolderError::Taken`] inside a working folder; with `empty`, [`FolderError::Occupied`].
    pub fn vacant(root: &Path, empty: bool) -> Result<(), FolderError> {
        if root.join(MARK).join("folder.json").exists() {
            return Err(FolderError::Taken(root.to_owned()));
        }
        if empty && root.exists() {
            // What an interrupted clone left, `.flair` without `folder.json`, is nobody's.
            let mut entries = fs::read_dir(root).map_err(|error| at(root, error))?;
            if entries.any(|entry| entry.map_or(true, |entry| entry.file_name() != MARK)) {
                return Err(FolderError::Occupied(root.to_owned()));
            }
        }
        Ok(())
    }

    /// Makes `root` a working folder; its model files are there or are written next.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn create(
        root: &Path,
        repo: RepositoryId,
        branch: BranchId,
        base: CommitId,
        base_model: ModelId,
    ) -> Result<Self, FolderError> {
        let mark = root.join(MARK);
        fs::create_dir_all(&mark).map_err(|error| at(&mark, error))?;
        let state = FolderState { version: VERSION, repo, branch, base, base_model, drafts: Vec::new() };
        let folder = Self { root: root.to_owned(), state };
        folder.save()?;
        Ok(folder)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A file in `.flair/`.
    pub fn mark(&self, name: &str) -> PathBuf {
        self.root.join(MARK).join(name)
    }

    /// The model that the next draft starts from: the last draft's, else the base's.
    pub fn tip(&self) -> ModelId {
        self.state.drafts.last().map_or(self.state.base_model, |draft| draft.model)
    }

    /// Writes `.flair/folder.json`, whole or not at all.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn save(&self) -> Result<(), FolderError> {
        let path = self.mark("folder.json");
        let text = serde_json::to_vec_pretty(&self.state)
            .map_err(|error| FolderError::State { path: path.clone(), why: error.to_string() })?;
        write::replace(&path, |file| io::Write::write_all(file, &text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_interrupted_clone_left_is_in_nobodys_way() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path();
        Folder::vacant(root, true).unwrap();
        fs::create_dir(root.join(MARK)).unwrap();
        fs::write(root.join(MARK).join(".flair-half"), "{").unwrap();
        Folder::vacant(root, true).unwrap();
        fs::write(root.join("notes"), "mine").unwrap();
        assert!(matches!(Folder::vacant(root, true), Err(FolderError::Occupied(_))));
        fs::remove_file(root.join("notes")).unwrap();
        fs::write(root.join(MARK).join("folder.json"), "{}").unwrap();
        assert!(matches!(Folder::vacant(root, true), Err(FolderError::Taken(_))));
    }
}
