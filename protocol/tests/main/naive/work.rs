//! What work comes to: branches, commits, claims, heads, what is pending.

use std::collections::{BTreeMap, BTreeSet};

use flair_protocol::commit::{Aggregate, Change, Commit, KERNEL, Outcome, Update};
use flair_protocol::id::{BranchId, CommitId, OperationId};
use flair_protocol::key::PersonId;
use flair_protocol::limits;
use flair_protocol::operation::body::Judgement;
use flair_protocol::operation::evaluation::Evaluation;
use flair_protocol::operation::{Body, Operation};
use flair_protocol::policy::{Bound, Policy, Role};

use super::{Ids, Line, Rules, Verdict};

impl<'a> Rules<'a> {
    pub(super) fn take(&mut self, operation: &'a Operation) {
        let id = operation.id();
        let mut role = self.role(id, &self.all);
        if self.proper(id) {
            role = Some(Role::Delegate);
        }
        let works = match operation.body() {
            Body::Revision(_) | Body::Approve(_) | Body::Resolve(_) => self.proper(id),
            Body::Publish(publish) => self.publish(operation, publish.id, &publish.commit, role),
            _ if role.is_none() => false,
            Body::Genesis(_) => true,
            Body::Unknown(..) => false,
            Body::Attest(attest) => role >= Some(Role::Verifier) && self.judge(operation, attest.commit),
            Body::Refute(refute) => role >= Some(Role::Verifier) && self.judge(operation, refute.commit),
            Body::Review(review) => {
                let least = match review.judgement {
                    Judgement::Comment => Role::Verifier,
                    _ => Role::Maintainer,
                };
                role >= Some(least) && self.reviews(id, review.commit)
            }
            Body::Evaluate(evaluation) => role >= Some(Role::Verifier) && self.evaluates(id, evaluation),
            body => role >= Some(Role::Maintainer) && self.decide(operation, body, role.unwrap()),
        };
        match role {
            None => drop(self.void.insert(id)),
            Some(_) if !works => drop(self.idle.insert(id)),
            Some(_) => match operation.body() {
                Body::Publish(publish) => self.note(operation, publish.id, publish.result),
                Body::Attest(attest) => self.note(operation, attest.commit, Some(attest.result)),
                Body::Refute(refute) => {
                    let (commit, author) = (self.commits[&refute.commit], operation.author());
                    self.words.insert((refute.commit, author), (false, refute.claimed));
                    self.votes.insert((commit.branch(), author), commit.base().unwrap());
                }
                _ => {}
            },
        }
    }

    fn note(&mut self, operation: &Operation, commit: CommitId, result: Option<Outcome>) {
        let author = operation.author();
        if let Some(result) = result {
            self.words.insert((commit, author), (true, result));
        }
        if matches!(self.commits[&commit], Commit::Update(_)) && !self.updates.contains(&commit) {
            self.updates.push(commit);
        }
        self.votes.insert((self.commits[&commit].branch(), author), self.trunk(commit));
    }

    fn decide(&mut self, operation: &Operation, body: &Body, role: Role) -> bool {
        match body {
            Body::Grant(_) | Body::Revoke(_) => {
                self.signer(operation.id(), &self.all, Role::Reader) == Some(role)
            }
            Body::Invite(invite) => invite.role < role,
            Body::BranchCreate(create) => {
                let root = create.from.filter(|from| self.knows(operation.id(), *from));
                let line = Line { created: Some(operation.id()), root, deleted: Vec::new() };
                self.branches.insert(BranchId::from_digest(operation.id().digest()), line);
                true
            }
            Body::BranchRename(rename) => self.open(operation.id(), rename.branch),
            Body::BranchDelete(delete) => {
                let open = self.open(operation.id(), delete.branch);
                if open {
                    self.branches.get_mut(&delete.branch).unwrap().deleted.push(operation.id());
                }
                open
            }
            _ => true,
        }
    }

    pub(super) fn open(&self, id: OperationId, branch: BranchId) -> bool {
        let past = &self.past[&id];
        // A deletion that a past shows to be after the delegate's fork is none in that past; it is none at all
        // in the whole set either, so it is not among these.
        self.branches.get(&branch).is_some_and(|line| {
            line.created.is_some_and(|created| past.contains(&created))
                && !line.deleted.iter().any(|deleted| past.contains(deleted))
        })
    }

    fn publications(&self, of: CommitId, before: OperationId) -> impl Iterator<Item = OperationId> {
        self.past[&before].iter().copied().filter(move |id| {
            *id != before && matches!(self.by_id[id].body(), Body::Publish(publish) if publish.id == of)
        })
    }

    /// Whether a first commit, aggregate or step that counts was published in the past of `id`.
    pub(super) fn knows(&self, id: OperationId, commit: CommitId) -> bool {
        !matches!(self.commits.get(&commit), None | Some(Commit::Update(_)))
            && self.publications(commit, id).any(|publication| self.good.contains(&publication))
    }

    /// Whether an update was published in the past of `id`, and counts there.
    fn counts(&self, id: OperationId, update: CommitId) -> bool {
        self.publications(update, id).any(|publication| {
            self.good.contains(&publication)
                && self.role(publication, &self.past[&id]).is_some_and(|role| role >= Role::Contributor)
        })
    }

    fn publish(
        &mut self,
        operation: &Operation,
        id: CommitId,
        commit: &'a Commit,
        role: Option<Role>,
    ) -> bool {
        let mut before = 0;
        let mut own = operation.header().prev;
        while let Some(earlier) = own {
            let earlier = self.by_id[&earlier];
            before += usize::from(matches!(earlier.body(), Body::Publish(publish) if publish.id == id));
            own = earlier.header().prev;
        }
        if before >= limits::PUBLICATIONS {
            return false;
        }
        let fits = match commit {
            Commit::Update(update) => self.fits(operation.id(), update),
            Commit::Initial(initial) => {
                let open = self.open(operation.id(), initial.branch);
                let line = self.branches.get_mut(&initial.branch);
                let first = line.as_ref().is_some_and(|line| line.root.is_none_or(|root| root == id));
                let fits = role == Some(Role::Delegate) && open && first;
                if let Some(line) = line.filter(|_| fits) {
                    line.root = Some(id);
                }
                fits
            }
            Commit::Aggregate(aggregate) => {
                role >= Some(Role::Contributor) && self.accept(operation.id(), aggregate, role)
            }
            Commit::Step(step) => role >= Some(Role::Contributor) && self.steps(operation.id(), step),
        };
        if fits {
            self.good.insert(operation.id());
        }
        let works = fits && role >= Some(Role::Contributor);
        if works {
            self.valid.insert(id);
        }
        works
    }

    pub(super) fn on_branch(&self, commit: CommitId, branch: BranchId) -> bool {
        let made = matches!(self.commits[&commit], Commit::Aggregate(_) | Commit::Step(_));
        self.branches[&branch].root == Some(commit) || (made && self.commits[&commit].branch() == branch)
    }

    fn fits(&self, id: OperationId, update: &Update) -> bool {
        if !self.open(id, update.branch) {
            return false;
        }
        let base = match self.commits.get(&update.base) {
            Some(Commit::Update(base)) => {
                base.author == update.author
                    && base.branch == update.branch
                    && self.counts(id, update.base)
                    && self.links(update.base) < limits::CHAIN
            }
            Some(_) => self.knows(id, update.base) && self.on_branch(update.base, update.branch),
            None => false,
        };
        base && self.architecture(update.base) == update.architecture
    }

    fn links(&self, commit: CommitId) -> usize {
        match self.commits[&commit] {
            Commit::Update(update) => 1 + self.links(update.base),
            _ => 0,
        }
    }

    pub(super) fn architecture(&self, commit: CommitId) -> flair_protocol::id::ArchitectureId {
        match self.commits[&commit] {
            Commit::Update(update) => update.architecture,
            Commit::Initial(initial) => initial.architecture,
            Commit::Aggregate(aggregate) => self.architecture(aggregate.parent),
            Commit::Step(step) => match &step.change {
                Change::Revert { target } => self.architecture(*target),
                Change::External(_) | Change::Merge(_) => self.architecture(step.parent),
                Change::Migrate(made) => made.architecture,
            },
        }
    }

    /// The aggregate or first commit under a chain of own updates.
    fn trunk(&self, commit: CommitId) -> CommitId {
        match self.commits[&commit] {
            Commit::Update(update) => self.trunk(update.base),
            _ => commit,
        }
    }

    /// From a node up to the first commit of all.
    pub(super) fn up(&self, node: CommitId) -> Vec<CommitId> {
        let mut path = vec![node];
        while let Some(parent) = self.commits[path.last().unwrap()].base() {
            path.push(parent);
        }
        path
    }

    fn consumed(&self, update: CommitId, tip: CommitId) -> bool {
        self.up(tip).iter().any(|node| {
            !matches!(self.commits[node], Commit::Update(_)) && self.commits[node].inputs().contains(&update)
        })
    }

    fn staleness(&self, update: CommitId, parent: CommitId) -> usize {
        let (left, right) = (self.up(parent), self.up(self.trunk(update)));
        let meet = left.iter().find(|node| right.contains(node)).unwrap();
        let steps = |path: &[CommitId]| path.iter().position(|node| node == meet).unwrap();
        steps(&left) + steps(&right)
    }

    fn author(&self, update: CommitId) -> PersonId {
        self.commits[&update].author().unwrap()
    }

    fn accept(&self, id: OperationId, aggregate: &Aggregate, role: Option<Role>) -> bool {
        let (parent, branch) = (aggregate.parent, aggregate.branch);
        if aggregate.kernel != KERNEL || !self.open(id, branch) {
            return false;
        }
        if !self.knows(id, parent) || !self.on_branch(parent, branch) {
            return false;
        }
        if !self.follows(id, aggregate.policy, parent) {
            return false;
        }
        let rules = &self.policy(aggregate.policy).aggregation;
        if !self.inputs(id, branch, parent, &aggregate.inputs, aggregate.policy) {
            return false;
        }
        let persons: BTreeSet<PersonId> = aggregate.inputs.iter().map(|input| self.author(*input)).collect();
        let mut active = persons.clone();
        let mut rounds = 0;
        for node in self.up(parent) {
            match self.commits[&node] {
                Commit::Aggregate(_) | Commit::Step(_)
                    if self.commits[&node].branch() == branch && rounds < 5 =>
                {
                    let inputs = self.commits[&node].inputs();
                    rounds += usize::from(!inputs.is_empty());
                    active.extend(inputs.iter().map(|input| self.author(*input)));
                }
                _ => break,
            }
        }
        role >= Some(Role::Maintainer) || persons.len() as u32 >= rules.every.needed(active.len())
    }

    /// Whether all of these may go into a commit on `parent`.
    pub(super) fn inputs(
        &self,
        id: OperationId,
        branch: BranchId,
        parent: CommitId,
        inputs: &[CommitId],
        policy: OperationId,
    ) -> bool {
        let policy = self.policy(policy);
        inputs.iter().all(|input| {
            let Some(Commit::Update(update)) = self.commits.get(input) else { return false };
            let chained = matches!(self.commits.get(&update.base), Some(Commit::Update(_)));
            update.branch == branch
                && self.counts(id, *input)
                && update.architecture == self.architecture(parent)
                && self.accepted(*input, policy, &self.past[&id])
                && self.evaluated(*input, policy, &self.past[&id])
                && !self.consumed(*input, parent)
                && (!chained || inputs.contains(&update.base) || self.consumed(update.base, parent))
                && self.staleness(*input, parent) <= policy.aggregation.max_staleness as usize
        })
    }

    /// How many operations before `id` in its author's own chain are as asked.
    fn before(&self, id: OperationId, asked: impl Fn(OperationId, &Body) -> bool) -> usize {
        let mut before = 0;
        let mut own = self.by_id[&id].header().prev;
        while let Some(earlier) = own {
            let earlier = self.by_id[&earlier];
            before += usize::from(asked(earlier.id(), earlier.body()));
            own = earlier.header().prev;
        }
        before
    }

    /// Whether a review follows the rules, its author's role apart.
    fn reviews(&self, id: OperationId, commit: CommitId) -> bool {
        let seen = |by: OperationId| self.publications(commit, by).next().is_some();
        let same = |by: OperationId, body: &Body| {
            matches!(body, Body::Review(review) if review.commit == commit) && seen(by)
        };
        seen(id) && self.before(id, same) < limits::REVIEWS
    }

    /// Whether an evaluation follows the rules, its author's role apart.
    fn evaluates(&self, id: OperationId, evaluation: &Evaluation) -> bool {
        let commit = evaluation.commit;
        let same = |_, body: &Body| matches!(body, Body::Evaluate(said) if said.commit == commit);
        self.publications(commit, id).next().is_some()
            && evaluation.base == self.commits[&commit].base()
            && self.before(id, same) < limits::EVALUATIONS
    }

    /// Whether enough other people measured within `within` what the branch asks for.
    fn evaluated(&self, update: CommitId, policy: &Policy, within: &Ids) -> bool {
        let rule = policy.branches.iter().find(|rule| rule.branch == self.commits[&update].branch());
        rule.into_iter().flat_map(|rule| &rule.require).all(|requirement| {
            let mut meets: BTreeMap<PersonId, bool> = BTreeMap::new();
            for operation in self.order.iter().filter(|operation| within.contains(&operation.id())) {
                if let Body::Evaluate(evaluation) = operation.body()
                    && evaluation.commit == update
                    && self.evaluates(operation.id(), evaluation)
                    && self.role(operation.id(), within) >= Some(Role::Verifier)
                {
                    for metric in &evaluation.metrics {
                        if metric.name == requirement.metric {
                            let base = if requirement.base { metric.base.unwrap() } else { 0.0 };
                            let bound = base + requirement.value.get();
                            let over = metric.value - bound;
                            let met = match requirement.bound {
                                Bound::AtLeast => over >= 0.0,
                                Bound::AtMost => over <= 0.0,
                            };
                            meets.insert(operation.author(), met);
                        }
                    }
                }
            }
            meets.remove(&self.author(update));
            meets.values().filter(|met| **met).count() >= requirement.from as usize
        })
    }

    /// Whether enough people had accepted an update within `within`.
    fn accepted(&self, update: CommitId, policy: &Policy, within: &Ids) -> bool {
        let needed = policy.accepts(self.commits[&update].branch());
        let mut accepts: BTreeMap<PersonId, bool> = BTreeMap::new();
        for operation in self.order.iter().filter(|operation| within.contains(&operation.id())) {
            if let Body::Review(review) = operation.body()
                && review.commit == update
                && review.judgement != Judgement::Comment
                && self.reviews(operation.id(), update)
                && self.role(operation.id(), within) >= Some(Role::Maintainer)
            {
                accepts.insert(operation.author(), review.judgement == Judgement::Accept);
            }
        }
        if needed > 1 {
            accepts.remove(&self.author(update));
        }
        accepts.values().filter(|accept| **accept).count() >= needed as usize
    }

    fn judge(&self, operation: &Operation, commit: CommitId) -> bool {
        self.commits.get(&commit).is_some_and(|commit| commit.is_recipe())
            && self.knows(operation.id(), commit)
    }

    fn result(&self, aggregate: CommitId) -> (Option<Outcome>, bool) {
        let words = self.words.iter().filter(|((commit, _), _)| *commit == aggregate).map(|(_, word)| *word);
        let mut scores: BTreeMap<Outcome, (i64, bool)> = BTreeMap::new();
        for (supports, outcome) in words {
            let score = scores.entry(outcome).or_default();
            score.0 += if supports { 1 } else { -1 };
            score.1 |= supports;
        }
        let mut best: Option<(i64, Outcome)> = None;
        for (outcome, (score, supported)) in scores {
            if supported && best.is_none_or(|(most, _)| score > most) {
                best = Some((score, outcome));
            }
        }
        (best.map(|(_, outcome)| outcome), best.is_none_or(|(score, _)| score < 0))
    }

    fn head(&self, branch: BranchId) -> Option<CommitId> {
        let mut head = self.branches[&branch].root?;
        loop {
            let children = self.valid.iter().copied().filter(|commit| {
                self.commits[commit].branch() == branch
                    && self.commits[commit].base() == Some(head)
                    && match self.commits[commit] {
                        Commit::Aggregate(_) => !self.result(*commit).1,
                        Commit::Step(step) => {
                            self.endorsed(*commit, step)
                                && (step.merge().is_none() || !self.result(*commit).1)
                        }
                        _ => false,
                    }
            });
            let children: Vec<CommitId> = children.collect();
            let step = |child: &CommitId| matches!(self.commits[child], Commit::Step(_));
            let steps = children.iter().any(step);
            let children = children.into_iter().filter(|child| !steps || step(child));
            let weight = |child: CommitId| {
                let votes = self.votes.iter().filter(|((on, _), _)| *on == branch);
                votes.filter(|(_, vote)| self.up(**vote).contains(&child)).count()
            };
            let mut best: Option<(usize, CommitId)> = None;
            for child in children {
                if best.is_none_or(|(most, _)| weight(child) > most) {
                    best = Some((weight(child), child));
                }
            }
            match best {
                Some((_, child)) => head = child,
                None => return Some(head),
            }
        }
    }

    pub(super) fn verdict(self) -> Verdict {
        let mut verdict = Verdict::default();
        (verdict.chain, verdict.frozen) = self.chain(&self.all);
        let policy = self.policy(*verdict.chain.last().unwrap());
        for (id, line) in &self.branches {
            let head = self.head(*id);
            let (mut pending, mut waiting): (Vec<CommitId>, Vec<CommitId>) = Default::default();
            for update in self.updates.iter().filter(|update| self.commits[update].branch() == *id) {
                let Commit::Update(commit) = self.commits[update] else { unreachable!() };
                let head = head.unwrap();
                let chained = matches!(self.commits[&commit.base], Commit::Update(_));
                if line.deleted.is_empty()
                    && !self.consumed(*update, head)
                    && commit.architecture == self.architecture(head)
                    && self.staleness(*update, head) <= policy.aggregation.max_staleness as usize
                {
                    if chained && waiting.contains(&commit.base) {
                        waiting.push(*update);
                    } else if !chained || pending.contains(&commit.base) || self.consumed(commit.base, head) {
                        let accepted = self.accepted(*update, policy, &self.all)
                            && self.evaluated(*update, policy, &self.all);
                        if accepted { pending.push(*update) } else { waiting.push(*update) }
                    }
                }
            }
            verdict.proposed.insert(*id, self.proposed(*id));
            verdict.waiting.insert(*id, waiting);
            verdict.heads.insert(*id, head);
            verdict.pending.insert(*id, pending);
        }
        for commit in &self.valid {
            if self.commits[commit].is_recipe() {
                verdict.results.insert(*commit, self.result(*commit));
            }
        }
        let people: BTreeSet<PersonId> = self
            .order
            .iter()
            .filter_map(|operation| match operation.body() {
                Body::Grant(grant) => Some(grant.person),
                _ => None,
            })
            .collect();
        for person in people {
            verdict.roles.extend(self.held(person, &self.all, Role::Reader).map(|role| (person, role)));
        }
        verdict.roles.extend(policy.delegates.iter().map(|person| (*person, Role::Delegate)));
        verdict.void = self.void;
        verdict.idle = self.idle;
        verdict
    }
}
