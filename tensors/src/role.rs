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
    /// Each site's own, as normalisation layers are in FedBN (Li et al., ICLR 2021): every commit has the first one's
    /// value, and what training makes of it stays where it was trained.
    Local,
    /// The first factor of a low-rank pair: must be equal in all inputs, so that the mean of the second factors times it
    /// is the mean of the products (FFA-LoRA, Sun et al., ICLR 2024).
    LoraA,
    /// The second factor of a low-rank pair: aggregated as weights are.
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
        Self::pair(name, names).map_or(Self::Float, |(role, _)| role)
    }

    /// The name of the other factor, where the name is that of one factor of a low-rank pair and the other is among `names`;
    /// with the role of the one that is named.
    pub fn pair(name: &str, names: &BTreeSet<&str>) -> Option<(Self, String)> {
        PAIRS.iter().find_map(|(a, b)| {
            let second = paired(name, a, b, names).map(|other| (Self::LoraA, other));
            second.or_else(|| paired(name, b, a, names).map(|other| (Self::LoraB, other)))
        })
    }

    /// Whether updates move the tensor, and aggregates step by what the policy makes of these movements.
    pub const fn is_moved(self) -> bool {
        matches!(self, Self::Float | Self::LoraB)
    }

    /// Whether no update may change the tensor.
    pub const fn is_fixed(self) -> bool {
        matches!(self, Self::Exact | Self::Local | Self::LoraA)
    }

    /// The text in manifests and on the screen.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Float => "float",
            Self::BatchNorm => "batch-norm",
            Self::Counter => "counter",
            Self::Exact => "exact",
            Self::Local => "local",
            Self::LoraA => "lora-a",
            Self::LoraB => "lora-b",
        }
    }
}

/// What the factors of low-rank pairs are called: the first, and the second.
const PAIRS: [(&str, &str); 3] =
    [("lora_A", "lora_B"), ("lora_embedding_A", "lora_embedding_B"), ("lora_down", "lora_up")];

/// The name with `other` in place of the dotted segment `own`, if there are both.
fn paired(name: &str, own: &str, other: &str, names: &BTreeSet<&str>) -> Option<String> {
    let mut segments: Vec<&str> = name.split('.').collect();
    let place = segments.iter().rposition(|segment| *segment == own)?;
    *segments.get_mut(place)? = other;
    Some(segments.join(".")).filter(|name| names.contains(name.as_str()))
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
