//! Which phase of a publish a process is in, for whoever wants to disturb it there.

use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// Where a process says which phase of a publish it enters.
pub(crate) struct Phases {
    path: PathBuf,
    seen: File,
    text: String,
}

impl Phases {
    pub(crate) fn new(folder: &Path, name: &str) -> Self {
        let path = folder.join(format!("{name}.phases"));
        fs::write(&path, "").unwrap();
        Self { seen: File::open(&path).unwrap(), text: String::new(), path }
    }

    /// Begins anew. Whoever writes appends.
    pub(crate) fn clear(&mut self) {
        fs::write(&self.path, "").unwrap();
        *self = Self { seen: File::open(&self.path).unwrap(), text: String::new(), path: self.path.clone() };
    }

    pub(crate) fn environment(&self) -> (String, String) {
        ("FLAIR_PHASE_LOG".into(), self.path.display().to_string())
    }

    /// How often a phase was entered so far.
    pub(crate) fn entered(&mut self, phase: &str) -> usize {
        self.seen.read_to_string(&mut self.text).unwrap();
        self.text.lines().filter(|line| *line == phase).count()
    }
}
