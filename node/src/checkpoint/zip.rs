//! Checkpoints as zip files. Entries must be stored as they are, so that nothing is ever unpacked.

use std::collections::BTreeMap;

use flair_tensors::checkpoint::{MAX_PICKLE, Unpickler};
use rawzip::{CompressionMethod, Crc32, RECOMMENDED_BUFFER_SIZE, ZipArchive, ZipArchiveEntryWayfinder};

use super::{Checkpoint, Place, Source};
use crate::api::types::Problem;
use crate::folder::at;

/// Most entries that are looked at: storages of a model, its copies, and its optimiser.
const MAX_ENTRIES: usize = 500_000;

#[derive(Clone, Copy)]
struct Entry {
    way: ZipArchiveEntryWayfinder,
    crc: u32,
    start: u64,
    end: u64,
}

pub(super) fn open(source: Source) -> Result<Checkpoint, Problem> {
    let entries = entries(&source)?;
    let name = pickle(&source, &entries)?;
    let prefix = name.strip_suffix("data.pkl").unwrap_or_default();
    let find = |part: &str| entries.get(format!("{prefix}{part}").as_str()).copied();
    if let Some(order) = find("byteorder") {
        let text = read(&source, order, 16, "its byte order")?;
        if text.trim_ascii() != b"little" {
            return Err(source.refuse("was written on a machine with another order of bytes"));
        }
    }
    let entry = find("data.pkl").ok_or_else(|| source.refuse("has no data.pkl"))?;
    let bytes = read(&source, entry, MAX_PICKLE, "its pickle")?;
    let mut sum = Crc32::new();
    sum.update(&bytes);
    // Where checksums are left out (`torch.serialization.set_crc32_options(False)`), all are zero.
    let summed = entry.crc != 0 || sum.checksum() == 0;
    if summed && sum.checksum() != entry.crc {
        return Err(source.refuse("is damaged: its pickle does not have its checksum"));
    }
    let object = Unpickler::new(&bytes).object().map_err(|error| source.explain(&error))?;
    drop(bytes);
    let mut places = BTreeMap::new();
    for (number, storage) in object.storages().iter().enumerate() {
        // One that is missing is told when a tensor needs it.
        let Some(entry) = find(&format!("data/{}", storage.key)) else { continue };
        let length = entry.end - entry.start;
        if length != storage.bytes {
            return Err(source.refuse(format!(
                "is damaged: storage {} has {length} bytes, its pickle says {}",
                shown(&storage.key),
                storage.bytes
            )));
        }
        places.insert(number as u32, Place { start: entry.start, crc: Some(entry.crc).filter(|_| summed) });
    }
    Ok(Checkpoint { source, object, places })
}

/// All entries by name, none of which shares bytes with another.
fn entries(source: &Source) -> Result<BTreeMap<Box<str>, Entry>, Problem> {
    let broken = |error: rawzip::Error| source.refuse(format!("is a zip file that can't be read: {error}"));
    let file = source.file.try_clone().map_err(|error| Problem::from(at(&source.path, error)))?;
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let archive = ZipArchive::from_file(file, &mut buffer).map_err(broken)?;
    let mut found = BTreeMap::new();
    let mut rows = archive.entries(&mut buffer);
    while let Some(row) = rows.next_entry().map_err(broken)? {
        if row.is_dir() {
            continue;
        }
        let path = row.file_path();
        let name = std::str::from_utf8(path.as_bytes()).ok().filter(|name| plain(name));
        let name = name.ok_or_else(|| {
            source.refuse(format!(
                "holds an entry `{}`, which torch.save does not write",
                shown(&String::from_utf8_lossy(path.as_bytes()))
            ))
        })?;
        if name.ends_with("/constants.pkl") || name.contains("/code/__torch__") {
            return Err(source
                .refuse("holds code: it is a TorchScript module, and nothing in a file is ever run")
                .help("load it with torch.jit.load where you trust it, and save its state_dict() with torch.save"));
        }
        if row.flags().is_encrypted() {
            return Err(source.refuse("is encrypted"));
        }
        if row.compression_method() != CompressionMethod::STORE
            || row.compressed_size_hint() != row.uncompressed_size_hint()
        {
            return Err(source
                .refuse(format!("is compressed (`{}`), which torch.save never does", shown(name)))
                .help("unpack it and zip it again without compression (`zip -0`), if you trust where it is from"));
        }
        if found.len() == MAX_ENTRIES {
            return Err(source.refuse(format!("has more than {MAX_ENTRIES} entries")));
        }
        let entry = Entry { way: row.wayfinder(), crc: row.crc32(), start: 0, end: 0 };
        if found.insert(Box::from(name), entry).is_some() {
            return Err(source.refuse(format!("has two entries `{}`", shown(name))));
        }
    }
    let mut ranges = Vec::with_capacity(found.len());
    for (name, entry) in &mut found {
        (entry.start, entry.end) = archive.get_entry(entry.way).map_err(broken)?.compressed_data_range();
        if entry.end < entry.start || entry.end > source.stamp.size {
            return Err(source.refuse(format!("is cut short: `{}` goes over its end", shown(name))));
        }
        if entry.start < entry.end {
            ranges.push((entry.start, entry.end));
        }
    }
    ranges.sort_unstable();
    if ranges.windows(2).any(|pair| matches!(pair, [a, b] if b.0 < a.1)) {
        return Err(source.refuse("is refused: two of its entries share the same bytes"));
    }
    Ok(found)
}

/// The name of the pickle: that of the archive, a slash, `data.pkl`.
fn pickle(source: &Source, entries: &BTreeMap<Box<str>, Entry>) -> Result<String, Problem> {
    let pickles: Vec<&str> = entries
        .keys()
        .map(AsRef::as_ref)
        .filter(|name: &&str| name.strip_suffix("/data.pkl").is_some_and(|before| !before.contains('/')))
        .collect();
    match pickles.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] if entries.keys().any(|name| name.ends_with(".npy")) => {
            Err(source.refuse("is a NumPy archive, not a PyTorch checkpoint"))
        }
        [] => Err(source.refuse("is a zip file, but not one of torch.save: it has no data.pkl")),
        _ => Err(source.refuse("has two pickles: it is refused")),
    }
}

fn read(source: &Source, entry: Entry, limit: u64, what: &str) -> Result<Vec<u8>, Problem> {
    let length = entry.end - entry.start;
    if length > limit {
        return Err(source.refuse(format!("is refused: {what} has {length} bytes, at most {limit} are read")));
    }
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    source.read(entry.start, &mut bytes)?;
    Ok(bytes)
}

/// A name that stays where it is, whoever unpacks it.
fn plain(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with('/')
        && !name.contains(['\\', '\0'])
        && name.split('/').all(|segment| segment != "..")
}

/// A foreign text made fit for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}
