//! Checkpoints of PyTorch before 1.6: pickles one after another, then each storage behind the number of its elements.

use std::collections::BTreeMap;

use flair_tensors::checkpoint::{LEGACY_MAGIC, LEGACY_VERSION, MAX_PICKLE, Unpickler};

use super::{Checkpoint, Place, Source};
use crate::api::types::Problem;

pub(super) fn open(source: Source) -> Result<Checkpoint, Problem> {
    let length = source.stamp.size.min(MAX_PICKLE);
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    source.read(0, &mut bytes)?;
    let mut pickles = Unpickler::new(&bytes);
    let mut next = || pickles.object().map_err(|error| source.explain(&error));
    if next()?.integer() != Some(LEGACY_MAGIC) {
        return Err(source
            .refuse("is a pickle, but not one of torch.save")
            .help("load it in Python where you trust it, and save it with safetensors.torch.save_file"));
    }
    if next()?.integer() != Some(LEGACY_VERSION) {
        return Err(source.refuse("has a version of PyTorch's old format that is not known"));
    }
    if next()?.flag("little_endian") != Some(true) {
        return Err(source.refuse("was written on a machine with another order of bytes"));
    }
    let object = next()?;
    let keys = next()?;
    let keys = keys.texts().ok_or_else(|| source.refuse("has no list of storages: it is damaged"))?;
    let mut start = pickles.position() as u64;
    let mut places = BTreeMap::new();
    for key in keys {
        let (number, storage) =
            object.storage(key).ok_or_else(|| source.refuse("lists a storage that nothing uses"))?;
        let mut count = [0; 8];
        source.read(start, &mut count)?;
        let count = u64::from_le_bytes(count);
        // Elements of one size each.
        let fits = if count == 0 {
            storage.bytes == 0
        } else {
            [1, 2, 4, 8, 16].iter().any(|size| count.checked_mul(*size) == Some(storage.bytes))
        };
        let end = start.checked_add(8 + storage.bytes).filter(|end| fits && *end <= source.stamp.size);
        let end = end.ok_or_else(|| source.refuse("is cut short, or one of its storages is damaged"))?;
        places.insert(number, Place { start: start + 8, crc: None });
        start = end;
    }
    Ok(Checkpoint { source, object, places })
}
