//! An adapter merged into the model that it was trained on: W + s · BA for each LoRA pair.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flair_protocol::limits;
use flair_protocol::model::{Manifest, Tensor};
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;
use serde::Deserialize;

use super::local::blocking;
use crate::api::types::Problem;
use crate::folder::layout::{Local, side_files};
use crate::folder::write::{self, Staged};
use crate::folder::{at, cast};
use crate::store::Store;

/// What PEFT puts before the names of the model that an adapter belongs to.
const PREFIX: &str = "base_model.model.";
/// PEFT's description of an adapter.
const CONFIG: &str = "adapter_config.json";
/// The most bytes of a weight that are in memory at once.
const PIECE: usize = 1 << 20;

/// What is needed of PEFT's description.
#[derive(Debug, Deserialize)]
struct Config {
    peft_type: String,
    r: u32,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    #[serde(default)]
    rank_pattern: BTreeMap<String, u32>,
    #[serde(default)]
    alpha_pattern: BTreeMap<String, f64>,
}

/// A low-rank pair, in memory: it is small beside what it is added to.
struct Pair {
    /// r × in, row by row.
    a: Vec<f64>,
    /// out × r, row by row.
    b: Vec<f64>,
    rank: usize,
    rows: usize,
    columns: usize,
    /// Whether the weight has a row for each column of BA.
    turned: bool,
}

/// What becomes of a tensor of the base.
enum Change {
    Add(Pair),
    Replace(Vec<f64>),
}

/// The scale s of the pairs, and whether weights are kept with inputs first.
fn scale(config: &[u8]) -> Result<(f64, bool), Problem> {
    let unfit = |why: String| {
        Problem::invalid(format!("the adapter can't be merged here: {why}"))
            .help("PEFT can: `model.merge_and_unload()`")
    };
    let config: Config =
        serde_json::from_slice(config).map_err(|error| unfit(format!("its {CONFIG}: {error}")))?;
    if config.peft_type != "LORA" {
        return Err(unfit(format!("it is of PEFT's type {}", config.peft_type)));
    }
    if config.use_dora {
        return Err(unfit("it is a DoRA adapter".into()));
    }
    if !config.rank_pattern.is_empty() || !config.alpha_pattern.is_empty() {
        return Err(unfit("its layers have ranks or alphas of their own".into()));
    }
    let rank = f64::from(config.r.max(1));
    let by = if config.use_rslora { rank.sqrt() } else { rank };
    Ok((config.lora_alpha / by, config.fan_in_fan_out))
}

/// Stages the files of `base` with the adapter of this manifest in them, and its side files, in `root`; names what is
/// written. Blocking.
///
/// # Errors
/// An adapter of another kind, a base that has not its layers, what the store or the operating system refuses.
fn stage(
    store: &Store,
    adapter: &Manifest,
    config: &[u8],
    base: &Path,
    root: &Path,
) -> Result<Vec<(String, Staged)>, Problem> {
    let (scale, turned) = scale(config)?;
    let local = Local::discover(base)?;
    let mut changes = changes(store, adapter, turned)?;
    let mut staged = Vec::new();
    for file in local.files() {
        let path = root.join(file.name());
        let written = write::stage::<Problem>(&path, |out| {
            let io = |error| Problem::from(at(&path, error));
            out.write_all(file.header().bytes()).map_err(io)?;
            let mut bytes = Vec::new();
            let mut order: Vec<usize> = (0..file.header().tensors().len()).collect();
            order.sort_by_key(|place| file.header().tensors().get(*place).map(|info| info.start));
            for place in order {
                let Some(info) = file.header().tensors().get(place) else { continue };
                let change = changes.remove(&info.name);
                let width = info.shape.last().map_or(1, |width| usize::try_from(*width).unwrap_or(1)).max(1);
                if let Some(change) = &change {
                    fits(&info.name, info.dtype, &info.shape, change)?;
                }
                // Whole rows, so that a row is computed once.
                let row = width * info.dtype.size();
                let piece = (PIECE / row.max(1)).max(1) * row.max(1);
                let length = usize::try_from(info.end - info.start).map_err(Problem::internal)?;
                for start in (0..length).step_by(piece) {
                    bytes.resize(piece.min(length - start), 0);
                    file.read(place, start as u64, &mut bytes)?;
                    if let Some(change) = &change {
                        change.apply(info.dtype, start / info.dtype.size(), width, scale, &mut bytes);
                    }
                    out.write_all(&bytes).map_err(io)?;
                }
            }
            Ok(())
        })?;
        staged.push((file.name().to_owned(), written));
    }
    if let Some(name) = changes.keys().next() {
        return Err(Problem::invalid(format!(
            "{} has no tensor `{name}`, to which the adapter adds",
            base.display()
        ))
        .help("name the model that the adapter was trained on"));
    }
    local.unchanged()?;
    let side = if base.is_dir() { side_files(base)? } else { Vec::new() };
    for (name, from) in side.into_iter().filter(|(name, _)| name != CONFIG) {
        let text = std::fs::read(&from).map_err(|error| at(&from, error))?;
        let path = root.join(&name);
        let written = write::stage::<Problem>(&path, |out| {
            out.write_all(&text).map_err(|error| at(&path, error).into())
        })?;
        staged.push((name, written));
    }
    Ok(staged)
}

/// What the adapter's tensors do to the base's, by the base's names.
fn changes(store: &Store, adapter: &Manifest, turned: bool) -> Result<BTreeMap<String, Change>, Problem> {
    let names: BTreeSet<&str> = adapter.tensors().map(|tensor| tensor.name.as_str()).collect();
    let by_name: BTreeMap<&str, &Tensor> =
        adapter.tensors().map(|tensor| (tensor.name.as_str(), tensor)).collect();
    let mut changes = BTreeMap::new();
    for tensor in adapter.tensors() {
        let bare = tensor.name.strip_prefix(PREFIX).unwrap_or(&tensor.name);
        match Role::pair(&tensor.name, &names) {
            Some((Role::LoraA, other)) => {
                let Some(second) = by_name.get(other.as_str()) else { continue };
                let (layer, embedding) = match bare.split_once(".lora_embedding_A") {
                    Some((layer, _)) => (layer, true),
                    None => (bare.split_once(".lora_A").map_or(bare, |(layer, _)| layer), false),
                };
                let pair = Pair::read(store, tensor, second, embedding || turned)?;
                changes.insert(format!("{layer}.weight"), Change::Add(pair));
            }
            Some(_) => {}
            None => {
                changes.insert(bare.to_owned(), Change::Replace(values(store, tensor)?));
            }
        }
    }
    Ok(changes)
}

/// A tensor's numbers.
fn values(store: &Store, tensor: &Tensor) -> Result<Vec<f64>, Problem> {
    if !cast::possible(tensor.dtype, DType::F64) {
        return Err(Problem::invalid(format!(
            "`{}` is {}, which can't be merged",
            tensor.name, tensor.dtype
        )));
    }
    let mut bytes = vec![0; usize::try_from(tensor.length).map_err(Problem::internal)?];
    store.tensor(tensor.tensor)?.read(0, &mut bytes)?;
    Ok(bytes.chunks_exact(tensor.dtype.size()).map(|bytes| cast::read(tensor.dtype, bytes)).collect())
}

impl Pair {
    fn read(store: &Store, a: &Tensor, b: &Tensor, turned: bool) -> Result<Self, Problem> {
        let ([rank, columns], [rows, same]) = (a.shape.as_slice(), b.shape.as_slice()) else {
            return Err(Problem::invalid(format!("`{}` is no matrix, and can't be merged here", a.name))
                .help("PEFT can: `model.merge_and_unload()`"));
        };
        if rank != same {
            return Err(Problem::invalid(format!("`{}` and `{}` do not fit each other", a.name, b.name)));
        }
        let size = |side: &u64| usize::try_from(*side).map_err(Problem::internal);
        let (rank, rows, columns) = (size(rank)?, size(rows)?, size(columns)?);
        Ok(Self { a: values(store, a)?, b: values(store, b)?, rank, rows, columns, turned })
    }

    /// The shape of what it is added to.
    fn shape(&self) -> [u64; 2] {
        let (rows, columns) = (self.rows as u64, self.columns as u64);
        if self.turned { [columns, rows] } else { [rows, columns] }
    }

    /// One entry of BA, by its place in the weight.
    fn at(&self, row: usize, column: usize) -> f64 {
        let (row, column) = if self.turned { (column, row) } else { (row, column) };
        (0..self.rank)
            .fold(0.0, |sum, k| sum + self.b[row * self.rank + k] * self.a[k * self.columns + column])
    }
}

impl Change {
    /// Changes a piece of a tensor that begins with element `first`.
    fn apply(&self, dtype: DType, first: usize, width: usize, scale: f64, bytes: &mut [u8]) {
        let size = dtype.size();
        for (index, element) in bytes.chunks_exact_mut(size).enumerate() {
            let place = first + index;
            let value = match self {
                Self::Add(pair) => cast::read(dtype, element) + scale * pair.at(place / width, place % width),
                Self::Replace(values) => values[place],
            };
            cast::convert(DType::F64, dtype, &value.to_le_bytes(), element);
        }
    }
}

/// Refuses a base that is another model.
fn fits(name: &str, dtype: DType, shape: &[u64], change: &Change) -> Result<(), Problem> {
    let same = match change {
        Change::Add(pair) => shape == pair.shape(),
        Change::Replace(values) => shape.iter().product::<u64>() == values.len() as u64,
    };
    if !same {
        return Err(Problem::invalid(format!(
            "`{name}` has the shape {shape:?} in the base, which the adapter's does not fit"
        )));
    }
    if !cast::possible(DType::F64, dtype) {
        return Err(Problem::invalid(format!(
            "`{name}` is {dtype} in the base, to which nothing can be added"
        )));
    }
    Ok(())
}

/// Writes a base with an adapter in it.
///
/// # Errors
/// As [`stage`]; a model that is no adapter of PEFT's.
pub(super) async fn merge(
    store: &Store,
    adapter: Manifest,
    base: PathBuf,
    root: PathBuf,
    force: bool,
) -> Result<Vec<String>, Problem> {
    let described = adapter.side.iter().find(|side| side.name == CONFIG);
    let Some(described) = described.filter(|_| adapter.tensors().any(|tensor| tensor.role == Role::LoraA))
    else {
        return Err(Problem::invalid(format!(
            "the commit is no adapter: it has no LoRA pairs with an {CONFIG}"
        ))
        .help("without `--onto` its files are written as they are"));
    };
    let config = store.read_all(described.blob, limits::SIDE_FILE).await?;
    let store = store.clone();
    blocking(move || {
        std::fs::create_dir_all(&root).map_err(|error| at(&root, error))?;
        let staged = stage(&store, &adapter, &config, &base, &root)?;
        if let Some((taken, _)) = staged.iter().find(|(name, _)| !force && root.join(name).exists()) {
            return Err(Problem::conflict(format!("{} exists already", root.join(taken).display()))
                .help("name another place with `-o`, or replace it with `--force`"));
        }
        staged
            .into_iter()
            .map(|(name, file)| {
                file.persist()?;
                Ok(name)
            })
            .collect()
    })
    .await
}
