//! The image's files: programs, and the libraries they name.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::ContainersError;
use crate::cluster::Ran;

/// The files that users build and start images with; this program carries them, so that it runs anywhere.
const DOCKERFILE: &str = include_str!("../../../Dockerfile");
const COMPOSE: &str = include_str!("../../../compose.yaml");
/// How long `ldd` may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Puts what an image is built from into `folder`: `Dockerfile`, `compose.yaml`, and `root/` as the image will be, with
/// `programs` in `root/bin`. Returns what there is, in words.
pub(super) async fn lay_out(folder: &Path, programs: &[&Path]) -> Result<String, ContainersError> {
    let root = folder.join("root");
    for empty in ["bin", "home/flair", "tmp"] {
        let path = root.join(empty);
        fs::create_dir_all(&path).map_err(ContainersError::io(path.display()))?;
    }
    // As everywhere: whoever the container runs as may write there.
    let tmp = root.join("tmp");
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777))
        .map_err(ContainersError::io(tmp.display()))?;
    let mut libraries = BTreeSet::new();
    for program in programs {
        copy(program, &root.join("bin").join(program.file_name().unwrap_or_default()))?;
        libraries.extend(named(program).await?);
    }
    for library in &libraries {
        // Where it lies here is where the loader looks for it there.
        copy(library, &root.join(library.strip_prefix("/").unwrap_or(library)))?;
    }
    for (name, text) in [("Dockerfile", DOCKERFILE), ("compose.yaml", COMPOSE)] {
        let path = folder.join(name);
        fs::write(&path, text).map_err(ContainersError::io(path.display()))?;
    }
    Ok(format!("{} programs and the {} libraries they name", programs.len(), libraries.len()))
}

fn copy(from: &Path, to: &Path) -> Result<(), ContainersError> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).map_err(ContainersError::io(folder.display()))?;
    }
    fs::copy(from, to).map_err(ContainersError::io(from.display()))?;
    Ok(())
}

/// The libraries that a program names, with the loader.
async fn named(program: &Path) -> Result<Vec<PathBuf>, ContainersError> {
    let mut ldd = Command::new("ldd");
    ldd.arg(program).env("LC_ALL", "C");
    let ran = Ran::of(format!("ldd {}", program.display()), ldd, PATIENCE).await?;
    // Of a program without any, it says so in one of two ways.
    if ran.stderr.contains("not a dynamic executable") {
        return Ok(Vec::new());
    }
    parse(&ran.ok()?.stdout).map_err(|why| ContainersError::Libraries { program: program.into(), why })
}

fn parse(text: &str) -> Result<Vec<PathBuf>, String> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let target = line.split_once(" => ").map_or(line, |(_, target)| target);
        if target.starts_with('/') {
            let path = target.rsplit_once(" (").map_or(target, |(path, _)| path);
            found.push(path.into());
        } else if target == "not found" {
            return Err(line.into());
        }
        // Else the kernel's own, which is no file, or the words that there are none.
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_that_are_files() {
        let text = "\tlinux-vdso.so.1 (0x00007f)\n\tlibc.so.6 => /lib/x86 64/libc.so.6 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let expected = ["/lib/x86 64/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse(text).unwrap(), expected);
        assert_eq!(parse("\tstatically linked\n").unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_library_that_is_missing_is_named() {
        assert_eq!(parse("\tlibtorch.so => not found\n").unwrap_err(), "libtorch.so => not found");
    }

    #[tokio::test]
    async fn an_image_has_programs_loader_and_an_empty_home() {
        let folder = tempfile::tempdir().unwrap();
        let this = std::env::current_exe().unwrap();
        lay_out(folder.path(), &[&this]).await.unwrap();
        let root = folder.path().join("root");
        assert!(root.join("bin").join(this.file_name().unwrap()).is_file());
        for library in named(&this).await.unwrap() {
            assert!(root.join(library.strip_prefix("/").unwrap()).is_file(), "{}", library.display());
        }
        assert!(root.join("home/flair").is_dir() && root.join("tmp").is_dir());
        assert!(folder.path().join("Dockerfile").is_file() && folder.path().join("compose.yaml").is_file());
    }
}
