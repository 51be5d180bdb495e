//! What a node does by itself: fetch what it follows, run recipes, say what came out, and aggregate when it is time.
//!
//! One loop looks at each repository, does the first thing that can be done, and looks again. What it does is
//! decided by the operations and by what is held; so a restart goes on where a crash left off.

pub mod compute;
mod desk;
pub mod fetch;
pub mod merge;
mod pack;
pub(crate) mod trust;
pub(crate) mod wanted;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flair_protocol::commit::{Aggregate, Commit};
use flair_protocol::id::{BranchId, CommitId};
use flair_protocol::operation::Body;
use flair_protocol::operation::body::{Attest, Publish, Refute};
use flair_protocol::policy::{Membership, Role};
use flair_protocol::state::State;

use crate::api::types::{Code, Problem};
use crate::doors;
use crate::hub::Hub;
use crate::repository::{Extras, Repository};
use crate::shelf::{Held, faulty_fact, noted};
pub use desk::Desk;
use fetch::Failed;
use trust::Trust;
use wanted::Wanted;

/// The loop looks again after this long, whatever happened.
const IDLE: Duration = Duration::from_millis(500);
/// A node waits this long for each person whose turn comes before its own.
const TURN: Duration = Duration::from_millis(700);
/// Works until the node stops.
pub async fn run(hub: Arc<Hub>) {
    loop {
        let round = async {
            let mut busy = false;
            for repository in hub.repositories().await {
                if hub.seeding(repository.id()).await.unwrap_or(false) {
                    busy |= look(&hub, &repository).await;
                }
            }
            if !busy {
                // Woken at once when operations, peers or blobs come; else a look now and then.
                let _ = tokio::time::timeout(IDLE, hub.wake.notified()).await;
            }
        };
        tokio::select! {
            () = hub.stopped() => return,
            () = round => {}
        }
    }
}

/// Looks at one repository once; true when something was done.
async fn look(hub: &Arc<Hub>, repository: &Arc<Repository>) -> bool {
    let state = repository.state().await;
    if state.policy.is_none() || state.needs_level.is_some() {
        return false;
    }
    answer_joins(hub, repository, &state).await;
    if repository.shelf().undecided() {
        return false;
    }
    let trust = Trust::of(hub, &state);
    let wanted = Wanted::of(&state, repository.shelf(), &trust);
    fetch_some(hub, repository, &state, &wanted);
    for commit in &wanted.run {
        // A fetch that began when it was still to be taken may end well yet.
        if hub.desk.resting(repository.id(), *commit) || hub.desk.flying(repository.id(), *commit) {
            continue;
        }
        if let Err(problem) = ensure(hub, repository, &state, *commit).await {
            tracing::warn!(commit = %commit.short(), %problem, "a recipe could not be run");
            hub.desk.rest(repository.id(), *commit);
            continue;
        }
        return true;
    }
    if judge(hub, repository, &state).await {
        return true;
    }
    if hub.config.aggregate {
        for branch in state.open_branches().map(|branch| branch.id).collect::<Vec<_>>() {
            match maybe_aggregate(hub, repository, &state, &trust, branch).await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(problem) => tracing::warn!(branch = %branch.short(), %problem, "no aggregate was made"),
            }
        }
    }
    false
}

/// Starts to fetch what is wanted, a few at once. A provider that does not answer takes a while to be left: nothing
/// else waits for it.
fn fetch_some(hub: &Arc<Hub>, repository: &Arc<Repository>, state: &Arc<State>, wanted: &Wanted) {
    if hub.network.get().is_none() {
        return;
    }
    for commit in &wanted.fetch {
        if hub.desk.resting(repository.id(), *commit) {
            continue;
        }
        let Some(place) = hub.desk.take(repository.id(), *commit) else { continue };
        let (hub, repository, state, commit) = (hub.clone(), repository.clone(), state.clone(), *commit);
        tokio::spawn(async move {
            tokio::select! {
                () = hub.stopped() => {}
                () = fetch_one(&hub, &repository, &state, commit) => {}
            }
            drop(place);
            hub.wake.notify_one();
        });
    }
}

async fn fetch_one(hub: &Arc<Hub>, repository: &Arc<Repository>, state: &State, commit: CommitId) {
    let outcome = fetch::fetch(hub, repository, state, commit).await;
    settle(hub, repository, state, commit, outcome).await;
}

/// Notes what came of an attempt to get a commit. Why it has to be tried again is given back.
pub(crate) async fn settle(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    state: &State,
    commit: CommitId,
    outcome: Result<(), Failed>,
) -> Option<Problem> {
    match outcome {
        Ok(()) => hub.desk.fill(repository.id(), None),
        // A recipe is not wrong because what people attest of it is.
        Err(Failed::Faulty(why)) if is_recipe(state, commit) => {
            tracing::warn!(commit = %commit.short(), why, "what others attest of it can't be: running it instead");
            repository.shelf().doubt(commit);
        }
        Err(Failed::Faulty(why)) => {
            tracing::warn!(commit = %commit.short(), why, "an update's bytes are wrong");
            let facts = vec![faulty_fact(commit, &why)];
            match repository.note(Extras { facts, ..Extras::default() }).await {
                Ok(()) => repository.shelf().fault(commit, why),
                Err(problem) => {
                    tracing::warn!(commit = %commit.short(), %problem, "that could not be noted");
                    hub.desk.rest(repository.id(), commit);
                }
            }
        }
        Err(Failed::Later(problem)) => {
            tracing::info!(commit = %commit.short(), %problem, "not fetched yet");
            if problem.code == Code::Full {
                hub.desk.fill(repository.id(), Some(problem.clone()));
            }
            hub.desk.rest(repository.id(), commit);
            return Some(problem);
        }
    }
    None
}

fn is_recipe(state: &State, commit: CommitId) -> bool {
    state.commits.get(&commit).is_some_and(|info| info.commit.is_recipe())
}

/// Runs the recipe of an aggregate or merge that is not held, and keeps what came out; of a revert, what its target has.
///
/// # Errors
/// An input that is not here, a full disk.
pub async fn ensure(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    state: &Arc<State>,
    commit: CommitId,
) -> Result<(), Problem> {
    let before = repository.shelf().held(commit);
    if before.as_ref().is_some_and(|before| !before.attested) {
        return Ok(());
    }
    let info = state.commits.get(&commit).ok_or_else(|| Problem::missing(format!("no commit {commit}")))?;
    match info.commit.as_ref() {
        recipe if recipe.is_recipe() => {
            let made = compute::again(hub, repository, state, commit).await?;
            let outcome = Some(made.outcome);
            keep(hub, repository, commit, before.as_ref(), made.held).await?;
            if before.is_some_and(|before| before.outcome() != outcome) {
                let text = format!("{} was attested by others, and does not hold", commit.short());
                hub.tell("work", Some(repository.id()), text);
            }
            hub.tell("work", Some(repository.id()), format!("ran {} {}", recipe.kind(), commit.short()));
        }
        Commit::Step(step) if step.is_bare() => {
            let source = state.source(commit).and_then(|source| repository.shelf().held(source));
            let absent =
                || Problem::missing(format!("the model that {} goes back to is not here", commit.short()));
            keep(hub, repository, commit, before.as_ref(), source.ok_or_else(absent)?).await?;
        }
        _ => return Err(Problem::missing(format!("the model of {} is not here", commit.short()))),
    }
    Ok(())
}

/// Keeps the model of a commit, in the place of what was taken over as attested.
pub(crate) async fn keep(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    commit: CommitId,
    before: Option<&Held>,
    held: Held,
) -> Result<(), Problem> {
    let again = noted(&hub.store, repository.id(), commit).await?;
    let mut refer = if again { Vec::new() } else { held.blobs() };
    let fact = held.fact(commit)?;
    // What was taken over as attested is let go where it turns out to be something else.
    if let Some(before) = before.filter(|before| before.blobs() != held.blobs()) {
        let drops = vec![(fact.0.clone(), before.blobs())];
        repository.note(Extras { drops, ..Extras::default() }).await?;
        refer = held.blobs();
    }
    repository.note(Extras { facts: vec![fact], refer, ..Extras::default() }).await?;
    if again {
        hub.store.check().await?;
    }
    hub.doors.publish(repository.id(), &held);
    repository.shelf().hold(commit, held);
    Ok(())
}

/// Says what came out of the recipes on the heads' paths, where this person has not said it yet.
async fn judge(hub: &Arc<Hub>, repository: &Arc<Repository>, state: &Arc<State>) -> bool {
    let me = hub.me();
    if state.role(me).is_none_or(|role| role < Role::Contributor) {
        return false;
    }
    for branch in state.open_branches() {
        // What is far under the head has been judged by whoever was there; saying it again helps nobody.
        for commit in branch.path.iter().rev().take(8).rev().filter(|commit| is_recipe(state, **commit)) {
            let Some(info) = state.commits.get(commit) else { continue };
            let Some(found) = repository.shelf().held(*commit).and_then(|held| held.own_outcome()) else {
                continue;
            };
            let said = |people: &[flair_protocol::key::PersonId]| people.contains(&me);
            if info.claims.iter().any(|claim| said(&claim.supporters) || said(&claim.refuters)) {
                continue;
            }
            let honest = info.claims.iter().any(|claim| claim.outcome == found);
            let wrong = info.claims.iter().find(|claim| claim.outcome != found);
            let body = match wrong {
                Some(claim) if !honest => {
                    hub.tell(
                        "work",
                        Some(repository.id()),
                        format!("refuting {}: its result does not hold", commit.short()),
                    );
                    Body::Refute(Refute { commit: *commit, claimed: claim.outcome, found })
                }
                _ => Body::Attest(Attest { commit: *commit, result: found }),
            };
            match hub.publish(repository, body, Extras::default()).await {
                Ok(_) => return true,
                Err(problem) => {
                    tracing::warn!(commit = %commit.short(), %problem, "nothing was said of an aggregate");
                }
            }
        }
    }
    false
}

/// Aggregates when enough persons have updates pending and it is this node's turn.
async fn maybe_aggregate(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    state: &Arc<State>,
    trust: &Trust<'_>,
    branch: BranchId,
) -> Result<bool, Problem> {
    let me = hub.me();
    if state.role(me).is_none_or(|role| role < Role::Contributor) || !trust.gathers(state, branch) {
        return Ok(false);
    }
    let Some(plan) = plan(repository, state, branch) else { return Ok(false) };
    if !plan.ready() || !hub.desk.turn(&plan.recipe, wait(state, me, plan.recipe.parent)) {
        return Ok(false);
    }
    publish_aggregate(hub, repository, state, plan.recipe).await?;
    Ok(true)
}

/// What an aggregate made now by this node would take in.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The recipe.
    pub recipe: Aggregate,
    /// Persons among the inputs.
    pub persons: usize,
    /// Persons needed, counting everybody with an update pending.
    pub needed: u32,
    /// Pending updates that are not here yet.
    pub absent: usize,
}

impl Plan {
    /// Whether there are enough persons.
    pub fn ready(&self) -> bool {
        self.persons > 0 && self.persons >= self.needed as usize
    }
}

/// Plans the next aggregate of a branch from what is held; none when the head is not, or nothing is pending.
pub fn plan(repository: &Repository, state: &State, branch: BranchId) -> Option<Plan> {
    let next = state.next_inputs(branch)?;
    let shelf = repository.shelf();
    if !shelf.holds(next.parent) || !trust::contradicted(state, shelf, next.parent).is_empty() {
        return None;
    }
    let mut inputs: BTreeSet<CommitId> =
        next.inputs.iter().copied().filter(|input| shelf.settled(*input)).collect();
    // An update stands on its author's earlier one: without that it can't go in.
    loop {
        let short = inputs.iter().copied().find(|input| {
            let Some(Commit::Update(update)) = state.commits.get(input).map(|info| info.commit.as_ref())
            else {
                return true;
            };
            next.inputs.contains(&update.base) && !inputs.contains(&update.base)
        });
        match short {
            Some(input) => inputs.remove(&input),
            None => break,
        };
    }
    let authors: BTreeSet<_> = inputs
        .iter()
        .filter_map(|input| state.commits.get(input).and_then(|info| info.commit.author()))
        .collect();
    let absent = next.inputs.len() - inputs.len();
    let inputs: Vec<CommitId> = inputs.into_iter().collect();
    if inputs.is_empty() {
        return None;
    }
    let recipe = state.recipe(branch, next.parent, &inputs);
    Some(Plan { recipe, persons: authors.len(), needed: next.needed, absent })
}

/// How long `me` waits before aggregating onto `parent`: by rank among the members, so that not all fire at once.
fn wait(state: &State, me: flair_protocol::key::PersonId, parent: CommitId) -> Duration {
    let rank_of = |person: &flair_protocol::key::PersonId| {
        *blake3::hash(&[parent.as_bytes().as_slice(), person.as_bytes()].concat()).as_bytes()
    };
    let mine = rank_of(&me);
    let before = state
        .members
        .iter()
        .filter(|(_, member)| member.revoked.is_none() && member.role >= Role::Contributor)
        .filter(|(person, _)| rank_of(person) < mine)
        .count();
    TURN.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX))
}

/// Runs a recipe and publishes it with the result.
///
/// # Errors
/// What keeps the recipe from being run or the operation from having effect.
pub async fn publish_aggregate(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    state: &Arc<State>,
    recipe: Aggregate,
) -> Result<(CommitId, compute::Made), Problem> {
    let started = Instant::now();
    let commit = Commit::Aggregate(recipe.clone());
    let id = commit.id()?;
    let made = compute::compute(hub, repository, state, id, &recipe).await?;
    let body =
        Publish { id, commit, pack: made.held.pack, pack_bytes: made.pack_bytes, result: Some(made.outcome) };
    publish_made(hub, repository, body, &made.held).await?;
    let (inputs, millis) = (recipe.inputs.len(), started.elapsed().as_millis());
    hub.tell(
        "work",
        Some(repository.id()),
        format!("published aggregate {} of {inputs} updates in {millis} ms", id.short()),
    );
    hub.wake.notify_one();
    Ok((id, made))
}

/// Runs a merge and publishes it with the result.
///
/// # Errors
/// What keeps it from being run or the operation from having effect.
pub async fn publish_merge(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    commit: Commit,
    made: &compute::Made<flair_aggregation::merge::Statistics>,
) -> Result<CommitId, Problem> {
    let id = commit.id()?;
    let body =
        Publish { id, commit, pack: made.held.pack, pack_bytes: made.pack_bytes, result: Some(made.outcome) };
    publish_made(hub, repository, body, &made.held).await?;
    hub.tell("work", Some(repository.id()), format!("published merge {}", id.short()));
    hub.wake.notify_one();
    Ok(id)
}

/// Publishes a recipe with its result, which is served from the moment it is announced.
async fn publish_made(
    hub: &Arc<Hub>,
    repository: &Arc<Repository>,
    body: Publish,
    held: &Held,
) -> Result<(), Problem> {
    let id = body.id;
    let fresh = !noted(&hub.store, repository.id(), id).await?;
    let refer = if fresh { held.blobs() } else { Vec::new() };
    let extras = Extras { facts: vec![held.fact(id)?], refer, ..Extras::default() };
    hub.doors.publish(repository.id(), held);
    hub.publish(repository, Body::Publish(Box::new(body)), extras).await?;
    repository.shelf().hold(id, held.clone());
    Ok(())
}

/// Answers join requests that carry an invite, or all of them where membership is open.
async fn answer_joins(hub: &Arc<Hub>, repository: &Arc<Repository>, state: &Arc<State>) {
    let Some(rank) = state.role(hub.me()).filter(|role| *role >= Role::Maintainer) else {
        return;
    };
    let open = state.policy.as_ref().is_some_and(|policy| policy.membership == Membership::Open);
    // Whoever is not in a private repository is let in by an invite, or by a person.
    let open = open && !state.private();
    let requests = repository.engine(|engine| engine.joins().cloned().collect::<Vec<_>>()).await;
    for request in requests {
        // Each answer changes what is left of an invite.
        let state = repository.state().await;
        if state.role(request.person).is_some() {
            continue;
        }
        let invite = request.invite.as_ref().and_then(|proof| {
            let invite = state.invites.get(&proof.invite)?;
            let holds = proof.verify(invite.key, request.repo, request.person).is_ok();
            // Only one node counts the uses of an invite: that of who made it, as long as they may.
            let mine = invite.by == hub.me() || state.role(invite.by) < Some(Role::Maintainer);
            let fits = holds && mine && invite.left() > 0 && invite.role < rank;
            fits.then_some((proof.invite, invite.role))
        });
        let invite = match invite {
            Some((id, role)) if state.private() => {
                repository.graph(|graph| doors::invite_holds(&state, graph, id).then_some((id, role))).await
            }
            other => other,
        };
        let (role, invite) = match invite {
            Some((id, role)) => (role, Some(id)),
            None if open => (Role::Contributor, None),
            None => continue,
        };
        let name = request.name.clone();
        let body = Body::Grant(flair_protocol::operation::body::Grant {
            person: request.person,
            role,
            name,
            invite,
            approval: None,
        });
        match hub.publish(repository, body, Extras::default()).await {
            Ok(_) => {
                let name = if request.name.is_empty() { request.person.short() } else { request.name };
                hub.tell("repository", Some(repository.id()), format!("{name} is a {} now", role.name()));
            }
            Err(problem) => tracing::warn!(%problem, "a join request could not be answered"),
        }
    }
}
