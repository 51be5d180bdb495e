//! Runs the real `flair` command.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio::process::Command;

use super::ClusterError;

/// How long a command may take.
const PATIENCE: Duration = Duration::from_mins(2);
/// Characters of unexpected output that an error shows.
const START: usize = 300;

/// The command `flair` with one home, in one folder.
#[derive(Clone, Debug)]
pub struct Flair {
    program: PathBuf,
    home: PathBuf,
    cwd: PathBuf,
}

/// What a command did.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The command line.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Flair {
    pub(super) fn new(program: &Path, home: &Path, cwd: &Path) -> Self {
        Self { program: program.into(), home: home.into(), cwd: cwd.into() }
    }

    /// The same in another folder.
    #[must_use]
    pub fn within(&self, cwd: &Path) -> Self {
        Self { cwd: cwd.into(), ..self.clone() }
    }

    /// The folder it runs in.
    pub fn cwd(&self) -> &Path {
        &self.cwd
    }

    /// The command with these arguments, not started: for whoever watches or kills it. It ends when it is dropped.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("FLAIR_HOME", &self.home)
            .env("NO_COLOR", "1")
            .current_dir(&self.cwd)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs `flair` with these arguments to its end, well or badly.
    ///
    /// # Errors
    /// When it does not start, or does not end within two minutes; then it is killed.
    pub async fn run(&self, arguments: &[&str]) -> Result<Ran, ClusterError> {
        Ran::of(format!("flair {}", arguments.join(" ")), self.command(arguments), PATIENCE).await
    }

    /// Runs `flair` and expects it to end well; returns what it printed.
    ///
    /// # Errors
    /// As [`Flair::run`], and when it ends with an error.
    pub async fn ok(&self, arguments: &[&str]) -> Result<String, ClusterError> {
        Ok(self.run(arguments).await?.ok()?.stdout)
    }

    /// Runs `flair … --json` and reads what it printed.
    ///
    /// # Errors
    /// As [`Flair::ok`], and when the output is not the JSON expected.
    pub async fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T, ClusterError> {
        self.run(&[arguments, &["--json"]].concat()).await?.ok()?.json()
    }
}

impl Ran {
    /// Runs a command, called `name` in errors, to its end, well or badly.
    ///
    /// # Errors
    /// When it does not start, or does not end within `patience`; then it is killed.
    pub(crate) async fn of(
        name: String,
        mut command: Command,
        patience: Duration,
    ) -> Result<Self, ClusterError> {
        let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = match tokio::time::timeout(patience, running).await {
            Err(_) => return Err(ClusterError::Slow { command: name, seconds: patience.as_secs() }),
            Ok(Err(source)) => {
                return Err(ClusterError::Spawn { program: command.as_std().get_program().into(), source });
            }
            Ok(Ok(output)) => output,
        };
        Ok(Self {
            command: name,
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Itself, if the command ended well.
    ///
    /// # Errors
    /// When it ended with an error: its exit code and what it said.
    pub fn ok(self) -> Result<Self, ClusterError> {
        if self.status.success() {
            return Ok(self);
        }
        let code =
            self.status.code().map_or_else(|| self.status.to_string(), |code| format!("exit code {code}"));
        Err(ClusterError::Failed { command: self.command, code, stderr: self.stderr })
    }

    /// What it printed, as JSON.
    ///
    /// # Errors
    /// When it is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ClusterError> {
        serde_json::from_str(&self.stdout).map_err(|source| ClusterError::Json {
            what: format!("output of `{}`", self.command),
            source,
            start: self.stdout.chars().take(START).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_command_gets_its_home_and_folder_and_its_failure_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let shell = Flair::new(Path::new("/bin/sh"), Path::new("/some/home"), dir.path());
        let printed = shell.ok(&["-c", "echo $FLAIR_HOME; pwd -P"]).await.unwrap();
        let folder = dir.path().canonicalize().unwrap();
        assert_eq!(printed, format!("/some/home\n{}\n", folder.display()));

        let error = shell.ok(&["-c", "echo no such branch >&2; exit 4"]).await.unwrap_err().to_string();
        assert!(error.contains("exit code 4") && error.contains("no such branch"), "{error}");

        let value: Vec<u32> = shell.json(&["-c", "echo [1, 2]"]).await.unwrap();
        assert_eq!(value, [1, 2]);
        let error = shell.json::<Vec<u32>>(&["-c", "echo hello"]).await.unwrap_err().to_string();
        assert!(error.contains("hello"), "{error}");
    }
}
