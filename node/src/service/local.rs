//! The user's files as a model: read, compared, packed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use flair_protocol::id::{Digest, ModelId, TensorId};
use flair_protocol::limits;
use flair_protocol::model::{Manifest, SideFile, Tensor};
use flair_tensors::dtype::DType;
use flair_tensors::pack::Listed;
use flair_tensors::role::Role;

use crate::api::types::Problem;
use crate::folder::layout::{self, Cache, Layout, Local, Scanned};
use crate::folder::{Folder, cast, own};
use crate::hub::Hub;
use crate::models;
use crate::store::{self, Content, Hold, Packed, Store};

/// The files of a working folder, matched to the branch's model.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) local: Arc<Local>,
    pub(super) layout: Arc<Layout>,
    /// What each of the model's tensors is in the files; where its role is `local`, what it is in every commit.
    pub(super) scanned: Vec<Scanned>,
    /// The tensors that a commit has from the model before, whatever the files hold.
    pub(super) stays: Vec<Option<TensorId>>,
}

impl Files {
    /// Reads the folder's files and compares them with the model `like`.
    pub(super) async fn read(folder: &Folder, like: &Manifest, casting: bool) -> Result<Self, Problem> {
        let (folder, like) = (folder.clone(), like.clone());
        blocking(move || {
            let local = Local::of(folder.root(), &like)?;
            let layout = local.fit(&like, casting)?;
            let mut cache = Cache::load(&folder);
            let scanned = local.scan(&layout, &mut cache)?;
            cache.save(&folder);
            let stays = vec![None; scanned.len()];
            let mut files = Self { local: Arc::new(local), layout: Arc::new(layout), scanned, stays };
            files.stay(&like, &like);
            Ok(files)
        })
        .await
    }

    /// Has the tensors of `model` whose role is `local` stay what they are in the model `before`, if it has them.
    pub(super) fn stay(&mut self, model: &Manifest, before: &Manifest) {
        let before: BTreeMap<&str, &Tensor> =
            before.tensors().map(|tensor| (tensor.name.as_str(), tensor)).collect();
        for (position, tensor) in model.tensors().enumerate().filter(|(_, tensor)| tensor.role == Role::Local)
        {
            let same = |old: &&&Tensor| old.dtype == tensor.dtype && old.shape == tensor.shape;
            if let Some(old) = before.get(tensor.name.as_str()).filter(same) {
                self.stays[position] = Some(old.tensor);
                self.scanned[position].tensor = old.tensor;
            }
        }
    }

    /// Keeps what the files hold in tensors whose role is `local`, for this site alone.
    pub(super) async fn keep_own(&self, folder: &Folder, like: &Manifest) -> Result<(), Problem> {
        if self.stays.iter().all(Option::is_none) {
            return Ok(());
        }
        let (folder, like) = (folder.clone(), like.clone());
        let (local, layout, scanned) = (self.local.clone(), self.layout.clone(), self.scanned.clone());
        blocking(move || Ok(own::keep(&folder, &like, &local, &layout, &scanned)?)).await
    }

    /// Refuses NaN and infinity, naming the tensor.
    pub(super) fn finite(&self, like: &Manifest) -> Result<(), Problem> {
        let bad = like.tensors().zip(&self.scanned).find(|(_, scanned)| !scanned.finite);
        bad.map_or(Ok(()), |(tensor, _)| {
            Err(Problem::invalid(format!("`{}` holds a NaN or an infinity: training diverged", tensor.name))
                .help("nothing was committed. Lower the learning rate, or start again from the base (`flair restore`)"))
        })
    }

    /// The dtype that the tensor at `position` has in the file.
    pub(super) fn dtype(&self, position: usize) -> Option<DType> {
        let (file, place) = self.layout.place(position)?;
        Some(self.local.files().get(file)?.header().tensors().get(place)?.dtype)
    }

    /// The model that the files hold, in the form of the model `like`.
    pub(super) fn manifest(&self, like: &Manifest) -> Manifest {
        let mut manifest = like.clone();
        let tensors = manifest.files.iter_mut().flat_map(|file| &mut file.tensors);
        for (tensor, scanned) in tensors.zip(&self.scanned) {
            tensor.tensor = scanned.tensor;
        }
        manifest
    }

    /// Names of the tensors that differ from the model `like`.
    pub(super) fn changed(&self, like: &Manifest) -> Vec<String> {
        let differs = |(tensor, scanned): &(&Tensor, &Scanned)| tensor.tensor != scanned.tensor;
        like.tensors().zip(&self.scanned).filter(differs).map(|(tensor, _)| tensor.name.clone()).collect()
    }
}

/// Packs local files as the model `like`, against `base`. Gives the new manifest, its id, and the pack.
pub(super) async fn pack(
    hub: &Hub,
    hold: &Hold,
    files: &Files,
    like: &Manifest,
    base: Option<&Manifest>,
) -> Result<(Manifest, ModelId, Packed), Problem> {
    let bases: Vec<_> = base.iter().flat_map(|base| base.tensors()).map(|tensor| tensor.tensor).collect();
    let contents = like.tensors().enumerate().map(|(position, tensor)| Content {
        name: tensor.name.clone(),
        tensor: (files.stays[position].is_some() || files.dtype(position) == Some(tensor.dtype))
            .then(|| files.scanned[position].tensor),
        dtype: tensor.dtype,
        length: tensor.length,
        base: bases.get(position).copied(),
    });
    let listed = base.map(listed).unwrap_or_default();
    let source = Arc::new(Reading {
        local: files.local.clone(),
        layout: files.layout.clone(),
        dtypes: like.tensors().map(|tensor| tensor.dtype).collect(),
        stays: files.stays.clone(),
        store: hub.store.clone(),
    });
    let packed = hub.store.write_pack(hold, contents.collect(), &listed, source).await?;
    files.local.unchanged()?;
    let manifest = with(like, &packed.tensors);
    let model = manifest.id()?;
    hub.store.add_bytes(hold, manifest.encode()?).await?;
    Ok((manifest, model, packed))
}

/// Packs what `source` gives as a model like `like`, against `base`.
pub(super) async fn pack_from(
    hub: &Hub,
    hold: &Hold,
    like: &Manifest,
    base: &Manifest,
    source: impl store::Source + 'static,
) -> Result<(ModelId, Packed), Problem> {
    let contents = like.tensors().zip(base.tensors()).map(|(tensor, base)| Content {
        name: tensor.name.clone(),
        tensor: None,
        dtype: tensor.dtype,
        length: tensor.length,
        base: Some(base.tensor),
    });
    let listed = listed(base);
    let packed = hub.store.write_pack(hold, contents.collect(), &listed, Arc::new(source)).await?;
    let manifest = with(like, &packed.tensors);
    let model = manifest.id()?;
    hub.store.add_bytes(hold, manifest.encode()?).await?;
    Ok((model, packed))
}

/// A model's tensors as packs list them.
pub(super) fn listed(manifest: &Manifest) -> Vec<Listed> {
    manifest.tensors().map(|tensor| (tensor.tensor, tensor.dtype, tensor.length)).collect()
}

/// A model like another, of these tensors.
pub(super) fn with(like: &Manifest, tensors: &[TensorId]) -> Manifest {
    let mut manifest = like.clone();
    for (tensor, id) in manifest.files.iter_mut().flat_map(|file| &mut file.tensors).zip(tensors) {
        tensor.tensor = *id;
    }
    manifest
}

/// Reads a new model's files: manifest, and the tensors' ids.
pub(super) async fn discover(
    hub: &Hub,
    hold: &Hold,
    path: &Path,
    roles: BTreeMap<String, String>,
) -> Result<(Manifest, Files), Problem> {
    let at = path.to_owned();
    let (mut manifest, files) = blocking(move || {
        let local = Local::discover(&at)?;
        let manifest = local.describe(&roles)?;
        let layout = local.fit(&manifest, false)?;
        let scanned = local.scan(&layout, &mut Cache::default())?;
        let stays = vec![None; scanned.len()];
        Ok((manifest, Files { local: Arc::new(local), layout: Arc::new(layout), scanned, stays }))
    })
    .await?;
    if path.is_dir() {
        for (name, file) in layout::side_files(path)? {
            let blob = hub.store.add_file(hold, &file, limits::SIDE_FILE).await?;
            let length = hub.store.size(blob).await?.unwrap_or(0);
            manifest.side.push(SideFile { name, blob, length });
        }
    }
    files.finite(&manifest)?;
    Ok((manifest, files))
}

/// What to say of side files that are not as the branch has them: an update can't change them.
pub(super) async fn side_changes(folder: &Folder, manifest: &Manifest) -> Result<Vec<String>, Problem> {
    let (root, side) = (folder.root().to_owned(), manifest.side.clone());
    blocking(move || {
        let mut words = Vec::new();
        for side in side {
            let path = root.join(&side.name);
            let same = match std::fs::read(&path) {
                Ok(bytes) => Digest::of(&bytes) == side.blob,
                // It is the branch's, whether or not the user keeps it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => true,
                Err(error) => return Err(crate::folder::at(&path, error).into()),
            };
            if !same {
                words.push(format!(
                    "`{}` differs from the branch's; an update can't change it, so it stays on this machine",
                    side.name
                ));
            }
        }
        Ok(words)
    })
    .await
}

/// Blobs of a pack with their sizes.
pub(super) async fn sizes(hub: &Hub, blobs: &[Digest]) -> Result<Vec<(Digest, u64)>, Problem> {
    let mut sizes = Vec::new();
    for blob in blobs {
        sizes.push((*blob, hub.store.size(*blob).await?.unwrap_or(0)));
    }
    Ok(sizes)
}

/// Embedding-like tensors of which few rows changed, with how many: whoever reads the update sees which.
pub(super) async fn few_rows(
    hub: &Hub,
    base: &Manifest,
    model: &Manifest,
) -> Result<Vec<(String, u64, u64)>, Problem> {
    let store = hub.store.clone();
    let pairs: Vec<_> = base
        .tensors()
        .zip(model.tensors())
        .filter(|(old, new)| old.tensor != new.tensor && old.role == Role::Float)
        .filter(|(old, _)| {
            old.shape.len() == 2 && old.shape[0] >= 256 && old.name.to_lowercase().contains("emb")
        })
        .map(|(old, new)| (new.name.clone(), old.tensor, new.tensor, old.shape[0], old.length))
        .collect();
    blocking(move || {
        let (mut a, mut b) = (Vec::new(), Vec::new());
        let mut found = Vec::new();
        for (name, old, new, rows, length) in pairs {
            let (old, new) = (store.tensor(old)?, store.tensor(new)?);
            let mut seen =
                Rows { width: usize::try_from(length / rows).unwrap_or(usize::MAX), ..Rows::default() };
            for index in 0..old.blocks() {
                old.block(index, &mut a)?;
                new.block(index, &mut b)?;
                seen.push(&a, &b);
                if seen.changed * 2 >= rows {
                    break;
                }
            }
            if seen.changed * 2 < rows {
                found.push((name, seen.changed, rows));
            }
        }
        Ok(found)
    })
    .await
}

/// Counts the rows in which two tensors differ, block by block: row by row, a block would be decoded as often as it
/// has rows.
#[derive(Debug, Default)]
struct Rows {
    /// Bytes of a row.
    width: usize,
    /// Where the next block begins.
    start: usize,
    /// The last row that differs, which the next block may have a part of.
    last: Option<usize>,
    changed: u64,
}

impl Rows {
    fn push(&mut self, old: &[u8], new: &[u8]) {
        let mut at = 0;
        while old != new && at < old.len() {
            let row = (self.start + at) / self.width.max(1);
            let end = (row + 1).saturating_mul(self.width.max(1)).saturating_sub(self.start).min(old.len());
            if old.get(at..end) != new.get(at..end) && self.last.replace(row) != Some(row) {
                self.changed += 1;
            }
            at = end;
        }
        self.start += old.len();
    }
}

/// The manifest of a held or drafted model.
pub(super) async fn manifest(hub: &Hub, model: ModelId) -> Result<Manifest, Problem> {
    models::manifest(&hub.store, model.digest()).await
}

/// Runs what reads files or tensors on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    tokio::task::spawn_blocking(work).await.map_err(Problem::internal)?
}

/// Reads the user's files for the pack writer, converting dtypes where asked to.
struct Reading {
    local: Arc<Local>,
    layout: Arc<Layout>,
    dtypes: Vec<DType>,
    /// Tensors that are not taken from the files but from the store.
    stays: Vec<Option<TensorId>>,
    store: Store,
}

impl store::Source for Reading {
    fn read(&self, tensor: usize, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let missing = || io::Error::other(format!("no tensor {tensor}"));
        if let Some(Some(id)) = self.stays.get(tensor) {
            return self
                .store
                .tensor(*id)
                .and_then(|reader| reader.read(offset, out))
                .map_err(io::Error::other);
        }
        let (file, place) = self.layout.place(tensor).ok_or_else(missing)?;
        let file = self.local.files().get(file).ok_or_else(missing)?;
        let from = file.header().tensors().get(place).ok_or_else(missing)?.dtype;
        let to = *self.dtypes.get(tensor).ok_or_else(missing)?;
        if from == to {
            return file.read(place, offset, out).map_err(io::Error::other);
        }
        let elements = out.len() / to.size();
        let mut raw = vec![0; elements * from.size()];
        let start = offset / to.size() as u64 * from.size() as u64;
        file.read(place, start, &mut raw).map_err(io::Error::other)?;
        cast::convert(from, to, &raw, out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_differs_counts_once_however_the_blocks_lie() {
        let width = 12;
        let old: Vec<u8> = (0..width * 50).map(|index| index as u8).collect();
        let mut new = old.clone();
        // The last byte of row 3, all of row 4, two bytes of row 20.
        for index in (47..60).chain([241, 250]) {
            new[index] ^= 1;
        }
        for block in [5, 12, 64, 240, 600, 1000] {
            let mut rows = Rows { width, ..Rows::default() };
            for (a, b) in old.chunks(block).zip(new.chunks(block)) {
                rows.push(a, b);
            }
            assert_eq!(rows.changed, 3, "blocks of {block}");
        }
    }
}
