//! Checkouts that share blocks with the file they replace, where the file system can do that (btrfs, XFS, bcachefs).
//!
//! The new file begins as a copy of the old one that takes no space. Tensors that are to stay are read and compared
//! with their hashes, since the old file is the user's and may hold anything; the others are written over. What is not
//! written over stays shared.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use flair_protocol::id::TensorId;
use flair_tensors::id::Hasher;

/// Bytes that are read at a time.
const PIECE: usize = 1 << 20;

/// A tensor's place in the file to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it starts in the file.
    pub start: u64,
    /// Its length in bytes.
    pub length: u64,
    /// What it must be.
    pub tensor: TensorId,
    /// Whether the old file is likely to have it there: others are not read.
    pub likely: bool,
}

/// Makes the empty file `to` a copy of the file at `from` that shares its blocks, and says which of `parts` are right
/// in it. None when there is nothing to share: `to` is empty then.
///
/// # Errors
/// What the operating system refuses.
pub fn begin(from: &Path, to: &File, header: &[u8], parts: &[Part]) -> io::Result<Option<Vec<bool>>> {
    begin_with(clone, from, to, header, parts)
}

fn begin_with(
    clone: impl FnOnce(&File, &File) -> bool,
    from: &Path,
    to: &File,
    header: &[u8],
    parts: &[Part],
) -> io::Result<Option<Vec<bool>>> {
    if !parts.iter().any(|part| part.likely && part.length > 0) {
        return Ok(None);
    }
    let old = match File::open(from) {
        Ok(old) => old,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let length = parts.last().map_or(header.len() as u64, |part| part.start + part.length);
    if !old.metadata()?.is_file() || old.metadata()?.len() != length || !clone(&old, to) {
        return Ok(None);
    }
    // From here on `to` is looked at: the old file may be written to meanwhile.
    if to.metadata()?.len() == length {
        let mut found = vec![0; header.len()];
        to.read_exact_at(&mut found, 0)?;
        if found == header {
            return Ok(Some(parts.iter().map(|part| right(to, part)).collect::<io::Result<_>>()?));
        }
    }
    to.set_len(0)?;
    Ok(None)
}

fn right(file: &File, part: &Part) -> io::Result<bool> {
    if !part.likely {
        return Ok(false);
    }
    let mut hasher = Hasher::new();
    let mut piece = vec![0; PIECE.min(usize::try_from(part.length).unwrap_or(PIECE))];
    let mut done = 0;
    while done < part.length {
        let count = usize::try_from(part.length - done).unwrap_or(PIECE).min(PIECE);
        file.read_exact_at(&mut piece[..count], part.start + done)?;
        hasher.update(&piece[..count]);
        done += count as u64;
    }
    Ok(hasher.finalize() == part.tensor.digest())
}

#[cfg(target_os = "linux")]
fn clone(from: &File, to: &File) -> bool {
    rustix::fs::ioctl_ficlone(to, from).is_ok()
}

#[cfg(not(target_os = "linux"))]
fn clone(_: &File, _: &File) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// Stands for a file system that can share blocks.
    fn copy(from: &File, to: &File) -> bool {
        io::copy(&mut &*from, &mut &*to).is_ok()
    }

    #[test]
    fn only_tensors_that_are_right_stay_and_any_other_file_is_left_alone() {
        let top = tempfile::tempdir().unwrap();
        let (old, new) = (top.path().join("old"), top.path().join("new"));
        let (a, b) = (vec![1_u8; 3_000_000], vec![2_u8; 5]);
        let part = |start: u64, bytes: &[u8], likely| Part {
            start,
            length: bytes.len() as u64,
            tensor: TensorId::of(bytes),
            likely,
        };
        let header = b"header";
        let parts = [part(6, &a, true), part(3_000_006, &b, true), part(3_000_011, &b, false)];
        let whole = [header.as_slice(), &a, &b, &b].concat();
        let run = |bytes: &[u8], parts: &[Part]| {
            fs_write(&old, bytes);
            let to = File::options().read(true).write(true).create(true).truncate(true).open(&new).unwrap();
            let found = begin_with(copy, &old, &to, header, parts).unwrap();
            let length = to.metadata().unwrap().len();
            assert_eq!(length, if found.is_some() { bytes.len() as u64 } else { 0 });
            found
        };
        assert_eq!(run(&whole, &parts), Some(vec![true, true, false]), "what is not likely is not read");
        let mut trained = whole.clone();
        trained[2_500_000] ^= 1;
        assert_eq!(run(&trained, &parts), Some(vec![false, true, false]));
        let mut other = whole.clone();
        other[0] ^= 1;
        assert_eq!(run(&other, &parts), None, "another header");
        assert_eq!(run(&whole[1..], &parts), None, "another length");
        assert_eq!(run(&whole, &parts[2..]), None, "nothing likely");
        std::fs::remove_file(&old).unwrap();
        let to = File::create(&new).unwrap();
        assert_eq!(begin_with(copy, &old, &to, header, &parts).unwrap(), None);
        // A file system that can't is no error.
        fs_write(&old, &whole);
        assert_eq!(begin_with(|_, _| false, &old, &to, header, &parts).unwrap(), None);
    }

    fn fs_write(path: &Path, bytes: &[u8]) {
        File::create(path).unwrap().write_all(bytes).unwrap();
    }
}
