//! The names of things. Each id is a newtype over a BLAKE3 [`Digest`], so that a commit can't be passed where an
//! operation is meant.

pub use flair_tensors::id::{Digest, TensorId};

flair_tensors::id! {
    /// A repository: the id of its signed genesis operation.
    pub struct RepositoryId;
}
flair_tensors::id! {
    /// A signed operation: domain-separated BLAKE3 of its header bytes.
    pub struct OperationId;
}
flair_tensors::id! {
    /// A commit: plain BLAKE3 of its canonical bytes.
    pub struct CommitId;
}
flair_tensors::id! {
    /// A model: plain BLAKE3 of its manifest's canonical bytes.
    pub struct ModelId;
}
flair_tensors::id! {
    /// What an aggregate carries forward beside its model: plain BLAKE3 of a [`State`](crate::model::State).
    pub struct StateId;
}
flair_tensors::id! {
    /// A pack: the id of its hash sequence's root blob.
    pub struct PackId;
}
flair_tensors::id! {
    /// Names, dtypes, shapes and roles of a model's tensors, without their values.
    pub struct ArchitectureId;
}
flair_tensors::id! {
    /// A branch: the id of the operation that created it.
    pub struct BranchId;
}
