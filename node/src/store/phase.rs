//! Phases of a publish, told to the log, and to a file when a test wants to know where a process was killed.

use std::fs::{File, OpenOptions};
use std::io::Write;

/// Name of the environment variable that holds the file's path.
const VARIABLE: &str = "FLAIR_PHASE_LOG";

/// Where phases are told to.
#[derive(Debug)]
pub(super) struct Phases {
    file: Option<File>,
}

impl Phases {
    pub(super) fn from_environment() -> Self {
        let file = std::env::var_os(VARIABLE).and_then(|path| {
            OpenOptions::new()
                .append(true)
                .create(true)
                .open(&path)
                .inspect_err(|error| tracing::warn!(%error, path = %path.display(), "phases are not logged"))
                .ok()
        });
        Self { file }
    }

    /// Says that `phase` begins.
    pub(super) fn enter(&self, phase: &'static str) {
        tracing::debug!(phase, "store");
        if let Some(mut file) = self.file.as_ref()
            && let Err(error) = file.write_all(format!("{phase}\n").as_bytes())
        {
            tracing::debug!(%error, "phase not logged");
        }
    }
}
