//! Models in memory: for tests, demonstrations and benchmarks.

use crate::merge::{self, Side};
use crate::run::{Carried, Part, Sink, Source, Written};
use flair_tensors::block::BLOCK;
use flair_tensors::id::TensorId;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::ops::Range;
use std::sync::Arc;

/// The tensors of a model in file order; clones share the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    tensors: Vec<(TensorId, Arc<[u8]>)>,
}

impl Model {
    /// A model of these tensors, each given as raw little-endian bytes.
    pub fn new<T: Into<Arc<[u8]>>>(tensors: impl IntoIterator<Item = T>) -> Self {
        let name = |bytes: Arc<[u8]>| (TensorId::of(&bytes), bytes);
        Self { tensors: tensors.into_iter().map(|bytes| name(bytes.into())).collect() }
    }

    /// The bytes of a tensor, if there is one with this index.
    pub fn tensor(&self, index: usize) -> Option<&[u8]> {
        self.tensors.get(index).map(|(_, bytes)| &**bytes)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there are no tensors.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Replaces a tensor's bytes; does nothing if there is none with this index.
    pub fn set(&mut self, index: usize, bytes: impl Into<Arc<[u8]>>) {
        let bytes = bytes.into();
        if let Some(tensor) = self.tensors.get_mut(index) {
            *tensor = (TensorId::of(&bytes), bytes);
        }
    }

    fn id(&self, index: usize) -> Option<TensorId> {
        self.tensors.get(index).map(|(id, _)| *id)
    }
}

/// What is carried from one aggregate to the next: `f32` numbers as bytes.
pub type Kept = BTreeMap<(Carried, usize), Arc<[u8]>>;

/// Everything an aggregate reads.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The parent's model.
    pub parent: Model,
    /// What the parent's state carries, by kind and tensor index.
    pub carried: Kept,
    /// Per contribution, its model and the model it was trained from.
    pub updates: Vec<(Model, Model)>,
    /// Contributions that are declared faulty, and why.
    pub faulty: BTreeMap<usize, String>,
}

impl Inputs {
    fn model(&self, part: Part) -> Option<&Model> {
        match part {
            Part::Parent => Some(&self.parent),
            Part::Carried(_) => None,
            Part::Input(index) => self.updates.get(index).map(|(update, _)| update),
            Part::Base(index) => self.updates.get(index).map(|(_, base)| base),
        }
    }
}

impl Source for Inputs {
    type Error = Infallible;

    fn block(&self, part: Part, tensor: usize, block: usize, out: &mut Vec<u8>) -> Result<(), Infallible> {
        let bytes = match part {
            Part::Carried(what) => self.carried.get(&(what, tensor)).map(|bytes| &**bytes),
            _ => self.model(part).and_then(|model| model.tensor(tensor)),
        };
        if let Some(block) = bytes.and_then(|bytes| bytes.chunks(BLOCK).nth(block)) {
            out.extend_from_slice(block);
        }
        Ok(())
    }

    fn id(&self, part: Part, tensor: usize) -> Option<TensorId> {
        self.model(part)?.id(tensor)
    }

    fn faulty(&self, input: usize) -> Option<String> {
        self.faulty.get(&input).cloned()
    }

    fn carries(&self, what: Carried, tensor: usize) -> bool {
        self.carried.contains_key(&(what, tensor))
    }
}

/// Everything a merge reads: of base, first and second, the model and what its state carries.
#[derive(Clone, Debug, Default)]
pub struct Merged {
    /// In this order.
    pub models: [(Model, Kept); 3],
}

impl Merged {
    fn bytes(&self, side: Side, master: bool, tensor: usize) -> Option<&[u8]> {
        let (model, kept) = self.models.get(side as usize)?;
        if master { kept.get(&(Carried::Master, tensor)).map(|bytes| &**bytes) } else { model.tensor(tensor) }
    }
}

impl merge::Source for Merged {
    type Error = Infallible;

    fn read(
        &self,
        side: Side,
        master: bool,
        tensor: usize,
        range: Range<u64>,
        out: &mut Vec<u8>,
    ) -> Result<(), Infallible> {
        let range = range.start as usize..range.end as usize;
        out.extend_from_slice(
            self.bytes(side, master, tensor).and_then(|bytes| bytes.get(range)).unwrap_or(&[]),
        );
        Ok(())
    }

    fn has_master(&self, side: Side, tensor: usize) -> bool {
        self.bytes(side, true, tensor).is_some()
    }

    fn same(&self, one: Side, other: Side, tensor: usize) -> bool {
        [false, true]
            .into_iter()
            .all(|master| self.bytes(one, master, tensor) == self.bytes(other, master, tensor))
    }
}

/// Takes a result into memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    tensors: Vec<Vec<u8>>,
    carried: BTreeMap<(Carried, usize), Vec<u8>>,
}

impl Output {
    /// The model that was written, and what is carried beside it, as the next aggregate's [`Inputs`] hold them.
    pub fn finish(self) -> (Model, Kept) {
        let carried = self.carried.into_iter().map(|(what, bytes)| (what, bytes.into())).collect();
        (Model::new(self.tensors), carried)
    }
}

impl Sink for Output {
    type Error = Infallible;
    const REWINDS: bool = true;

    fn rewind(&mut self) -> Result<(), Infallible> {
        *self = Self::default();
        Ok(())
    }

    fn start(&mut self, tensor: usize, _kept: bool) -> Result<bool, Infallible> {
        self.tensors.resize_with(tensor + 1, Vec::new);
        Ok(true)
    }

    fn block(&mut self, tensor: usize, _block: usize, written: Written<'_>) -> Result<(), Infallible> {
        if let Some(bytes) = self.tensors.get_mut(tensor) {
            bytes.extend_from_slice(written.model);
        }
        for (what, bytes) in Carried::ALL.into_iter().zip(written.carried) {
            if let Some(bytes) = bytes {
                self.carried.entry((what, tensor)).or_default().extend_from_slice(bytes);
            }
        }
        Ok(())
    }
}
