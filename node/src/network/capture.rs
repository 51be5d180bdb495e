//! A record of what leaves, for whoever wants to look: messages as they are before encryption.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// Where messages are recorded; nowhere, unless the user asked for it.
#[derive(Debug)]
pub(super) struct Capture(Option<Mutex<File>>);

impl Capture {
    /// Appends to the file at `path`, where one is given.
    pub(super) fn new(path: Option<&Path>) -> io::Result<Self> {
        let open = |path| OpenOptions::new().create(true).append(true).open(path).map(Mutex::new);
        path.map(open).transpose().map(Self)
    }

    /// Records a message: its length as 8 little-endian bytes, then its bytes.
    ///
    /// Must be called before the message is sent. A full disk must not stop the node: what can't be recorded is told
    /// in the log.
    pub(super) fn record(&self, message: &[u8]) {
        let Some(file) = &self.0 else { return };
        let mut record = (message.len() as u64).to_le_bytes().to_vec();
        record.extend_from_slice(message);
        if let Err(error) = file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&record) {
            tracing::error!(%error, "a message that leaves could not be recorded");
        }
    }
}
