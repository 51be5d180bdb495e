//! Roles: how a tensor is treated when models are combined.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dtype::DType;

/// How a tensor is treated when models are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Weights: aggregated by the branch's policy.
    Float,
    /// Running statistics of a normalisation layer: a weighted mean of values, never clipped or server-optimised.
    BatchNorm,
    /// A count of steps: the largest wins.
    Counter,
    /// Integers, booleans and quantised weights: must be equal in all inputs.
    Exact,
    /// The first factor of a low-rank pair.
    LoraA,
    /// The second factor of a low-rank pair.
    LoraB,
}

impl Role {
    /// The role that name and dtype suggest.
    ///
    /// `names` holds every tensor name of the model: running statistics and low-rank factors are recognised only
    /// beside their sibling (`running_mean` with `running_var`, `lora_A` with `lora_B`), since a lone tensor of that
    /// name is something else. The result is a suggestion that a person may change.
    pub fn infer(name: &str, dtype: DType, names: &BTreeSet<&str>) -> Self {
        let aggregated = matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
        let (prefix, last) = name.rsplit_once('.').map_or(("", name), |(prefix, last)| (prefix, last));
        let has = |sibling: &str| {
            if prefix.is_empty() {
                names.contains(sibling)
            } else {
                names.contains(format!("{prefix}.{sibling}").as_str())
            }
        };
        if !aggregated {
            let integer = !dtype.is_float() && dtype != DType::Bool;
            return if last == "num_batches_tracked" && integer { Self::Counter } else { Self::Exact };
        }
        match last {
            "running_mean" if has("running_var") => return Self::BatchNorm,
            "running_var" if has("running_mean") => return Self::BatchNorm,
            _ => {}
        }
        for (a, b) in
            [("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"), ("lora_down", "lora_up")]
        {
            if paired(name, a, b, names) {
                return Self::LoraA;
            }
            if paired(name, b, a, names) {
                return Self::LoraB;
            }
        }
        Self::Float
    }

    /// The text in manifests and on the screen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::BatchNorm => "batch-norm",
            Self::Counter => "counter",
            Self::Exact => "exact",
            Self::LoraA => "lora-a",
            Self::LoraB => "lora-b",
        }
    }
}

/// Whether `name` has the dotted segment `own`, and the same name with `other` in its place exists.
fn paired(name: &str, own: &str, other: &str, names: &BTreeSet<&str>) -> bool {
    let mut segments: Vec<&str> = name.split('.').collect();
    let Some(place) = segments.iter().rposition(|segment| *segment == own) else { return false };
    if let Some(segment) = segments.get_mut(place) {
        *segment = other;
    }
    names.contains(segments.join(".").as_str())
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
