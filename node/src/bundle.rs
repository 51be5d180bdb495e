//! Bundles: a repository, or what somebody lacks of it, in one file, for machines without a network between them.
//!
//! ```text
//! magic "flairbnd" (8 bytes), version (u32), then records:
//!     kind (u8), length (u64), content
//! ```
//! Numbers are little-endian. The first record is the [`Header`], deterministic CBOR. Operations follow, each after
//! its dependencies; then commits, each after what it stands on: a [`Group`] and its blobs, each as its BLAKE3 digest
//! and its bytes. The last record is the BLAKE3 digest of everything before it. A file that ends early is of use up
//! to there.
//!
//! This module knows the file, and nothing of what it means.

use std::io::{self, Read, Write};

use flair_protocol::cbor::{self, CborError};
use flair_protocol::id::{CommitId, Digest, OperationId, PackId, RepositoryId};
use flair_protocol::limits;
use flair_tensors::Hasher;
use serde::{Deserialize, Serialize};
use thiserror::Error;

const MAGIC: [u8; 8] = *b"flairbnd";
const VERSION: u32 = 1;
/// Most bytes of a header: what a bundle follows, and half a million commits that its maker has.
const HEADER: usize = 16 << 20;
/// Most bytes of a group's record.
const GROUP: usize = 1 << 10;
/// Bytes per read and write.
const PIECE: usize = 1 << 20;

const HEAD: u8 = 1;
const OPERATION: u8 = 2;
const COMMIT: u8 = 3;
const BLOB: u8 = 4;
const END: u8 = 5;

/// What a bundle says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The repository.
    pub repo: RepositoryId,
    /// What its reader must have: these operations and all that they follow. Empty when the bundle stands alone.
    pub since: Vec<OperationId>,
    /// Operations that no other of its maker's follows. Whoever applied the bundle has them and all they follow.
    pub heads: Vec<OperationId>,
    /// How many operations it has.
    pub operations: u64,
    /// How many commits it has the models of.
    pub commits: u64,
    /// Bytes of their blobs.
    pub bytes: u64,
    /// Up to which generation aggregates are to be taken over as attested, because it lacks what they were made of.
    pub attested: Option<u64>,
    /// Commits whose models its maker has.
    pub held: Vec<CommitId>,
    /// Whether the repository is private: whoever has the file can read what is in it, so it is for members only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private: bool,
}

/// A commit's blobs: manifest, state, side files, the pack with its blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The commit.
    pub commit: CommitId,
    /// Its pack.
    pub pack: PackId,
    /// How many blobs follow.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What comes next in a bundle.
#[derive(Debug)]
pub enum Record {
    /// A signed operation, as encoded; not checked.
    Operation(Vec<u8>),
    /// A commit whose blobs follow.
    Commit(Group),
    /// A blob: its digest and length. Read it with [`Reader::blob`].
    Blob(Digest, u64),
    /// The end, and all before it is as it was written.
    End,
}

/// What is wrong with a bundle.
#[derive(Debug, Error)]
pub enum BundleError {
    /// It can't be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is some other file.
    #[error("it is not a bundle")]
    Other,
    /// A later version made it.
    #[error("it has version {0} of the format, and this program knows {VERSION}: install a newer one")]
    Version(u32),
    /// It ends in the middle.
    #[error("it ends early: the rest is missing")]
    Cut,
    /// It is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// Something in it can't be read.
    #[error(transparent)]
    Cbor(#[from] CborError),
}

/// Writes a bundle.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
    hasher: Hasher,
}

impl<W: Write> Writer<W> {
    /// Begins a bundle.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn new(out: W, header: &Header) -> Result<Self, BundleError> {
        let mut writer = Self { out, hasher: Hasher::new() };
        writer.put(&MAGIC)?;
        writer.put(&VERSION.to_le_bytes())?;
        let bytes = cbor::encode("header", header)?;
        if bytes.len() > HEADER {
            return Err(CborError::Size { what: "header", size: bytes.len(), limit: HEADER }.into());
        }
        writer.record(HEAD, &bytes)?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)
    }

    fn record(&mut self, kind: u8, content: &[u8]) -> io::Result<()> {
        self.put(&[kind])?;
        self.put(&(content.len() as u64).to_le_bytes())?;
        self.put(content)
    }

    /// Adds an operation, after all it follows.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn operation(&mut self, bytes: &[u8]) -> Result<(), BundleError> {
        Ok(self.record(OPERATION, bytes)?)
    }

    /// Adds a commit; its blobs come next.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn commit(&mut self, group: &Group) -> Result<(), BundleError> {
        let bytes = cbor::encode("group", group)?;
        Ok(self.record(COMMIT, &bytes)?)
    }

    /// Adds a blob of `length` bytes, which `read` gives piece by piece: offset, and what to fill.
    ///
    /// # Errors
    /// What `read` or the operating system refuses; [`BundleError::Damaged`] when the bytes are not what `digest`
    /// says.
    pub fn blob<E: From<BundleError>>(
        &mut self,
        digest: Digest,
        length: u64,
        mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let io = |error: io::Error| E::from(error.into());
        self.put(&[BLOB]).map_err(io)?;
        self.put(&(length + digest.as_bytes().len() as u64).to_le_bytes()).map_err(io)?;
        self.put(digest.as_bytes()).map_err(io)?;
        let mut found = Hasher::new();
        let mut piece = Vec::new();
        let mut offset = 0;
        while offset < length {
            piece.resize(usize::try_from(length - offset).unwrap_or(PIECE).min(PIECE), 0);
            read(offset, &mut piece)?;
            found.update(&piece);
            self.put(&piece).map_err(io)?;
            offset += piece.len() as u64;
        }
        if found.finalize() == digest {
            Ok(())
        } else {
            Err(BundleError::Damaged("a blob in the store").into())
        }
    }

    /// Ends the bundle.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn finish(mut self) -> Result<W, BundleError> {
        let digest = self.hasher.finalize();
        self.record(END, digest.as_bytes())?;
        Ok(self.out)
    }
}

/// Reads a bundle, from a file that anybody may have made: nothing is allocated on the word of a length alone.
#[derive(Debug)]
pub struct Reader<R> {
    input: Input<R>,
    header: Header,
    /// The blob that comes next: its digest and length.
    blob: Option<(Digest, u64)>,
}

impl<R: Read> Reader<R> {
    /// Begins to read, and reads the header.
    ///
    /// # Errors
    /// Another file, another version, a damaged header.
    pub fn new(input: R) -> Result<Self, BundleError> {
        let mut input = Input { input, hasher: Hasher::new() };
        let mut magic = [0; MAGIC.len()];
        match input.fill(&mut magic) {
            Ok(()) if magic == MAGIC => {}
            Ok(()) | Err(BundleError::Cut) => return Err(BundleError::Other),
            Err(error) => return Err(error),
        }
        let mut version = [0; 4];
        input.fill(&mut version)?;
        let version = u32::from_le_bytes(version);
        if version != VERSION {
            return Err(BundleError::Version(version));
        }
        let (HEAD, length) = input.head()? else {
            return Err(BundleError::Damaged("it does not begin with a header"));
        };
        let bytes = input.content(length, HEADER)?;
        Ok(Self { input, header: cbor::decode("header", &bytes, HEADER)?, blob: None })
    }

    /// What the bundle says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What comes next. A blob that was not read is passed over.
    ///
    /// # Errors
    /// A file that ends early or is damaged.
    pub fn record(&mut self) -> Result<Record, BundleError> {
        self.blob::<BundleError>(|_| Ok(()))?;
        let before = self.input.hasher.finalize();
        let (kind, length) = self.input.head()?;
        match kind {
            OPERATION => Ok(Record::Operation(self.input.content(length, limits::OPERATION)?)),
            COMMIT => {
                let bytes = self.input.content(length, GROUP)?;
                Ok(Record::Commit(cbor::decode("group", &bytes, GROUP)?))
            }
            BLOB => {
                let mut digest = [0; 32];
                let length = length.checked_sub(32).ok_or(BundleError::Damaged("a blob has no digest"))?;
                self.input.fill(&mut digest)?;
                let digest = Digest::from_bytes(digest);
                self.blob = Some((digest, length));
                Ok(Record::Blob(digest, length))
            }
            END if self.input.content(length, 32)? == before.as_bytes() => Ok(Record::End),
            END => Err(BundleError::Damaged("its bytes are not those that were written")),
            _ => Err(BundleError::Damaged("a record is of no known kind")),
        }
    }

    /// Reads the blob that [`record`](Self::record) told of, piece by piece.
    ///
    /// # Errors
    /// What `take` says; a file that ends early; [`BundleError::Damaged`] when the bytes are not what the digest says.
    pub fn blob<E: From<BundleError>>(
        &mut self,
        mut take: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some((digest, mut left)) = self.blob.take() else { return Ok(()) };
        let mut found = Hasher::new();
        let mut piece = Vec::new();
        while left > 0 {
            piece.resize(usize::try_from(left).unwrap_or(PIECE).min(PIECE), 0);
            self.input.fill(&mut piece)?;
            found.update(&piece);
            take(&piece)?;
            left -= piece.len() as u64;
        }
        if found.finalize() == digest {
            Ok(())
        } else {
            Err(BundleError::Damaged("a blob is not what its digest says").into())
        }
    }
}

/// The file, hashed as it is read.
#[derive(Debug)]
struct Input<R> {
    input: R,
    hasher: Hasher,
}

impl<R: Read> Input<R> {
    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BundleError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => BundleError::Cut,
            _ => error.into(),
        })?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Kind and length of a record.
    fn head(&mut self) -> Result<(u8, u64), BundleError> {
        let (mut kind, mut length) = ([0], [0; 8]);
        self.fill(&mut kind)?;
        self.fill(&mut length)?;
        Ok((kind[0], u64::from_le_bytes(length)))
    }

    fn content(&mut self, length: u64, limit: usize) -> Result<Vec<u8>, BundleError> {
        if length > limit as u64 {
            return Err(BundleError::Damaged("a record is larger than any can be"));
        }
        // As much is allocated as is there, whatever the length says.
        let mut bytes = Vec::new();
        (&mut self.input).take(length).read_to_end(&mut bytes)?;
        self.hasher.update(&bytes);
        if (bytes.len() as u64) < length { Err(BundleError::Cut) } else { Ok(bytes) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::from_bytes([number; 32])
    }

    fn header() -> Header {
        Header {
            repo: RepositoryId::from_digest(digest(1)),
            since: vec![OperationId::from_digest(digest(2))],
            heads: vec![OperationId::from_digest(digest(3))],
            operations: 1,
            commits: 1,
            bytes: 5,
            attested: Some(4),
            held: vec![CommitId::from_digest(digest(4))],
            private: false,
        }
    }

    fn write(operations: &[Vec<u8>], blobs: &[Vec<u8>]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), &header()).unwrap();
        for operation in operations {
            writer.operation(operation).unwrap();
        }
        let bytes = blobs.iter().map(|blob| blob.len() as u64).sum();
        let (commit, pack) = (CommitId::from_digest(digest(4)), PackId::from_digest(digest(5)));
        writer.commit(&Group { commit, pack, blobs: blobs.len() as u64, bytes }).unwrap();
        for blob in blobs {
            let read = |offset: u64, out: &mut [u8]| {
                let from = offset as usize;
                out.copy_from_slice(&blob[from..from + out.len()]);
                Ok::<_, BundleError>(())
            };
            writer.blob(Digest::of(blob), blob.len() as u64, read).unwrap();
        }
        writer.finish().unwrap()
    }

    type Content = (Vec<Vec<u8>>, Vec<Vec<u8>>);

    fn read(bytes: &[u8]) -> Result<Content, BundleError> {
        let mut reader = Reader::new(bytes)?;
        assert_eq!(reader.header(), &header());
        let (mut operations, mut blobs) = (Vec::new(), Vec::new());
        loop {
            match reader.record()? {
                Record::Operation(operation) => operations.push(operation),
                Record::Commit(_) => {}
                Record::Blob(..) => {
                    let mut blob = Vec::new();
                    reader.blob(|piece| {
                        blob.extend_from_slice(piece);
                        Ok::<_, BundleError>(())
                    })?;
                    blobs.push(blob);
                }
                Record::End => return Ok((operations, blobs)),
            }
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(
            operations in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..5),
            blobs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2_000), 0..5),
        ) {
            let bytes = write(&operations, &blobs);
            prop_assert_eq!(read(&bytes).unwrap(), (operations, blobs));
        }

        #[test]
        fn a_part_of_a_bundle_is_never_taken_for_all_of_it(
            blob in prop::collection::vec(any::<u8>(), 0..2_000), cut in any::<prop::sample::Index>(),
        ) {
            let bytes = write(&[vec![7; 30]], &[blob]);
            let part = &bytes[..cut.index(bytes.len())];
            prop_assert!(matches!(Reader::new(part).and_then(|_| read(part)), Err(BundleError::Cut | BundleError::Other)));
        }

        #[test]
        fn a_changed_byte_is_noticed(
            blob in prop::collection::vec(any::<u8>(), 0..2_000), at in any::<prop::sample::Index>(), by in 1u8..,
        ) {
            let mut bytes = write(&[vec![7; 30]], &[blob]);
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            let read = Reader::new(&bytes[..]).and_then(|reader| {
                if reader.header() == &header() { read(&bytes) } else { Ok(Content::default()) }
            });
            // A header that says something else is noticed at the end.
            let whole = || {
                let mut reader = Reader::new(&bytes[..])?;
                while !matches!(reader.record()?, Record::End) {}
                Ok::<_, BundleError>(())
            };
            prop_assert!(read.is_err() || whole().is_err());
        }

        #[test]
        fn no_file_makes_it_allocate_or_fail_badly(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut file = write(&[], &[]);
            file.truncate(file.len() - 41);
            file.extend(bytes);
            let _ = read(&file);
        }
    }

    #[test]
    fn a_length_alone_allocates_nothing() {
        let mut file = write(&[], &[]);
        file.truncate(file.len() - 41);
        for kind in 0..8 {
            let mut hostile = file.clone();
            hostile.push(kind);
            hostile.extend(u64::MAX.to_le_bytes());
            assert!(read(&hostile).is_err());
        }
    }

    #[test]
    fn another_file_and_another_version_are_told_apart() {
        assert!(matches!(Reader::new(&b"PK\x03\x04 some archive"[..]), Err(BundleError::Other)));
        let mut later = write(&[], &[]);
        later[8] = 2;
        assert!(matches!(Reader::new(&later[..]), Err(BundleError::Version(2))));
    }
}
