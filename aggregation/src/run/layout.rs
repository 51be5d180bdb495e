//! The tensors of a request, checked, and the units of work they are cut into.

use super::{TensorError, TensorSpec};
use crate::kernel::float::Float;
use flair_tensors::block::BLOCK;
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;

/// The tensors of a model, as the passes see them.
pub(crate) struct Layout<'a> {
    pub(crate) tensors: Vec<Tensor<'a>>,
}

/// One tensor.
pub(crate) struct Tensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: Kind,
    /// Length of its raw bytes.
    pub(crate) bytes: usize,
}

/// What is done with a tensor, with the type that this needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Steps from the parent by the persons' movements.
    Moved(Float),
    /// Becomes the mean of the persons' values.
    Averaged(Float),
    /// Becomes the largest value.
    Largest(DType),
    /// Stays.
    Equal,
}

/// One unit of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unit {
    pub(crate) tensor: usize,
    pub(crate) block: usize,
    /// Bytes in the block.
    pub(crate) len: usize,
}

impl<'a> Layout<'a> {
    pub(crate) fn new(specs: &'a [TensorSpec]) -> Result<Self, TensorError> {
        let tensors = specs.iter().map(Tensor::new).collect::<Result<_, _>>()?;
        Ok(Self { tensors })
    }

    /// The units of the tensors that are wanted, in order.
    pub(crate) fn units(&self, wanted: impl Fn(usize, &Tensor<'_>) -> bool) -> Vec<Unit> {
        let tensors = self.tensors.iter().enumerate().filter(|(index, tensor)| wanted(*index, tensor));
        tensors
            .flat_map(|(index, tensor)| {
                (0..tensor.bytes.div_ceil(BLOCK)).map(move |block| Unit {
                    tensor: index,
                    block,
                    len: block_len(tensor.bytes, block),
                })
            })
            .collect()
    }

    pub(crate) fn name(&self, tensor: usize) -> String {
        self.tensors.get(tensor).map_or(String::new(), |tensor| tensor.name.to_owned())
    }

    pub(crate) fn kind(&self, tensor: usize) -> Kind {
        self.tensors.get(tensor).map_or(Kind::Equal, |tensor| tensor.kind)
    }

    /// Whether any tensor steps on a master, which takes more memory.
    pub(crate) fn has_masters(&self) -> bool {
        self.tensors.iter().any(|tensor| matches!(tensor.kind, Kind::Moved(float) if float.has_master()))
    }
}

impl<'a> Tensor<'a> {
    fn new(spec: &'a TensorSpec) -> Result<Self, TensorError> {
        let wrong_type =
            || TensorError::Type { tensor: spec.name.clone(), dtype: spec.dtype, role: spec.role };
        let kind = match spec.role {
            Role::Float | Role::LoraB => Kind::Moved(Float::of(spec.dtype).ok_or_else(wrong_type)?),
            Role::BatchNorm => Kind::Averaged(Float::of(spec.dtype).ok_or_else(wrong_type)?),
            Role::Counter if spec.dtype.is_float() || spec.dtype == DType::Bool => return Err(wrong_type()),
            Role::Counter => Kind::Largest(spec.dtype),
            Role::Exact | Role::Local | Role::LoraA => Kind::Equal,
        };
        let bytes = spec
            .shape
            .iter()
            .try_fold(spec.dtype.size() as u64, |bytes, side| bytes.checked_mul(*side))
            .and_then(|bytes| usize::try_from(bytes).ok())
            .filter(|bytes| *bytes <= usize::MAX / 4)
            .ok_or_else(|| TensorError::Size { tensor: spec.name.clone() })?;
        Ok(Self { name: &spec.name, kind, bytes })
    }
}

/// How many bytes block number `block` of a tensor of `bytes` bytes has.
pub(crate) fn block_len(bytes: usize, block: usize) -> usize {
    bytes.saturating_sub(block.saturating_mul(BLOCK)).min(BLOCK)
}
