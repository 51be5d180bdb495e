//! Training and evaluation of TorchScript modules on a contributor's own machine, by libtorch and without Python: what the
//! programs `flair-train` and `flair-eval` do, which `flair` runs as `flair train` and `flair eval`.
//!
//! A module brings the architecture, the working folder's safetensors file the weights, and another safetensors file the
//! private data. The data are read here and go nowhere else; what is committed are weights, numbers of examples and steps,
//! and figures.
//!
//! - [`archive`]: TorchScript's file, changed so that buffers can be reached;
//! - [`weights`]: the tensors of a model's files, read and written back under the same headers;
//! - [`mod@module`]: a module that holds a model's weights;
//! - [`data`]: inputs and targets;
//! - [`measure`]: losses and metrics;
//! - [`mod@train`]: the loop;
//! - [`folder`]: where files are, and how they are replaced;
//! - [`flair`]: the command `flair`, which commits and publishes;
//! - [`evaluate`], [`settings`]: figures on data that is not trained on, and how `flair evaluate` gets them;
//! - [`report`]: how problems and progress are told.

pub mod archive;
pub mod data;
pub mod evaluate;
pub mod flair;
pub mod folder;
pub mod measure;
pub mod module;
pub mod problem;
pub mod report;
pub mod settings;
pub mod train;
pub mod weights;

pub use problem::Problem;

/// The version of tch that this was built with.
pub const TCH: &str = env!("FLAIR_TCH");
/// The version of libtorch that this was built for.
pub const LIBTORCH: &str = env!("FLAIR_LIBTORCH");
