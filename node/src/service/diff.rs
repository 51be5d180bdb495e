//! How two models differ.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use flair_aggregation::diff::{Change, Comparison};
use flair_protocol::id::ModelId;
use flair_protocol::model::{Manifest, Tensor};
use flair_protocol::state::State;

use super::local::{self, Files, blocking};
use super::{Service, find_commit, model_of};
use crate::api::types::{Diff, DiffRequest, DiffTotal, Problem, TensorDiff};
use crate::folder::Folder;
use crate::folder::layout::Local;
use crate::repository::Repository;
use crate::store::{Store, TensorReader};

/// Where the numbers of a tensor are.
enum Numbers {
    Stored(TensorReader),
    /// A place in the folder's files.
    Local(Arc<Local>, (usize, usize)),
}

impl Numbers {
    fn block(&self, index: u64, out: &mut Vec<u8>) -> Result<(), Problem> {
        match self {
            Self::Stored(reader) => Ok(reader.block(index, out)?),
            Self::Local(local, (file, place)) => {
                out.clear();
                match local.files().get(*file) {
                    Some(file) => Ok(file.block(*place, index, out)?),
                    None => Err(Problem::internal("a file of the folder is not open")),
                }
            }
        }
    }
}

/// The second model of a comparison.
struct Other {
    name: String,
    manifest: Manifest,
    /// The folder's files, where they are what is compared.
    files: Option<Files>,
}

impl Service {
    /// How two models differ. Only the tensors that differ are read, a block at a time.
    ///
    /// # Errors
    /// A model that is not here.
    pub async fn diff(&self, request: DiffRequest) -> Result<Diff, Problem> {
        let (repository, folder) = self.locate(&request.place).await?;
        let state = repository.state().await;
        let hub = &self.hub;
        let unnamed = || Problem::invalid("which models? Name two commits, or go to a working folder");
        let (a_name, a) = match (&request.a, &folder) {
            (Some(text), folder) => named_model(&repository, &state, folder.as_ref(), text)?,
            (None, Some(folder)) => (format!("base {}", folder.state.base.short()), folder.state.base_model),
            (None, None) => return Err(unnamed()),
        };
        let a = local::manifest(hub, a).await?;
        let b = match (&request.b, &folder) {
            (Some(text), folder) => {
                let (name, model) = named_model(&repository, &state, folder.as_ref(), text)?;
                Other { name, manifest: local::manifest(hub, model).await?, files: None }
            }
            (None, Some(folder)) => {
                let files = Files::read(folder, &a, false).await?;
                let manifest = files.manifest(&a);
                Other { name: "the folder's files".to_owned(), manifest, files: Some(files) }
            }
            (None, None) => return Err(unnamed()),
        };
        let (store, threads) = (hub.store.clone(), hub.config.threads.get());
        let rows = blocking(move || compare(&store, threads, &a, &b, a_name)).await?;
        Ok(rows)
    }
}

/// L2 norm of the difference of two stored models, over what both have.
pub(super) fn distance(store: &Store, threads: usize, a: &Manifest, b: &Manifest) -> Result<f64, Problem> {
    let other = Other { name: String::new(), manifest: b.clone(), files: None };
    let diff = compare(store, threads, a, &other, String::new())?;
    Ok(diff.total.map_or(0.0, |total| total.l2))
}

/// Compares what both have under one name, with one type and shape.
fn compare(store: &Store, threads: usize, a: &Manifest, b: &Other, a_name: String) -> Result<Diff, Problem> {
    let mut others: BTreeMap<&str, (usize, &Tensor)> = b
        .manifest
        .tensors()
        .enumerate()
        .map(|(place, tensor)| (tensor.name.as_str(), (place, tensor)))
        .collect();
    let mut diff = Diff {
        a: a_name,
        b: b.name.clone(),
        rows: Vec::new(),
        same: 0,
        total: None,
        only_a: Vec::new(),
        only_b: Vec::new(),
        reshaped: Vec::new(),
        incompatible: None,
    };
    let mut pairs = Vec::new();
    let mut count = 0;
    for old in a.tensors() {
        let Some((place, new)) = others.remove(old.name.as_str()) else {
            diff.only_a.push(old.name.clone());
            continue;
        };
        if (old.dtype, &old.shape) != (new.dtype, &new.shape) {
            diff.reshaped.push(format!(
                "`{}` has dtype {} and shape {:?}, the other {} and {:?}",
                old.name, old.dtype, old.shape, new.dtype, new.shape
            ));
            continue;
        }
        count += old.length / old.dtype.size() as u64;
        if old.tensor == new.tensor {
            diff.same += 1;
            continue;
        }
        let from = Numbers::Stored(store.tensor(old.tensor)?);
        let to = match &b.files {
            None => Numbers::Stored(store.tensor(new.tensor)?),
            Some(files) => {
                let place = files.layout.place(place);
                let place = place.ok_or_else(|| Problem::internal("a tensor of the folder has no place"))?;
                Numbers::Local(files.local.clone(), place)
            }
        };
        pairs.push((old, from, to));
    }
    diff.only_b = others.into_keys().map(str::to_owned).collect();
    diff.incompatible = diff.reshaped.first().cloned().or_else(|| {
        diff.only_a.iter().chain(&diff.only_b).next().map(|name| format!("only one has `{name}`"))
    });

    let changes = each(threads, &pairs, |(tensor, from, to)| {
        let mut comparison = Comparison::new(tensor.dtype);
        let (mut old, mut new) = (Vec::new(), Vec::new());
        for index in 0..flair_tensors::block::blocks(tensor.length) {
            from.block(index, &mut old)?;
            to.block(index, &mut new)?;
            comparison.push(&old, &new);
        }
        Ok(comparison.finish())
    })?;
    if let Some(files) = &b.files {
        files.local.unchanged()?;
    }
    let mut all = Change::default();
    for ((tensor, ..), change) in pairs.iter().zip(changes) {
        all = all.with(change);
        diff.rows.push(TensorDiff {
            name: tensor.name.clone(),
            dtype: tensor.dtype.to_string().to_lowercase(),
            shape: tensor.shape.clone(),
            l2: change.distance(),
            relative: Some(change.relative()).filter(|relative| relative.is_finite()),
            cosine: change.cosine(),
            max: change.largest,
            changed: change.share_changed(),
            not_finite: change.not_finite,
        });
    }
    if !diff.rows.is_empty() {
        let changed = all.changed as f64 / count.max(1) as f64;
        diff.total = Some(DiffTotal { l2: all.distance(), max: all.largest, changed });
    }
    Ok(diff)
}

/// What `work` gives for each item, in order, with so many threads.
fn each<T: Sync, R: Send>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R, Problem> + Sync,
) -> Result<Vec<R>, Problem> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(BTreeMap::new());
    let failed = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(place) else { return };
                    match work(item) {
                        Ok(result) => {
                            done.lock().unwrap_or_else(PoisonError::into_inner).insert(place, result);
                        }
                        Err(problem) => {
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(problem);
                            next.store(items.len(), Ordering::Relaxed);
                        }
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(problem) => Err(problem),
        None => Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()),
    }
}

/// The model that `text` names: a draft, a branch or a commit.
pub(super) fn named_model(
    repository: &Repository,
    state: &State,
    folder: Option<&Folder>,
    text: &str,
) -> Result<(String, ModelId), Problem> {
    let drafts = folder.map(|folder| folder.state.drafts.as_slice()).unwrap_or_default();
    if let Some(draft) = drafts.iter().find(|draft| text.len() >= 4 && draft.id.to_string().starts_with(text))
    {
        return Ok((format!("draft {}", draft.id.short()), draft.model));
    }
    let commit = find_commit(state, text)?;
    if !repository.shelf().holds(commit) {
        return Err(Problem::missing(format!("the model of {} is not here yet", commit.short()))
            .help("`flair fetch` gets it while the node runs and a peer has it"));
    }
    let model = model_of(repository, state, commit)
        .ok_or_else(|| Problem::internal("a held commit without a model"))?;
    Ok((commit.short(), model))
}
