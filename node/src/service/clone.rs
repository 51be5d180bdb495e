//! Getting what others have: clone, fetch.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flair_protocol::id::{BranchId, CommitId, RepositoryId};
use flair_protocol::key::PublicKey;
use flair_protocol::state::State;
use flair_protocol::ticket::{InviteSecret, Ticket};

use super::setup::folder_fact;
use super::{Service, checked_head, find_branch, model_of, views};
use crate::api::types::{CloneRepository, Cloned, Done, FetchRequest, Problem};
use crate::folder::{Folder, FolderError};
use crate::network;
use crate::repository::{Extras, Repository};
use crate::shelf::{since_fact, since_name};
use crate::worker::trust::Trust;
use crate::worker::wanted::Wanted;

impl Service {
    /// Gets a repository from a peer: operations, models, a working folder.
    ///
    /// # Errors
    /// No node, nobody there, a ticket that can't be used, a folder that is taken.
    pub async fn clone_repository(&self, request: CloneRepository) -> Result<Cloned, Problem> {
        let file = Path::new(&request.source);
        if file.is_absolute() && file.is_file() {
            return self.clone_bundle(&request, file).await;
        }
        self.network()?;
        let (repo, addresses, invite, name, private) = if request.source.starts_with('/') {
            let text = request.repo.as_deref().ok_or_else(|| {
                Problem::invalid("a multiaddr does not say which repository")
                    .help("name it with `--repo <id>`")
            })?;
            let repo: RepositoryId = text.parse().map_err(|_| {
                Problem::invalid(format!("`{text}` is not a repository id"))
                    .help("an id has 52 characters: `flair list --json` shows it")
            })?;
            (repo, vec![request.source.clone()], None, String::new(), false)
        } else {
            let ticket = Ticket::decode(&request.source)?;
            if ticket.addresses.is_empty() {
                return Err(Problem::invalid(
                    "the ticket names no address: it was made while no node was running",
                )
                .help("ask for a new one"));
            }
            (ticket.repo, ticket.addresses, ticket.invite, ticket.name, ticket.private)
        };
        if let Some(folder) = &request.folder {
            vacant(folder)?;
        }
        let known = self.hub.repository(repo).await.is_some();
        let peer = self.dial_any(&addresses, Duration::from_secs(10)).await?;
        let repository = self.hub.load(repo).await?;
        // A clone that was interrupted before anything came begins anew.
        let begins = !request.full && repository.shelf().all().is_empty();
        repository.shelf().decide(begins);
        // Nobody else is asked before the genesis says who may know.
        self.hub.doors.host(repo, peer);
        self.set_seeding(&repository, true).await?;
        let answer =
            self.clone_into(&request, &repository, peer, invite.as_ref(), (name, private), begins).await;
        repository.shelf().decide(false);
        if answer.is_err() && repository.graph(flair_protocol::graph::Graph::is_empty).await {
            self.hub.doors.unhost(repo, peer);
            if known {
                network::follow(&self.hub, &repository).await;
            } else {
                // Nothing came: nothing is left behind.
                self.set_seeding(&repository, false).await?;
            }
        }
        answer
    }

    async fn clone_into(
        &self,
        request: &CloneRepository,
        repository: &Arc<Repository>,
        peer: PublicKey,
        invite: Option<&InviteSecret>,
        (name, private): (String, bool),
        begins: bool,
    ) -> Result<Cloned, Problem> {
        let limit = Duration::from_secs(request.timeout);
        let mut join = None;
        if let Some(invite) = invite.filter(|_| private) {
            // Until the invite is redeemed nothing is given.
            let within = limit.min(Duration::from_secs(30));
            join = Some(self.redeem(repository, Some(invite), &request.person, within).await?.words);
        }
        let caught_up = self
            .wait(limit.min(Duration::from_secs(30)), || async {
                let caught_up = |engine: &flair_protocol::engine::Engine| {
                    !engine.graph().is_empty() && engine.peers().any(|status| status.caught_up)
                };
                repository.engine(caught_up).await.then_some(())
            })
            .await;
        let state = repository.state().await;
        if state.policy.is_none() {
            let problem = Problem::missing(format!(
                "{} was reached, but did not give repository {}: it does not have it, or does not let you know",
                peer.short(),
                repository.id().short()
            ));
            return Err(match (private, invite) {
                (false, _) => problem.help(format!(
                    "check the repository id, and that the other node follows it (`flair list`); if the repository is \
                     private, a maintainer has to let you in first: `flair member grant {} --role reader`, or a ticket \
                     with an invite",
                    self.hub.me()
                )),
                (true, None) => problem.help(format!(
                    "the repository is private: ask a maintainer to let you in with `flair member grant {} --role reader`, \
                     then clone again",
                    self.hub.me()
                )),
                (true, Some(_)) => problem.help(
                    "the repository is private, and the invite was not answered: it is used up, or ended when somebody was \
                     removed, or the node of who made it is not connected. Ask for a new ticket, or clone again later",
                ),
            });
        }
        let mut notes = Vec::new();
        if caught_up.is_none() {
            notes.push(
                "not everything the peer has is here yet: it keeps coming while the node runs".to_owned(),
            );
        }
        if let Some(level) = state.needs_level {
            return Err(Problem::conflict(format!(
                "the repository needs level {level} of Flair: install a newer version"
            )));
        }
        if let Some(invite) = invite.filter(|_| join.is_none()) {
            let joined =
                self.redeem(repository, Some(invite), &request.person, Duration::from_secs(15)).await?;
            join = Some(joined.words);
        }
        let state = repository.state().await;
        let branch = find_branch(&state, request.branch.as_deref(), None)?.id;
        if begins {
            self.begin(repository, &state, request.depth).await?;
        }
        let full = || self.hub.desk.full(repository.id());
        let head = self
            .wait(limit, || async {
                let state = repository.state().await;
                let head = state.branches.get(&branch)?.head?;
                let here = checked_head(repository, &state, branch) == Some(head);
                (here || full().is_some()).then_some(here.then_some(head))
            })
            .await
            .flatten();
        let state = repository.state().await;
        let Some(commit) = head.or_else(|| checked_head(repository, &state, branch)) else {
            return Err(full().unwrap_or_else(|| {
                Problem::offline("no model of the branch could be fetched in time")
                    .help("it keeps coming while the node runs: clone again in a while")
            }));
        };
        if head.is_none() {
            notes.push(format!(
                "the head is not fetched and checked yet: {} is its newest ancestor that is",
                commit.short()
            ));
        }
        notes.extend(views::history(repository, &state));
        self.lay_out(request, repository, (branch, commit), name, join, notes).await
    }

    /// Gets a repository from a bundle.
    async fn clone_bundle(&self, request: &CloneRepository, bundle: &Path) -> Result<Cloned, Problem> {
        if let Some(folder) = &request.folder {
            vacant(folder)?;
        }
        let (repository, applied) = self.take_over(bundle, request.repo.as_deref()).await?;
        let state = repository.state().await;
        let stopped = |why: &str| {
            Problem::invalid(format!("{}: {why}", bundle.display()))
                .help("what could be taken over stays: clone again from a whole bundle")
        };
        if let (Some(why), None) = (&applied.problem, &state.policy) {
            return Err(stopped(why));
        }
        let branch = find_branch(&state, request.branch.as_deref(), None)?.id;
        let Some(commit) = checked_head(&repository, &state, branch) else {
            return Err(stopped(applied.problem.as_deref().unwrap_or("it has no model of the branch")));
        };
        let mut notes = applied.notes;
        notes.extend(applied.problem.map(|why| format!("not all of it was taken over: {why}")));
        notes.extend(views::history(&repository, &state));
        self.lay_out(request, &repository, (branch, commit), String::new(), None, notes).await
    }

    /// Makes the working folder of a clone.
    async fn lay_out(
        &self,
        request: &CloneRepository,
        repository: &Arc<Repository>,
        (branch, commit): (BranchId, CommitId),
        name: String,
        join: Option<String>,
        notes: Vec<String>,
    ) -> Result<Cloned, Problem> {
        let state = repository.state().await;
        let model = model_of(repository, &state, commit)
            .ok_or_else(|| Problem::internal("a held commit without a model"))?;
        let name = if state.name.is_empty() { name } else { state.name.clone() };
        let root =
            request.folder.clone().unwrap_or_else(|| request.current.join(name.replace(['/', ' '], "-")));
        vacant(&root)?;
        let mut folder = Folder::create(&root, repository.id(), branch, commit, model)?;
        let next = folder.state.clone();
        self.write_files(&mut folder, model, next).await?;
        repository.note(Extras { facts: vec![folder_fact(&root)], ..Extras::default() }).await?;
        let branch = state.branches.get(&branch).map_or_else(String::new, |branch| branch.name.clone());
        Ok(Cloned {
            repo: repository.id().to_string(),
            name,
            folder: root.display().to_string(),
            branch,
            commit: commit.to_string(),
            role: views::role(&state, self.hub.me()),
            join,
            notes,
        })
    }

    /// Starts a fresh clone from the heads as members attest them, and lets the worker go.
    async fn begin(&self, repository: &Repository, state: &State, depth: u64) -> Result<(), Problem> {
        let heads = state.open_branches().filter_map(|branch| state.generation(branch.head?));
        let since = heads.max().unwrap_or(0).saturating_sub(depth);
        if since > 0 {
            repository.note(Extras { facts: vec![since_fact(since)], ..Extras::default() }).await?;
            repository.shelf().begin(Some(since));
        }
        repository.shelf().decide(false);
        self.hub.wake.notify_one();
        Ok(())
    }

    /// Waits until what the heads need is here; with `full`, wants all history from now on.
    ///
    /// # Errors
    /// No node, no such repository, what is missing did not come in time.
    pub async fn fetch(&self, request: FetchRequest) -> Result<Done, Problem> {
        let (repository, _) = self.locate(&request.place).await?;
        self.network()?;
        let shelf = repository.shelf();
        if request.full && shelf.since().is_some() {
            repository.note(Extras { drops: vec![(since_name(), Vec::new())], ..Extras::default() }).await?;
            shelf.begin(None);
        }
        self.hub.desk.refresh();
        self.hub.wake.notify_one();
        let missing = || async {
            let state = repository.state().await;
            Wanted::of(&state, shelf, &Trust::of(&self.hub, &state)).missing
        };
        // A light node leaves pending updates to others, unless somebody asks.
        self.hub.desk.gather(repository.id(), true);
        let before = missing().await;
        let limit = Duration::from_secs(request.timeout);
        let full = || self.hub.desk.full(repository.id());
        self.wait(limit, || async { (missing().await == 0 || full().is_some()).then_some(()) }).await;
        self.hub.desk.gather(repository.id(), false);
        if let Some(problem) = full() {
            return Err(problem);
        }
        if missing().await > 0 {
            let left = missing().await;
            return Err(Problem::offline(format!("commits that are still to come: {left}"))
                .help("they keep coming while the node runs; `flair peers` shows who is connected"));
        }
        let words =
            if before == 0 { "everything is here already" } else { "everything is here, and checked" };
        Ok(Done { words: vec![words.to_owned()] })
    }
}

/// Refuses a place where no clone can go.
fn vacant(root: &Path) -> Result<(), Problem> {
    Folder::vacant(root, true).map_err(|error| match error {
        FolderError::Taken(_) => Problem::from(error)
            .help("if a clone into it was interrupted, `flair restore` in it writes its files"),
        _ => error.into(),
    })
}
