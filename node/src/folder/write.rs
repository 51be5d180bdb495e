//! Writing files so that a crash leaves the old content or the new one.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::{Folder, FolderError, at};

/// Replaces the file at `path`: temporary file beside it, fsync, rename, fsync of the folder.
///
/// # Errors
/// What the operating system refuses; the old file is untouched then.
pub fn replace(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> Result<(), FolderError> {
    let staged = stage(path, |out| fill(out).map_err(|error| at(path, error)))?;
    staged.persist()
}

/// A file that is written and on disk, but not yet in its place.
#[derive(Debug)]
pub struct Staged {
    file: NamedTempFile,
    path: PathBuf,
}

/// Writes a temporary file beside `path`, and brings it to disk.
///
/// # Errors
/// What `fill` or the operating system refuses.
pub fn stage<E: From<FolderError>>(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<&File>) -> Result<(), E>,
) -> Result<Staged, E> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let io = |error| E::from(at(path, error));
    let file = tempfile::Builder::new().prefix(".flair-").tempfile_in(folder).map_err(io)?;
    let mut out = BufWriter::with_capacity(1 << 20, file.as_file());
    fill(&mut out)?;
    out.flush().map_err(io)?;
    drop(out);
    // Like any file the user makes: readable by whom their umask allows, not only by themselves.
    let mode =
        fs::metadata(path).map_or(0o644, |meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()));
    fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(mode & 0o777))
        .map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    Ok(Staged { file, path: path.to_owned() })
}

impl Staged {
    /// Renames it into place and brings the rename to disk.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn persist(self) -> Result<(), FolderError> {
        let Self { file, path } = self;
        file.persist(&path).map_err(|error| at(&path, error.error))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| at(folder, error))
    }
}

/// A checkout of several files that is under way: temporary file → target, and the state to save at the end.
#[derive(Debug, Serialize, Deserialize)]
struct Intent {
    moves: Vec<(PathBuf, PathBuf)>,
    state: super::FolderState,
}

/// Puts all staged files in place and saves the folder's new state. If a crash comes between, [`resume`] finishes.
///
/// # Errors
/// What the operating system refuses.
pub fn commit(
    folder: &mut Folder,
    staged: Vec<Staged>,
    state: super::FolderState,
) -> Result<(), FolderError> {
    let mut moves = Vec::with_capacity(staged.len());
    for Staged { file, path } in staged {
        // From here on the intent file owns it.
        let (_, temporary) = file.keep().map_err(|error| at(&path, error.error))?;
        moves.push((temporary, path));
    }
    let path = folder.mark("intent.json");
    let intent = Intent { moves, state };
    let text = serde_json::to_vec(&intent)
        .map_err(|error| FolderError::State { path: path.clone(), why: error.to_string() })?;
    replace(&path, |out| out.write_all(&text))?;
    resume(folder)
}

/// Finishes a checkout that a crash interrupted. Nothing to do when there is none.
///
/// # Errors
/// What the operating system refuses, or a damaged intent file.
pub fn resume(folder: &mut Folder) -> Result<(), FolderError> {
    let path = folder.mark("intent.json");
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(at(&path, error)),
    };
    let intent: Intent = serde_json::from_slice(&text)
        .map_err(|error| FolderError::State { path: path.clone(), why: format!("is damaged: {error}") })?;
    for (temporary, target) in &intent.moves {
        match fs::rename(temporary, target) {
            // Moved before the crash.
            Err(error) if error.kind() == io::ErrorKind::NotFound && target.exists() => {}
            other => other.map_err(|error| at(target, error))?,
        }
        let parent = target.parent().unwrap_or(Path::new("."));
        File::open(parent).and_then(|folder| folder.sync_all()).map_err(|error| at(parent, error))?;
    }
    folder.state = intent.state;
    folder.save()?;
    fs::remove_file(&path).map_err(|error| at(&path, error))
}
