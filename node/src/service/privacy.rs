//! Drafts with differential privacy: what training changed is clipped and noised before anything else sees it.

mod claim;
mod spent;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use flair_aggregation::kernel::float::Float;
use flair_aggregation::privacy::{Gaussian, Noise};
use flair_protocol::id::TensorId;
use flair_protocol::model::Manifest;

use super::local::{self, Files, blocking};
use super::{Service, publish, views};
use crate::api::types::{CommitRequest, Committed, Dp, PrivateDraft, Problem};
use crate::evaluate;
use crate::folder::layout::Local;
use crate::folder::{DraftRecord, Folder, Private, at};
use crate::home::{Decimal, Limits, random};
use crate::privacy::{Change, Clean, Noised, epsilon, is_noised, mu, upwards};
use crate::repository::{Repository, wall};

pub(super) use claim::{claimed, combined, mixed, read, said, stated};

/// A tensor of fewer bytes may have the same numbers by chance: it alone does not tell a model.
const TELLING: u64 = 256;

/// Clip and noise as they were asked for.
struct Asked {
    clip: Decimal,
    noise: Decimal,
    gaussian: Gaussian,
}

impl Asked {
    fn read(dp: &Dp) -> Result<Self, Problem> {
        let number = |name: &str, text: &str| {
            Decimal::parse(text).map_err(|why| Problem::invalid(format!("`--dp {name}={text}`: {why}")))
        };
        let (clip, noise) = (number("clip", &dp.clip)?, number("noise", &dp.noise)?);
        let gaussian = Gaussian::new(clip.value(), noise.value())
            .map_err(|error| Problem::invalid(format!("`--dp`: {error}")))?;
        Ok(Self { clip, noise, gaussian })
    }
}

impl Service {
    /// What counts here, by the settings as they are now.
    fn limits(&self, repository: &Repository, folder: Option<&Folder>) -> Result<Limits, Problem> {
        let mut limits = self.hub.home.config()?.privacy.of(&repository.id().to_string());
        if let Some(folder) = folder {
            limits.require |= evaluate::requires_privacy(folder.root())?;
        }
        Ok(limits)
    }

    /// Refuses to draft or publish a model as training left it where that is not wanted, or would follow a noised one.
    pub(super) async fn may_be_clean(
        &self,
        repository: &Repository,
        folder: &Folder,
        tensors: impl IntoIterator<Item = (String, TensorId)>,
        base: &Manifest,
    ) -> Result<(), Problem> {
        if self.limits(repository, Some(folder))?.require {
            return Err(Problem::denied(
                "this repository's updates need differential privacy: `[privacy] require` is set",
            )
            .help("commit with `--dp clip=…,noise=…`; the setting is in the home's `config.toml`, or the folder's"));
        }
        let (home, repo) = (self.hub.home.clone(), repository.id());
        let clean = blocking(move || Clean::open(&home, repo)).await?;
        let public: BTreeSet<TensorId> = base.tensors().map(|tensor| tensor.tensor).collect();
        let mut tensors = tensors.into_iter();
        match tensors.find(|(_, tensor)| clean.has(*tensor) && !public.contains(tensor)) {
            None => Ok(()),
            Some((name, _)) => Err(Problem::denied(format!(
                "`{name}` holds the weights that a commit with `--dp` was made from: published, they would undo its noise"
            ))
            .help("`flair restore` sets the files back; or commit with `--dp` again, which spends again")),
        }
    }

    /// Makes a draft of the folder's files with differential privacy. The folder holds the noised model afterwards.
    ///
    /// # Errors
    /// As a commit, and a budget that would be passed.
    pub(super) async fn commit_private(&self, request: CommitRequest, dp: &Dp) -> Result<Committed, Problem> {
        let (repository, mut folder) = self.work(&request.place).await?;
        if request.claim.is_some() {
            return Err(Problem::invalid(
                "noise before the commit and a claim about training are two things, and an update claims one",
            )
            .help("commit with one of them"));
        }
        let hub = &self.hub;
        let asked = Asked::read(dp)?;
        let state = repository.state().await;
        let limits = self.limits(&repository, Some(&folder))?;
        let tip = local::manifest(hub, folder.tip()).await?;
        let base = local::manifest(hub, folder.state.base_model).await?;
        let chained = claim::chained(&folder.state.drafts, &asked)?;
        let from = if chained { &tip } else { &base };
        let files = Files::read(&folder, &tip, request.cast).await?;
        files.finite(&tip)?;
        own_names(&files.local, &tip)?;
        if let Some(path) = &dp.keep_clean
            && path.exists()
        {
            return Err(Problem::conflict(format!("{} exists already", path.display()))
                .help("`--keep-clean` makes a new folder for the trained files"));
        }
        let parts = Parts::of(&files, from)?;
        let mut record = private_record(&request, &folder, &asked, &limits, chained)?;
        record.changed = parts.noised;
        // What could not be published is refused before anything is spent.
        let drafts = [folder.state.drafts.as_slice(), std::slice::from_ref(&record)].concat();
        let drafts = if chained { drafts.as_slice() } else { std::slice::from_ref(&record) };
        publish::squash(&folder, &state, self, drafts)?.validate()?;

        let change =
            Change::new(hub.store.clone(), hub.config.threads, from, files.local.clone(), &files.layout)?;
        let gaussian = asked.gaussian;
        let (change, norm, factor) = blocking(move || {
            let norm = change.norm()?;
            if !norm.is_finite() {
                return Err(Problem::invalid("the change is too large to be measured: training diverged"));
            }
            let factor = change.factor(gaussian, norm)?;
            Ok((change, norm, factor))
        })
        .await?;
        files.local.unchanged()?;

        let noise = Noise::new(random()?);
        let mut clean = parts.clean;
        if !chained {
            for draft in &folder.state.drafts {
                let drafted = local::manifest(hub, draft.model).await?;
                clean.extend(differing(&drafted, &base));
            }
        }
        // Before anything is spent: a folder that can't be written must not cost.
        if let Some(path) = dp.keep_clean.clone() {
            let local = files.local.clone();
            blocking(move || keep(&local, &path)).await?;
        }
        let (number, spent) = match self.spend(&repository, &state, &folder, &asked, &limits, clean).await {
            Ok(spent) => spent,
            Err(problem) => {
                if let Some(path) = &dp.keep_clean {
                    // It was made a moment ago, and the trained files are still in the folder.
                    let _ = fs::remove_dir_all(path);
                }
                return Err(problem);
            }
        };
        if let Some(private) = &mut record.privacy {
            private.releases = vec![number];
        }

        let hold = hub.store.hold();
        let source = Noised::new(change, gaussian, factor, noise);
        let (model, packed) = local::pack_from(hub, &hold, from, &base, source).await?;
        files.local.unchanged()?;
        record.model = model;
        record.pack = packed.root;
        record.blobs = local::sizes(hub, &packed.blobs).await?;
        record.id = DraftRecord::name(model, record.time, &record.message);
        publish::note_draft(&repository, &record).await?;
        let mut next = folder.state.clone();
        let replaced = if chained { Vec::new() } else { std::mem::take(&mut next.drafts) };
        let draft = views::draft(&record);
        next.drafts.push(record);
        files.keep_own(&folder, &tip).await?;
        self.write_files(&mut folder, model, next).await?;
        self.drop_drafts(&repository, &replaced).await?;
        let mut warnings = publish::warnings(request.examples, request.steps);
        warnings.extend(in_the_clear(&request));
        if spent.budget.is_none() {
            warnings.push(
                "no budget is set: `[privacy] epsilon` in `config.toml` bounds what is spent".to_owned(),
            );
        }
        if !replaced.is_empty()
            && let Err(error) = hub.store.sweep().await
        {
            warnings.push(format!(
                "the drafts before are not wiped from the store yet ({error}): `flair gc` does it"
            ));
        }
        warnings.extend(local::side_changes(&folder, &tip).await?);
        let privacy = PrivateDraft {
            norm,
            factor,
            deviation: asked.clip.value() * asked.noise.value(),
            numbers: parts.numbers,
            epsilon: upwards(epsilon(mu(&asked.noise), &limits.delta)),
            kept: parts.kept,
            spent,
        };
        Ok(Committed { draft, total: from.tensors().count() as u64, privacy: Some(privacy), warnings })
    }
}

/// The draft as far as it is known before the noise: it takes the place of drafts that are not noised.
fn private_record(
    request: &CommitRequest,
    folder: &Folder,
    asked: &Asked,
    limits: &Limits,
    chained: bool,
) -> Result<DraftRecord, Problem> {
    let before = if chained { &[][..] } else { folder.state.drafts.as_slice() };
    let mut record = DraftRecord {
        id: flair_tensors::Digest::of(&[]),
        model: folder.state.base_model,
        pack: flair_tensors::Digest::of(&[]),
        blobs: Vec::new(),
        message: request.message.clone(),
        training: publish::said(request),
        metrics: publish::measured(request)?,
        privacy: Some(Private {
            clip: asked.clip.clone(),
            noise: asked.noise.clone(),
            delta: limits.delta.clone(),
            releases: vec![0],
        }),
        claim: None,
        changed: 0,
        time: wall(),
        step: None,
        side: Vec::new(),
    };
    let all = [before, std::slice::from_ref(&record)].concat();
    record.training = publish::training(&all);
    record.message = publish::messages(&all);
    Ok(record)
}

/// Tensors of the folder's files, sorted by what becomes of them.
struct Parts {
    /// How many are noised, and the numbers in them.
    noised: u64,
    numbers: u64,
    /// Names of those that training changed and that keep their value all the same.
    kept: Vec<String>,
    /// What must not be published.
    clean: BTreeSet<TensorId>,
}

impl Parts {
    fn of(files: &Files, from: &Manifest) -> Result<Self, Problem> {
        let mut parts = Self { noised: 0, numbers: 0, kept: Vec::new(), clean: BTreeSet::new() };
        let mut touched = false;
        for (position, (tensor, scanned)) in from.tensors().zip(&files.scanned).enumerate() {
            let changed = files.dtype(position) != Some(tensor.dtype) || scanned.tensor != tensor.tensor;
            if is_noised(tensor.role, Float::of(tensor.dtype)) {
                parts.noised += 1;
                parts.numbers += tensor.length / tensor.dtype.size() as u64;
                touched |= changed;
                if changed && tensor.length >= TELLING {
                    parts.clean.insert(scanned.tensor);
                }
            } else if tensor.role == flair_tensors::role::Role::Local {
                // No commit has what it is here.
            } else if changed && tensor.role.is_fixed() {
                return Err(publish::must_stay(tensor));
            } else if changed {
                parts.kept.push(tensor.name.clone());
            }
        }
        if !touched {
            return Err(Problem::conflict(
                "nothing to commit: training changed no weights, so there is nothing to make private",
            ));
        }
        Ok(parts)
    }
}

/// Tensors of a model that another one does not have, as far as they tell which model it is.
fn differing(model: &Manifest, base: &Manifest) -> Vec<TensorId> {
    let pairs = model.tensors().zip(base.tensors());
    let telling = pairs.filter(|(new, old)| new.tensor != old.tensor && new.length >= TELLING);
    telling.filter(|(new, _)| is_noised(new.role, Float::of(new.dtype))).map(|(new, _)| new.tensor).collect()
}

/// Refuses files under other names than the branch's: they would stay beside the noised ones.
fn own_names(local: &Local, model: &Manifest) -> Result<(), Problem> {
    let other = local.files().iter().find(|file| model.files.iter().all(|own| own.name != file.name()));
    match other {
        None => Ok(()),
        Some(file) => Err(Problem::invalid(format!(
            "`{}` is not a file of the branch: with `--dp` the trained weights would stay in it",
            file.name()
        ))
        .help("save the model under the branch's own file names")),
    }
}

/// What leaves beside the noised model, as it was said.
pub(super) fn in_the_clear(request: &CommitRequest) -> Option<String> {
    let said = [
        (request.examples.is_some(), "the number of examples"),
        (request.steps.is_some(), "steps"),
        (request.epochs.is_some(), "epochs"),
        (request.seed.is_some(), "the seed"),
        (!request.metrics.is_empty(), "metrics"),
        (!request.message.is_empty(), "the message"),
    ];
    let said: Vec<&str> = said.into_iter().filter_map(|(is, what)| is.then_some(what)).collect();
    (!said.is_empty())
        .then(|| format!("published as said, and not covered by the privacy claim: {}", said.join(", ")))
}

/// Copies the trained files to a new folder.
fn keep(local: &Local, path: &Path) -> Result<(), Problem> {
    let parent = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| at(parent, error))?;
    // One that is there by now is somebody else's.
    fs::create_dir(path).map_err(|error| at(path, error))?;
    for file in local.files() {
        let to: PathBuf = path.join(file.name());
        let copy = || fs::copy(file.path(), &to).and_then(|_| fs::File::open(&to)?.sync_all());
        copy().map_err(|error| at(&to, error))?;
    }
    fs::File::open(path).and_then(|folder| folder.sync_all()).map_err(|error| Problem::from(at(path, error)))
}
