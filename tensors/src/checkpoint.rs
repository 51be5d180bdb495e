//! PyTorch checkpoints, read without running anything that is in them.
//!
//! What `torch.save` writes is a pickle: a program for a small stack machine, which may call any Python function.
//! The machine here knows the few calls that rebuild tensors and plain containers, as data, and refuses every other by
//! name. What comes out is a table: which tensor is where in which storage. The bytes themselves are left to whoever
//! has the file.
//!
//! - [`pickle`]: the machine, bounded in steps and values;
//! - [`selection`]: which of a checkpoint's tensors are the model, under which names;
//! - [`view`]: a tensor's elements in order, however they lie in their storage.
//!
//! Sources: CPython's `pickletools` for the opcodes, PyTorch's `torch/serialization.py` and `torch/_utils.py` for what
//! it writes.

mod global;
pub mod pickle;
pub mod selection;
mod value;
pub mod view;

use thiserror::Error;

pub use global::Element;
pub use pickle::Unpickler;
pub use selection::{Choice, Left, Named, Selection, Tied, select};
pub use value::{Object, Placed, Storage};
pub use view::View;

/// Most bytes of pickle in a checkpoint: 64 MiB. That of a model with 100,000 tensors and its optimiser has 40 MB.
pub const MAX_PICKLE: u64 = 64 << 20;
/// Most steps of the machine.
pub const MAX_STEPS: u64 = 16 << 20;
/// Most values: each takes 32 bytes here.
pub const MAX_VALUES: usize = 4 << 20;
/// What a file of `torch.save` before torch 1.6, or with `_use_new_zipfile_serialization=False`, starts with.
pub const LEGACY_MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
/// The version of that format.
pub const LEGACY_VERSION: i128 = 1001;

/// Why a checkpoint can't be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// It calls something that is not known to be data.
    #[error("holds code: it calls `{name}`, and nothing in a file is ever run")]
    Code {
        /// Module and name of what would be called.
        name: String,
    },
    /// A step of the machine that `torch.save` does not write.
    #[error("byte {at} of its pickle is the opcode {code:#04x}, which torch.save does not write")]
    Opcode {
        /// The opcode.
        code: u8,
        /// Where it is.
        at: usize,
    },
    /// The pickle makes no sense.
    #[error("its pickle is cut short or damaged at byte {at}: {what}")]
    Damaged {
        /// What is wrong.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// It would take more than we give it.
    #[error("its pickle is refused: more than {limit} {what}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many are accepted.
        limit: u64,
    },
    /// A tensor that does not fit its storage, or is no tensor as we know them.
    #[error("a tensor in it can't be: {what}")]
    Tensor {
        /// What is wrong.
        what: String,
    },
    /// One storage is said to have two sizes.
    #[error("storage `{key}` is said to have {one} and {other} bytes: it is damaged")]
    Sizes {
        /// The storage.
        key: String,
        /// The first size.
        one: u64,
        /// The second size.
        other: u64,
    },
    /// There is no model in it.
    #[error("holds no state dict: {found}")]
    Empty {
        /// What is there instead.
        found: String,
    },
    /// Several could be meant.
    #[error("holds several state dicts: {}", keys.join(", "))]
    Several {
        /// Where they are.
        keys: Vec<String>,
    },
    /// Nothing is where the user says.
    #[error("has no state dict `{key}`{}", if keys.is_empty() { String::new() } else { format!(", but {}", keys.join(", ")) })]
    Key {
        /// What was asked for.
        key: String,
        /// What there is.
        keys: Vec<String>,
    },
    /// An element type that safetensors files here can't have.
    #[error("holds `{name}`, a {element} tensor: only real numbers, integers and booleans can be imported")]
    Element {
        /// The tensor.
        name: String,
        /// Its type.
        element: &'static str,
    },
    /// Two tensors would have one name.
    #[error("two tensors would be named `{name}` without their prefixes")]
    Duplicate {
        /// The name.
        name: String,
    },
    /// More tensors than a file may have.
    #[error("holds {count} tensors, at most {} are accepted in a file", crate::header::MAX_TENSORS)]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Small on disk, large when written out.
    #[error("would grow from {stored} to {written} bytes: its tensors show the same numbers again and again")]
    Grows {
        /// Bytes of its storages.
        stored: u64,
        /// Bytes of the tensors.
        written: u64,
    },
}

impl CheckpointError {
    /// What a person can do about it.
    pub const fn help(&self) -> Option<&'static str> {
        match self {
            Self::Code { .. } => Some(
                "load it in Python where you trust it, and save only the weights: torch.save(model.state_dict(), \
                 \"weights.pt\")",
            ),
            Self::Several { .. } | Self::Key { .. } => Some("say which with `--key`"),
            Self::Empty { .. } => Some("save one with torch.save(model.state_dict(), \"weights.pt\")"),
            Self::Duplicate { .. } => Some("import without `--strip`"),
            Self::Grows { .. } => {
                Some("make such tensors contiguous before saving, or leave them out of the state dict")
            }
            _ => None,
        }
    }
}
