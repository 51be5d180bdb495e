//! Commands that are programs of their own: `flair train` runs `flair-train`, as git does with `git-…`.

use std::env;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ArgMatches;
use flair_node::api::types::Problem;

/// What tells such a program which `flair` ran it.
const FLAIR: &str = "FLAIR";
/// Longest name of a command.
const LONGEST: usize = 64;

/// A command that `flair` itself has not.
pub(crate) struct External {
    program: PathBuf,
    arguments: Vec<OsString>,
    directory: Option<PathBuf>,
    home: Option<PathBuf>,
}

impl External {
    /// The program that a word names: beside this one, else on `PATH`. None where there is no such program.
    pub(crate) fn find(word: &str, below: &ArgMatches, all: &ArgMatches) -> Option<Self> {
        let program = find(word, beside().as_deref(), &env::var_os("PATH").unwrap_or_default())?;
        let typed = below.get_many::<OsString>("").into_iter().flatten().cloned();
        Some(Self {
            program,
            arguments: before(all).into_iter().chain(typed).collect(),
            directory: all.get_one("directory").cloned(),
            home: all.get_one("home").cloned(),
        })
    }

    /// Becomes that program; comes back only if it cannot be run.
    pub(crate) fn run(self) -> Problem {
        let mut command = Command::new(&self.program);
        command.args(self.arguments);
        if let Ok(own) = env::current_exe() {
            command.env(FLAIR, own);
        }
        // As it was typed: relative to where that was.
        if let Some(home) = self.home.filter(|home| !home.as_os_str().is_empty()) {
            let home = env::current_dir().map_or_else(|_| home.clone(), |current| current.join(&home));
            command.env("FLAIR_HOME", home);
        }
        if let Some(directory) = &self.directory {
            if !directory.is_dir() {
                return Problem::missing(format!("{} is not a folder", directory.display()));
            }
            command.current_dir(directory);
        }
        let error = command.exec();
        Problem::invalid(format!("{} can't be run: {error}", self.program.display()))
    }
}

/// Where to get what is not there, if it is one of Flair's own.
pub(crate) fn missing(word: &str) -> Option<String> {
    matches!(word, "train" | "eval").then(|| {
        format!(
            "`flair {word}` is a program of its own, flair-{word}, which needs libtorch: `make trainer` in Flair's \
             sources builds it; it is found beside `flair` or on PATH"
        )
    })
}

/// Global arguments that stand before the word, for those that the program has too.
fn before(all: &ArgMatches) -> Vec<OsString> {
    let flags = ["json", "quiet", "verbose"].into_iter().filter(|name| all.get_flag(name));
    let mut before: Vec<OsString> = flags.map(|name| format!("--{name}").into()).collect();
    if let Some(repo) = all.get_one::<String>("repo") {
        before.extend(["--repo".into(), repo.into()]);
    }
    before
}

fn beside() -> Option<PathBuf> {
    Some(env::current_exe().ok()?.parent()?.to_owned())
}

fn find(word: &str, beside: Option<&Path>, path: &std::ffi::OsStr) -> Option<PathBuf> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if word.is_empty() || word.len() > LONGEST || !word.bytes().all(plain) {
        return None;
    }
    let name = format!("flair-{word}");
    // A relative entry of PATH would run what lies in the working folder, which others may have written.
    let folders = beside.map(Path::to_owned).into_iter().chain(env::split_paths(path));
    folders.filter(|folder| folder.is_absolute()).map(|folder| folder.join(&name)).find(|file| {
        file.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};

    use super::*;

    #[test]
    fn a_program_is_found_beside_flair_then_on_the_path_and_never_in_a_relative_folder() {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let program = |folder: &Path, mode| {
            let file = folder.join("flair-train");
            fs::write(&file, "#!/bin/sh\n").unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
            file
        };
        let path = env::join_paths([Path::new("."), Path::new(""), second.path()]).unwrap();
        let look = |word: &str| find(word, Some(first.path()), &path);
        assert_eq!(look("train"), None);
        let file = program(second.path(), 0o644);
        assert_eq!(look("train"), None, "it is not executable");
        fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(look("train"), Some(file));
        let file = program(first.path(), 0o755);
        assert_eq!(look("train"), Some(file));
        for word in ["", "../train", "/train", "train\n", &"x".repeat(65)] {
            assert_eq!(look(word), None, "{word}");
        }
        assert_eq!(find("train", Some(Path::new("target")), ".:target".as_ref()), None);
    }
}
