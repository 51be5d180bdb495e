//! Which branches and commits count.

mod judged;
mod sightings;
mod step;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::authority::{Authority, Horizon};
use super::order::Order;
use super::reason::{Effect, NoEffect};
use super::revision::Policies;
use super::tree::{Kind, Model, Node, Trained, Tree};
use super::{Branch, CommitInfo, EvaluationInfo, InviteInfo, Publication, ReviewInfo, State};
use crate::commit::{Aggregate, Commit, Initial, Outcome, Update};
use crate::id::{BranchId, CommitId, OperationId};
use crate::key::PersonId;
use crate::limits;
use crate::operation::Body;
use crate::operation::body::Judgement;
use crate::policy::Role;
use sightings::{Sightings, sightings};

/// What the effective operations say about branches, for [`head`](super::head) to weigh.
#[derive(Default)]
pub(super) struct Accepted {
    /// Each person's latest vote on each branch: a node of the tree.
    pub(super) votes: BTreeMap<BranchId, BTreeMap<PersonId, usize>>,
    /// Each person's latest word on each aggregate.
    pub(super) stances: BTreeMap<usize, BTreeMap<PersonId, Stance>>,
    /// Effective updates, in the order of their first effective publication.
    pub(super) updates: Vec<CommitId>,
    /// The same of steps.
    pub(super) steps: Vec<CommitId>,
    /// The node each branch starts from.
    pub(super) roots: BTreeMap<BranchId, usize>,
}

/// Somebody's word on an aggregate's result.
#[derive(Clone, Copy)]
pub(super) enum Stance {
    /// They got it.
    Support(Outcome),
    /// They did not get it.
    Refute(Outcome),
}

struct Line {
    created: usize,
    name: String,
    creator: PersonId,
    deletions: Vec<usize>,
    root: Option<usize>,
}

struct Work<'a> {
    order: &'a Order<'a>,
    authority: &'a Authority<'a>,
    policies: &'a Policies<'a>,
    whole: Horizon<'a>,
    /// For each operation: the commits it names and their publications in its past, by rank; sorted.
    seen: Vec<Vec<(CommitId, usize)>>,
    /// For each aggregate: the evaluations of its inputs in its past, by rank; sorted.
    measured: BTreeMap<usize, Vec<usize>>,
    /// Publications and evaluations that repeat their author's earlier ones too often.
    surplus: BTreeSet<usize>,
    /// Reviews of each commit that follow the rules, their authors' standing apart.
    reviews: BTreeMap<CommitId, Vec<usize>>,
    /// The same of evaluations.
    evaluations: BTreeMap<CommitId, Vec<usize>>,
    /// Publications of updates whose content fits their past; first commits, aggregates and steps that count.
    fits: Vec<bool>,
    lines: BTreeMap<BranchId, Line>,
    invites: BTreeMap<OperationId, (InviteInfo, BTreeSet<PersonId>)>,
    tree: Tree,
    accepted: Accepted,
}

/// Decides for every operation whether it has an effect, and writes what it finds into `state`.
pub(super) fn accept(
    state: &mut State,
    order: &Order<'_>,
    authority: &Authority<'_>,
    policies: &Policies<'_>,
) -> Accepted {
    let requires = |rank| policies.policy(rank).branches.iter().any(|rule| !rule.require.is_empty());
    let Sightings { seen, measured, surplus } = sightings(order, policies.revisions().any(requires));
    let mut work = Work {
        order,
        authority,
        policies,
        whole: authority.whole(),
        seen,
        measured,
        surplus,
        reviews: BTreeMap::new(),
        evaluations: BTreeMap::new(),
        fits: vec![false; order.len()],
        lines: BTreeMap::new(),
        invites: BTreeMap::new(),
        tree: Tree::default(),
        accepted: Accepted::default(),
    };
    let level = state.policy.as_ref().map_or(0, |policy| policy.level);
    for rank in 0..order.len() {
        let id = order.id(rank);
        let effect = work.step(rank);
        match effect {
            Effect::Full => {}
            Effect::None(_) if order.at(rank).header().kind.level() > level => state.above.push(id),
            Effect::None(why) => {
                state.idle.insert(id, why);
            }
            Effect::Void(why) => {
                state.void.insert(id, why);
            }
        }
        work.record(state, rank, effect);
    }
    state.above.sort_unstable();
    work.finish(state)
}

impl Work<'_> {
    /// What operation `rank` does.
    fn step(&mut self, rank: usize) -> Effect {
        let operation = self.order.at(rank);
        let author = operation.author();
        if matches!(operation.body(), Body::Revision(_) | Body::Approve(_) | Body::Resolve(_)) {
            return self.policy(rank);
        }
        let standing = self.authority.standing(rank, &self.whole);
        // An update's content is judged even without standing: an aggregate that took it in before its author
        // was revoked judges the standing in its own past.
        let fit = match operation.body() {
            Body::Publish(_) if self.surplus.contains(&rank) => Err(NoEffect::Again),
            Body::Publish(publish) => match &publish.commit {
                Commit::Update(update) => {
                    let fit = self.fit(rank, publish.id, update);
                    self.fits[rank] = fit.is_ok();
                    fit
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        };
        // Reviews and evaluations too: an aggregate counts them as its publisher saw them.
        let judged = match operation.body() {
            Body::Review(review) => self.review(rank, review),
            Body::Evaluate(evaluation) => self.evaluation(rank, evaluation),
            _ => Ok(()),
        };
        let role = match standing {
            Ok(role) => role,
            Err(why) => return Effect::Void(why),
        };
        let done = match operation.body() {
            Body::Genesis(_) => Ok(()),
            Body::Unknown(kind, _) => Err(NoEffect::Kind(kind.number())),
            _ if role == Role::Reader => Err(NoEffect::Reader),
            Body::Publish(_) if role == Role::Verifier => Err(NoEffect::Verifier),
            Body::Review(review) if review.judgement != Judgement::Comment && role < Role::Maintainer => {
                Err(NoEffect::NotMaintainer)
            }
            Body::Review(_) | Body::Evaluate(_) => judged,
            Body::Publish(_) if fit == Err(NoEffect::Again) => Err(NoEffect::Again),
            Body::Publish(publish) => match &publish.commit {
                Commit::Update(_) => fit.map(|()| self.take_update(author, publish.id)),
                Commit::Initial(initial) => self.initial(rank, role, publish.id, initial),
                Commit::Aggregate(aggregate) => {
                    self.aggregate(rank, role, publish.id, aggregate, publish.result)
                }
                Commit::Step(step) => self.take_step(rank, role, publish.id, step, publish.result),
            },
            Body::Attest(attest) => self.judge(rank, attest.commit).map(|node| {
                self.accepted.stances.entry(node).or_default().insert(author, Stance::Support(attest.result));
                self.vote(self.tree.nodes[node].branch, author, Some(node));
            }),
            Body::Refute(refute) => self.judge(rank, refute.commit).map(|node| {
                self.accepted.stances.entry(node).or_default().insert(author, Stance::Refute(refute.claimed));
                self.vote(self.tree.nodes[node].branch, author, self.tree.forest.parent(node));
            }),
            _ if role < Role::Maintainer => Err(NoEffect::NotMaintainer),
            body => self.govern(rank, role, body),
        };
        done.map_or_else(Effect::None, |()| Effect::Full)
    }

    /// What is said of the policy counts by itself: the delegates of what it changes say it, whatever their standing.
    fn policy(&self, rank: usize) -> Effect {
        match (self.policies.effect(rank), self.authority.standing(rank, &self.whole)) {
            (Ok(()), _) => Effect::Full,
            (Err(why), Ok(_)) => Effect::None(why),
            (Err(_), Err(why)) => Effect::Void(why),
        }
    }

    /// What only delegates and maintainers may say.
    fn govern(&mut self, rank: usize, role: Role, body: &Body) -> Result<(), NoEffect> {
        self.authority.allows(rank, role)?;
        match body {
            Body::Grant(grant) => {
                if let Some((_, persons)) = grant.invite.and_then(|invite| self.invites.get_mut(&invite)) {
                    persons.insert(grant.person);
                }
                Ok(())
            }
            Body::Invite(invite) => {
                let (key, role, uses, label) = (invite.key, invite.role, invite.uses, invite.label.clone());
                let info = InviteInfo { key, role, uses, used: 0, label, by: self.order.at(rank).author() };
                self.invites.insert(self.order.id(rank), (info, BTreeSet::new()));
                Ok(())
            }
            Body::BranchCreate(create) => {
                if self.lines.len() >= limits::BRANCHES {
                    return Err(NoEffect::Branches);
                }
                let root = create
                    .from
                    .filter(|from| self.tree.node(*from).is_some() && self.sees_valid(rank, *from));
                let line = Line {
                    created: rank,
                    name: create.name.clone(),
                    creator: self.order.at(rank).author(),
                    deletions: Vec::new(),
                    root: root.and_then(|from| self.tree.node(from)),
                };
                self.lines.insert(BranchId::from_digest(self.order.id(rank).digest()), line);
                Ok(())
            }
            Body::BranchRename(rename) => {
                self.open(rank, rename.branch)?;
                if let Some(line) = self.lines.get_mut(&rename.branch) {
                    line.name.clone_from(&rename.name);
                }
                Ok(())
            }
            Body::BranchDelete(delete) => {
                self.open(rank, delete.branch)?;
                if let Some(line) = self.lines.get_mut(&delete.branch) {
                    line.deletions.push(rank);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The branch, if it exists and is open in the past of `rank`.
    fn open(&self, rank: usize, branch: BranchId) -> Result<&Line, NoEffect> {
        let known = |event: &usize| self.authority.knows(rank, *event);
        let line = self.lines.get(&branch).filter(|line| known(&line.created)).ok_or(NoEffect::Branch)?;
        if line.deletions.iter().any(known) { Err(NoEffect::Deleted) } else { Ok(line) }
    }

    /// The publications of `commit` in the past of `rank`.
    fn seen(&self, rank: usize, commit: CommitId) -> impl Iterator<Item = usize> {
        let seen = &self.seen[rank];
        let first = seen.partition_point(|(named, _)| *named < commit);
        seen[first..]
            .iter()
            .take_while(move |(named, _)| *named == commit)
            .map(|(_, publication)| *publication)
    }

    /// Whether `commit`, a first commit, an aggregate or a step, has a publication that counts in the past of `rank`; it
    /// is in the tree then.
    fn sees_valid(&self, rank: usize, commit: CommitId) -> bool {
        self.seen(rank, commit).any(|publication| self.fits[publication])
    }

    /// Whether `commit`, an update, has a publication in the past of `rank` that counts there.
    fn sees_sound(&self, rank: usize, commit: CommitId, horizon: &Horizon<'_>) -> bool {
        self.seen(rank, commit).any(|publication| {
            self.fits[publication]
                && self.authority.standing(publication, horizon).is_ok_and(|role| role >= Role::Contributor)
        })
    }

    fn on_branch(&self, node: usize, branch: BranchId, line: &Line) -> bool {
        line.root == Some(node)
            || (self.tree.nodes[node].branch == branch && self.tree.forest.parent(node).is_some())
    }

    /// Checks an update against its own past, its author's standing apart, and notes it in the tree.
    fn fit(&mut self, rank: usize, id: CommitId, update: &Update) -> Result<(), NoEffect> {
        let line = self.open(rank, update.branch)?;
        let base = update.base;
        let mut trained = Trained {
            author: update.author,
            branch: update.branch,
            architecture: update.architecture,
            over: None,
            base: 0,
            links: 1,
        };
        let architecture = if let Some(node) = self.tree.node(base) {
            if !self.sees_valid(rank, base) {
                return Err(NoEffect::Base(base));
            }
            if !self.on_branch(node, update.branch, line) {
                return Err(NoEffect::ForeignBase(base));
            }
            trained.base = node;
            self.tree.nodes[node].architecture
        } else {
            let earlier = self.tree.updates.get(&base).ok_or(NoEffect::Base(base))?;
            if earlier.author != update.author {
                return Err(NoEffect::OthersUpdate(base));
            }
            if earlier.branch != update.branch {
                return Err(NoEffect::ForeignBase(base));
            }
            if !self.sees_sound(rank, base, &self.authority.past(rank)) {
                return Err(NoEffect::Base(base));
            }
            if earlier.links >= limits::CHAIN {
                return Err(NoEffect::Chain);
            }
            (trained.over, trained.base, trained.links) = (Some(base), earlier.base, earlier.links + 1);
            earlier.architecture
        };
        if architecture != update.architecture {
            return Err(NoEffect::Architecture);
        }
        self.tree.updates.insert(id, trained);
        Ok(())
    }

    fn take_update(&mut self, author: PersonId, id: CommitId) {
        let Some(trained) = self.tree.updates.get(&id) else { return };
        let (branch, base) = (trained.branch, trained.base);
        self.vote(branch, author, Some(base));
        self.accepted.updates.push(id);
    }

    fn initial(&mut self, rank: usize, role: Role, id: CommitId, initial: &Initial) -> Result<(), NoEffect> {
        if role != Role::Delegate {
            return Err(NoEffect::NotDelegate);
        }
        let line = self.open(rank, initial.branch)?;
        if line.root.is_some_and(|root| self.tree.nodes[root].id != id) {
            return Err(NoEffect::NotFirst);
        }
        let branch = initial.branch;
        let node = Node::new(id, branch, initial.architecture, 0, Kind::First);
        let node = self.tree.add(None, Model::New, node, &[]);
        if let Some(line) = self.lines.get_mut(&branch) {
            line.root = Some(node);
        }
        self.fits[rank] = true;
        self.vote(branch, initial.author, Some(node));
        Ok(())
    }

    fn aggregate(
        &mut self,
        rank: usize,
        role: Role,
        id: CommitId,
        aggregate: &Aggregate,
        result: Option<Outcome>,
    ) -> Result<(), NoEffect> {
        let (revision, version) = self.follows(rank, aggregate.policy)?;
        if aggregate.kernel != crate::commit::KERNEL {
            return Err(NoEffect::Kernel(aggregate.kernel));
        }
        let branch = aggregate.branch;
        let parent = self.parent(rank, branch, aggregate.parent, (aggregate.policy, version))?;
        let rules = &self.policies.policy(revision).aggregation;
        let persons = self.inputs(rank, parent, branch, &aggregate.inputs, revision)?;
        let needed = self.tree.needed(rules.every, parent, branch, &persons);
        let found = u32::try_from(persons.len()).unwrap_or(u32::MAX);
        if found < needed && role < Role::Maintainer {
            return Err(NoEffect::Persons { found, needed });
        }
        let architecture = self.tree.nodes[parent].architecture;
        let mut node = Node::new(id, branch, architecture, version, Kind::Aggregate);
        node.persons = persons;
        let node = self.tree.add(Some(parent), Model::On(parent), node, &aggregate.inputs);
        self.fits[rank] = true;
        let author = self.order.at(rank).author();
        if let Some(result) = result {
            self.accepted.stances.entry(node).or_default().insert(author, Stance::Support(result));
        }
        self.vote(branch, author, Some(node));
        Ok(())
    }

    /// The policy revision that an aggregate or step names, and its place in the chain: it must be in force, and be so
    /// in the past of `rank`.
    fn follows(&self, rank: usize, policy: OperationId) -> Result<(usize, usize), NoEffect> {
        let outdated = NoEffect::Policy(policy);
        let revision = self.policies.rank(policy).ok_or(outdated)?;
        let version = self.policies.whole().chain.iter().position(|force| *force == revision);
        let version = version.filter(|_| self.policies.at(rank).chain.contains(&revision));
        Ok((revision, version.ok_or(outdated)?))
    }

    /// The commit that an aggregate or step of `branch` continues, which must be in the past of `rank`, of the branch,
    /// and not of a later policy.
    fn parent(
        &self,
        rank: usize,
        branch: BranchId,
        parent: CommitId,
        (policy, version): (OperationId, usize),
    ) -> Result<usize, NoEffect> {
        let line = self.open(rank, branch)?;
        let node = self.tree.node(parent).filter(|_| self.sees_valid(rank, parent));
        let node = node.ok_or(NoEffect::Parent(parent))?;
        if !self.on_branch(node, branch, line) {
            return Err(NoEffect::ForeignParent(parent));
        }
        if version < self.tree.nodes[node].policy {
            return Err(NoEffect::Policy(policy));
        }
        Ok(node)
    }

    /// Checks every input of an aggregate or external on `parent` that follows a policy revision; gives their authors.
    fn inputs(
        &self,
        rank: usize,
        parent: usize,
        branch: BranchId,
        inputs: &[CommitId],
        revision: usize,
    ) -> Result<BTreeSet<PersonId>, NoEffect> {
        let policy = self.policies.policy(revision);
        let (rules, protection) = (&policy.aggregation, policy.rule(branch));
        let horizon = self.authority.past(rank);
        let mut persons = BTreeSet::new();
        for input in inputs {
            let trained = self.tree.updates.get(input).filter(|trained| trained.branch == branch);
            let trained = trained.ok_or(NoEffect::Input(*input))?;
            if !self.sees_sound(rank, *input, &horizon) {
                return Err(NoEffect::Input(*input));
            }
            if trained.architecture != self.tree.nodes[parent].architecture {
                return Err(NoEffect::Migrated(*input));
            }
            let behind = self.tree.staleness(parent, trained.base).unwrap_or(u32::MAX);
            if let Some(rule) = protection {
                self.passes(rank, *input, trained.author, rule, &horizon)?;
            }
            let most = rules.max_staleness;
            if behind > most {
                return Err(NoEffect::Stale { input: *input, behind, most });
            }
            if self.tree.consumed(*input, trained.base, parent) {
                return Err(NoEffect::Consumed(*input));
            }
            let supported = trained.over.is_none_or(|over| {
                inputs.binary_search(&over).is_ok() || self.tree.consumed(over, trained.base, parent)
            });
            if !supported {
                return Err(NoEffect::Unsupported(*input));
            }
            persons.insert(trained.author);
        }
        Ok(persons)
    }

    /// The aggregate or merge that an attestation or refutation names.
    fn judge(&self, rank: usize, commit: CommitId) -> Result<usize, NoEffect> {
        let node = self.tree.node(commit).filter(|node| self.tree.nodes[*node].is_recipe());
        node.filter(|_| self.sees_valid(rank, commit)).ok_or(NoEffect::Aggregate(commit))
    }

    fn vote(&mut self, branch: BranchId, person: PersonId, node: Option<usize>) {
        if let Some(node) = node {
            self.accepted.votes.entry(branch).or_default().insert(person, node);
        }
    }

    /// Notes a publication beside its commit.
    fn record(&self, state: &mut State, rank: usize, effect: Effect) {
        let operation = self.order.at(rank);
        if let (Body::Review(review), true) = (operation.body(), effect.is_full())
            && let Some(info) = state.commits.get_mut(&review.commit)
        {
            info.reviews.push(ReviewInfo {
                operation: operation.id(),
                person: operation.author(),
                judgement: review.judgement,
                text: review.text.clone(),
                time: operation.header().time,
            });
        }
        if let (Body::Evaluate(evaluation), true) = (operation.body(), effect.is_full())
            && let Some(info) = state.commits.get_mut(&evaluation.commit)
        {
            info.evaluations.push(EvaluationInfo {
                operation: operation.id(),
                person: operation.author(),
                evaluation: evaluation.as_ref().clone(),
                time: operation.header().time,
            });
        }
        let Body::Publish(publish) = operation.body() else { return };
        let info = state.commits.entry(publish.id).or_insert_with(|| CommitInfo {
            commit: Arc::new(publish.commit.clone()),
            publications: Vec::new(),
            claims: Vec::new(),
            reviews: Vec::new(),
            evaluations: Vec::new(),
            result: None,
            skipped: false,
            acceptance: None,
        });
        info.publications.push(Publication {
            operation: operation.id(),
            person: operation.author(),
            pack: publish.pack,
            pack_bytes: publish.pack_bytes,
            result: publish.result,
            time: operation.header().time,
            effect,
        });
    }

    fn finish(mut self, state: &mut State) -> Accepted {
        let used = |(info, persons): (InviteInfo, BTreeSet<PersonId>)| InviteInfo {
            used: persons.len() as u64,
            ..info
        };
        state.invites = self.invites.into_iter().map(|(id, invite)| (id, used(invite))).collect();
        let mut bare: BTreeMap<&str, BranchId> = BTreeMap::new();
        for (id, line) in self.lines.iter().filter(|(_, line)| line.deletions.is_empty()) {
            bare.entry(&line.name).or_insert(*id);
        }
        for (id, line) in &self.lines {
            let name = match bare.get(line.name.as_str()) {
                Some(first) if first != id => format!("{}~{}", line.name, id.short()),
                _ => line.name.clone(),
            };
            let branch = Branch {
                id: *id,
                name,
                creator: line.creator,
                root: line.root.map(|root| self.tree.nodes[root].id),
                head: None,
                path: Vec::new(),
                pending: Vec::new(),
                waiting: Vec::new(),
                dropped: Vec::new(),
                proposed: Vec::new(),
                votes: BTreeMap::new(),
                deleted: !line.deletions.is_empty(),
            };
            self.accepted.roots.extend(line.root.map(|root| (*id, root)));
            state.branches.insert(*id, branch);
        }
        let mut known = BTreeSet::new();
        self.accepted.updates.retain(|update| known.insert(*update));
        let mut known = BTreeSet::new();
        self.accepted.steps.retain(|step| known.insert(*step));
        state.tree = self.tree;
        self.accepted
    }
}
