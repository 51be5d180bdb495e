//! Where a model's files are, and how they are replaced: through temporary files beside them, and with a way back until
//! what was trained is committed.

use std::collections::BTreeSet;
use std::fs;
use std::io::BufWriter;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::{Builder, NamedTempFile};

use crate::Problem;
use crate::module::Module;
use crate::problem::at;
use crate::weights::Weights;

/// The folder that marks a working folder.
const MARK: &str = ".flair";
/// Longest index of a model in several files, in bytes.
const INDEX: u64 = 64 << 20;

/// A folder with a model's files.
#[derive(Debug)]
pub struct Folder {
    /// The folder.
    pub root: PathBuf,
    /// Whether it is a working folder of Flair's.
    pub working: bool,
    files: Vec<(PathBuf, State)>,
}

/// By what a file is known not to have been written to.
#[derive(Debug, PartialEq, Eq)]
struct State(u64, u64, i64, i64);

impl State {
    fn of(path: &Path) -> Result<Self, Problem> {
        let about = fs::metadata(path).map_err(at(path))?;
        Ok(Self(about.ino(), about.size(), about.mtime(), about.mtime_nsec()))
    }
}

impl Folder {
    /// The working folder that `start` is in, else `start` itself, and the model's files in it: those named, below `start`;
    /// else what its index names, `model.safetensors`, or the only safetensors file beside `data`.
    ///
    /// # Errors
    /// No such file, or several and none named.
    pub fn find(start: &Path, named: &[PathBuf], data: &Path) -> Result<Self, Problem> {
        let start = start.canonicalize().map_err(at(start))?;
        let above = start.ancestors().find(|folder| folder.join(MARK).is_dir());
        let (root, working) = (above.unwrap_or(&start).to_owned(), above.is_some());
        let paths = if named.is_empty() {
            guessed(&root, data)?
        } else {
            named.iter().map(|path| start.join(path)).collect()
        };
        let files = paths.into_iter().map(|path| State::of(&path).map(|state| (path, state)));
        Ok(Self { root, working, files: files.collect::<Result<_, _>>()? })
    }

    /// Opens the model's files.
    ///
    /// # Errors
    /// What is not safetensors.
    pub fn open(&self) -> Result<Vec<Weights>, Problem> {
        self.files.iter().map(|(path, _)| Weights::open(path)).collect()
    }

    /// Writes the module's weights to a folder of their own, where no commit takes them from. Gives that folder.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn keep(&self, module: &Module, like: &[Weights]) -> Result<PathBuf, Problem> {
        let above =
            if self.working { self.root.join(MARK).join("local").join("kept") } else { self.root.clone() };
        fs::create_dir_all(&above).map_err(at(&above))?;
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        let made =
            Builder::new().prefix(&format!("flair-train-{time}-")).tempdir_in(&above).map_err(at(&above))?;
        for file in like {
            let path = made.path().join(file.path().file_name().unwrap_or("model.safetensors".as_ref()));
            let mut out = BufWriter::new(fs::File::create(&path).map_err(at(&path))?);
            module.write(file, &mut out)?;
            out.into_inner().map_err(at(&path))?.sync_all().map_err(at(&path))?;
        }
        Ok(made.keep())
    }

    /// Puts the module's weights in the place of the model's files. Until that is accepted, what was there comes back.
    ///
    /// # Errors
    /// What the operating system refuses; a file that somebody else wrote to meanwhile.
    pub fn replace(&self, module: &Module, like: &[Weights]) -> Result<Replaced, Problem> {
        let mut written = Vec::new();
        for (file, (path, _)) in like.iter().zip(&self.files) {
            let mut out = BufWriter::new(beside(path)?);
            module.write(file, &mut out)?;
            let out = out.into_inner().map_err(at(path))?;
            let rights = fs::metadata(path).map_err(at(path))?.permissions();
            out.as_file()
                .set_permissions(rights)
                .and_then(|()| out.as_file().sync_all())
                .map_err(at(path))?;
            written.push(out);
        }
        for (path, before) in &self.files {
            if State::of(path)? != *before {
                let why = "somebody else wrote to this file while the model was trained";
                return Err(Problem::file(path, why));
            }
        }
        let mut replaced = Replaced(Vec::new());
        for (out, (path, _)) in written.into_iter().zip(&self.files) {
            let before = beside(path)?.into_temp_path();
            fs::copy(path, &before).map_err(at(path))?;
            replaced.0.push((before.keep().map_err(at(path))?, path.clone()));
            out.persist(path).map_err(at(path))?;
        }
        Ok(replaced)
    }
}

/// Files that were replaced, and where what they were before is.
#[derive(Debug)]
pub struct Replaced(Vec<(PathBuf, PathBuf)>);

impl Replaced {
    /// Lets go of what was before.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn accept(mut self) -> Result<(), Problem> {
        for (before, _) in std::mem::take(&mut self.0) {
            fs::remove_file(&before).map_err(at(before))?;
        }
        Ok(())
    }
}

impl Drop for Replaced {
    fn drop(&mut self) {
        for (before, path) in &self.0 {
            // What can't be put back stays beside it.
            let _ = fs::rename(before, path);
        }
    }
}

/// A temporary file in the folder of another.
fn beside(path: &Path) -> Result<NamedTempFile, Problem> {
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    Builder::new().prefix(".flair-train-").tempfile_in(folder).map_err(at(folder))
}

fn guessed(root: &Path, data: &Path) -> Result<Vec<PathBuf>, Problem> {
    let index = root.join("model.safetensors.index.json");
    if index.is_file() {
        return indexed(root, &index);
    }
    let usual = root.join("model.safetensors");
    if usual.is_file() {
        return Ok(vec![usual]);
    }
    let data = data.canonicalize().ok();
    let mut there: Vec<PathBuf> = fs::read_dir(root)
        .map_err(at(root))?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_file() && path.extension().is_some_and(|ending| ending == "safetensors"))
        .filter(|path| path.canonicalize().ok() != data)
        .collect();
    there.sort();
    match there.as_slice() {
        [_] => Ok(there),
        [] => Err(Problem::file(root, "there is no safetensors file here, and so no model")
            .help("run this in a working folder, or name the model's file with --model")),
        _ => Err(Problem::file(root, "there are several safetensors files, and one of them is the model")
            .help("name it with --model")),
    }
}

/// The files of a model in several, as its index names them.
fn indexed(root: &Path, index: &Path) -> Result<Vec<PathBuf>, Problem> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    if fs::metadata(index).map_err(at(index))?.len() > INDEX {
        return Err(Problem::file(index, "this is too long for an index"));
    }
    let read: Index = serde_json::from_slice(&fs::read(index).map_err(at(index))?).map_err(at(index))?;
    let names: BTreeSet<String> = read.weight_map.into_values().collect();
    if let Some(name) = names.iter().find(|name| {
        !matches!(Path::new(name).components().collect::<Vec<_>>().as_slice(), [Component::Normal(_)])
    }) {
        return Err(Problem::file(index, format!("{name:?} is not the name of a file in this folder")));
    }
    Ok(names.into_iter().map(|name| root.join(name)).collect())
}
