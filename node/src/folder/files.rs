//! Reading a user's safetensors files: header first, then block by block, once, into our own buffers.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use flair_tensors::block;
use flair_tensors::header::{Header, PREFIX};

use super::{FolderError, at};

/// A model file that is open for reading, and what it looked like when it was opened.
#[derive(Debug)]
pub struct ModelFile {
    name: String,
    path: PathBuf,
    file: File,
    stamp: Stamp,
    header: Header,
}

/// Tells whether a file was written to: size, times, inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    /// Size in bytes.
    pub size: u64,
    /// Modification time in nanoseconds since 1970.
    pub modified: i128,
    /// Inode change time in nanoseconds since 1970.
    pub changed: i128,
    /// The inode.
    pub inode: u64,
}

impl Stamp {
    /// Of the file at `path`.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn of(path: &Path) -> Result<Self, FolderError> {
        let meta = std::fs::metadata(path).map_err(|error| at(path, error))?;
        Ok(Self::from(&meta))
    }

    fn from(meta: &std::fs::Metadata) -> Self {
        let nanos = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            size: meta.len(),
            modified: nanos(meta.mtime(), meta.mtime_nsec()),
            changed: nanos(meta.ctime(), meta.ctime_nsec()),
            inode: meta.ino(),
        }
    }
}

impl ModelFile {
    /// Opens a safetensors file and checks its header.
    ///
    /// # Errors
    /// A file that is not there, not a plain file, or not safetensors.
    pub fn open(path: &Path) -> Result<Self, FolderError> {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let io = |error| at(path, error);
        let file = File::open(path).map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        let refuse = |why: String| FolderError::File { file: name.clone(), why };
        if !meta.is_file() {
            return Err(refuse("is not a plain file".into()));
        }
        let mut first = [0; PREFIX];
        if meta.len() < PREFIX as u64 {
            return Err(refuse(format!("has {} bytes, too few for a safetensors file", meta.len())));
        }
        file.read_exact_at(&mut first, 0).map_err(io)?;
        let length = Header::prefix_len(first).map_err(|error| refuse(error.to_string()))?;
        let start = PREFIX as u64 + length;
        let data = meta.len().checked_sub(start).ok_or_else(|| {
            refuse(format!("its header says {length} bytes, but the file ends before: it is cut short"))
        })?;
        let mut json =
            vec![0; usize::try_from(length).map_err(|_| refuse("its header is too large".into()))?];
        file.read_exact_at(&mut json, PREFIX as u64).map_err(io)?;
        let header = Header::parse(&json, Some(data)).map_err(|error| refuse(error.to_string()))?;
        Ok(Self { name, path: path.to_owned(), file, stamp: Stamp::from(&meta), header })
    }

    /// The file's name without its folder.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What it looked like when it was opened.
    pub fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// Appends block `index` of the tensor at `position` in the header to `out`.
    ///
    /// # Errors
    /// What the operating system refuses; [`FolderError::Changed`] when the file became shorter.
    pub fn block(&self, position: usize, index: u64, out: &mut Vec<u8>) -> Result<(), FolderError> {
        let length = self.header.tensors().get(position).map_or(0, |info| info.end - info.start);
        let range = block::range(length, index);
        let start = out.len();
        out.resize(start + (range.end - range.start) as usize, 0);
        self.read(position, range.start, &mut out[start..])
    }

    /// Fills `out` with the raw bytes of the tensor at `position` in the header, from `offset` on.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn read(&self, position: usize, offset: u64, out: &mut [u8]) -> Result<(), FolderError> {
        let Some(info) = self.header.tensors().get(position) else {
            return Err(FolderError::File {
                file: self.name.clone(),
                why: format!("has no tensor {position}"),
            });
        };
        let offset = self.header.bytes().len() as u64 + info.start + offset;
        self.file.read_exact_at(out, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => FolderError::Changed(self.name.clone()),
            _ => at(&self.path, error),
        })
    }

    /// Checks that nobody wrote to the file since it was opened.
    ///
    /// # Errors
    /// [`FolderError::Changed`].
    pub fn unchanged(&self) -> Result<(), FolderError> {
        if Stamp::of(&self.path)? == self.stamp {
            Ok(())
        } else {
            Err(FolderError::Changed(self.name.clone()))
        }
    }
}
