//! PyTorch checkpoints as files: what is in them is read by [`flair_tensors::checkpoint`], and nothing is run.
//!
//! `torch.save` writes a zip file whose entries are stored as they are: a pickle, and an entry for each storage. Before
//! torch 1.6 it wrote pickles one after another, then the storages. Either way the tensors are copied from their places
//! in the file a piece at a time.

mod legacy;
mod zip;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use flair_tensors::checkpoint::{CheckpointError, Named, Object, Selection};
use flair_tensors::header::Header;
use rawzip::Crc32;

use crate::api::types::Problem;
use crate::folder::at;
use crate::folder::files::Stamp;

/// Bytes of a tensor that are held at a time.
const WINDOW: u64 = 8 << 20;

/// A checkpoint that is open.
#[derive(Debug)]
pub struct Checkpoint {
    source: Source,
    object: Object,
    /// Where each of the object's storages is.
    places: BTreeMap<u32, Place>,
}

/// The file, with what it looked like when it was opened.
#[derive(Debug)]
struct Source {
    name: String,
    path: PathBuf,
    file: File,
    stamp: Stamp,
}

/// Where a storage is in the file.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: u64,
    /// The checksum of its bytes, if the file has one.
    crc: Option<u32>,
}

impl Source {
    fn open(path: &Path) -> Result<Self, Problem> {
        let io = |error| Problem::from(at(path, error));
        let file = File::open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(Problem::invalid(format!("{} is not a plain file", path.display())));
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self { name, path: path.to_owned(), stamp: Stamp::of(path)?, file })
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Problem> {
        self.file.read_exact_at(out, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.refuse("is cut short"),
            _ => at(&self.path, error).into(),
        })
    }

    fn refuse(&self, why: impl std::fmt::Display) -> Problem {
        Problem::invalid(format!("`{}` {why}", self.name))
    }

    fn explain(&self, error: &CheckpointError) -> Problem {
        let problem = self.refuse(error);
        match error.help() {
            Some(help) => problem.help(help),
            None => problem,
        }
    }
}

impl Checkpoint {
    /// Opens what `torch.save` wrote, in either of its formats.
    ///
    /// # Errors
    /// A file that is none, is damaged, or holds code.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let source = Source::open(path)?;
        let mut first = [0; 8];
        let length = usize::try_from(source.stamp.size.min(8)).unwrap_or(8);
        source.read(0, &mut first[..length])?;
        match first {
            [b'P', b'K', 3 | 5, 4 | 6, ..] => zip::open(source),
            [0x80, 2..=5, ..] => legacy::open(source),
            [_, _, _, _, _, _, 0, 0] if source.name.ends_with(".safetensors") => {
                Err(source.refuse("is a safetensors file already").help("use it as it is"))
            }
            _ => Err(source
                .refuse("is not a PyTorch checkpoint: neither a zip file nor a pickle of torch.save")
                .help("checkpoints of PyTorch before 0.1.10 must be saved again with a newer one")),
        }
    }

    /// What it holds.
    pub fn object(&self) -> &Object {
        &self.object
    }

    /// A failure to read it, with its name and a way out.
    pub fn explain(&self, error: &CheckpointError) -> Problem {
        self.source.explain(error)
    }

    /// Writes the selected tensors as a safetensors file, and compares them with their checksums. `progress` is told
    /// how many bytes are written.
    ///
    /// # Errors
    /// What the operating system refuses, a file that is damaged or was written to meanwhile.
    pub fn write(
        &self,
        selection: &Selection,
        out: &mut impl Write,
        path: &Path,
        mut progress: impl FnMut(u64),
    ) -> Result<(), Problem> {
        let header = header(selection)?;
        let io = |error| Problem::from(at(path, error));
        out.write_all(&header).map_err(io)?;
        let mut checked = BTreeSet::new();
        let mut done = 0;
        for tensor in &selection.tensors {
            if tensor.view.length() == 0 {
                continue;
            }
            let place = self.place(tensor)?;
            let storage = self.object.storages().get(tensor.storage as usize).map_or(0, |one| one.bytes);
            let crc = place.crc.filter(|_| checked.insert(tensor.storage));
            // A tensor that is all of its storage is checked as it is copied.
            let whole = tensor.view.contiguous() && tensor.view.length() == storage;
            if let Some(crc) = crc.filter(|_| !whole) {
                self.check(place, storage, crc, tensor)?;
            }
            let mut sum = Crc32::new();
            let counted = crc.is_some() && whole;
            tensor.view.copy(
                WINDOW,
                |offset, piece| self.source.read(place.start + offset, piece),
                |piece| {
                    if counted {
                        sum.update(piece);
                    }
                    done += piece.len() as u64;
                    progress(done);
                    out.write_all(piece).map_err(io)
                },
            )?;
            if counted && crc != Some(sum.checksum()) {
                return Err(self.differs(tensor));
            }
        }
        if Stamp::of(&self.source.path)? == self.source.stamp {
            Ok(())
        } else {
            Err(crate::folder::FolderError::Changed(self.source.name.clone()).into())
        }
    }

    fn place(&self, tensor: &Named) -> Result<Place, Problem> {
        self.places.get(&tensor.storage).copied().ok_or_else(|| {
            self.source.refuse(format!("lacks the numbers of `{}`: it is cut short or damaged", tensor.name))
        })
    }

    fn check(&self, place: Place, length: u64, crc: u32, tensor: &Named) -> Result<(), Problem> {
        let mut sum = Crc32::new();
        let mut piece = Vec::new();
        let mut at = 0;
        while at < length {
            piece.resize(usize::try_from((length - at).min(1 << 20)).unwrap_or(1 << 20), 0);
            self.source.read(place.start + at, &mut piece)?;
            sum.update(&piece);
            at += piece.len() as u64;
        }
        if sum.checksum() == crc { Ok(()) } else { Err(self.differs(tensor)) }
    }

    fn differs(&self, tensor: &Named) -> Problem {
        self.source
            .refuse(format!("is damaged: the numbers of `{}` do not have their checksum", tensor.name))
            .help("get the file again")
    }
}

/// The header of a selection. What PyTorch's users expect in it is that the format is `pt`, and under which name a
/// tied tensor is, as `safetensors.torch.save_model` notes it.
fn header(selection: &Selection) -> Result<Vec<u8>, Problem> {
    let mut metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    for tied in &selection.tied {
        metadata.entry(tied.name.clone()).or_insert_with(|| tied.kept.clone());
    }
    let rows = selection.tensors.iter();
    let rows = rows.map(|tensor| (tensor.name.as_str(), tensor.dtype, tensor.shape.as_slice()));
    Header::build(rows, &metadata).map_err(|error| Problem::invalid(error.to_string()))
}
