//! Measuring models on this person's own data, by their own command and as themselves. The command `flair` does it, not
//! the daemon, which only hashes data where it is asked to: the salt is the home's. What is signed of it is a handful of
//! numbers.
//!
//! ```text
//! .flair/config.toml   [evaluate.NAME], see [`Settings`]; read by nobody but `flair` on this machine
//! .flair/evaluate-*    a model while it is measured
//! ```

mod compare;
mod run;
mod seal;
mod settings;

use std::path::Path;

use tempfile::TempDir;

pub use compare::compare;
pub use run::{Measurements, run};
pub(crate) use seal::seal;
pub use settings::{Settings, load, requires_privacy};

use crate::api::types::Problem;
use crate::folder::{MARK, at};

/// A place for a model while it is measured: in the working folder, where its files can share blocks with the folder's.
///
/// # Errors
/// What the operating system refuses.
pub fn scratch(root: &Path) -> Result<TempDir, Problem> {
    let mark = root.join(MARK);
    let made = tempfile::Builder::new().prefix("evaluate-").tempdir_in(&mark);
    Ok(made.map_err(|error| at(&mark, error))?)
}
