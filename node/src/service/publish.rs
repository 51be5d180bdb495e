//! From the user's files to a draft, and from drafts to a published update.

use flair_protocol::commit::{Commit, Content, Described, Metric, Training, Update};
use flair_protocol::id::{CommitId, PackId};
use flair_protocol::model::{Manifest, Tensor};
use flair_protocol::operation::Body;
use flair_protocol::operation::body::Publish;
use flair_protocol::state::State;
use flair_tensors::role::Role;
use serde::Serialize;

use super::local::{self, Files};
use super::{Service, lora, privacy, steps, views};
use crate::api::types::{CommitRequest, Committed, EgressBlob, EgressField, Problem, PushRequest, Pushed};
use crate::folder::{DraftRecord, Folder};
use crate::repository::{Extras, Repository, wall};
use crate::shelf::Held;

/// Fewer examples than this make an update tell much about each.
const FEW: u64 = 100;
/// Fact of a repository: a draft's blobs are referred to.
const DRAFT: &str = "draft/";
/// Fact of a repository: an update that no peer was there for yet.
pub(crate) const QUEUED: &str = "queued/";

/// A line of `egress.jsonl`.
#[derive(Debug, Serialize)]
struct Egress<'a> {
    time: u64,
    repository: String,
    commit: String,
    blobs: &'a [EgressBlob],
    fields: &'a [EgressField],
}

impl Service {
    /// Makes a draft of the folder's files. It stays on this machine.
    ///
    /// # Errors
    /// Files that do not fit the branch, hold NaN, or did not change.
    pub async fn commit(&self, mut request: CommitRequest) -> Result<Committed, Problem> {
        let (repository, mut folder) = self.work(&request.place).await?;
        let external = self.external_holds(&folder).await?;
        if let Some(step) = self.step_draft(&repository, &folder, &request).await? {
            return self.commit_step(&repository, &mut folder, request, step).await;
        }
        if folder.state.drafts.iter().any(|draft| draft.step.is_some()) {
            return Err(Problem::conflict("the newest draft is a step of the branch, which stands alone")
                .help("`flair push` publishes it, `flair reset` undoes it"));
        }
        if let Some(dp) = request.dp.take() {
            return self.commit_private(request, &dp).await;
        }
        if folder.state.drafts.last().is_some_and(|draft| draft.privacy.is_some()) {
            return Err(privacy::mixed());
        }
        let claim = request.claim.as_ref().map(privacy::read).transpose()?;
        let hub = &self.hub;
        let tip = local::manifest(hub, folder.tip()).await?;
        let base = local::manifest(hub, folder.state.base_model).await?;
        let files = Files::read(&folder, &tip, request.cast).await?;
        files.finite(&tip)?;
        let trained = tip.tensors().zip(&files.scanned);
        let trained = trained.map(|(tensor, scanned)| (tensor.name.clone(), scanned.tensor));
        self.may_be_clean(&repository, &folder, trained, &base).await?;
        let hold = hub.store.hold();
        let (manifest, model, packed) = local::pack(hub, &hold, &files, &tip, Some(&base)).await?;
        let changed: Vec<_> =
            tip.tensors().zip(manifest.tensors()).filter(|(old, new)| old.tensor != new.tensor).collect();
        files.keep_own(&folder, &tip).await?;
        if changed.is_empty() {
            let problem = Problem::conflict("nothing to commit: the files hold the same model as before");
            let others = files.local.others(folder.root())?;
            return Err(match others.as_slice() {
                [] => problem,
                others => problem.help(format!("the branch has other files than {}", others.join(", "))),
            });
        }
        if claim.is_some()
            && let Some((tensor, _)) = changed.iter().find(|(tensor, _)| tensor.role == Role::BatchNorm)
        {
            return Err(Problem::invalid(format!(
                "`{}` are statistics of the data, and changed: no clipping of gradients bounds what they tell",
                tensor.name
            ))
            .help("commit without the privacy claim, or train with the statistics fixed; `flair init --local` keeps them here"));
        }
        if let Some((tensor, _)) = changed.iter().find(|(tensor, _)| tensor.role.is_fixed()) {
            return Err(must_stay(tensor));
        }
        let (metrics, training) = (measured(&request)?, said(&request));
        let in_the_clear = claim.as_ref().and_then(|_| privacy::in_the_clear(&request));
        let time = wall();
        let record = DraftRecord {
            id: DraftRecord::name(model, time, &request.message),
            model,
            pack: packed.root,
            blobs: local::sizes(hub, &packed.blobs).await?,
            message: request.message.clone(),
            training,
            metrics,
            privacy: None,
            claim,
            changed: changed.len() as u64,
            time,
            step: None,
            side: Vec::new(),
        };
        let state = repository.state().await;
        // What could not be published is refused now, not after more training.
        let drafts = [folder.state.drafts.as_slice(), std::slice::from_ref(&record)].concat();
        squash(&folder, &state, self, &drafts)?.validate()?;
        note_draft(&repository, &record).await?;
        let draft = views::draft(&record);
        folder.state.drafts.push(record);
        folder.save()?;
        let mut warnings = warnings(request.examples, request.steps);
        warnings.extend(external);
        warnings.extend(in_the_clear);
        warnings.extend(self.row_warnings(&base, &manifest).await?);
        warnings.extend(local::side_changes(&folder, &manifest).await?);
        Ok(Committed { draft, total: manifest.tensors().count() as u64, privacy: None, warnings })
    }

    /// Publishes the drafts as one update on the folder's base, or lists what would leave.
    ///
    /// # Errors
    /// Nothing to push, no role, a full disk.
    pub async fn push(&self, request: PushRequest) -> Result<Pushed, Problem> {
        let (repository, mut folder) = self.work(&request.place).await?;
        let state = repository.state().await;
        let Some(last) = folder.state.drafts.last().cloned() else {
            return Err(Problem::conflict("nothing to push: there are no drafts")
                .help("make one with `flair commit -m …`"));
        };
        let manifest = local::manifest(&self.hub, last.model).await?;
        let commit = match &last.step {
            Some(step) => self.step_of(&state, &folder, step, &last, &manifest)?,
            None => squash(&folder, &state, self, &folder.state.drafts)?,
        };
        commit.validate()?;
        let base = local::manifest(&self.hub, folder.state.base_model).await?;
        if last.privacy.is_none() {
            let drafted = manifest.tensors().map(|tensor| (tensor.name.clone(), tensor.tensor));
            self.may_be_clean(&repository, &folder, drafted, &base).await?;
        }
        let mut answer = Pushed {
            commit: None,
            base: folder.state.base.to_string(),
            peers: 0,
            blobs: blobs(&last, &manifest)?,
            fields: fields(&commit)?,
            bytes: 0,
            warnings: Vec::new(),
        };
        answer.bytes = answer.blobs.iter().map(|blob| blob.bytes).sum();
        if last.step.is_none() {
            let training = training(&folder.state.drafts);
            answer.warnings = warnings(Some(training.examples), training.steps);
            answer.warnings.extend(self.row_warnings(&base, &manifest).await?);
        }
        if state.role(self.hub.me()).is_none_or(|role| role < flair_protocol::policy::Role::Contributor) {
            let text = format!(
                "you are not a contributor of {}: your role is {}",
                state.name,
                views::role(&state, self.hub.me())
            );
            return Err(Problem::denied(text).help("ask for it with `flair join`; your drafts stay"));
        }
        if request.dry_run {
            return Ok(answer);
        }
        let id = match published(&state, &folder, self, last.model) {
            // A crash came between publishing and clearing the drafts.
            Some(id) => id,
            None => self.publish_update(&repository, &folder, commit, &last, &answer).await?,
        };
        answer.commit = Some(id.to_string());
        let state = repository.state().await;
        answer.warnings.extend(views::step(&state, id).filter(|note| note.state == "proposed").map(|note| {
            let from = steps::asked(&state, id).join(", ");
            format!("it {}; {from} can give one with `flair review`", note.words)
        }));
        answer.peers = repository.engine(|engine| engine.peers().count() as u64).await;
        if answer.peers == 0 {
            let facts = vec![(format!("{QUEUED}{id}"), Vec::new())];
            repository.note(Extras { facts, ..Extras::default() }).await?;
        }
        folder.state.base = id;
        folder.state.base_model = last.model;
        let drafts = std::mem::take(&mut folder.state.drafts);
        folder.save()?;
        // The folder lets go first, so that no crash leaves it with drafts whose blobs are gone.
        if !request.keep_drafts {
            self.drop_drafts(&repository, &drafts).await?;
        }
        self.hub.wake.notify_one();
        Ok(answer)
    }

    async fn publish_update(
        &self,
        repository: &std::sync::Arc<Repository>,
        folder: &Folder,
        commit: Commit,
        last: &DraftRecord,
        answer: &Pushed,
    ) -> Result<CommitId, Problem> {
        let id = commit.id()?;
        let side = local::manifest(&self.hub, last.model).await?.side.iter().map(|side| side.blob).collect();
        let held = Held {
            model: last.model,
            state: None,
            pack: PackId::from_digest(last.pack),
            side,
            attested: false,
        };
        let body = Publish {
            id,
            commit,
            pack: held.pack,
            pack_bytes: last.blobs.iter().map(|(_, bytes)| bytes).sum(),
            result: None,
        };
        self.note_release(repository, &folder.state.drafts, id).await?;
        // Written before anything leaves: a log that lacks something that left would be worse than the reverse.
        self.hub.home.egress(&Egress {
            time: wall(),
            repository: folder.state.repo.to_string(),
            commit: id.to_string(),
            blobs: &answer.blobs,
            fields: &answer.fields,
        })?;
        let extras = Extras { facts: vec![held.fact(id)?], refer: held.blobs(), ..Extras::default() };
        self.hub.doors.publish(repository.id(), &held);
        self.hub.publish(repository, Body::Publish(Box::new(body)), extras).await?;
        repository.shelf().hold(id, held);
        Ok(id)
    }

    async fn row_warnings(&self, base: &Manifest, model: &Manifest) -> Result<Vec<String>, Problem> {
        let rows = local::few_rows(&self.hub, base, model).await?;
        Ok(rows
            .into_iter()
            .map(|(name, changed, rows)| {
                format!("only {changed} of {rows} rows of `{name}` changed: readers see which tokens you trained on")
            })
            .collect())
    }

    /// Lets go of drafts' blobs; of drafts that were let go of before, nothing more.
    pub(super) async fn drop_drafts(
        &self,
        repository: &Repository,
        drafts: &[DraftRecord],
    ) -> Result<(), Problem> {
        let drops = drafts.iter().map(|draft| (format!("{DRAFT}{}", draft.id), draft.blobs())).collect();
        repository.note(Extras { drops, ..Extras::default() }).await
    }
}

/// Notes that a draft is there, so that what it refers to stays.
pub(super) async fn note_draft(repository: &Repository, record: &DraftRecord) -> Result<(), Problem> {
    let facts = vec![(format!("{DRAFT}{}", record.id), Vec::new())];
    repository.note(Extras { facts, refer: record.blobs(), ..Extras::default() }).await
}

/// An update of this person that is this push already.
fn published(
    state: &State,
    folder: &Folder,
    service: &Service,
    model: flair_protocol::id::ModelId,
) -> Option<CommitId> {
    let me = service.hub.me();
    state.commits.iter().find_map(|(id, info)| match info.commit.as_ref() {
        Commit::Update(update)
            if update.author == me
                && update.base == folder.state.base
                && update.content == Content::Model(model) =>
        {
            Some(*id)
        }
        Commit::Step(step)
            if step.author == me
                && step.parent == folder.state.base
                && step.described().is_some_and(|described| described.model == model) =>
        {
            Some(*id)
        }
        _ => None,
    })
}

/// What a commit's request says of the training.
pub(super) fn said(request: &CommitRequest) -> Training {
    Training {
        examples: request.examples.unwrap_or(0),
        steps: request.steps,
        epochs: request.epochs,
        seed: request.seed,
        ..Training::default()
    }
}

/// What a commit's request says was measured.
pub(super) fn measured(request: &CommitRequest) -> Result<Vec<Metric>, Problem> {
    if let Some(bad) = request.metrics.iter().find(|metric| !metric.value.is_finite()) {
        let text = format!("metric {}/{} is not a finite number", bad.split, bad.name);
        return Err(Problem::invalid(text));
    }
    let metrics = request.metrics.iter().map(|metric| Metric {
        name: metric.name.clone(),
        split: metric.split.clone(),
        value: metric.value,
        n: metric.n,
    });
    Ok(metrics.collect())
}

/// Refuses a change where none may be.
pub(super) fn must_stay(tensor: &Tensor) -> Problem {
    let name = &tensor.name;
    if tensor.role == Role::LoraA {
        return lora::must_stay(tensor);
    }
    Problem::invalid(format!("`{name}` changed, but its role says it must stay equal in every update"))
        .help("set it back; `flair restore` sets all files back")
}

/// All messages of drafts as one.
pub(super) fn messages(drafts: &[DraftRecord]) -> String {
    let messages: Vec<&str> =
        drafts.iter().map(|draft| draft.message.as_str()).filter(|text| !text.is_empty()).collect();
    messages.join("\n\n")
}

/// The training record of several drafts as one: steps and epochs add up, the data set is the same.
pub(super) fn training(drafts: &[DraftRecord]) -> Training {
    let sum = |field: fn(&Training) -> Option<u64>| {
        let values: Vec<u64> = drafts.iter().filter_map(|draft| field(&draft.training)).collect();
        (!values.is_empty()).then(|| values.iter().fold(0, |sum: u64, value| sum.saturating_add(*value)))
    };
    Training {
        examples: drafts.iter().map(|draft| draft.training.examples).max().unwrap_or(0),
        steps: sum(|training| training.steps),
        epochs: sum(|training| training.epochs),
        seed: drafts.last().and_then(|draft| draft.training.seed),
        ..Training::default()
    }
}

/// The update that drafts become: the last one's model and metrics, all messages.
pub(super) fn squash(
    folder: &Folder,
    state: &State,
    service: &Service,
    drafts: &[DraftRecord],
) -> Result<Commit, Problem> {
    let Some(last) = drafts.last() else { return Err(Problem::conflict("there are no drafts")) };
    let base = folder.state.base;
    if !state.commits.contains_key(&base) {
        return Err(Problem::missing(format!("the folder's base {} is not known here", base.short()))
            .help("`flair status` tells what is damaged or not here yet"));
    }
    let Described { architecture, bytes, .. } = state
        .described(base)
        .ok_or_else(|| Problem::conflict(format!("{} does not count any more: pull first", base.short())))?;
    Ok(Commit::Update(Box::new(Update {
        author: service.hub.me(),
        branch: folder.state.branch,
        base: folder.state.base,
        base_model: folder.state.base_model,
        content: Content::Model(last.model),
        architecture,
        bytes,
        training: training(drafts),
        privacy: privacy::claimed(drafts)?,
        metrics: last.metrics.clone(),
        message: messages(drafts),
        ext: std::collections::BTreeMap::new(),
    })))
}

pub(super) fn warnings(examples: Option<u64>, steps: Option<u64>) -> Vec<String> {
    let mut warnings = Vec::new();
    match examples {
        Some(0) | None => warnings.push("no number of examples given (`--examples`): rules that weigh by it count 1".to_owned()),
        Some(few) if few < FEW => warnings.push(format!(
            "trained on {few} examples: an update from fewer than {FEW} can tell readers much about each of them"
        )),
        Some(_) => {}
    }
    if steps == Some(1) {
        warnings.push(
            "a single local step: the update is close to one batch's gradient, which can be inverted"
                .to_owned(),
        );
    }
    warnings
}

fn blobs(draft: &DraftRecord, manifest: &Manifest) -> Result<Vec<EgressBlob>, Problem> {
    let mut blobs = vec![EgressBlob {
        id: draft.model.to_string(),
        bytes: manifest.encode()?.len() as u64,
        what: "manifest: names, shapes, dtypes and ids of the tensors, the base's header bytes".to_owned(),
    }];
    for (index, (blob, bytes)) in draft.blobs.iter().enumerate() {
        let what = if index == 0 {
            "pack index: which blob holds which tensor"
        } else {
            "tensors that differ from the base"
        };
        blobs.push(EgressBlob { id: blob.to_string(), bytes: *bytes, what: what.to_owned() });
    }
    for side in manifest.side.iter().filter(|side| draft.side.contains(&side.blob)) {
        let what = format!("side file {}", side.name);
        blobs.push(EgressBlob { id: side.blob.to_string(), bytes: side.length, what });
    }
    Ok(blobs)
}

/// Every field of the commit, as it is signed.
fn fields(commit: &Commit) -> Result<Vec<EgressField>, Problem> {
    match commit {
        Commit::Update(update) => fields_of(update.as_ref()),
        Commit::Step(step) => fields_of(step.as_ref()),
        Commit::Initial(_) | Commit::Aggregate(_) => Ok(Vec::new()),
    }
}

/// Every field of something that is signed, by its path.
pub(super) fn fields_of(signed: &impl Serialize) -> Result<Vec<EgressField>, Problem> {
    let value = serde_json::to_value(signed).map_err(Problem::internal)?;
    let mut fields = Vec::new();
    flatten(String::new(), &value, &mut fields);
    Ok(fields)
}

fn flatten(name: String, value: &serde_json::Value, fields: &mut Vec<EgressField>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(name, value, fields);
            }
        }
        serde_json::Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                flatten(format!("{name}.{index}"), value, fields);
            }
        }
        serde_json::Value::String(text) => fields.push(EgressField { name, value: text.clone() }),
        other => fields.push(EgressField { name, value: other.to_string() }),
    }
}
