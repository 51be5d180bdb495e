//! From the kernels to a pack: what a recipe gave, named and stored.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use flair_aggregation::run::{Carried, Sink, Written};
use flair_protocol::commit::Outcome;
use flair_protocol::id::{CommitId, PackId, TensorId};
use flair_protocol::model::{self, Manifest, State as ModelState};
use flair_tensors::dtype::DType;

use super::compute::{Made, absent};
use crate::api::types::Problem;
use crate::hub::Hub;
use crate::models::Model;
use crate::repository::Repository;
use crate::shelf::Held;
use crate::store::{self, Content, Hold, Packed as Stored, Store};

/// Which of what the parent carries is carried on where nothing new was written for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// That of tensors that stayed the same.
    Same,
    /// All of it.
    All,
}

/// A model in the store whose state is not named yet.
pub(super) struct Packed {
    manifest: Manifest,
    /// What its state carries, in the order of [`Carried::ALL`].
    pub(super) carried: [Vec<model::Carried>; 3],
    stored: Stored,
    hold: Hold,
}

/// Packs what the kernels wrote, in the place of the parent's tensors.
pub(super) async fn write(
    hub: &Hub,
    repository: &Repository,
    on: Option<CommitId>,
    parent: &Manifest,
    carried: [Vec<Option<TensorId>>; 3],
    spool: Spool,
    keep: Keep,
) -> Result<Packed, Problem> {
    let hold = hub.store.hold();
    let base = match on {
        None => None,
        Some(base) => {
            let held = repository.shelf().held(base).ok_or_else(|| absent(base))?;
            Some(Model::load(&hub.store, &held).await?)
        }
    };
    let base_ids: BTreeMap<&str, TensorId> = base
        .iter()
        .flat_map(|base| base.manifest.tensors())
        .map(|tensor| (tensor.name.as_str(), tensor.tensor))
        .collect();
    let base_carried = base.as_ref().map(Model::carried_ids).unwrap_or_default();
    let mut contents = Vec::new();
    let mut places = Vec::new();
    for (index, tensor) in parent.tensors().enumerate() {
        let slot = spool.model.start(index);
        contents.push(Content {
            name: tensor.name.clone(),
            tensor: slot.is_none().then_some(tensor.tensor),
            dtype: tensor.dtype,
            length: tensor.length,
            base: base_ids.get(tensor.name.as_str()).copied(),
        });
        places.push(slot.map_or(Place::Store(tensor.tensor), Place::Model));
    }
    let mut beside = Vec::new();
    for ((kind, what), kept) in Carried::ALL.into_iter().enumerate().zip(carried) {
        for (index, tensor) in parent.tensors().enumerate() {
            let slot = spool.carried.get(kind).and_then(|tape| tape.start(index));
            let keeps = keep == Keep::All || spool.model.start(index).is_none();
            let (place, known) = match (slot, kept.get(index).copied().flatten()) {
                (Some(slot), _) => (Place::Carried(kind, slot), None),
                (None, Some(kept)) if keeps => (Place::Store(kept), Some(kept)),
                (None, _) => continue,
            };
            let length = tensor.length / tensor.dtype.size() as u64 * DType::F32.size() as u64;
            contents.push(Content {
                name: format!("{} ({what})", tensor.name),
                tensor: known,
                dtype: DType::F32,
                length,
                base: base_carried.get(&(what, tensor.name.as_str())).copied(),
            });
            places.push(place);
            beside.push((what, tensor.name.clone(), length));
        }
    }
    let listed = base.as_ref().map(Model::listed).unwrap_or_default();
    let source = Arc::new(Packing { store: hub.store.clone(), spool, places });
    let stored = hub.store.write_pack(&hold, contents, &listed, source).await?;

    let mut manifest = parent.clone();
    let mut made = stored.tensors.iter();
    for tensor in manifest.files.iter_mut().flat_map(|file| &mut file.tensors) {
        if let Some(id) = made.next() {
            tensor.tensor = *id;
        }
    }
    let mut lists: [Vec<model::Carried>; 3] = Default::default();
    for ((what, name, length), tensor) in beside.into_iter().zip(made) {
        if let Some(list) = lists.get_mut(what as usize) {
            list.push(model::Carried { name, tensor: *tensor, length });
        }
    }
    Ok(Packed { manifest, carried: lists, stored, hold })
}

impl Packed {
    /// Names the model with its state.
    pub(super) async fn finish<D>(self, hub: &Hub, next: ModelState, details: D) -> Result<Made<D>, Problem> {
        let Self { manifest, stored, hold, .. } = self;
        let outcome = Outcome { model: manifest.id()?, state: next.id()? };
        hub.store.add_bytes(&hold, manifest.encode()?).await?;
        hub.store.add_bytes(&hold, next.encode()?).await?;
        let mut pack_bytes = 0;
        for blob in &stored.blobs {
            pack_bytes += hub.store.size(*blob).await?.unwrap_or(0);
        }
        let side = manifest.side.iter().map(|side| side.blob).collect();
        let pack = PackId::from_digest(stored.root);
        let held = Held { model: outcome.model, state: Some(outcome.state), pack, side, attested: false };
        Ok(Made { outcome, held, pack_bytes, details, hold })
    }
}

/// New tensors on their way from the kernels to a pack, in files without names: a crash leaves nothing behind.
pub(super) struct Spool {
    model: Tape,
    /// What is carried beside it, in the order of [`Carried::ALL`].
    carried: [Tape; 3],
}

impl Spool {
    /// For so many tensors, in files of this folder.
    pub(super) fn new(folder: &Path, tensors: usize) -> io::Result<Self> {
        let tape = || Tape::new(folder, tensors);
        Ok(Self { model: tape()?, carried: [tape()?, tape()?, tape()?] })
    }
}

/// Tensors one behind the other, and where each begins.
struct Tape {
    file: File,
    end: u64,
    starts: Vec<Option<u64>>,
}

impl Tape {
    fn new(folder: &Path, tensors: usize) -> io::Result<Self> {
        Ok(Self { file: tempfile::tempfile_in(folder)?, end: 0, starts: vec![None; tensors] })
    }

    /// Blocks come in order, so a tensor's are side by side.
    fn push(&mut self, tensor: usize, bytes: &[u8]) -> io::Result<()> {
        if let Some(start) = self.starts.get_mut(tensor) {
            start.get_or_insert(self.end);
        }
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Begins anew; what is on the tape is written over.
    fn rewind(&mut self) {
        self.end = 0;
        self.starts.fill(None);
    }

    fn start(&self, tensor: usize) -> Option<u64> {
        self.starts.get(tensor).copied().flatten()
    }
}

impl Sink for Spool {
    type Error = io::Error;
    const REWINDS: bool = true;

    fn rewind(&mut self) -> io::Result<()> {
        self.model.rewind();
        self.carried.iter_mut().for_each(Tape::rewind);
        Ok(())
    }

    fn start(&mut self, _tensor: usize, kept: bool) -> io::Result<bool> {
        Ok(!kept)
    }

    fn block(&mut self, tensor: usize, _block: usize, written: Written<'_>) -> io::Result<()> {
        self.model.push(tensor, written.model)?;
        for (tape, bytes) in self.carried.iter_mut().zip(written.carried) {
            if let Some(bytes) = bytes {
                tape.push(tensor, bytes)?;
            }
        }
        Ok(())
    }
}

enum Place {
    /// In the store already.
    Store(TensorId),
    /// On the model's tape from here on.
    Model(u64),
    /// On the tape of what is carried, of this kind, from here on.
    Carried(usize, u64),
}

/// Hands new tensors to the pack writer.
struct Packing {
    store: Store,
    spool: Spool,
    places: Vec<Place>,
}

impl store::Source for Packing {
    fn read(&self, tensor: usize, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.places.get(tensor) {
            Some(Place::Model(start)) => self.spool.model.file.read_exact_at(out, start + offset),
            Some(Place::Carried(kind, start)) => match self.spool.carried.get(*kind) {
                Some(tape) => tape.file.read_exact_at(out, start + offset),
                None => Err(io::Error::other(format!("nothing of kind {kind} is carried"))),
            },
            Some(Place::Store(id)) => {
                let reader = self.store.tensor(*id).map_err(io::Error::other)?;
                reader.read(offset, out).map_err(io::Error::other)
            }
            None => Err(io::Error::other(format!("the pack has no tensor {tensor}"))),
        }
    }
}
