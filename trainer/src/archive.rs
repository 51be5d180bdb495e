//! TorchScript's file: a zip archive with the code of the module's classes and the bytes of its tensors.
//!
//! libtorch's C++ interface, as tch has it, hands out the tensors that a class lists under `__parameters__`, and not those
//! under `__buffers__` (batch-norm's statistics, say), which belong to a model's weights too. So before a module is loaded,
//! the two lists of each class are made one. The code of the module, and so what it computes, stays as it is.

use std::io::{Cursor, Read, Write};

use zip::write::FileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use crate::Problem;

/// Most entries of an archive.
const ENTRIES: usize = 1_000_000;
/// Most bytes of code in one file of an archive, unpacked.
const CODE: u64 = 16 << 20;
const PARAMETERS: &str = "  __parameters__ = [";
const BUFFERS: &str = "  __buffers__ = [";

/// The archive with buffers listed as parameters.
///
/// # Errors
/// What is no TorchScript module.
pub fn opened(bytes: &[u8]) -> Result<Vec<u8>, Problem> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(|_| foreign("it is no zip archive"))?;
    if archive.len() > ENTRIES {
        return Err(foreign("it has too many entries"));
    }
    let mut out = ZipWriter::new(Cursor::new(Vec::with_capacity(bytes.len())));
    let plain = FileOptions::default().compression_method(CompressionMethod::Stored);
    let mut classes = 0;
    for index in 0..archive.len() {
        let damaged = |error: &dyn std::fmt::Display| foreign(&format!("it is damaged: {error}"));
        let mut entry = archive.by_index(index).map_err(|error| damaged(&error))?;
        let name = entry.name().to_owned();
        let code = name.split_once('/').is_some_and(|(_, below)| below.starts_with("code/"));
        // Says which line of the source code belongs to which of this code, which changes.
        if code && name.ends_with(".debug_pkl") {
            continue;
        }
        let options = plain.large_file(entry.size() >= u64::from(u32::MAX));
        out.start_file(&name, options).map_err(|error| damaged(&error))?;
        if code && name.rsplit_once('.').is_some_and(|(_, ending)| ending == "py") {
            let mut text = String::new();
            entry.by_ref().take(CODE + 1).read_to_string(&mut text).map_err(|error| damaged(&error))?;
            if text.len() as u64 > CODE {
                return Err(foreign("its code is too long"));
            }
            let (text, found) = merged(&text);
            classes += found;
            out.write_all(text.as_bytes()).map_err(|error| damaged(&error))?;
        } else {
            // Tensors are not compressed, so an archive can't unpack to much more than it is.
            if entry.compression() != CompressionMethod::Stored && entry.size() > CODE {
                return Err(foreign("its tensors are compressed"));
            }
            let size = entry.size();
            let copied = std::io::copy(&mut entry.take(size), &mut out).map_err(|error| damaged(&error))?;
            if copied != size {
                return Err(foreign("it is cut"));
            }
        }
    }
    if classes == 0 {
        return Err(foreign("it has no code"));
    }
    Ok(out.finish().map_err(|error| foreign(&error.to_string()))?.into_inner())
}

fn foreign(why: &str) -> Problem {
    Problem::new(format!("this is not a TorchScript module: {why}"))
        .help("write one with `torch.jit.script(model).save(\"model.ts\")`")
}

/// Code with the two lists of each class as one, and how many classes it has.
fn merged(code: &str) -> (String, usize) {
    let mut lines: Vec<String> = Vec::new();
    let mut classes = 0;
    for line in code.lines() {
        if line.starts_with(PARAMETERS) {
            classes += 1;
        }
        if let Some(buffers) = line.strip_prefix(BUFFERS)
            && let Some(buffers) = buffers.strip_suffix(']')
            && let Some(parameters) = lines.last_mut()
            && parameters.starts_with(PARAMETERS)
            && parameters.ends_with(']')
        {
            parameters.pop();
            parameters.push_str(buffers);
            parameters.push(']');
            lines.push(format!("{BUFFERS}]"));
        } else {
            lines.push(line.to_owned());
        }
    }
    (lines.join("\n") + "\n", classes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_become_parameters_and_all_else_stays() {
        let code = "class A(Module):\n  __parameters__ = [\"weight\", ]\n  __buffers__ = [\"mean\", \"n\", ]\n  x = 1\n";
        let (text, classes) = merged(code);
        assert_eq!(
            text,
            "class A(Module):\n  __parameters__ = [\"weight\", \"mean\", \"n\", ]\n  __buffers__ = []\n  x = 1\n"
        );
        assert_eq!(classes, 1);
        assert_eq!(merged(&text), (text.clone(), 1));
        let alone = "  __buffers__ = [\"mean\", ]\n";
        assert_eq!(merged(alone), (alone.to_owned(), 0));
    }

    #[test]
    fn what_is_no_module_is_refused() {
        let zipped = |name: &str, bytes: &[u8], method| {
            let mut out = ZipWriter::new(Cursor::new(Vec::new()));
            out.start_file(name, FileOptions::default().compression_method(method)).unwrap();
            out.write_all(bytes).unwrap();
            out.finish().unwrap().into_inner()
        };
        let zeros = vec![b' '; usize::try_from(CODE).unwrap() + 1];
        for (bytes, named) in [
            (b"\x80\x02junk".to_vec(), "no zip"),
            (zipped("m/data.pkl", b"x", CompressionMethod::Stored), "no code"),
            (zipped("m/code/m.py", &zeros, CompressionMethod::Deflated), "too long"),
            (zipped("m/data/0", &zeros, CompressionMethod::Deflated), "compressed"),
            (zipped("m/code/m.py", b"\xff\xfe", CompressionMethod::Stored), "damaged"),
        ] {
            let problem = opened(&bytes).unwrap_err();
            assert!(problem.message.contains(named), "{named}: {}", problem.message);
        }
    }
}
