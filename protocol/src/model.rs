//! Models by content: a manifest names every tensor, a state is what an aggregate carries forward.

use flair_tensors::dtype::DType;
use flair_tensors::role::Role;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::cbor::{self, CborError};
use crate::id::{ArchitectureId, CommitId, Digest, ModelId, StateId, TensorId};
use crate::limits;

const MANIFEST_TAG: &str = "flair/manifest/1";
const STATE_TAG: &str = "flair/state/1";
const ARCHITECTURE_TAG: &str = "flair/architecture/1";

/// One tensor of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tensor {
    /// Its name in the file.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Shape; empty for a scalar.
    pub shape: Vec<u64>,
    /// BLAKE3 of its raw little-endian bytes.
    pub tensor: TensorId,
    /// Its raw length in bytes.
    pub length: u64,
    /// How aggregation treats it.
    pub role: Role,
}

/// One safetensors file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The file's name, without a folder.
    pub name: String,
    /// Its header verbatim: the 8 length bytes and the JSON, so that a checkout is byte-identical.
    pub header: ByteBuf,
    /// Its tensors in the order of their bytes.
    pub tensors: Vec<Tensor>,
}

/// A small file beside the model: config.json, tokenizer files, README.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SideFile {
    /// The file's name, without a folder.
    pub name: String,
    /// The blob with its bytes.
    pub blob: Digest,
    /// Its length in bytes.
    pub length: u64,
}

/// A model: files, tensors in file order, side files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The safetensors files; several for a sharded model.
    pub files: Vec<File>,
    /// Side files, sorted by name.
    pub side: Vec<SideFile>,
}

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub enum ModelError {
    /// Size or encoding.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// A file's header bytes don't hold.
    #[error("`{file}`: {why}")]
    Header {
        /// The file's name.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// The list of tensors is not what the header bytes say.
    #[error("`{file}`: the manifest's tensors differ from those in the file's own header")]
    Differs {
        /// The file's name.
        file: String,
    },
    /// Two tensors of the model have one name.
    #[error("two tensors are named `{0}`")]
    Duplicate(String),
    /// A name that must not reach a file system.
    #[error(
        "`{0}` can't be a file name here: letters, digits, `.`, `_` and `-` only, no folder, at most 255 bytes"
    )]
    Name(String),
    /// A state carries what its model has no place for.
    #[error("the state carries numbers of `{0}` that the model has no place for")]
    Carried(String),
    /// Too many files.
    #[error("{count} {what}; at most {limit} are allowed")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

impl Manifest {
    /// The canonical bytes, whose plain BLAKE3 is the [`ModelId`].
    ///
    /// # Errors
    /// None for a manifest that [`validate`](Self::validate) accepts.
    pub fn encode(&self) -> Result<Vec<u8>, CborError> {
        cbor::encode_tagged(MANIFEST_TAG, self)
    }

    /// The id of this model.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn id(&self) -> Result<ModelId, CborError> {
        Ok(ModelId::from_digest(Digest::of(&self.encode()?)))
    }

    /// Reads and validates a manifest, from this machine or from a peer.
    ///
    /// # Errors
    /// Size, encoding, then every rule of [`validate`](Self::validate).
    pub fn decode(bytes: &[u8]) -> Result<Self, ModelError> {
        let manifest: Self = cbor::decode_tagged(MANIFEST_TAG, bytes, limits::MANIFEST)?;
        manifest.validate()?;
        Ok(manifest)
    }

    /// Checks counts, names, and that the tensors are exactly those of the verbatim headers.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub fn validate(&self) -> Result<(), ModelError> {
        count("files", self.files.len(), limits::FILES)?;
        count("side files", self.side.len(), limits::SIDE_FILES)?;
        let mut names = std::collections::BTreeSet::new();
        let mut tensors = std::collections::BTreeSet::new();
        for file in &self.files {
            file_name(&file.name)?;
            if !names.insert(&file.name) {
                return Err(ModelError::Name(file.name.clone()));
            }
            let refuse = |why: String| ModelError::Header { file: file.name.clone(), why };
            let header = flair_tensors::header::Header::from_bytes(&file.header, None)
                .map_err(|error| refuse(error.to_string()))?;
            let same = header.tensors().len() == file.tensors.len()
                && header.tensors().iter().zip(&file.tensors).all(|(info, tensor)| {
                    info.name == tensor.name
                        && info.dtype == tensor.dtype
                        && info.shape == tensor.shape
                        && info.end - info.start == tensor.length
                });
            if !same {
                return Err(ModelError::Differs { file: file.name.clone() });
            }
            for tensor in &file.tensors {
                if !tensors.insert(&tensor.name) {
                    return Err(ModelError::Duplicate(tensor.name.clone()));
                }
            }
        }
        for side in &self.side {
            file_name(&side.name)?;
            if !names.insert(&side.name) {
                return Err(ModelError::Name(side.name.clone()));
            }
        }
        Ok(())
    }

    /// All tensors, file after file.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.files.iter().flat_map(|file| &file.tensors)
    }

    /// Bytes of the whole model as files: headers, tensors, side files.
    pub fn bytes(&self) -> u64 {
        let files = self.files.iter().map(|file| file.header.len() as u64);
        files.sum::<u64>()
            + self.tensors().map(|tensor| tensor.length).sum::<u64>()
            + self.side.iter().map(|side| side.length).sum::<u64>()
    }

    /// The architecture: names, dtypes, shapes and roles, in the order of names.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn architecture(&self) -> Result<ArchitectureId, CborError> {
        let mut rows: Vec<_> =
            self.tensors().map(|tensor| (&tensor.name, tensor.dtype, &tensor.shape, tensor.role)).collect();
        rows.sort_by_key(|row| row.0);
        Ok(ArchitectureId::from_digest(Digest::of(&cbor::encode_tagged(ARCHITECTURE_TAG, &rows)?)))
    }
}

/// What is carried forward for one tensor: an f32 number for each of its elements.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Carried {
    /// The tensor's name.
    pub name: String,
    /// BLAKE3 of the f32 little-endian bytes.
    pub tensor: TensorId,
    /// Length in bytes.
    pub length: u64,
}

/// What the server's optimiser remembers from one aggregate to the next. It is of use to that optimiser only: where
/// the policy has another one, it is dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// Which one, by the name that the setting `server` has for it.
    pub optimiser: String,
    /// First moments in file order, of the tensors that have any.
    pub momentum: Vec<Carried>,
    /// Second moments, likewise.
    pub variance: Vec<Carried>,
}

/// An input that an aggregate consumed with weight 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skipped {
    /// The input.
    pub commit: CommitId,
    /// Why, for people.
    pub reason: String,
}

/// What an aggregate carries forward beside its model. Part of the result: without it nobody could derive the
/// next aggregate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// Norms of the inputs of up to the last five aggregates, oldest first.
    pub norms: Vec<Vec<f64>>,
    /// f32 masters, kept where the model itself has 16 bits, in file order.
    pub masters: Vec<Carried>,
    /// Inputs of this aggregate that were skipped.
    pub skipped: Vec<Skipped>,
    /// What the server's optimiser remembers, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<Server>,
}

impl State {
    /// The canonical bytes, whose plain BLAKE3 is the [`StateId`].
    ///
    /// # Errors
    /// A norm that is NaN or infinite.
    pub fn encode(&self) -> Result<Vec<u8>, CborError> {
        cbor::encode_tagged(STATE_TAG, self)
    }

    /// The id of this state.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn id(&self) -> Result<StateId, CborError> {
        Ok(StateId::from_digest(Digest::of(&self.encode()?)))
    }

    /// Reads a state.
    ///
    /// # Errors
    /// Size, encoding.
    pub fn decode(bytes: &[u8]) -> Result<Self, CborError> {
        cbor::decode_tagged(STATE_TAG, bytes, limits::STATE)
    }

    /// Checks that what is carried is of the model's tensors, in their order, each once, and as long as it must be:
    /// with that, a state is at most three f32 models large.
    ///
    /// # Errors
    /// The first tensor that does not fit.
    pub fn fits(&self, manifest: &Manifest) -> Result<(), ModelError> {
        let moments = self.server.iter().flat_map(|server| [&server.momentum, &server.variance]);
        for list in [&self.masters].into_iter().chain(moments) {
            let mut tensors = manifest.tensors();
            for carried in list {
                let fits = tensors.find(|tensor| tensor.name == carried.name).is_some_and(|tensor| {
                    let elements = tensor.length / tensor.dtype.size() as u64;
                    elements.checked_mul(DType::F32.size() as u64) == Some(carried.length)
                });
                if !fits {
                    return Err(ModelError::Carried(carried.name.chars().take(limits::NAME).collect()));
                }
            }
        }
        Ok(())
    }
}

fn count(what: &'static str, count: usize, limit: usize) -> Result<(), ModelError> {
    if count > limit { Err(ModelError::Count { what, count, limit }) } else { Ok(()) }
}

/// Checks a name that will become a file in somebody's folder.
///
/// # Errors
/// [`ModelError::Name`] for anything but a plain name.
pub fn file_name(name: &str) -> Result<(), ModelError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if name.is_empty() || name.len() > 255 || name.starts_with('.') || !name.bytes().all(plain) {
        return Err(ModelError::Name(name.chars().take(80).collect()));
    }
    Ok(())
}
