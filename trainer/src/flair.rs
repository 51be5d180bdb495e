//! The command `flair`, which knows the repository: asked as anybody asks it.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::Problem;

/// The command, and the working folder it is run in.
#[derive(Debug)]
pub struct Flair {
    program: PathBuf,
    root: PathBuf,
    repo: Option<String>,
}

impl Flair {
    /// The program that ran this one; else the one beside it, else that on `PATH`.
    pub fn new(root: &Path, repo: Option<String>) -> Self {
        let beside = || Some(env::current_exe().ok()?.parent()?.join("flair")).filter(|path| path.is_file());
        let program =
            env::var_os("FLAIR").map(PathBuf::from).or_else(beside).unwrap_or_else(|| "flair".into());
        Self { program, root: root.to_owned(), repo }
    }

    fn command(&self, arguments: impl IntoIterator<Item = OsString>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.root).stdin(Stdio::null());
        if let Some(repo) = &self.repo {
            command.arg("--repo").arg(repo);
        }
        command
    }

    fn failed(&self, error: &std::io::Error) -> Problem {
        Problem::new(format!("{} can't be run: {error}", self.program.display())).exit(1)
    }

    /// Runs it where the user sees what it says.
    ///
    /// # Errors
    /// What it fails with, by its exit code: it has told why.
    pub fn run(&self, arguments: impl IntoIterator<Item = OsString>) -> Result<(), Problem> {
        let status = self.command(arguments).status().map_err(|error| self.failed(&error))?;
        if status.success() {
            return Ok(());
        }
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
        Err(Problem::new(format!("`flair` ended with {status}")).exit(code))
    }

    /// Runs it, and reads the JSON that it prints.
    ///
    /// # Errors
    /// What it fails with: it has told why on standard error.
    pub fn ask(&self, arguments: impl IntoIterator<Item = OsString>) -> Result<Value, Problem> {
        let mut command = self.command(arguments);
        let output =
            command.arg("--json").stderr(Stdio::inherit()).output().map_err(|error| self.failed(&error))?;
        if !output.status.success() {
            let code = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            return Err(Problem::new(format!("`flair` ended with {}", output.status)).exit(code));
        }
        serde_json::from_slice(&output.stdout)
            .map_err(|error| Problem::new(format!("`flair` printed no JSON: {error}")).exit(1))
    }
}
