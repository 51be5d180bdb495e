//! LoRA pairs among a model's tensors: the factors A and B of what an adapter adds to a weight.

use std::collections::BTreeSet;

use flair_protocol::model::Manifest;
use flair_tensors::role::Role;

use super::FolderError;

/// Refuses roles by which both factors of a LoRA pair would be aggregated, each by itself.
pub(super) fn one_factor(manifest: &Manifest, names: &BTreeSet<&str>) -> Result<(), FolderError> {
    let moved: BTreeSet<&str> = manifest
        .tensors()
        .filter(|tensor| tensor.role.is_moved())
        .map(|tensor| tensor.name.as_str())
        .collect();
    let both = moved.iter().find_map(|name| {
        let (_, other) = Role::pair(name, names)?;
        moved.contains(other.as_str()).then_some((*name, other))
    });
    match both {
        None => Ok(()),
        Some((name, other)) => Err(FolderError::Unfit(format!(
            "with these roles `{name}` and `{other}` would be averaged apart, which is not averaging their product: leave \
             their roles as they are found, or make one of the two `exact`"
        ))),
    }
}
