//! Taking over a pack that was fetched: nothing of it is used before all of it was checked.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flair_tensors::pack::{Listed, MAX_INDEX, PackIndex, SMALL};
use flair_tensors::{Codec, DType, Digest, EncodingError, Hasher, PackError, TensorId, block};

use super::packs::{Location, MAX_DEPTH, Pack};
use super::sweep::Hold;
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
        let work = Arc::new((locations, names, AtomicUsize::new(0)));
        let workers: Vec<_> = (0..self.inner.threads.get())
            .map(|_| {
                let (inner, work) = (self.inner.clone(), work.clone());
                tokio::task::spawn_blocking(move || {
                    let (locations, names, next) = &*work;
                    while let Some(location) = locations.get(next.fetch_add(1, Ordering::Relaxed)) {
                        inner.decode_tensor(location, names).inspect_err(|_| {
                            next.store(locations.len(), Ordering::Relaxed);
                        })?;
                    }
                    Ok(())
                })
            })
            .collect();
        for worker in workers {
            worker.await.unwrap_or(Err(StoreError::Closed))?;
        }
        Ok(Arc::into_inner(work).ok_or(StoreError::Closed)?.0)
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

impl Inner {
    fn decode_tensor(&self, location: &Location, names: &Names) -> Result<(), StoreError> {
        // A raw tensor with a blob of its own has been verified with the blob: the two have one id.
        if location.codec == Codec::Raw && location.raw_length >= SMALL {
            return Ok(());
        }
        let base = location.base.map(|base| self.chain(base)).transpose()?;
        let result = self.link(location.clone(), base).and_then(|chain| {
            let mut hasher = Hasher::new();
            let mut raw = Vec::new();
            for index in 0..block::blocks(location.raw_length) {
                let range = block::range(location.raw_length, index);
                raw.resize((range.end - range.start) as usize, 0);
                self.decode(&chain, index, &mut raw)?;
                hasher.update(&raw);
            }
            Ok(TensorId::from_digest(hasher.finalize()))
        });
        match result {
            Ok(found) if found == location.tensor => Ok(()),
            Ok(found) => Err(names.flaw(location.tensor, Flaw::Other(found))),
            Err(StoreError::Coding { tensor, problem, .. }) if tensor == location.tensor => {
                Err(names.flaw(tensor, Flaw::Encoding(problem)))
            }
            Err(error) => Err(error),
        }
    }
}
