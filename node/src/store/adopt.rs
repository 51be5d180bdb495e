//! Taking over a pack that was fetched: nothing of it is used before all of it was checked.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use flair_tensors::pack::{Listed, MAX_INDEX, PackIndex, SMALL};
use flair_tensors::{Codec, DType, Digest, EncodingError, Hasher, Line, PackError, TensorId, block};

use super::crew::{Crew, Job, Own, Task};
use super::packs::{Location, MAX_DEPTH, Pack};
use super::sweep::Hold;
use super::tensors::Chain;
use super::write::tensors_used;
use super::{Inner, Store, StoreError};

/// A tensor as a model lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// Its name, for errors.
    pub name: String,
    /// Its id.
    pub tensor: TensorId,
    /// The type of its elements.
    pub dtype: DType,
    /// Its raw bytes.
    pub length: u64,
}

/// A pack that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// The blobs of its hash sequence, the index first.
    pub blobs: Vec<Digest>,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What is wrong with a tensor of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flaw {
    /// It cannot be decoded.
    Encoding(EncodingError),
    /// It is another tensor.
    Other(TensorId),
    /// It is coded against a tensor that is not here.
    Base(TensorId),
    /// Too many bases must be read for it.
    Deep,
    /// Its blob has another size than the index says.
    Size,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoding(error) => write!(f, "cannot be decoded: {error}"),
            Self::Other(found) => write!(f, "has the bytes of {found}"),
            Self::Base(base) => write!(f, "is coded against {base}, which is not here: fetch its pack first"),
            Self::Deep => write!(f, "needs more than {MAX_DEPTH} others to be decoded"),
            Self::Size => write!(f, "lies in a blob of another size than the index says"),
        }
    }
}

impl Store {
    /// Checks a pack whose blobs were fetched, takes note of where its tensors are, and holds it.
    ///
    /// `model` lists the tensors of the model, `base` those of its base model, which must be here. The index must fit
    /// both, every blob must be here with the size that the index says, and every tensor must decode to the bytes of
    /// its id. What this costs is bounded by the lengths in `model`.
    ///
    /// # Errors
    /// [`StoreError::Absent`] names a blob to fetch again; [`StoreError::Pack`] and [`StoreError::Tensor`] say what
    /// the author got wrong. Nothing was noted then.
    pub async fn adopt_pack(
        &self,
        hold: &Hold,
        root: Digest,
        model: &[Listing],
        base: &[Listed],
    ) -> Result<Adopted, StoreError> {
        let wrong = |problem| StoreError::Pack { root, problem };
        hold.keep_pack(root).await;
        let blobs = self.inner.children(root).await?;
        let Some(&first) = blobs.first() else {
            return Err(match self.size(root).await? {
                Some(size) => wrong(PackError::Length { expected: 32, found: size }),
                None => StoreError::Absent { blob: root },
            });
        };
        let bytes = self.read_all(first, MAX_INDEX as u64).await?;
        let index = PackIndex::decode(&bytes).map_err(wrong)?;
        let listed: Vec<Listed> =
            model.iter().map(|listing| (listing.tensor, listing.dtype, listing.length)).collect();
        index.check_against(&listed, base).map_err(wrong)?;
        index.check_blobs(&blobs[1..]).map_err(wrong)?;
        let names: BTreeMap<TensorId, String> =
            model.iter().map(|listing| (listing.tensor, listing.name.clone())).collect();
        let names = Names { root, names };

        let lengths = index.blob_lengths();
        for (&blob, &length) in blobs[1..].iter().zip(&lengths) {
            if self.size(blob).await?.ok_or(StoreError::Absent { blob })? != length {
                let row = index.rows().iter().find(|row| blobs.get(row.blob as usize) == Some(&blob));
                let tensor = row.map_or(TensorId::from_digest(blob), |row| row.tensor);
                return Err(names.flaw(tensor, Flaw::Size));
            }
        }
        let adopted =
            Adopted { bytes: bytes.len() as u64 + lengths.iter().sum::<u64>(), blobs: blobs.clone() };
        let others: Vec<TensorId> = listed.iter().map(|(tensor, ..)| *tensor).collect();
        let (locations, names) = self
            .blocking(move |inner| {
                for row in index.rows() {
                    match row.base.map(|base| (base, inner.chain(base))) {
                        Some((base, Err(StoreError::Unheld { .. }))) => {
                            return Err(names.flaw(row.tensor, Flaw::Base(base)));
                        }
                        Some((_, Err(error))) => return Err(error),
                        Some((_, Ok(chain))) if chain.location.depth >= MAX_DEPTH => {
                            return Err(names.flaw(row.tensor, Flaw::Deep));
                        }
                        _ => {}
                    }
                }
                Ok((inner.locations(root, index.rows(), &blobs)?, names))
            })
            .await?;
        let locations = self.decode_all(locations, names).await?;

        let _gate = self.inner.sweeper.enter().await;
        let blobs = adopted.blobs.clone();
        self.blocking(move |inner| {
            let used: BTreeSet<TensorId> = tensors_used(&locations, &others);
            let needs = inner.roots(&used)?;
            inner.note(root, &Pack { number: 0, blobs, needs }, &locations)
        })
        .await?;
        Ok(adopted)
    }

    /// Decodes every tensor, on all threads.
    async fn decode_all(&self, locations: Vec<Location>, names: Names) -> Result<Vec<Location>, StoreError> {
        let mut order: Vec<usize> = (0..locations.len()).collect();
        order.sort_by_key(|number| Reverse(locations[*number].raw_length));
        let inner = self.inner.clone();
        let check = Arc::new(Check { inner, crew: Crew::new(order), locations, names });
        let workers: Vec<_> = (0..self.inner.threads.get())
            .map(|_| {
                let check = check.clone();
                tokio::task::spawn_blocking(move || check.run())
            })
            .collect();
        let mut result = Ok(());
        for worker in workers {
            result = result.and(worker.await.unwrap_or(Err(StoreError::Closed)));
        }
        result?;
        Ok(Arc::into_inner(check).ok_or(StoreError::Closed)?.locations)
    }
}

/// What the workers share.
struct Check {
    inner: Arc<Inner>,
    /// The tensors, the largest first.
    crew: Crew<Decoding>,
    locations: Vec<Location>,
    names: Names,
}

/// A tensor that is being decoded, by any number of workers.
struct Decoding {
    chain: Chain,
    line: Line<Hasher, StoreError>,
}

impl Job for Decoding {
    fn is_open(&self) -> bool {
        self.line.is_open()
    }
}

impl Check {
    fn run(&self) -> Result<(), StoreError> {
        let mut raw = Vec::new();
        while let Some(task) = self.crew.next() {
            match &task {
                Task::Help(decoding) => self.decode_blocks(decoding, &mut raw),
                Task::Own(own) => {
                    let Some(location) = self.locations.get(own.number) else { continue };
                    self.decode_tensor(own, location, &mut raw).inspect_err(|_| self.crew.stop())?;
                }
            }
        }
        Ok(())
    }

    fn decode_tensor(
        &self,
        own: &Own<'_, Decoding>,
        location: &Location,
        raw: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        // A raw tensor with a blob of its own has been verified with the blob: the two have one id.
        if location.codec == Codec::Raw && location.raw_length >= SMALL {
            return Ok(());
        }
        let base = location.base.map(|base| self.inner.chain(base)).transpose()?;
        let result = self.inner.link(location.clone(), base).and_then(|chain| {
            let line = Line::new(block::blocks(location.raw_length), Hasher::new());
            let decoding = Arc::new(Decoding { chain, line });
            own.share(&decoding);
            self.decode_blocks(&decoding, raw);
            let hasher = decoding.line.finish().ok_or(StoreError::Closed)??;
            Ok(TensorId::from_digest(hasher.finalize()))
        });
        match result {
            Ok(found) if found == location.tensor => Ok(()),
            Ok(found) => Err(self.names.flaw(location.tensor, Flaw::Other(found))),
            Err(StoreError::Coding { tensor, problem, .. }) if tensor == location.tensor => {
                Err(self.names.flaw(tensor, Flaw::Encoding(problem)))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes part in decoding a tensor.
    fn decode_blocks(&self, decoding: &Decoding, raw: &mut Vec<u8>) {
        let length = decoding.chain.location.raw_length;
        decoding.line.work(
            raw,
            |index, raw| {
                let range = block::range(length, index);
                raw.resize((range.end - range.start) as usize, 0);
                self.inner.decode(&decoding.chain, index, raw)
            },
            |hasher, _, raw| {
                hasher.update(raw);
                Ok(())
            },
        );
    }
}

/// Names of tensors, for errors.
struct Names {
    root: Digest,
    names: BTreeMap<TensorId, String>,
}

impl Names {
    fn flaw(&self, tensor: TensorId, flaw: Flaw) -> StoreError {
        let name = self.names.get(&tensor).cloned().unwrap_or_default();
        StoreError::Tensor { root: self.root, name, tensor, flaw: Box::new(flaw) }
    }
}
