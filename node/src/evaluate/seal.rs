//! Hashes of data and code: they say later what was measured on what, and tell nothing now.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use flair_protocol::id::{Digest, RepositoryId};

use crate::api::types::Problem;

/// Folders within folders that are looked into.
const DEPTH: usize = 64;

/// What is signed of data and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    /// Of the data, keyed: without the salt nobody can tell whether they guessed the data right.
    pub(crate) data: Digest,
    /// Of the code, not keyed: people who measure by the same code see that they do. None where no file is named.
    pub(crate) code: Option<Digest>,
}

/// Hashes a set's data and code. The key is made of the salt, the repository and the set's name, so that nobody sees
/// whether two sets are the same data either. Blocking; reads every byte.
///
/// # Errors
/// A file that is missing or can't be read; no data at all.
pub(crate) fn seal(
    repo: RepositoryId,
    name: &str,
    data: &[PathBuf],
    code: &[PathBuf],
    salt: &[u8; 32],
) -> Result<Sealed, Problem> {
    let mut key = blake3::Hasher::new_derive_key("flair evaluation data v1");
    key.update(salt).update(repo.as_bytes()).update(name.as_bytes());
    let mut hasher = blake3::Hasher::new_keyed(key.finalize().as_bytes());
    if hash(&mut hasher, data)? == 0 {
        return Err(Problem::invalid(format!("no file is named as the data of {name}"))
            .help("name the files or folders that models are evaluated on"));
    }
    let data = Digest::from_bytes(*hasher.finalize().as_bytes());
    let mut hasher = blake3::Hasher::new_derive_key("flair evaluation code v1");
    let files = hash(&mut hasher, code)?;
    let code = (files > 0).then(|| Digest::from_bytes(*hasher.finalize().as_bytes()));
    Ok(Sealed { data, code })
}

/// Hashes files, and folders with all files in them: name, length and content of each, sorted by name. Gives how many
/// files there were. Where they lie is not hashed, so that the same files hash alike elsewhere.
fn hash(hasher: &mut blake3::Hasher, paths: &[PathBuf]) -> Result<u64, Problem> {
    let mut count = 0;
    for path in paths {
        let wrong = |at: &Path, error: io::Error| Problem::invalid(format!("{}: {error}", at.display()));
        let mut files = BTreeSet::new();
        let about = fs::metadata(path).map_err(|error| wrong(path, error))?;
        if about.is_dir() {
            list(path, DEPTH, &mut files).map_err(|error| wrong(path, error))?;
        } else {
            files.insert(path.clone());
        }
        for file in files {
            let within = if about.is_dir() {
                file.strip_prefix(path).ok().map(Path::as_os_str)
            } else {
                file.file_name()
            };
            let name = within.unwrap_or_default().as_encoded_bytes();
            let mut read = || -> io::Result<()> {
                let mut open = File::open(&file)?;
                let length = open.metadata()?.len();
                hasher.update(&(name.len() as u64).to_le_bytes()).update(name).update(&length.to_le_bytes());
                let found = io::copy(&mut open, hasher)?;
                if found == length { Ok(()) } else { Err(io::Error::other("changed while it was read")) }
            };
            read().map_err(|error| wrong(&file, error))?;
            count += 1;
        }
    }
    Ok(count)
}

fn list(folder: &Path, depth: usize, files: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other("folders within folders without end: a link that leads back?"));
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // Links are followed: data often lie elsewhere.
        if fs::metadata(&path)?.is_dir() {
            list(&path, depth - 1, files)?;
        } else {
            files.insert(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seal_follows_content_names_and_salt_and_not_where_files_lie() {
        let top = tempfile::tempdir().unwrap();
        for folder in ["a/x", "b/x"] {
            fs::create_dir_all(top.path().join(folder)).unwrap();
        }
        let write = |name: &str, text: &str| fs::write(top.path().join(name), text).unwrap();
        for folder in ["a", "b"] {
            write(&format!("{folder}/1"), "one");
            write(&format!("{folder}/x/2"), "two");
        }
        write("eval.py", "print()");
        let repo = RepositoryId::from_digest(Digest::of(b"repo"));
        let of = |data: &str, name: &str, salt: u8| {
            let paths = |name: &str| [top.path().join(name)];
            seal(repo, name, &paths(data), &paths("eval.py"), &[salt; 32]).unwrap()
        };
        let first = of("a", "holdout", 1);
        assert!(first.code.is_some());
        assert_eq!(of("b", "holdout", 1), first, "the same files elsewhere");
        assert_ne!(of("a", "holdout", 2).data, first.data, "another salt");
        assert_ne!(of("a", "other", 1).data, first.data, "another set's name");
        assert_eq!(of("a", "other", 2).code, first.code, "code is not salted");
        write("b/x/2", "owt");
        assert_ne!(of("b", "holdout", 1).data, first.data, "other content");
        write("b/x/2", "two");
        fs::rename(top.path().join("b/1"), top.path().join("b/3")).unwrap();
        assert_ne!(of("b", "holdout", 1).data, first.data, "another name");
        write("eval.py", "print(1)");
        assert_ne!(of("a", "holdout", 1).code, first.code);
        let missing = seal(repo, "x", &[top.path().join("nothing")], &[], &[1; 32]).unwrap_err();
        assert!(missing.message.contains("nothing"), "{}", missing.message);
        fs::create_dir(top.path().join("empty")).unwrap();
        assert!(seal(repo, "x", &[top.path().join("empty")], &[], &[1; 32]).is_err());
    }
}
