//! How a user's files fit a model: which file and place holds each tensor, and what the tensors' ids are now.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use flair_protocol::id::TensorId;
use flair_protocol::model::{self, Manifest, Tensor};
use flair_tensors::block;
use flair_tensors::header::{Header, MAX_HEADER};
use flair_tensors::id::Hasher;
use flair_tensors::role::Role;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use wildmatch::WildMatch;

use super::files::{ModelFile, Stamp};
use super::{Folder, FolderError, at, cast, pairs};

/// Side files that belong to a model. Anything else stays where it is; code never travels.
const SIDE_FILES: &[&str] = &[
    "LICENSE",
    "LICENSE.txt",
    "README.md",
    "adapter_config.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "config_sentence_transformers.json",
    "external_base.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors.index.json",
    "modules.json",
    "normalizer.json",
    "preprocessor_config.json",
    "processor_config.json",
    "sentence_bert_config.json",
    "sentencepiece.bpe.model",
    "source.spm",
    "special_tokens_map.json",
    "spiece.model",
    "target.spm",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
];
/// The words for roles.
const ROLES: &str = "float, batch-norm, counter, exact, local, lora-a, lora-b";
/// The index of a sharded model, as Hugging Face's libraries write it.
const SHARDS: &str = "model.safetensors.index.json";
/// Words in a tensor's name that say it is not a parameter of the model.
const FOREIGN: &[&str] = &["optimizer", "optimiser", "exp_avg", "momentum_buffer", "grad_scaler", "dataset"];

/// The model files of one folder, open.
#[derive(Debug)]
pub struct Local {
    files: Vec<ModelFile>,
}

/// Where each tensor of a manifest is in the local files: file, place in its header.
#[derive(Debug)]
pub struct Layout {
    places: Vec<(usize, usize)>,
    /// Tensors of the files that another one's name stands for in the manifest.
    tied: Vec<TiedPlace>,
}

/// A tensor of the files under a second name.
#[derive(Debug)]
struct TiedPlace {
    name: String,
    place: (usize, usize),
    /// The tensor that it must equal, by its position in the manifest.
    position: usize,
}

/// A tensor as it is in the local files now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scanned {
    /// BLAKE3 of its raw bytes.
    pub tensor: TensorId,
    /// Whether every number in it is finite.
    pub finite: bool,
}

impl Local {
    /// Opens the files of `manifest` in `root`. Where one is missing, all that are there are opened instead: who saves
    /// a model may cut it into other shards.
    ///
    /// # Errors
    /// A file that is missing or not safetensors.
    pub fn of(root: &Path, manifest: &Manifest) -> Result<Self, FolderError> {
        if manifest.files.iter().any(|file| !root.join(&file.name).exists())
            && let Some(files) = Self::all(root)?
        {
            return Ok(files);
        }
        let files = manifest.files.iter().map(|file| ModelFile::open(&root.join(&file.name)));
        Ok(Self { files: files.collect::<Result<_, _>>()? })
    }

    /// Opens one model: a file, or those of a folder: the shards that its index names, else all `.safetensors` files.
    ///
    /// # Errors
    /// Nothing there, or something that is not safetensors.
    pub fn discover(path: &Path) -> Result<Self, FolderError> {
        if !path.is_dir() {
            return Ok(Self { files: vec![ModelFile::open(path)?] });
        }
        if let Some(shards) = shards(path)? {
            let files = shards.iter().map(|name| ModelFile::open(&path.join(name)));
            return Ok(Self { files: files.collect::<Result<_, _>>()? });
        }
        Self::all(path)?.ok_or_else(|| {
            let why =
                "no `.safetensors` file in it. `flair import` makes one of a PyTorch checkpoint".to_owned();
            FolderError::File { file: path.display().to_string(), why }
        })
    }

    /// Opens all `.safetensors` files of a folder, by name; none where there are none.
    fn all(path: &Path) -> Result<Option<Self>, FolderError> {
        let names = safetensors(path)?;
        if names.is_empty() {
            return Ok(None);
        }
        let files = names.iter().map(|name| ModelFile::open(&path.join(name)));
        Ok(Some(Self { files: files.collect::<Result<_, _>>()? }))
    }

    /// Files of a folder that look like a model's but are not of this one.
    ///
    /// # Errors
    /// A folder that can't be read.
    pub fn others(&self, root: &Path) -> Result<Vec<String>, FolderError> {
        let mut names = safetensors(root)?;
        names.retain(|name| self.files.iter().all(|file| file.name() != name));
        Ok(names.into_iter().collect())
    }

    /// The files.
    pub fn files(&self) -> &[ModelFile] {
        &self.files
    }

    /// Checks that nobody wrote to any of the files since they were opened.
    ///
    /// # Errors
    /// [`FolderError::Changed`].
    pub fn unchanged(&self) -> Result<(), FolderError> {
        self.files.iter().try_for_each(ModelFile::unchanged)
    }

    /// The manifest of a new model, with ids still to be set: zero until scanned.
    ///
    /// # Errors
    /// Names that look like optimiser state or data, or that can't be file names elsewhere.
    pub fn describe(&self, roles: &BTreeMap<String, String>) -> Result<Manifest, FolderError> {
        let names: BTreeSet<&str> = self
            .files
            .iter()
            .flat_map(|file| file.header().tensors())
            .map(|info| info.name.as_str())
            .collect();
        let given = Given::read(roles, &names)?;
        let mut files = Vec::new();
        for file in &self.files {
            let unfit = |why: String| FolderError::File { file: file.name().to_owned(), why };
            model::file_name(file.name()).map_err(|error| unfit(error.to_string()))?;
            let mut tensors = Vec::new();
            for info in file.header().tensors() {
                not_foreign(&info.name)?;
                let inferred = || Role::infer(&info.name, info.dtype, &names);
                let role = given.of(&info.name)?.unwrap_or_else(inferred);
                tensors.push(Tensor {
                    name: info.name.clone(),
                    dtype: info.dtype,
                    shape: info.shape.clone(),
                    tensor: TensorId::from_bytes([0; 32]),
                    length: info.end - info.start,
                    role,
                });
            }
            let header = ByteBuf::from(file.header().bytes().to_vec());
            files.push(model::File { name: file.name().to_owned(), header, tensors });
        }
        let manifest = Manifest { files, side: Vec::new() };
        pairs::one_factor(&manifest, &names)?;
        Ok(manifest)
    }

    /// Finds each tensor of `manifest` in the local files, whatever their order there.
    ///
    /// # Errors
    /// [`FolderError::Unfit`] naming the tensor that is missing, surplus, or of another dtype or shape. With
    /// `casting`, another float dtype is no error.
    pub fn fit(&self, manifest: &Manifest, casting: bool) -> Result<Layout, FolderError> {
        let mut found = BTreeMap::new();
        for (file, open) in self.files.iter().enumerate() {
            for (place, info) in open.header().tensors().iter().enumerate() {
                if found.insert(info.name.as_str(), (file, place)).is_some() {
                    return Err(FolderError::Unfit(format!(
                        "`{}` is in two files, `{}` the second: keep one model in a folder, or name its file",
                        info.name,
                        open.name()
                    )));
                }
            }
        }
        let mut places = Vec::new();
        let aliases = aliases(manifest);
        // The other name of a tied tensor, where the files have only that: who saves a model may choose.
        let other = |name: &str| -> Option<&str> {
            let here = self.files.iter().find_map(|file| file.header().metadata().get(name));
            let there = aliases.iter().find(|(_, kept)| *kept == name).map(|(alias, _)| alias);
            here.or(there).map(String::as_str)
        };
        for tensor in manifest.tensors() {
            let name = &tensor.name;
            let place = found.remove(name.as_str()).or_else(|| found.remove(other(name)?));
            let Some((file, place)) = place else {
                return Err(FolderError::Unfit(format!(
                    "`{name}` is missing: the branch has it, your files don't. A model with another architecture \
                     can't be aggregated here"
                )));
            };
            let info = &self.files[file].header().tensors()[place];
            if info.shape != tensor.shape {
                return Err(FolderError::Unfit(format!(
                    "`{name}` has shape {:?}, the branch has {:?}: a model with another architecture can't be \
                     aggregated here",
                    info.shape, tensor.shape
                )));
            }
            let castable = casting && cast::possible(info.dtype, tensor.dtype);
            if info.dtype != tensor.dtype && !castable {
                let way = if cast::possible(info.dtype, tensor.dtype) {
                    ": `flair commit --cast`"
                } else {
                    ": save it with the branch's dtype"
                };
                return Err(FolderError::Unfit(format!(
                    "`{name}` is {}, the branch has {}{way}",
                    info.dtype.to_string().to_lowercase(),
                    tensor.dtype.to_string().to_lowercase()
                )));
            }
            places.push((file, place));
        }
        let mut tied = Vec::new();
        for (alias, kept) in &aliases {
            let position = manifest.tensors().position(|tensor| tensor.name == *kept);
            if let Some((place, position)) = found.remove(alias.as_str()).zip(position) {
                tied.push(TiedPlace { name: alias.clone(), place, position });
            }
        }
        if let Some(surplus) = found.keys().next() {
            not_foreign(surplus)?;
            return Err(FolderError::Unfit(format!(
                "`{surplus}` is in your files, but not in the branch: a model with another architecture can't be \
                 aggregated here"
            )));
        }
        Ok(Layout { places, tied })
    }

    /// The ids of the tensors of `layout`, in its order. Unchanged files are not read again: `cache` remembers.
    ///
    /// # Errors
    /// What the operating system refuses; a file that changed meanwhile.
    pub fn scan(&self, layout: &Layout, cache: &mut Cache) -> Result<Vec<Scanned>, FolderError> {
        let mut files = Vec::new();
        for file in &self.files {
            let known = cache.get(file);
            let scanned = if let Some(known) = known {
                known
            } else {
                let scanned = scan_file(file)?;
                file.unchanged()?;
                cache.put(file, &scanned);
                scanned
            };
            files.push(scanned);
        }
        let scanned: Vec<Scanned> = layout.places.iter().map(|(file, place)| files[*file][*place]).collect();
        for tied in &layout.tied {
            let (file, place) = tied.place;
            if files[file][place].tensor != scanned[tied.position].tensor {
                return Err(FolderError::Unfit(format!(
                    "`{}` is tied in the branch, one tensor under two names, but your files hold other numbers under \
                     that name: tie it again before saving",
                    tied.name
                )));
            }
        }
        Ok(scanned)
    }
}

impl Layout {
    /// Where the tensor at `position` of the manifest is: file, place in its header.
    pub fn place(&self, position: usize) -> Option<(usize, usize)> {
        self.places.get(position).copied()
    }
}

/// Names of the `.safetensors` files of a folder.
fn safetensors(folder: &Path) -> Result<BTreeSet<String>, FolderError> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).map_err(|error| at(folder, error))? {
        let entry = entry.map_err(|error| at(folder, error))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        // Ours and other programs' files under way begin with a dot.
        if name.ends_with(".safetensors") && !name.starts_with('.') && entry.path().is_file() {
            names.insert(name);
        }
    }
    Ok(names)
}

/// The shards that a folder's index names; none where it has no index.
fn shards(folder: &Path) -> Result<Option<BTreeSet<String>>, FolderError> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let path = folder.join(SHARDS);
    if !path.is_file() {
        return Ok(None);
    }
    let refuse = |why: String| FolderError::File { file: SHARDS.to_owned(), why };
    let length = fs::metadata(&path).map_err(|error| at(&path, error))?.len();
    if length > MAX_HEADER {
        return Err(refuse(format!("has {length} bytes, at most {MAX_HEADER} are read")));
    }
    let text = fs::read(&path).map_err(|error| at(&path, error))?;
    let index: Index = serde_json::from_slice(&text).map_err(|error| refuse(error.to_string()))?;
    let names: BTreeSet<String> = index.weight_map.into_values().collect();
    for name in &names {
        model::file_name(name).map_err(|error| refuse(error.to_string()))?;
        if !folder.join(name).is_file() {
            return Err(refuse(format!(
                "names `{name}`, which is not there: get all shards, or remove the index"
            )));
        }
    }
    Ok((!names.is_empty()).then_some(names))
}

/// Second names of tied tensors, as the model's headers note them: name → the name it is stored under.
fn aliases(manifest: &Manifest) -> BTreeMap<String, String> {
    let names: BTreeSet<&str> = manifest.tensors().map(|tensor| tensor.name.as_str()).collect();
    let headers = manifest.files.iter().filter_map(|file| Header::from_bytes(&file.header, None).ok());
    let noted = headers.flat_map(|header| header.metadata().clone());
    noted.filter(|(alias, kept)| names.contains(kept.as_str()) && !names.contains(alias.as_str())).collect()
}

pub(super) fn scan_file(file: &ModelFile) -> Result<Vec<Scanned>, FolderError> {
    let mut buffer = Vec::with_capacity(block::BLOCK);
    let mut scanned = Vec::new();
    for (place, info) in file.header().tensors().iter().enumerate() {
        let mut hasher = Hasher::new();
        let mut finite = true;
        for index in 0..block::blocks(info.end - info.start) {
            buffer.clear();
            file.block(place, index, &mut buffer)?;
            hasher.update(&buffer);
            finite &= info.dtype.all_finite(&buffer);
        }
        scanned.push(Scanned { tensor: TensorId::from_digest(hasher.finalize()), finite });
    }
    Ok(scanned)
}

/// Roles that somebody set, by a tensor's name or by a pattern (`*` and `?`) of several.
struct Given<'a> {
    names: BTreeMap<&'a str, Role>,
    patterns: Vec<(&'a str, WildMatch, Role)>,
}

impl<'a> Given<'a> {
    fn read(roles: &'a BTreeMap<String, String>, tensors: &BTreeSet<&str>) -> Result<Self, FolderError> {
        let mut given = Self { names: BTreeMap::new(), patterns: Vec::new() };
        for (key, word) in roles {
            let role = role(word).ok_or_else(|| {
                FolderError::Unfit(format!("`{word}` is not a role (for `{key}`): {ROLES}"))
            })?;
            if tensors.contains(key.as_str()) {
                given.names.insert(key, role);
                continue;
            }
            let pattern = WildMatch::new(key);
            if !tensors.iter().any(|name| pattern.matches(name)) {
                return Err(FolderError::Unfit(format!("the model has no tensor `{key}` to give a role to")));
            }
            given.patterns.push((key, pattern, role));
        }
        Ok(given)
    }

    /// The role of a tensor: that of its name, else that of the patterns it matches, which must agree.
    fn of(&self, name: &str) -> Result<Option<Role>, FolderError> {
        if let Some(role) = self.names.get(name) {
            return Ok(Some(*role));
        }
        let mut matching = self.patterns.iter().filter(|(_, pattern, _)| pattern.matches(name));
        let Some((first, _, role)) = matching.next() else { return Ok(None) };
        match matching.find(|(_, _, other)| other != role) {
            None => Ok(Some(*role)),
            Some((second, _, other)) => Err(FolderError::Unfit(format!(
                "`{name}` is `{role}` by `{first}` and `{other}` by `{second}`: name it in full, which counts first"
            ))),
        }
    }
}

/// The role that `word` names.
pub fn role(word: &str) -> Option<Role> {
    serde_json::from_value(serde_json::Value::String(word.to_owned())).ok()
}

fn not_foreign(name: &str) -> Result<(), FolderError> {
    let lower = name.to_lowercase();
    match FOREIGN.iter().find(|word| lower.contains(**word)) {
        None => Ok(()),
        Some(word) => Err(FolderError::Unfit(format!(
            "`{name}` looks like optimiser state or data (`{word}`): Flair takes the model's own tensors only. Save \
             `model.state_dict()` without it"
        ))),
    }
}

/// The side files of the model in `root`, by name, with their paths.
///
/// # Errors
/// A `config.json` that would run code elsewhere.
pub fn side_files(root: &Path) -> Result<Vec<(String, PathBuf)>, FolderError> {
    let mut found = Vec::new();
    for name in SIDE_FILES {
        let path = root.join(name);
        if !path.is_file() {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap_or_default();
        if path.extension().is_some_and(|extension| extension == "json") && text.contains("\"auto_map\"") {
            let why =
                "names code to run (`auto_map`), and code never travels with a model: remove it".to_owned();
            return Err(FolderError::File { file: (*name).to_owned(), why });
        }
        found.push(((*name).to_owned(), path));
    }
    Ok(found)
}

/// Remembers the ids of a file's tensors as long as size, times and inode stay the same.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Cache {
    files: BTreeMap<String, (Stamp, Vec<Scanned>)>,
}

/// A file written to within this long of being scanned is not remembered: its times could stay the same over
/// another write.
const RACY_NANOS: i128 = 2_000_000_000;

impl Cache {
    /// The folder's cache; empty when there is none or it can't be read.
    pub fn load(folder: &Folder) -> Self {
        let text = fs::read(folder.mark("cache.json")).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Writes the cache. It can be done without: a failure is not an error.
    pub fn save(&self, folder: &Folder) {
        if let Ok(text) = serde_json::to_vec(self) {
            let path = folder.mark("cache.json");
            if let Err(error) = super::write::replace(&path, |out| std::io::Write::write_all(out, &text)) {
                tracing::debug!(%error, "the cache of file hashes was not written");
            }
        }
    }

    fn get(&self, file: &ModelFile) -> Option<Vec<Scanned>> {
        let (stamp, scanned) = self.files.get(file.name())?;
        (*stamp == file.stamp() && scanned.len() == file.header().tensors().len()).then(|| scanned.clone())
    }

    fn put(&mut self, file: &ModelFile, scanned: &[Scanned]) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_nanos().cast_signed());
        if now - file.stamp().changed > RACY_NANOS {
            self.files.insert(file.name().to_owned(), (file.stamp(), scanned.to_vec()));
        } else {
            self.files.remove(file.name());
        }
    }
}
