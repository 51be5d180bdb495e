//! Reading tensors: from a pack's coded blobs, and from the bases they are coded against, back to raw bytes.

use std::cell::RefCell;
use std::io::Write;
use std::sync::Arc;

use flair_tensors::encoding::HEAD;
use flair_tensors::line::in_order;
use flair_tensors::{
    BLOCK, Codec, DType, Digest, Encoding, EncodingError, EncodingHead, Hasher, TensorId, block, codec,
};

use super::packs::{Location, Pack};
use super::{Inner, Store, StoreError, locked, packs};

/// Readers kept ready. Each has a table of 8 bytes per MiB of its tensor.
const READY: usize = 1024;

/// Buffers that a thread keeps: making a new one for each block costs as much as decoding some of them.
const KEPT: usize = 3;

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Lends a buffer of this length, with anything in it.
fn with_buffer<T>(length: usize, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    let result = work(&mut buffer[..length]);
    BUFFERS.with_borrow_mut(|kept| {
        if kept.len() < KEPT {
            kept.push(buffer);
        }
    });
    result
}

/// Reads one tensor, block by block, from any number of blocking threads.
#[derive(Debug, Clone)]
pub struct TensorReader {
    inner: Arc<Inner>,
    chain: Arc<Chain>,
}

/// How to read a tensor, with what it is coded against.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) location: Location,
    /// Where the coded blocks are; only for tensors with a blob of their own, the others are one block.
    encoding: Option<Encoding>,
    base: Option<Arc<Chain>>,
}

impl TensorReader {
    /// Raw bytes of the tensor.
    pub fn length(&self) -> u64 {
        self.chain.location.raw_length
    }

    /// The type of its elements, as the coding took it.
    pub fn dtype(&self) -> DType {
        self.chain.location.dtype
    }

    /// How many blocks it has.
    pub fn blocks(&self) -> u64 {
        block::blocks(self.length())
    }

    /// Replaces what is in `out` by the raw bytes of a block; of none past the last.
    ///
    /// The bytes are not compared with the tensor's id: whole tensors can be, see [`Store::write_tensors`], and what is
    /// on disk is watched by [`Store::check`].
    ///
    /// # Errors
    /// When the disk fails or a blob is damaged.
    pub fn block(&self, index: u64, out: &mut Vec<u8>) -> Result<(), StoreError> {
        let range = block::range(self.length(), index);
        out.resize((range.end - range.start) as usize, 0);
        self.inner.decode(&self.chain, index, out)
    }

    /// Fills `out` with raw bytes from `offset` on.
    ///
    /// # Errors
    /// As [`block`](Self::block), or when the tensor is shorter.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), StoreError> {
        self.inner.decode_range(&self.chain, offset, out)
    }
}

impl Store {
    /// A reader of a tensor that is in a pack here. For blocking threads.
    ///
    /// # Errors
    /// [`StoreError::Unheld`] when no pack here has it.
    pub fn tensor(&self, tensor: TensorId) -> Result<TensorReader, StoreError> {
        Ok(TensorReader { inner: self.inner.clone(), chain: self.inner.chain(tensor)? })
    }

    /// Whether a pack here has a tensor. For blocking threads.
    ///
    /// # Errors
    /// When the database fails.
    pub fn has_tensor(&self, tensor: TensorId) -> Result<bool, StoreError> {
        Ok(self.inner.locate(tensor)?.is_some())
    }

    /// Raw bytes of a tensor. For blocking threads.
    ///
    /// # Errors
    /// [`StoreError::Unheld`] when no pack here has it.
    pub fn tensor_length(&self, tensor: TensorId) -> Result<u64, StoreError> {
        Ok(self.tensor(tensor)?.length())
    }

    /// Replaces what is in `out` by the raw bytes of a block of a tensor. For blocking threads, in parallel.
    ///
    /// # Errors
    /// As [`tensor`](Self::tensor) and [`TensorReader::block`].
    pub fn tensor_block(&self, tensor: TensorId, index: u64, out: &mut Vec<u8>) -> Result<(), StoreError> {
        self.tensor(tensor)?.block(index, out)
    }

    /// Writes whole tensors one after the other, decoded on all threads. For blocking threads.
    ///
    /// # Errors
    /// When a read or write fails, and after the last byte of a tensor [`StoreError::Damaged`] when it is not that
    /// tensor: what was written must be thrown away then.
    pub fn write_tensors(
        &self,
        tensors: impl IntoIterator<Item = TensorId>,
        out: &mut (dyn Write + Send),
    ) -> Result<(), StoreError> {
        // Each with the number of its first block in all of them.
        let mut readers = Vec::new();
        let mut count = 0;
        for tensor in tensors {
            let reader = self.tensor(tensor)?;
            let blocks = reader.blocks();
            if blocks == 0 {
                check(&reader, &Hasher::new())?;
                continue;
            }
            readers.push((count, reader));
            count += blocks;
        }
        let find = |index: u64| {
            let place = readers.partition_point(|(first, _)| *first <= index).checked_sub(1);
            let (first, reader) = place.and_then(|place| readers.get(place)).ok_or(StoreError::Closed)?;
            Ok::<_, StoreError>((reader, index - first))
        };
        in_order(
            self.inner.threads,
            count,
            (Hasher::new(), out),
            |index, bytes: &mut Vec<u8>| {
                let (reader, block) = find(index)?;
                reader.block(block, bytes)
            },
            |(hasher, out), index, bytes| {
                let (reader, block) = find(index)?;
                hasher.update(bytes);
                out.write_all(bytes).map_err(|source| StoreError::Output { source })?;
                if block + 1 == reader.blocks() {
                    check(reader, hasher)?;
                    *hasher = Hasher::new();
                }
                Ok(())
            },
        )?;
        Ok(())
    }
}

/// Whether what was hashed is the tensor.
fn check(reader: &TensorReader, hasher: &Hasher) -> Result<(), StoreError> {
    let location = &reader.chain.location;
    if hasher.finalize() == location.tensor.digest() {
        return Ok(());
    }
    reader.inner.forget_readers();
    Err(StoreError::Damaged { tensor: location.tensor, blob: location.blob })
}

impl Inner {
    /// How to read a tensor.
    pub(super) fn chain(&self, tensor: TensorId) -> Result<Arc<Chain>, StoreError> {
        if let Some(chain) = locked(&self.readers).get(&tensor) {
            return Ok(chain.clone());
        }
        let locations = self.database.read(|transaction| packs::trace(transaction, tensor))?;
        // From the innermost base outwards.
        let mut chain: Option<Arc<Chain>> = None;
        for location in locations.into_iter().rev() {
            chain = Some(Arc::new(self.link(location, chain)?));
        }
        let chain = chain.ok_or(StoreError::Unheld { tensor })?;
        let mut readers = locked(&self.readers);
        if readers.len() >= READY {
            readers.clear();
        }
        readers.insert(tensor, chain.clone());
        Ok(chain)
    }

    pub(super) fn forget_readers(&self) {
        locked(&self.readers).clear();
    }

    /// A chain from a location and the chain of its base.
    pub(super) fn link(&self, location: Location, base: Option<Arc<Chain>>) -> Result<Chain, StoreError> {
        let alone = location.codec != Codec::Raw && !location.is_shared();
        let encoding = if alone { Some(self.encoding(&location)?) } else { None };
        Ok(Chain { location, encoding, base })
    }

    /// The block table of a tensor with a blob of its own, compared with what the pack says of it.
    fn encoding(&self, location: &Location) -> Result<Encoding, StoreError> {
        let wrong = |problem| location.wrong(problem);
        let mut head = [0; HEAD];
        self.read(location.blob, 0, &mut head)?;
        let head = EncodingHead::parse(&head).map_err(wrong)?;
        if head != location.head() {
            return Err(wrong(EncodingError::Head { reason: "it is not what the pack says" }));
        }
        let range = head.table(location.coded).map_err(wrong)?;
        let mut table = vec![0; (range.end - range.start) as usize];
        self.read(location.blob, range.start, &mut table)?;
        Encoding::parse(head, location.coded, &table).map_err(wrong)
    }

    /// Fills `out`, which has the length of the block.
    pub(super) fn decode(&self, chain: &Chain, index: u64, out: &mut [u8]) -> Result<(), StoreError> {
        let location = &chain.location;
        if out.is_empty() {
            return Ok(());
        }
        if location.codec == Codec::Raw {
            let start = block::range(location.raw_length, index).start;
            return self.read(location.blob, location.offset + start, out);
        }
        if let Some(encoding) = &chain.encoding {
            let range = encoding.block_range(index);
            return with_buffer((range.end - range.start) as usize, |coded| {
                self.read(location.blob, range.start, coded)?;
                self.decode_coded(chain, index, coded, out)
            });
        }
        with_buffer(location.coded as usize, |coded| {
            self.read(location.blob, location.offset, coded)?;
            let encoding = Encoding::from_bytes(coded).map_err(|error| location.wrong(error))?;
            if encoding.head() != location.head() {
                return Err(location.wrong(EncodingError::Head { reason: "it is not what the pack says" }));
            }
            let range = encoding.block_range(index);
            let coded = coded.get(range.start as usize..range.end as usize).unwrap_or_default();
            self.decode_coded(chain, index, coded, out)
        })
    }

    /// Fills `out` from the coded bytes of a block.
    fn decode_coded(
        &self,
        chain: &Chain,
        index: u64,
        coded: &[u8],
        out: &mut [u8],
    ) -> Result<(), StoreError> {
        let Location { codec, dtype, .. } = chain.location;
        let mut decode = |base: Option<&[u8]>| {
            codec::decode_into(codec, dtype, coded, base, out)
                .map_err(|error| chain.location.wrong(error.into()))
        };
        let Some(base) = &chain.base else { return decode(None) };
        let range = block::range(chain.location.raw_length, index);
        with_buffer((range.end - range.start) as usize, |raw| {
            self.decode(base, index, raw)?;
            decode(Some(raw))
        })
    }

    /// Fills `out` with raw bytes from `offset` on.
    pub(super) fn decode_range(
        &self,
        chain: &Chain,
        mut offset: u64,
        mut out: &mut [u8],
    ) -> Result<(), StoreError> {
        let location = &chain.location;
        let end = offset.saturating_add(out.len() as u64);
        if end > location.raw_length {
            return Err(StoreError::Range { blob: location.tensor.digest(), end });
        }
        if location.codec == Codec::Raw {
            return self.read(location.blob, location.offset + offset, out);
        }
        let mut bytes = Vec::new();
        while !out.is_empty() {
            let index = offset / BLOCK as u64;
            let range = block::range(location.raw_length, index);
            bytes.resize((range.end - range.start) as usize, 0);
            self.decode(chain, index, &mut bytes)?;
            let from = (offset - range.start) as usize;
            let length = out.len().min(bytes.len() - from);
            let (now, later) = out.split_at_mut(length);
            now.copy_from_slice(&bytes[from..from + length]);
            out = later;
            offset += length as u64;
        }
        Ok(())
    }

    /// Where a tensor is, if it is here.
    pub(super) fn locate(&self, tensor: TensorId) -> Result<Option<Location>, StoreError> {
        self.database.read(|transaction| packs::find(transaction, tensor, u64::MAX))
    }

    /// Notes a pack whose blobs are all here, with where its tensors are. Inside the gate.
    pub(super) fn note(&self, root: Digest, pack: &Pack, locations: &[Location]) -> Result<(), StoreError> {
        self.database.write_later(|transaction| packs::insert(transaction, root, pack, locations))
    }
}
