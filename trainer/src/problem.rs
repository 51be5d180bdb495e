//! What can go wrong.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use tch::TchError;
use thiserror::Error;

/// A failure: what happened, with which thing, and what to do.
#[derive(Debug, Error)]
#[error("{message}")]
pub struct Problem {
    /// What happened, with which thing.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// The exit code: 2 for what can't be used, 1 for what failed inside, 130 after Ctrl-C.
    pub exit: u8,
}

impl Problem {
    /// Something that can't be used.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, exit: 2 }
    }

    /// Something about a file.
    pub fn file(path: &Path, why: impl Display) -> Self {
        Self::new(format!("{}: {why}", path.display()))
    }

    /// With what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        let help = help.into();
        self.help = Some(match self.help.take() {
            Some(before) => format!("{before}\n  {help}"),
            None => help,
        });
        self
    }

    /// With another exit code.
    #[must_use]
    pub const fn exit(mut self, code: u8) -> Self {
        self.exit = code;
        self
    }
}

/// What libtorch refuses: the first lines of it, without its own stack.
impl From<TchError> for Problem {
    fn from(error: TchError) -> Self {
        let text = error.to_string();
        let text = text.strip_prefix("Internal torch error: ").unwrap_or(&text);
        let told = text.lines().take_while(|line| !line.starts_with("Exception raised from"));
        let told: Vec<&str> = told.filter(|line| !line.trim().is_empty()).take(20).collect();
        Self::new(format!("libtorch: {}", told.join("\n  ")))
    }
}

/// For `map_err`: puts the path before what the operating system says.
pub(crate) fn at<E: Display>(path: impl Into<PathBuf>) -> impl FnOnce(E) -> Problem {
    let path = path.into();
    move |error| Problem::file(&path, error)
}
