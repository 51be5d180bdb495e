//! Drafts that become steps of a branch: models made outside Flair, and migrations.

use std::collections::{BTreeMap, BTreeSet};

use flair_protocol::commit::{Change, Commit, Described, External, Step, Training};
use flair_protocol::id::Digest;
use flair_protocol::model::Manifest;
use flair_protocol::state::State;

use crate::api::types::{CommitRequest, Committed, Problem};
use crate::folder::{DraftRecord, Folder, StepDraft};
use crate::repository::{Repository, wall};
use crate::service::local::{self, Files};
use crate::service::publish::note_draft;
use crate::service::{Service, find_commit, views};

impl Service {
    /// What a commit is to be, if no update.
    pub(in crate::service) async fn step_draft(
        &self,
        repository: &Repository,
        folder: &Folder,
        request: &CommitRequest,
    ) -> Result<Option<StepDraft>, Problem> {
        let step = match (&request.external, request.migrate) {
            (None, false) => return Ok(None),
            (Some(_), true) => {
                return Err(Problem::invalid(
                    "a commit is either a migration or made outside Flair, not both",
                ));
            }
            _ if request.dp.is_some() || request.claim.is_some() => {
                return Err(Problem::invalid(
                    "privacy is claimed of an update, not of a migration or of what was made outside Flair",
                ));
            }
            (None, true) => StepDraft::Migrate,
            (Some(external), false) => {
                let state = repository.state().await;
                let mut inputs = BTreeSet::new();
                for text in &external.inputs {
                    inputs.insert(find_commit(&state, text)?);
                }
                let inputs = inputs.into_iter().collect();
                StepDraft::External { engine: external.engine.clone(), inputs }
            }
        };
        if !folder.state.drafts.is_empty() {
            return Err(Problem::conflict("there are drafts, and such a commit stands alone")
                .help("`flair push` publishes them, `flair reset` undoes them"));
        }
        Ok(Some(step))
    }

    /// Makes a draft of the folder that becomes a step.
    pub(in crate::service) async fn commit_step(
        &self,
        repository: &Repository,
        folder: &mut Folder,
        request: CommitRequest,
        step: StepDraft,
    ) -> Result<Committed, Problem> {
        let hub = &self.hub;
        let state = repository.state().await;
        let before = local::manifest(hub, folder.state.base_model).await?;
        let hold = hub.store.hold();
        let (manifest, model, packed) = match &step {
            StepDraft::Migrate => {
                let (mut like, mut files) =
                    local::discover(hub, &hold, folder.root(), BTreeMap::new()).await?;
                keep_roles(&mut like, &before);
                files.stay(&like, &before);
                files.keep_own(folder, &like).await?;
                local::pack(hub, &hold, &files, &like, None).await?
            }
            StepDraft::External { .. } => {
                let files = Files::read(folder, &before, request.cast).await?;
                files.finite(&before)?;
                files.keep_own(folder, &before).await?;
                let base = match state.base_after(folder.state.base) {
                    None => None,
                    Some(base) => {
                        let absent =
                            || Problem::missing(format!("the model of {} is not here", base.short()));
                        let held = repository.shelf().held(base).ok_or_else(absent)?;
                        Some(local::manifest(hub, held.model).await?)
                    }
                };
                local::pack(hub, &hold, &files, &before, base.as_ref()).await?
            }
        };
        if manifest == before {
            return Err(Problem::conflict("nothing to commit: the files hold the same model as before"));
        }
        if step == StepDraft::Migrate && alike(&manifest, &before)? {
            return Err(Problem::conflict(
                "only numbers changed, which an update can say: that is no migration",
            )
            .help("commit without `--migrate`"));
        }
        let tensors = manifest.tensors().map(|tensor| (tensor.name.clone(), tensor.tensor));
        self.may_be_clean(repository, folder, tensors, &before).await?;
        let old: BTreeSet<_> = before.tensors().map(|tensor| tensor.tensor).collect();
        let known: BTreeSet<Digest> = before.side.iter().map(|side| side.blob).collect();
        let time = wall();
        let record = DraftRecord {
            id: DraftRecord::name(model, time, &request.message),
            model,
            pack: packed.root,
            blobs: local::sizes(hub, &packed.blobs).await?,
            message: request.message,
            training: Training::default(),
            metrics: Vec::new(),
            privacy: None,
            claim: None,
            changed: manifest.tensors().filter(|tensor| !old.contains(&tensor.tensor)).count() as u64,
            time,
            step: Some(step.clone()),
            side: manifest.side.iter().map(|side| side.blob).filter(|blob| !known.contains(blob)).collect(),
        };
        // What could not be published is refused now.
        self.step_of(&state, folder, &step, &record, &manifest)?.validate()?;
        note_draft(repository, &record).await?;
        let draft = views::draft(&record);
        folder.state.drafts.push(record);
        folder.save()?;
        let mut warnings = Vec::new();
        if step == StepDraft::Migrate && manifest.architecture()? != before.architecture()? {
            let pending = state.branches.get(&folder.state.branch).map_or(0, |branch| branch.pending.len());
            warnings.push(format!(
                "updates on the old architecture can't be aggregated any more, among them {pending} that are pending: \
                 their authors are told to pull and train again"
            ));
        }
        Ok(Committed { draft, total: manifest.tensors().count() as u64, privacy: None, warnings })
    }

    /// The step that a draft becomes, on the branch's head.
    pub(in crate::service) fn step_of(
        &self,
        state: &State,
        folder: &Folder,
        draft: &StepDraft,
        record: &DraftRecord,
        manifest: &Manifest,
    ) -> Result<Commit, Problem> {
        let parent = folder.state.base;
        let head = state.branches.get(&folder.state.branch).and_then(|branch| branch.head);
        if head != Some(parent) {
            return Err(Problem::conflict("the folder does not stand on the branch's head").help(
                "`flair reset` undoes the draft, `flair pull` moves to the head: then change it there",
            ));
        }
        let model = Described {
            model: record.model,
            architecture: manifest.architecture()?,
            bytes: manifest.bytes(),
        };
        let change = match draft {
            StepDraft::Migrate => Change::Migrate(model),
            StepDraft::External { engine, inputs } => {
                let Described { model, architecture, bytes } = model;
                let (engine, inputs) = (engine.clone(), inputs.clone());
                Change::External(External { inputs, engine, model, architecture, bytes })
            }
        };
        Ok(Commit::Step(Box::new(Step {
            author: self.hub.me(),
            branch: folder.state.branch,
            parent,
            policy: state.revision(),
            change,
            message: record.message.clone(),
            ext: BTreeMap::new(),
        })))
    }
}

/// Tensors that were there before keep their roles, which somebody may have set.
fn keep_roles(manifest: &mut Manifest, before: &Manifest) {
    let roles: BTreeMap<_, _> =
        before.tensors().map(|tensor| ((tensor.name.as_str(), tensor.dtype), tensor.role)).collect();
    for tensor in manifest.files.iter_mut().flat_map(|file| &mut file.tensors) {
        if let Some(role) = roles.get(&(tensor.name.as_str(), tensor.dtype)) {
            tensor.role = *role;
        }
    }
}

/// Whether two models differ in their numbers at most.
fn alike(a: &Manifest, b: &Manifest) -> Result<bool, Problem> {
    let files = a.files.iter().map(|file| (&file.name, &file.header));
    let same = files.eq(b.files.iter().map(|file| (&file.name, &file.header)));
    Ok(same && a.side == b.side && a.architecture()? == b.architecture()?)
}
