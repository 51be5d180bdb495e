//! Writing a model as a pack.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

use flair_tensors::codec::Choice;
use flair_tensors::pack::{Listed, PackBuilder};
use flair_tensors::{
    BLOCK, Codec, DType, Digest, Encoder, EncodingError, Hasher, Line, TensorId, block, codec,
};

use super::blobs::Spool;
use super::crew::{Crew, Job, Own, Task};
use super::packs::{Location, MAX_DEPTH, Pack};
use super::sweep::Hold;
use super::tensors::Chain;
use super::{Inner, Store, StoreError, locked};

/// Where the raw bytes of the tensors of a new pack come from.
pub trait Source: Send + Sync {
    /// Fills `out` with the raw little-endian bytes of tensor number `tensor` from `offset` on. Called from several
    /// threads at once. Each byte is hashed as it is coded; some are read once more to choose the codec.
    ///
    /// # Errors
    /// Whatever keeps the bytes from being read; it ends the pack.
    fn read(&self, tensor: usize, offset: u64, out: &mut [u8]) -> io::Result<()>;
}

/// A tensor to be packed.
#[derive(Debug, Clone)]
pub struct Content {
    /// Its name in the model, for errors.
    pub name: String,
    /// Its id when it is known already; then it is checked.
    pub tensor: Option<TensorId>,
    /// The type of its elements.
    pub dtype: DType,
    /// Its raw bytes.
    pub length: u64,
    /// The tensor of the base model that it was made from. Used when it has the same dtype and length.
    pub base: Option<TensorId>,
}

/// A pack that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed {
    /// Its root: the digest of its hash sequence. This is what an operation names and a batch refers to.
    pub root: Digest,
    /// The ids of the tensors, in the order in which they were given.
    pub tensors: Vec<TensorId>,
    /// The blobs of the hash sequence, the index first.
    pub blobs: Vec<Digest>,
    /// Bytes of blobs that were not here before.
    pub added: u64,
}

/// A tensor that was coded.
struct Coded {
    tensor: TensorId,
    codec: Codec,
    length: u64,
    /// The blob, unless it is the shared one or not needed.
    blob: Option<Digest>,
    /// Whether it is in the pack: the base model does not have it, nor has a tensor before it the same bytes.
    kept: bool,
}

/// What the workers share.
struct Work {
    inner: Arc<Inner>,
    hold: Hold,
    contents: Vec<Content>,
    base: BTreeSet<Listed>,
    source: Arc<dyn Source>,
    /// The tensors with a blob of their own, the largest first; before them, one task for all the others.
    crew: Crew<Coding>,
    done: Mutex<Done>,
}

/// The task of all tensors that share a blob.
const SMALL: usize = usize::MAX;

/// A tensor that is being coded, by any number of workers.
struct Coding {
    number: usize,
    codec: Codec,
    base: Option<Arc<Chain>>,
    line: Line<Out, StoreError>,
}

impl Job for Coding {
    fn is_open(&self) -> bool {
        self.line.is_open()
    }
}

/// Where its blocks go, in order.
struct Out {
    hasher: Hasher,
    encoder: Encoder,
    sink: Sink,
}

enum Sink {
    Own(Box<Spool>),
    Shared(Vec<u8>),
}

impl Sink {
    fn push(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Own(spool) => spool.push(bytes),
            Self::Shared(shared) => {
                shared.extend_from_slice(bytes);
                Ok(())
            }
        }
    }
}

/// A worker's own: one block raw, of the base, and coded.
#[derive(Default)]
struct Buffers {
    raw: Vec<u8>,
    base: Vec<u8>,
    /// Tensor and block that `base` is the base's block of.
    based: Option<(usize, u64)>,
    coded: Vec<u8>,
}

#[derive(Default)]
struct Done {
    coded: BTreeMap<usize, Coded>,
    shared: Option<Digest>,
    /// Blobs that were not here before, and their bytes: two equal tensors coded side by side make one blob.
    added: BTreeMap<Digest, u64>,
    error: Option<StoreError>,
}

impl Store {
    /// Writes the tensors of a model that its base model lacks as a pack, and holds it. `base` lists the base model's
    /// tensors, and is empty for a pack that stands alone.
    ///
    /// The pack depends on nothing else, so that everyone who packs the same model with the same base makes the same
    /// blobs. The memory used does not depend on the sizes of the tensors.
    ///
    /// # Errors
    /// When a tensor cannot be read or is not the one announced, the base is not here, or the disk is full.
    pub async fn write_pack(
        &self,
        hold: &Hold,
        contents: Vec<Content>,
        base: &[Listed],
        source: Arc<dyn Source>,
    ) -> Result<Packed, StoreError> {
        let mut large: Vec<usize> =
            (0..contents.len()).filter(|number| !PackBuilder::is_shared(contents[*number].length)).collect();
        large.sort_by_key(|number| Reverse(contents[*number].length));
        let small = (large.len() < contents.len()).then_some(SMALL);
        let work = Arc::new(Work {
            inner: self.inner.clone(),
            hold: hold.clone(),
            base: base.iter().copied().collect(),
            contents,
            source,
            crew: Crew::new(small.into_iter().chain(large)),
            done: Mutex::default(),
        });
        let workers: Vec<_> = (0..self.inner.threads.get())
            .map(|_| {
                let work = work.clone();
                tokio::task::spawn_blocking(move || work.run())
            })
            .collect();
        for worker in workers {
            worker.await.map_err(|_| StoreError::Closed)?;
        }
        let done = std::mem::take(&mut *locked(&work.done));
        self.finish(hold, &work, done).await
    }

    async fn finish(&self, hold: &Hold, work: &Arc<Work>, done: Done) -> Result<Packed, StoreError> {
        if let Some(error) = done.error {
            return Err(error);
        }
        let mut builder = PackBuilder::new();
        let mut tensors = Vec::with_capacity(work.contents.len());
        let mut kept = BTreeSet::new();
        let mut own = Vec::new();
        for (content, coded) in work.contents.iter().zip(done.coded.values()) {
            tensors.push(coded.tensor);
            // Two large tensors with the same bytes may have been coded side by side.
            if !coded.kept || !kept.insert(coded.tensor) {
                continue;
            }
            let base = content.base.filter(|_| coded.codec.needs_base());
            builder.push((coded.tensor, content.dtype, content.length), coded.codec, base, coded.length);
            own.extend(coded.blob);
        }
        let index =
            builder.finish().map_err(|problem| StoreError::Pack { root: Digest::of(&[]), problem })?;
        let mut added: u64 = done.added.values().sum();
        let mut add = async |bytes: Vec<u8>| {
            let (blob, length) = (Digest::of(&bytes), bytes.len() as u64);
            let source = super::blobs::Source::Memory(bytes);
            if self.inner.import(hold, blob, length, source).await? {
                added += length;
            }
            Ok::<_, StoreError>(blob)
        };
        let mut blobs = vec![add(index.encode()).await?];
        blobs.extend(done.shared);
        blobs.extend(own);
        let sequence = blobs.iter().flat_map(|blob| blob.to_bytes()).collect();
        let root = add(sequence).await?;

        let others: Vec<TensorId> = work.base.iter().map(|(tensor, ..)| *tensor).collect();
        let children = blobs.clone();
        let gate = self.inner.sweeper.enter().await;
        self.blocking(move |inner| {
            let locations = inner.locations(root, index.rows(), &children)?;
            let used = tensors_used(&locations, &others);
            let needs = inner.roots(&used)?;
            inner.note(root, &Pack { number: 0, blobs: children, needs }, &locations)
        })
        .await?;
        hold.pin(root, true);
        drop(gate);
        Ok(Packed { root, tensors, blobs, added })
    }
}

/// The tensors that a pack must find elsewhere: its bases, and what it leaves out.
pub(super) fn tensors_used(locations: &[Location], others: &[TensorId]) -> BTreeSet<TensorId> {
    let mut used: BTreeSet<TensorId> = others.iter().copied().collect();
    for location in locations {
        used.remove(&location.tensor);
    }
    used.extend(locations.iter().filter_map(|location| location.base));
    used
}

impl Work {
    fn run(&self) {
        let mut buffers = Buffers::default();
        while let Some(task) = self.crew.next() {
            let result = match &task {
                Task::Help(coding) => {
                    self.code_blocks(coding, &mut buffers);
                    Ok(())
                }
                // In order, by one worker.
                Task::Own(own) if own.number == SMALL => self.code_small(&mut buffers),
                Task::Own(own) => self.code_large(own, &mut buffers),
            };
            if let Err(error) = result {
                locked(&self.done).error.get_or_insert(error);
                self.crew.stop();
            }
        }
    }

    fn code_small(&self, buffers: &mut Buffers) -> Result<(), StoreError> {
        let mut spool = self.inner.spool();
        let mut seen = BTreeSet::new();
        for (number, content) in self.contents.iter().enumerate() {
            if !PackBuilder::is_shared(content.length) {
                continue;
            }
            let (mut coded, sink) = self.code(number, content, None, buffers)?;
            coded.kept = coded.kept && seen.insert(coded.tensor);
            if let (true, Some(Sink::Shared(bytes))) = (coded.kept, sink) {
                spool.push(&bytes)?;
            }
            locked(&self.done).coded.insert(number, coded);
        }
        if !seen.is_empty() {
            let blob = spool.digest();
            self.add(spool)?;
            locked(&self.done).shared = Some(blob);
        }
        Ok(())
    }

    fn code_large(&self, own: &Own<'_, Coding>, buffers: &mut Buffers) -> Result<(), StoreError> {
        let Some(content) = self.contents.get(own.number) else { return Ok(()) };
        let (mut coded, sink) = self.code(own.number, content, Some(own), buffers)?;
        if let (true, Some(Sink::Own(spool))) = (coded.kept, sink) {
            coded.blob = Some(spool.digest());
            self.add(*spool)?;
        }
        locked(&self.done).coded.insert(own.number, coded);
        Ok(())
    }

    fn add(&self, spool: Spool) -> Result<(), StoreError> {
        let (blob, length) = (spool.digest(), spool.len());
        let added = self.inner.runtime.block_on(self.inner.import_spool(&self.hold, spool))?;
        if added {
            locked(&self.done).added.insert(blob, length);
        }
        Ok(())
    }

    /// Reads a tensor once, hashes and codes it; together with others if it is a task of its own. Nothing is coded that
    /// the base model has.
    fn code(
        &self,
        number: usize,
        content: &Content,
        own: Option<&Own<'_, Coding>>,
        buffers: &mut Buffers,
    ) -> Result<(Coded, Option<Sink>), StoreError> {
        let known = content.tensor.filter(|tensor| self.is_in_base(*tensor, content));
        if let Some(tensor) = known {
            return Ok((Coded { tensor, codec: Codec::Raw, length: 0, blob: None, kept: false }, None));
        }
        let base = match content.base {
            Some(base) if self.is_in_base(base, content) => Some(self.inner.chain(base)?),
            _ => None,
        };
        // A chain of bases has a bounded length, for everyone who reads it.
        let base = base.filter(|base| base.location.depth < MAX_DEPTH);
        let codec = self.choose(number, content, base.as_deref(), buffers)?;
        let base = base.filter(|_| codec.needs_base());
        let mut sink =
            if own.is_some() { Sink::Own(Box::new(self.inner.spool())) } else { Sink::Shared(Vec::new()) };
        let mut edge = Vec::new();
        let encoder = Encoder::new(codec, content.dtype, content.length, &mut edge);
        sink.push(&edge)?;
        let out = Out { hasher: Hasher::new(), encoder, sink };
        let line = Line::new(block::blocks(content.length), out);
        let coding = Arc::new(Coding { number, codec, base, line });
        if let Some(own) = own {
            own.share(&coding);
        }
        self.code_blocks(&coding, buffers);
        let Out { hasher, encoder, mut sink } = coding.line.finish().ok_or(StoreError::Closed)??;
        edge.clear();
        let length = encoder.finish(&mut edge).map_err(|problem| wrong(content, problem))?;
        sink.push(&edge)?;
        let found = TensorId::from_digest(hasher.finalize());
        if let Some(expected) = content.tensor.filter(|expected| *expected != found) {
            return Err(StoreError::Changed { name: content.name.clone(), expected, found });
        }
        let kept = !self.is_in_base(found, content);
        Ok((Coded { tensor: found, codec, length, blob: None, kept }, Some(sink)))
    }

    /// Takes part in coding a tensor.
    fn code_blocks(&self, coding: &Coding, buffers: &mut Buffers) {
        let Some(content) = self.contents.get(coding.number) else { return };
        coding.line.work(
            buffers,
            |index, Buffers { raw, base, based, coded }| {
                let range = block::range(content.length, index);
                raw.resize((range.end - range.start) as usize, 0);
                self.read(coding.number, content, range.start, raw)?;
                if let Some(chain) = &coding.base {
                    self.read_base((coding.number, chain), index, base, based)?;
                }
                coded.clear();
                let base = coding.base.is_some().then_some(&base[..]);
                codec::encode_block(coding.codec, content.dtype, raw, base, coded)
                    .map_err(|problem| wrong(content, problem.into()))
            },
            |out, _, Buffers { raw, coded, .. }| {
                out.hasher.update(raw);
                out.encoder.add(raw.len(), coded).map_err(|problem| wrong(content, problem))?;
                out.sink.push(coded)
            },
        );
    }

    /// Fills `out` with a block of a tensor's base, unless `held` says that it is there.
    fn read_base(
        &self,
        (number, chain): (usize, &Chain),
        index: u64,
        out: &mut Vec<u8>,
        held: &mut Option<(usize, u64)>,
    ) -> Result<(), StoreError> {
        if *held != Some((number, index)) {
            *held = None;
            let range = block::range(chain.location.raw_length, index);
            out.resize((range.end - range.start) as usize, 0);
            self.inner.decode(chain, index, out)?;
            *held = Some((number, index));
        }
        Ok(())
    }

    fn choose(
        &self,
        number: usize,
        content: &Content,
        base: Option<&Chain>,
        Buffers { raw, base: base_raw, based, .. }: &mut Buffers,
    ) -> Result<Codec, StoreError> {
        let mut choice = Choice::new(content.dtype);
        for range in Choice::ranges(content.length) {
            let length = (range.end - range.start) as usize;
            raw.resize(length, 0);
            self.read(number, content, range.start, raw)?;
            let mut sampled = None;
            if let Some(chain) = base {
                // Samples never cross from block to block.
                self.read_base((number, chain), range.start / BLOCK as u64, base_raw, based)?;
                let from = (range.start % BLOCK as u64) as usize;
                sampled = Some(base_raw.get(from..from + length).unwrap_or_default());
            }
            choice.sample(raw, sampled).map_err(|problem| StoreError::Input {
                name: content.name.clone(),
                source: io::Error::other(problem),
            })?;
        }
        Ok(choice.codec())
    }

    fn read(&self, number: usize, content: &Content, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        self.source
            .read(number, offset, out)
            .map_err(|source| StoreError::Input { name: content.name.clone(), source })
    }

    fn is_in_base(&self, tensor: TensorId, content: &Content) -> bool {
        self.base.contains(&(tensor, content.dtype, content.length))
    }
}

/// What the encoder says; that it should happens only when a source gives blocks of other lengths.
fn wrong(content: &Content, problem: EncodingError) -> StoreError {
    StoreError::Coding {
        tensor: content.tensor.unwrap_or(TensorId::from_bytes([0; 32])),
        blob: Digest::from_bytes([0; 32]),
        problem,
    }
}

impl Inner {
    /// Locations of the rows of an index, whose bases must be here.
    pub(super) fn locations(
        &self,
        root: Digest,
        rows: &[flair_tensors::Row],
        blobs: &[Digest],
    ) -> Result<Vec<Location>, StoreError> {
        let mut locations = Vec::with_capacity(rows.len());
        for row in rows {
            let depth = match row.base {
                Some(base) => self.chain(base)?.location.depth + 1,
                None => 0,
            };
            let blob = blobs.get(row.blob as usize).copied().ok_or(StoreError::Absent { blob: root })?;
            locations.push(Location::new(root, row, blob, depth));
        }
        Ok(locations)
    }

    /// Roots of the packs that have these tensors, each once.
    pub(super) fn roots(&self, tensors: &BTreeSet<TensorId>) -> Result<Vec<Digest>, StoreError> {
        self.database.read(|transaction| {
            let mut roots = BTreeSet::new();
            for &tensor in tensors {
                let location = super::packs::find(transaction, tensor, u64::MAX)?;
                roots.insert(location.ok_or(StoreError::Unheld { tensor })?.root);
            }
            Ok(roots.into_iter().collect())
        })
    }
}
