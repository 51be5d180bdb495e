//! This site's own values of the tensors whose role is `local`: `.flair/local/tensors.safetensors`.
//!
//! No commit has them, so they are kept beside the drafts. What training left in the model's files is taken over at each
//! commit and before the folder moves; whatever writes the model's files then puts them back.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use flair_protocol::model::{Manifest, Tensor};
use flair_tensors::block;
use flair_tensors::header::Header;
use flair_tensors::role::Role;

use super::files::ModelFile;
use super::layout::{Layout, Local, Scanned};
use super::{Folder, FolderError, MARK, at, cast, write};

const FOLDER: &str = "local";
const FILE: &str = "tensors.safetensors";

/// The values that a site has of its own.
#[derive(Debug, Default)]
pub struct Own {
    file: Option<ModelFile>,
    places: BTreeMap<String, usize>,
}

impl Own {
    /// Those of the working folder at `root`; none where nothing was trained yet.
    ///
    /// # Errors
    /// A damaged file.
    pub fn open(root: &Path) -> Result<Self, FolderError> {
        let path = root.join(MARK).join(FOLDER).join(FILE);
        if !path.is_file() {
            return Ok(Self::default());
        }
        let file = ModelFile::open(&path)?;
        let names = file.header().tensors().iter().enumerate();
        let places = names.map(|(place, info)| (info.name.clone(), place)).collect();
        Ok(Self { file: Some(file), places })
    }

    /// Whether there is a value for a tensor: one whose role is `local`, of the same type and shape.
    pub fn has(&self, tensor: &Tensor) -> bool {
        self.find(tensor).is_some()
    }

    fn find(&self, tensor: &Tensor) -> Option<(&ModelFile, usize)> {
        let file = self.file.as_ref().filter(|_| tensor.role == Role::Local)?;
        let place = *self.places.get(&tensor.name)?;
        let info = file.header().tensors().get(place)?;
        (info.dtype == tensor.dtype && info.shape == tensor.shape).then_some((file, place))
    }

    /// Writes the value of a tensor that it [has](Self::has).
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn write(&self, tensor: &Tensor, out: &mut impl Write) -> Result<(), FolderError> {
        let Some((file, place)) = self.find(tensor) else {
            return Err(FolderError::Unfit(format!(
                "this site has no value of its own for `{}`",
                tensor.name
            )));
        };
        copy(file, place, tensor, out)
    }
}

/// Keeps what a folder's files hold in the tensors whose role is `local`. Values of other models of the repository, under
/// other names, stay; one with a NaN or an infinity is not taken over.
///
/// # Errors
/// What the operating system refuses; what was kept before is untouched then.
pub fn keep(
    folder: &Folder,
    manifest: &Manifest,
    local: &Local,
    layout: &Layout,
    scanned: &[Scanned],
) -> Result<(), FolderError> {
    let missing =
        |tensor: &Tensor| FolderError::Unfit(format!("`{}` has no place in the files", tensor.name));
    let mut rows = Vec::new();
    for ((position, tensor), scanned) in manifest.tensors().enumerate().zip(scanned) {
        if tensor.role == Role::Local && scanned.finite {
            let (file, place) = layout.place(position).ok_or_else(|| missing(tensor))?;
            let file = local.files().get(file).ok_or_else(|| missing(tensor))?;
            rows.push((file, place, tensor.clone()));
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let before = Own::open(folder.root())?;
    if let Some(file) = &before.file {
        for (place, info) in file.header().tensors().iter().enumerate() {
            if rows.iter().all(|(_, _, tensor)| tensor.name != info.name) {
                rows.push((file, place, standing(info)));
            }
        }
    }
    // The widest first, so that each begins at a multiple of its size.
    rows.sort_by(|(_, _, a), (_, _, b)| {
        b.dtype.size().cmp(&a.dtype.size()).then_with(|| a.name.cmp(&b.name))
    });
    let named =
        rows.iter().map(|(_, _, tensor)| (tensor.name.as_str(), tensor.dtype, tensor.shape.as_slice()));
    let header = Header::build(named, &BTreeMap::from([("format".to_owned(), "pt".to_owned())]))
        .map_err(|error| FolderError::File { file: FILE.to_owned(), why: error.to_string() })?;
    let place = folder.mark(FOLDER);
    fs::create_dir_all(&place).map_err(|error| at(&place, error))?;
    let path = place.join(FILE);
    let staged = write::stage::<FolderError>(&path, |out| {
        out.write_all(&header).map_err(|error| at(&path, error))?;
        rows.iter().try_for_each(|(file, place, tensor)| copy(file, *place, tensor, out))
    })?;
    staged.persist()
}

/// A tensor as it is in this file already.
fn standing(info: &flair_tensors::header::TensorInfo) -> Tensor {
    Tensor {
        name: info.name.clone(),
        dtype: info.dtype,
        shape: info.shape.clone(),
        tensor: flair_protocol::id::TensorId::from_bytes([0; 32]),
        length: info.end - info.start,
        role: Role::Local,
    }
}

/// Writes a tensor of a file in the type that `tensor` says.
fn copy(file: &ModelFile, place: usize, tensor: &Tensor, out: &mut impl Write) -> Result<(), FolderError> {
    let Some(info) = file.header().tensors().get(place) else {
        return Err(FolderError::Unfit(format!("`{}` has no place in the files", tensor.name)));
    };
    let (from, length) = (info.dtype, info.end - info.start);
    let (mut raw, mut other) = (Vec::new(), Vec::new());
    for index in 0..block::blocks(length) {
        raw.clear();
        file.block(place, index, &mut raw)?;
        let bytes = if from == tensor.dtype {
            &raw
        } else {
            other.resize(raw.len() / from.size() * tensor.dtype.size(), 0);
            cast::convert(from, tensor.dtype, &raw, &mut other);
            &other
        };
        out.write_all(bytes).map_err(|error| at(file.path(), error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use flair_protocol::id::{BranchId, CommitId, ModelId, RepositoryId};
    use flair_tensors::dtype::DType;

    use super::*;

    fn file(path: &Path, tensors: &[(&str, DType, u64)], value: u8) {
        let shapes: Vec<_> = tensors.iter().map(|(name, dtype, count)| (*name, *dtype, [*count])).collect();
        let rows = shapes.iter().map(|(name, dtype, shape)| (*name, *dtype, shape.as_slice()));
        let mut bytes = Header::build(rows, &BTreeMap::new()).unwrap();
        let length: usize = tensors.iter().map(|(_, dtype, count)| dtype.size() * *count as usize).sum();
        bytes.resize(bytes.len() + length, value);
        fs::write(path, bytes).unwrap();
    }

    fn folder(root: &Path) -> Folder {
        let zero = [0; 32];
        let (repo, branch) = (RepositoryId::from_bytes(zero), BranchId::from_bytes(zero));
        Folder::create(root, repo, branch, CommitId::from_bytes(zero), ModelId::from_bytes(zero)).unwrap()
    }

    fn kept(folder: &Folder, names: &[&str], value: u8, dtype: DType) -> Manifest {
        let path = folder.root().join("model.safetensors");
        let tensors: Vec<_> = names.iter().map(|name| (*name, dtype, 4)).collect();
        file(&path, &tensors, value);
        let local = Local::discover(&path).unwrap();
        let roles = names.iter().map(|name| ((*name).to_owned(), "local".to_owned())).collect();
        let manifest = local.describe(&roles).unwrap();
        let layout = local.fit(&manifest, false).unwrap();
        let scanned = local.scan(&layout, &mut super::super::layout::Cache::default()).unwrap();
        keep(folder, &manifest, &local, &layout, &scanned).unwrap();
        manifest
    }

    #[test]
    fn what_a_site_has_of_its_own_is_kept_by_name_type_and_shape() {
        let top = tempfile::tempdir().unwrap();
        let folder = folder(top.path());
        let first = kept(&folder, &["bn.weight", "bn.bias"], 1, DType::F32);
        let second = kept(&folder, &["head.weight", "bn.bias"], 2, DType::F32);
        let own = Own::open(folder.root()).unwrap();
        let value = |tensor: &Tensor| {
            let mut out = Vec::new();
            own.write(tensor, &mut out).map(|()| out)
        };
        let named = |manifest: &Manifest, name: &str| {
            manifest.tensors().find(|tensor| tensor.name == name).unwrap().clone()
        };
        assert_eq!(value(&named(&first, "bn.weight")).unwrap(), [1; 16]);
        assert_eq!(value(&named(&first, "bn.bias")).unwrap(), [2; 16]);
        assert_eq!(value(&named(&second, "head.weight")).unwrap(), [2; 16]);
        for other in [
            Tensor { shape: vec![2, 2], ..named(&first, "bn.weight") },
            Tensor { dtype: DType::F16, ..named(&first, "bn.weight") },
            Tensor { role: Role::Float, ..named(&first, "bn.weight") },
            Tensor { name: "bn.other".into(), ..named(&first, "bn.weight") },
        ] {
            assert!(!own.has(&other), "{other:?}");
            value(&other).unwrap_err();
        }
    }

    #[test]
    fn a_nan_does_not_take_the_place_of_what_was_kept() {
        let top = tempfile::tempdir().unwrap();
        let folder = folder(top.path());
        let manifest = kept(&folder, &["bn.weight"], 1, DType::F32);
        kept(&folder, &["bn.weight"], 255, DType::F32);
        let mut out = Vec::new();
        Own::open(folder.root()).unwrap().write(manifest.tensors().next().unwrap(), &mut out).unwrap();
        assert_eq!(out, [1; 16]);
    }
}
