//! Moving the working folder: pull, checkout, restore, reset.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use flair_protocol::id::{CommitId, ModelId, TensorId};
use flair_protocol::model::Manifest;
use flair_protocol::state::State;
use flair_tensors::dtype::DType;
use flair_tensors::role::Role;

use super::local::{self, Files, blocking, listed, with};
use super::{Service, checked_head, find_branch, find_commit, model_of, privacy, publish, views};
use crate::api::types::{At, CheckoutRequest, Moved, Problem, PullRequest, ResetDone, ResetRequest};
use crate::folder::own::Own;
use crate::folder::{DraftRecord, Folder, FolderState, cast, write};
use crate::models::{self, Known};
use crate::repository::{Repository, wall};
use crate::store::{self, Content, Store};

impl Service {
    /// Moves the folder to the newest head that this node has checked; with `rebase`, carries local training over.
    ///
    /// # Errors
    /// Local training without `rebase`, files that do not fit, a full disk.
    pub async fn pull(&self, request: PullRequest) -> Result<Moved, Problem> {
        let (repository, mut folder) = self.work(&request.place).await?;
        let branch = folder.state.branch;
        let mut warnings = Vec::new();
        let online = self.hub.network.get().is_some();
        let limit = Duration::from_secs(if online { request.timeout } else { 0 });
        let settled = self
            .wait(limit, || async {
                let state = repository.state().await;
                let head = state.branches.get(&branch)?.head?;
                (checked_head(&repository, &state, branch) == Some(head)).then_some(())
            })
            .await;
        let state = repository.state().await;
        let here = find_branch(&state, None, Some(&folder))?;
        let Some(to) = checked_head(&repository, &state, branch) else {
            return Err(Problem::offline(format!(
                "no commit of branch `{}` could be fetched and checked yet",
                here.name
            ))
            .help("is a node running, and a peer connected? `flair peers` shows"));
        };
        if let (None, Some(head)) = (settled, here.head) {
            let doubt = views::doubt(&repository, &state, head);
            warnings.push(match doubt {
                Some(doubt) => format!("head {doubt}: moved to its newest ancestor that nobody contradicts"),
                None => format!(
                    "head {} is not fetched and checked yet: moved to its newest ancestor that is",
                    head.short()
                ),
            });
        }
        let from = folder.state.base;
        let base_model = folder.state.base_model;
        let target = model_of(&repository, &state, to)
            .ok_or_else(|| Problem::internal("a held commit without a model"))?;
        let base = local::manifest(&self.hub, base_model).await?;
        let files = Files::read(&folder, &base, false).await;
        let touched = match &files {
            Ok(files) => !files.changed(&base).is_empty(),
            // A file that is missing or does not fit: with drafts or not, it must not be overwritten unasked.
            Err(_) => true,
        };
        let untouched = files.as_ref().ok().filter(|_| !touched && folder.state.drafts.is_empty());
        let words = if let Some(files) = untouched {
            if from == to && base_model == target {
                return Ok(moved(
                    &state,
                    &folder,
                    from,
                    target,
                    Vec::new(),
                    "already at the newest head".into(),
                    warnings,
                ));
            }
            files.keep_own(&folder, &base).await?;
            self.move_to(&mut folder, to, target).await?;
            format!("moved to head {}", to.short())
        } else if request.rebase {
            let files = files?;
            files.finite(&base)?;
            files.keep_own(&folder, &base).await?;
            self.rebase(&repository, &mut folder, &files, to, target).await?;
            format!("carried your local training over to head {}", to.short())
        } else {
            return Err(Problem::conflict("the folder holds local training that a pull would overwrite").help(
                "`flair push` publishes it; `flair pull --rebase` carries it over to the new head; `flair restore` and \
                 `flair reset` discard it",
            ));
        };
        let written =
            local::manifest(&self.hub, target).await?.files.into_iter().map(|file| file.name).collect();
        Ok(moved(&state, &folder, from, target, written, words, warnings))
    }

    /// Moves the folder to a branch's newest checked commit, or to one commit.
    ///
    /// # Errors
    /// Local training without `force`, a commit that is not here.
    pub async fn checkout(&self, request: CheckoutRequest) -> Result<Moved, Problem> {
        let (repository, mut folder) = self.work(&request.place).await?;
        let state = repository.state().await;
        let (to, branch) = if let Some(branch) = state.branch(&request.target) {
            let head = checked_head(&repository, &state, branch.id).ok_or_else(|| {
                Problem::offline(format!("no commit of branch `{}` is here yet", branch.name))
            })?;
            (head, branch.id)
        } else {
            let commit = find_commit(&state, &request.target)?;
            let branch = state.commits.get(&commit).map(|info| info.commit.branch());
            (commit, branch.unwrap_or(folder.state.branch))
        };
        if !repository.shelf().holds(to) {
            return Err(Problem::missing(format!("the model of {} is not here yet", to.short()))
                .help("it is fetched and checked while the node runs and peers are connected"));
        }
        if !request.force {
            self.refuse_touched(&folder).await?;
        }
        let target = model_of(&repository, &state, to)
            .ok_or_else(|| Problem::internal("a held commit without a model"))?;
        let from = folder.state.base;
        let undone = folder.state.drafts.clone();
        folder.state.branch = branch;
        self.move_to(&mut folder, to, target).await?;
        self.drop_drafts(&repository, &undone).await?;
        let written =
            local::manifest(&self.hub, target).await?.files.into_iter().map(|file| file.name).collect();
        let words = format!("checked out {}", to.short());
        Ok(moved(&state, &folder, from, target, written, words, Vec::new()))
    }

    /// Sets the folder's files back to the last draft, or to the base where there is none.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub async fn restore(&self, request: At) -> Result<Moved, Problem> {
        let (repository, mut folder) = self.work(&request.place).await?;
        let state = repository.state().await;
        let tip = folder.tip();
        let keep = folder.state.clone();
        self.write_files(&mut folder, tip, keep).await?;
        let written =
            local::manifest(&self.hub, tip).await?.files.into_iter().map(|file| file.name).collect();
        let to = folder.state.base;
        let words = match folder.state.drafts.last() {
            Some(draft) => format!("set the files back to draft {}", draft.id.short()),
            None => format!("set the files back to {}", to.short()),
        };
        Ok(moved(&state, &folder, to, tip, written, words, Vec::new()))
    }

    /// Undoes drafts. Published updates are not touched.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub async fn reset(&self, request: ResetRequest) -> Result<ResetDone, Problem> {
        let (repository, mut folder) = self.work(&request.place).await?;
        let count = folder.state.drafts.len();
        let undo = request.drafts.map_or(count, |drafts| count.min(usize::try_from(drafts).unwrap_or(count)));
        let undone = folder.state.drafts.split_off(count - undo);
        let tip = folder.tip();
        if request.hard {
            let keep = folder.state.clone();
            self.write_files(&mut folder, tip, keep).await?;
        } else {
            folder.save()?;
        }
        // The folder lets go first: a crash between leaves blobs that nothing needs, not drafts without blobs.
        self.drop_drafts(&repository, &undone).await?;
        Ok(ResetDone {
            undone: undone.iter().map(views::draft).collect(),
            left: folder.state.drafts.len() as u64,
            restored: request.hard,
        })
    }

    /// Refuses when files or drafts would be lost, and keeps what the site has of its own.
    async fn refuse_touched(&self, folder: &Folder) -> Result<(), Problem> {
        let base = local::manifest(&self.hub, folder.state.base_model).await?;
        let files = Files::read(folder, &base, false).await;
        match files.ok().filter(|files| files.changed(&base).is_empty() && folder.state.drafts.is_empty()) {
            Some(files) => files.keep_own(folder, &base).await,
            None => Err(Problem::conflict("the folder holds local training that would be overwritten")
                .help("push it first, or discard it with `--force`")),
        }
    }

    async fn move_to(&self, folder: &mut Folder, to: CommitId, model: ModelId) -> Result<(), Problem> {
        let mut next = folder.state.clone();
        next.base = to;
        next.base_model = model;
        next.drafts.clear();
        self.write_files(folder, model, next).await
    }

    /// Writes a model's files, then the folder's new state: all of it or nothing, whatever happens between.
    pub(super) async fn write_files(
        &self,
        folder: &mut Folder,
        model: ModelId,
        next: FolderState,
    ) -> Result<(), Problem> {
        let manifest = local::manifest(&self.hub, model).await?;
        let known = self.known(folder).await?;
        let (store, root) = (self.hub.store.clone(), folder.root().to_owned());
        let side = models::stage_side(&store, &manifest, &root).await?;
        let mut staged = blocking(move || {
            let own = Own::open(&root)?;
            models::stage(&store, &manifest, &root, Some(&known), &own)
        })
        .await?;
        staged.extend(side);
        Ok(write::commit(folder, staged, next)?)
    }

    /// What a folder's files hold, as far as nobody trained them.
    pub(super) async fn known(&self, folder: &Folder) -> Result<Known, Problem> {
        let manifest = local::manifest(&self.hub, folder.tip()).await?;
        Ok(Known { root: folder.root().to_owned(), manifest })
    }

    /// New head + (local − base), tensor by tensor; the drafts become one.
    async fn rebase(
        &self,
        repository: &Arc<Repository>,
        folder: &mut Folder,
        files: &Files,
        to: CommitId,
        target: ModelId,
    ) -> Result<(), Problem> {
        let hub = &self.hub;
        let hold = hub.store.hold();
        let base = local::manifest(hub, folder.state.base_model).await?;
        let head = local::manifest(hub, target).await?;
        if base.architecture()? != head.architecture()? {
            return Err(Problem::conflict(
                "the branch was migrated to another architecture: your training can't be carried over",
            )
            .help("`flair restore` and `flair reset` discard it; then `flair pull`, and train again"));
        }
        let (_, local_model, _) = local::pack(hub, &hold, files, &base, Some(&base)).await?;
        let local_manifest = local::manifest(hub, local_model).await?;
        let shift = |from: &Manifest| shift(hub.store.clone(), &base, from, &head);
        let moved_files = shift(&local_manifest);
        let packed = hub.store.write_pack(&hold, moved_files.0, &listed(&head), moved_files.1).await?;
        let manifest = with(&head, &packed.tensors);
        let model = manifest.id()?;
        hub.store.add_bytes(&hold, manifest.encode()?).await?;

        let mut next = folder.state.clone();
        next.base = to;
        next.base_model = target;
        if let Some(last) = folder.state.drafts.last() {
            let drafted = shift(&local::manifest(hub, last.model).await?);
            let packed = hub.store.write_pack(&hold, drafted.0, &listed(&head), drafted.1).await?;
            let manifest = with(&head, &packed.tensors);
            let draft_model = manifest.id()?;
            hub.store.add_bytes(&hold, manifest.encode()?).await?;
            let (message, time) = (publish::messages(&folder.state.drafts), wall());
            // Adding what is public to a noised model takes nothing off the noise.
            let privacy = privacy::combined(&folder.state.drafts)?;
            let claim = privacy::stated(&folder.state.drafts)?;
            // Not the old one's id: the old drafts' blobs are let go of by theirs.
            let record = DraftRecord {
                id: DraftRecord::name(draft_model, time, &message),
                model: draft_model,
                pack: packed.root,
                blobs: local::sizes(hub, &packed.blobs).await?,
                message,
                time,
                privacy,
                claim,
                training: publish::training(&folder.state.drafts),
                ..last.clone()
            };
            publish::note_draft(repository, &record).await?;
            next.drafts = vec![record];
        }
        let old = folder.state.drafts.clone();
        self.write_files(folder, model, next).await?;
        self.drop_drafts(repository, &old).await
    }
}

fn moved(
    state: &State,
    folder: &Folder,
    from: CommitId,
    model: ModelId,
    files: Vec<String>,
    words: String,
    warnings: Vec<String>,
) -> Moved {
    Moved {
        branch: state
            .branches
            .get(&folder.state.branch)
            .map_or_else(String::new, |branch| branch.name.clone()),
        from: from.to_string(),
        to: folder.state.base.to_string(),
        model: model.to_string(),
        files,
        words,
        warnings,
    }
}

/// What to pack for head + (local − base).
fn shift(store: Store, base: &Manifest, local: &Manifest, head: &Manifest) -> (Vec<Content>, Arc<Shift>) {
    let rows: Vec<Row> = head
        .tensors()
        .zip(base.tensors().zip(local.tensors()))
        .map(|(head, (base, local))| Row {
            dtype: head.dtype,
            role: head.role,
            head: head.tensor,
            base: base.tensor,
            local: local.tensor,
        })
        .collect();
    let contents = head
        .tensors()
        .zip(&rows)
        .map(|(tensor, row)| Content {
            name: tensor.name.clone(),
            tensor: row.known(),
            dtype: tensor.dtype,
            length: tensor.length,
            base: Some(tensor.tensor),
        })
        .collect();
    (contents, Arc::new(Shift { store, rows }))
}

#[derive(Clone, Copy)]
struct Row {
    dtype: DType,
    role: Role,
    head: TensorId,
    base: TensorId,
    local: TensorId,
}

impl Row {
    /// The result, where it needs no arithmetic.
    fn known(&self) -> Option<TensorId> {
        if self.local == self.base || self.role.is_fixed() {
            Some(self.head)
        } else if self.head == self.base || self.role == Role::Counter {
            Some(self.local)
        } else {
            None
        }
    }
}

/// Computes head + (local − base) while the pack is written.
struct Shift {
    store: Store,
    rows: Vec<Row>,
}

impl store::Source for Shift {
    fn read(&self, tensor: usize, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let row = self.rows.get(tensor).ok_or_else(|| io::Error::other(format!("no tensor {tensor}")))?;
        let read = |id: TensorId, out: &mut [u8]| {
            self.store.tensor(id).and_then(|reader| reader.read(offset, out)).map_err(io::Error::other)
        };
        if let Some(known) = row.known() {
            return read(known, out);
        }
        let (mut base, mut local) = (vec![0; out.len()], vec![0; out.len()]);
        read(row.base, &mut base)?;
        read(row.local, &mut local)?;
        read(row.head, out)?;
        let size = row.dtype.size();
        for ((head, base), local) in
            out.chunks_exact_mut(size).zip(base.chunks_exact(size)).zip(local.chunks_exact(size))
        {
            let value =
                cast::read(row.dtype, head) + (cast::read(row.dtype, local) - cast::read(row.dtype, base));
            cast::convert(DType::F64, row.dtype, &value.to_le_bytes(), head);
        }
        Ok(())
    }
}
