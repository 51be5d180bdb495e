//! What is said of LoRA pairs: one factor stays, the other is aggregated.

use flair_protocol::model::{Manifest, Tensor};
use flair_protocol::state::State;
use flair_tensors::role::Role;

use super::diff::named_model;
use super::{Service, local};
use crate::api::types::Problem;
use crate::repository::Repository;

/// What to do about training that changes A.
const FREEZE: &str = "freeze A before training; with PEFT: `for name, value in model.named_parameters(): \
                      value.requires_grad_(value.requires_grad and \"lora_A\" not in name)`. `flair restore` sets all \
                      files back";

/// Refuses an update that changes the factor that stays.
pub(super) fn must_stay(tensor: &Tensor) -> Problem {
    Problem::invalid(format!(
        "`{}` changed, and of a LoRA pair A stays as in the first commit: only B is aggregated, because averaging A and B \
         apart is not averaging BA",
        tensor.name
    ))
    .help(FREEZE)
}

/// What becomes of a model's pairs, if it has any.
pub(super) fn words(manifest: &Manifest) -> Option<String> {
    manifest.tensors().any(|tensor| tensor.role == Role::LoraA).then(|| {
        "Of LoRA pairs A stays as in the branch's first commit, and an update that changes it is refused; B is aggregated \
         by this rule, so the products BA are. (Averaging A and B apart would not average BA.)"
            .to_owned()
    })
}

impl Service {
    /// [`words`] of the first branch whose model is here and has pairs.
    pub(super) async fn lora_words(&self, repository: &Repository, state: &State) -> Option<String> {
        for branch in state.branches.values() {
            if let Ok((_, model)) = named_model(repository, state, None, &branch.name)
                && let Ok(manifest) = local::manifest(&self.hub, model).await
                && let Some(words) = words(&manifest)
            {
                return Some(words);
            }
        }
        None
    }
}
