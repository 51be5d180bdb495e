//! Models in the store: manifest, state, and the tensors they name.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flair_aggregation::Carried;
use flair_protocol::id::{Digest, TensorId};
use flair_protocol::limits;
use flair_protocol::model::{self, Manifest, State};
use flair_tensors::dtype::DType;
use flair_tensors::pack::Listed;

use crate::api::types::Problem;
use crate::folder::own::Own;
use crate::folder::reflink::{self, Part};
use crate::folder::write::{self, Staged};
use crate::folder::{FolderError, at};
use crate::shelf::Held;
use crate::store::{Listing, Store};

/// A model that is here, with what the aggregate it came from carries forward.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its manifest.
    pub manifest: Manifest,
    /// State of the aggregate; empty for other commits.
    pub state: State,
}

impl Model {
    /// Reads a held model's manifest and state.
    ///
    /// # Errors
    /// A damaged store.
    pub async fn load(store: &Store, held: &Held) -> Result<Self, Problem> {
        let manifest = manifest(store, held.model.digest()).await?;
        let state = match held.state {
            None => State::default(),
            Some(state) => State::decode(&store.read_all(state.digest(), limits::STATE as u64).await?)?,
        };
        Ok(Self { manifest, state })
    }

    /// Its tensors as packs list them: those of the files, then what its state carries.
    pub fn listed(&self) -> Vec<Listed> {
        let tensors = self.manifest.tensors().map(|tensor| (tensor.tensor, tensor.dtype, tensor.length));
        tensors
            .chain(self.carried().map(|(_, carried)| (carried.tensor, DType::F32, carried.length)))
            .collect()
    }

    /// As [`listed`](Self::listed), with names, for checking a pack.
    pub fn listings(&self) -> Vec<Listing> {
        let tensors = self.manifest.tensors().map(|tensor| Listing {
            name: tensor.name.clone(),
            tensor: tensor.tensor,
            dtype: tensor.dtype,
            length: tensor.length,
        });
        let carried = self.carried().map(|(what, carried)| Listing {
            name: format!("{} ({what})", carried.name),
            tensor: carried.tensor,
            dtype: DType::F32,
            length: carried.length,
        });
        tensors.chain(carried).collect()
    }

    /// What its state carries beside the model, as packs list it: masters, then first and second moments, each in file
    /// order.
    pub fn carried(&self) -> impl Iterator<Item = (Carried, &model::Carried)> {
        let server = self.state.server.iter();
        let momentum = server.clone().flat_map(|server| &server.momentum);
        let variance = server.flat_map(|server| &server.variance);
        let masters = self.state.masters.iter().map(|carried| (Carried::Master, carried));
        masters
            .chain(momentum.map(|carried| (Carried::Momentum, carried)))
            .chain(variance.map(|carried| (Carried::Variance, carried)))
    }

    /// The tensors that its state carries, by what they are and whose.
    pub fn carried_ids(&self) -> BTreeMap<(Carried, &str), TensorId> {
        self.carried().map(|(what, carried)| ((what, carried.name.as_str()), carried.tensor)).collect()
    }

    /// The same, as an aggregate with this optimiser can use it: another one's moments are left out.
    pub fn carried_for(&self, optimiser: Option<&str>) -> BTreeMap<(Carried, &str), TensorId> {
        let same = self.state.server.as_ref().map(|server| server.optimiser.as_str()) == optimiser;
        let mut carried = self.carried_ids();
        carried.retain(|(what, _), _| same || *what == Carried::Master);
        carried
    }
}

/// Reads a manifest from the store.
///
/// # Errors
/// A blob that is not here, or not a manifest.
pub async fn manifest(store: &Store, id: Digest) -> Result<Manifest, Problem> {
    Ok(Manifest::decode(&store.read_all(id, limits::MANIFEST as u64).await?)?)
}

/// Files that are likely to hold a model already: where they are, and which model.
#[derive(Debug)]
pub struct Known {
    /// Their folder.
    pub root: PathBuf,
    /// The model.
    pub manifest: Manifest,
}

/// Writes the files of a model into `root` as temporary files, ready to be put in place. What `known` files hold as well
/// is shared with them, where the file system can do that. Tensors that the site has values of its `own` for get those.
/// Blocking.
///
/// # Errors
/// What the store or the operating system refuses.
pub fn stage(
    store: &Store,
    manifest: &Manifest,
    root: &Path,
    known: Option<&Known>,
    own: &Own,
) -> Result<Vec<Staged>, Problem> {
    let mut staged = Vec::new();
    let write = |tensors: &[&model::Tensor], out: &mut BufWriter<&File>| -> Result<(), Problem> {
        for run in tensors.chunk_by(|a, b| own.has(a) == own.has(b)) {
            if run.first().is_some_and(|tensor| own.has(tensor)) {
                run.iter().try_for_each(|tensor| own.write(tensor, out))?;
            } else {
                store.write_tensors(run.iter().map(|tensor| tensor.tensor), out)?;
            }
        }
        Ok(())
    };
    for file in &manifest.files {
        let path = root.join(&file.name);
        staged.push(write::stage::<Problem>(&path, |out| {
            let io = |error: io::Error| Problem::from(at(&path, error));
            let parts = parts(file, known, own);
            let old = known.map(|known| known.root.join(&file.name));
            let shared = match &old {
                Some(old) => reflink::begin(old, out.get_ref(), &file.header, &parts).map_err(io)?,
                None => None,
            };
            let Some(right) = shared else {
                out.write_all(&file.header).map_err(io)?;
                return write(&file.tensors.iter().collect::<Vec<_>>(), out);
            };
            // Only what is not there yet, in runs.
            let rows: Vec<_> = parts.iter().zip(&file.tensors).zip(right).collect();
            let kept: u64 = rows.iter().filter(|(_, right)| *right).map(|((part, _), _)| part.length).sum();
            tracing::info!(path = %path.display(), kept, "sharing blocks with the file before");
            for run in rows.chunk_by(|a, b| a.1 == b.1) {
                if let Some(((first, _), false)) = run.first() {
                    out.seek(SeekFrom::Start(first.start)).map_err(io)?;
                    write(&run.iter().map(|((_, tensor), _)| *tensor).collect::<Vec<_>>(), out)?;
                }
            }
            Ok(())
        })?);
    }
    Ok(staged)
}

/// Where the tensors of a file are, and which of them the known model has in the same file.
fn parts(file: &model::File, known: Option<&Known>, own: &Own) -> Vec<Part> {
    let old = known.and_then(|known| known.manifest.files.iter().find(|old| old.name == file.name));
    let old = old.filter(|old| old.header == file.header);
    let mut start = file.header.len() as u64;
    let mut parts = Vec::with_capacity(file.tensors.len());
    for (place, tensor) in file.tensors.iter().enumerate() {
        let likely =
            old.and_then(|old| old.tensors.get(place)).is_some_and(|old| old.tensor == tensor.tensor)
                && !own.has(tensor);
        parts.push(Part { start, length: tensor.length, tensor: tensor.tensor, likely });
        start += tensor.length;
    }
    parts
}

/// Writes the side files of a model into `root` as temporary files.
///
/// # Errors
/// What the store or the operating system refuses.
pub async fn stage_side(store: &Store, manifest: &Manifest, root: &Path) -> Result<Vec<Staged>, Problem> {
    let mut staged = Vec::new();
    for side in &manifest.side {
        let bytes = store.read_all(side.blob, limits::SIDE_FILE).await?;
        let path = root.join(&side.name);
        staged.push(write::stage::<FolderError>(&path, |out| {
            out.write_all(&bytes).map_err(|error| at(&path, error))
        })?);
    }
    Ok(staged)
}
