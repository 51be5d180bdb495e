//! The model that an adapter is for.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Place;

/// Show the external base that is pinned, or compare a model with it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExternalBaseRequest {
    /// The working folder.
    pub place: Place,
    /// The model to compare (absolute); none shows what is pinned.
    #[schema(value_type = Option<String>)]
    pub path: Option<PathBuf>,
}

/// Pin an external base: write what its tensors hold beside an adapter.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct PinRequest {
    /// The adapter's folder (absolute).
    #[schema(value_type = String)]
    pub folder: PathBuf,
    /// The external base: a `.safetensors` file, or a folder (absolute).
    #[schema(value_type = String)]
    pub path: PathBuf,
}

/// An external base.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ExternalBase {
    /// What it is called where it was pinned.
    pub name: String,
    /// Its tensors.
    pub tensors: u64,
    /// Where this machine has it, as far as it was told.
    pub path: Option<String>,
    /// Whether its files there were compared, and did not change since.
    pub checked: bool,
}
