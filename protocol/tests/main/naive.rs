//! A second evaluator, written from the rules and not from the first: sets of ids, no shortcuts, any cost.

use std::collections::{BTreeMap, BTreeSet};

use flair_protocol::commit::{Aggregate, Commit, KERNEL, Outcome, Update};
use flair_protocol::graph::Graph;
use flair_protocol::id::{BranchId, CommitId, OperationId};
use flair_protocol::key::PersonId;
use flair_protocol::limits;
use flair_protocol::operation::{Body, Operation};
use flair_protocol::policy::{Policy, Role};
use flair_protocol::state::State;

type Ids = BTreeSet<OperationId>;

/// What both evaluators must say.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    void: Ids,
    idle: Ids,
    roles: BTreeMap<PersonId, Role>,
    heads: BTreeMap<BranchId, Option<CommitId>>,
    pending: BTreeMap<BranchId, Vec<CommitId>>,
    results: BTreeMap<CommitId, (Option<Outcome>, bool)>,
}

impl Verdict {
    /// What the real evaluator says.
    pub(crate) fn of(state: &State) -> Self {
        let aggregates = state
            .commits
            .iter()
            .filter(|(_, info)| matches!(*info.commit, Commit::Aggregate(_)) && info.is_effective());
        let roles = state.members.keys().filter_map(|person| Some((*person, state.role(*person)?)));
        Self {
            void: state.void.keys().copied().collect(),
            idle: state.idle.keys().copied().collect(),
            roles: roles.collect(),
            heads: state.branches.values().map(|branch| (branch.id, branch.head)).collect(),
            pending: state.branches.values().map(|branch| (branch.id, branch.pending.clone())).collect(),
            results: aggregates.map(|(id, info)| (*id, (info.result, info.skipped))).collect(),
        }
    }

    /// What the rules say.
    pub(crate) fn by_the_rules(graph: &Graph) -> Self {
        let mut rules = Rules::new(graph);
        for operation in rules.order.clone() {
            rules.take(operation);
        }
        rules.verdict()
    }
}

struct Rules<'a> {
    order: Vec<&'a Operation>,
    by_id: BTreeMap<OperationId, &'a Operation>,
    /// Each operation's past, itself included.
    past: BTreeMap<OperationId, Ids>,
    all: Ids,
    policy: &'a Policy,
    delegate: PersonId,
    revision: OperationId,
    void: Ids,
    idle: Ids,
    /// Publications of first commits and aggregates that count, and of updates that fit their own past.
    good: Ids,
    updates: Vec<CommitId>,
    commits: BTreeMap<CommitId, &'a Commit>,
    valid: BTreeSet<CommitId>,
    branches: BTreeMap<BranchId, Line>,
    votes: BTreeMap<(BranchId, PersonId), CommitId>,
    words: BTreeMap<(CommitId, PersonId), (bool, Outcome)>,
}

#[derive(Default)]
struct Line {
    created: Option<OperationId>,
    root: Option<CommitId>,
    deleted: Vec<OperationId>,
}

impl<'a> Rules<'a> {
    fn new(graph: &'a Graph) -> Self {
        let mut order: Vec<&Operation> = (0..graph.len()).map(|place| graph.at(place)).collect();
        order.sort_by_key(|operation| operation.order());
        let mut past: BTreeMap<OperationId, Ids> = BTreeMap::new();
        let mut commits = BTreeMap::new();
        for operation in &order {
            let mut ids: Ids = operation.header().deps.iter().flat_map(|dep| past[dep].clone()).collect();
            ids.insert(operation.id());
            past.insert(operation.id(), ids);
            if let Body::Publish(publish) = operation.body() {
                commits.insert(publish.id, &publish.commit);
            }
        }
        let policy = &graph.genesis().unwrap().policy;
        Self {
            by_id: order.iter().map(|operation| (operation.id(), *operation)).collect(),
            all: past.keys().copied().collect(),
            order,
            past,
            policy,
            delegate: policy.delegates[0],
            revision: OperationId::from_digest(graph.repo().digest()),
            void: Ids::new(),
            idle: Ids::new(),
            good: Ids::new(),
            updates: Vec::new(),
            commits,
            valid: BTreeSet::new(),
            branches: BTreeMap::new(),
            votes: BTreeMap::new(),
            words: BTreeMap::new(),
        }
    }

    /// Whether `of` has signed two operations with one number, up to `seq`, within `within`.
    fn forked(&self, of: PersonId, seq: u64, within: &Ids) -> bool {
        let theirs = within.iter().map(|id| self.by_id[id].header()).filter(|header| header.author == of);
        let mut seen = BTreeSet::new();
        theirs.filter(|header| header.seq <= seq).any(|header| !seen.insert(header.seq))
    }

    /// Whether a delegate's operation counts within `within`.
    fn decides(&self, id: OperationId, within: &Ids) -> bool {
        let header = self.by_id[&id].header();
        header.author == self.delegate && !self.forked(self.delegate, header.seq, within)
    }

    /// The role in which `id` counts within `within`.
    fn role(&self, id: OperationId, within: &Ids) -> Option<Role> {
        let header = self.by_id[&id].header();
        if header.policy != self.revision && id != self.revision {
            return None;
        }
        if header.author == self.delegate {
            return self.decides(id, within).then_some(Role::Delegate);
        }
        if self.forked(header.author, header.seq, within) {
            let vouches = |by: &OperationId| {
                let seen = &self.past[by];
                self.decides(*by, within)
                    && seen.contains(&id)
                    && !self.forked(header.author, header.seq, seen)
            };
            if !within.iter().any(vouches) {
                return None;
            }
        }
        let about = |by: &OperationId| {
            let operation = self.by_id[by];
            let counts = self.decides(*by, within) && operation.header().policy == self.revision;
            counts.then_some(operation)
        };
        let grants = within.iter().filter_map(about).filter_map(|operation| match operation.body() {
            Body::Grant(grant) if grant.person == header.author => Some((operation, grant.role)),
            _ => None,
        });
        let revocations: Vec<_> = within
            .iter()
            .filter_map(about)
            .filter_map(|operation| match operation.body() {
                Body::Revoke(revoke) if revoke.person == header.author => Some((operation.id(), revoke)),
                _ => None,
            })
            .collect();
        let mine = &self.past[&id];
        let stands = grants.filter(|(grant, _)| {
            mine.contains(&grant.id())
                && revocations.iter().filter(|(by, _)| self.past[by].contains(&grant.id())).all(
                    |(by, revoke)| {
                        let kept =
                            |keep: &OperationId| self.past.get(keep).is_some_and(|past| past.contains(&id));
                        !mine.contains(by) && (self.past[by].contains(&id) || revoke.keep.iter().any(kept))
                    },
                )
        });
        stands.max_by_key(|(grant, _)| grant.order()).map(|(_, role)| role)
    }

    fn take(&mut self, operation: &'a Operation) {
        let id = operation.id();
        let role = self.role(id, &self.all);
        let works = match operation.body() {
            Body::Publish(publish) => self.publish(operation, publish.id, &publish.commit, role),
            _ if role.is_none() => false,
            Body::Genesis(_) => true,
            Body::Unknown(..) => false,
            Body::Attest(attest) => role >= Some(Role::Contributor) && self.judge(operation, attest.commit),
            Body::Refute(refute) => role >= Some(Role::Contributor) && self.judge(operation, refute.commit),
            body => role == Some(Role::Delegate) && self.decide(operation, body),
        };
        match role {
            None => drop(self.void.insert(id)),
            Some(_) if !works => drop(self.idle.insert(id)),
            Some(_) => match operation.body() {
                Body::Publish(publish) => self.note(operation, publish.id, publish.result),
                Body::Attest(attest) => self.note(operation, attest.commit, Some(attest.result)),
                Body::Refute(refute) => {
                    let Commit::Aggregate(aggregate) = self.commits[&refute.commit] else { unreachable!() };
                    let author = operation.author();
                    self.words.insert((refute.commit, author), (false, refute.claimed));
                    self.votes.insert((aggregate.branch, author), aggregate.parent);
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

    fn decide(&mut self, operation: &Operation, body: &Body) -> bool {
        match body {
            Body::Grant(grant) => grant.person != self.delegate,
            Body::Revoke(revoke) => revoke.person != self.delegate,
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

    fn open(&self, id: OperationId, branch: BranchId) -> bool {
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

    /// Whether a first commit or aggregate that counts was published in the past of `id`.
    fn knows(&self, id: OperationId, commit: CommitId) -> bool {
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

    fn on_branch(&self, commit: CommitId, branch: BranchId) -> bool {
        self.branches[&branch].root == Some(commit)
            || matches!(self.commits[&commit], Commit::Aggregate(aggregate) if aggregate.branch == branch)
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

    fn architecture(&self, commit: CommitId) -> flair_protocol::id::ArchitectureId {
        match self.commits[&commit] {
            Commit::Update(update) => update.architecture,
            Commit::Initial(initial) => initial.architecture,
            Commit::Aggregate(aggregate) => self.architecture(aggregate.parent),
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
    fn up(&self, node: CommitId) -> Vec<CommitId> {
        let mut path = vec![node];
        while let Commit::Aggregate(aggregate) = self.commits[path.last().unwrap()] {
            path.push(aggregate.parent);
        }
        path
    }

    fn consumed(&self, update: CommitId, tip: CommitId) -> bool {
        self.up(tip).iter().any(|node| {
            matches!(self.commits[node], Commit::Aggregate(aggregate) if aggregate.inputs.contains(&update))
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
        if aggregate.policy != self.revision || aggregate.kernel != KERNEL || !self.open(id, branch) {
            return false;
        }
        if !self.knows(id, parent) || !self.on_branch(parent, branch) {
            return false;
        }
        let inputs = aggregate.inputs.iter().all(|input| {
            let Some(Commit::Update(update)) = self.commits.get(input) else { return false };
            let chained = matches!(self.commits.get(&update.base), Some(Commit::Update(_)));
            update.branch == branch
                && self.counts(id, *input)
                && !self.consumed(*input, parent)
                && (!chained || aggregate.inputs.contains(&update.base) || self.consumed(update.base, parent))
                && self.staleness(*input, parent) <= self.policy.aggregation.max_staleness as usize
        });
        if !inputs {
            return false;
        }
        let persons: BTreeSet<PersonId> = aggregate.inputs.iter().map(|input| self.author(*input)).collect();
        let mut active = persons.clone();
        let mut rounds = 0;
        for node in self.up(parent) {
            match self.commits[&node] {
                Commit::Aggregate(above) if above.branch == branch && rounds < 5 => {
                    rounds += 1;
                    active.extend(above.inputs.iter().map(|input| self.author(*input)));
                }
                _ => break,
            }
        }
        role == Some(Role::Delegate)
            || persons.len() as u32 >= self.policy.aggregation.every.needed(active.len())
    }

    fn judge(&self, operation: &Operation, commit: CommitId) -> bool {
        matches!(self.commits.get(&commit), Some(Commit::Aggregate(_))) && self.knows(operation.id(), commit)
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
                matches!(self.commits[commit],
                    Commit::Aggregate(aggregate) if aggregate.branch == branch && aggregate.parent == head)
                    && !self.result(*commit).1
            });
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

    fn verdict(self) -> Verdict {
        let mut verdict = Verdict::default();
        for (id, line) in &self.branches {
            let head = self.head(*id);
            let mut pending: Vec<CommitId> = Vec::new();
            for update in self.updates.iter().filter(|update| self.commits[update].branch() == *id) {
                let Commit::Update(commit) = self.commits[update] else { unreachable!() };
                let head = head.unwrap();
                let chained = matches!(self.commits[&commit.base], Commit::Update(_));
                if line.deleted.is_empty()
                    && !self.consumed(*update, head)
                    && self.staleness(*update, head) <= self.policy.aggregation.max_staleness as usize
                    && (!chained || pending.contains(&commit.base) || self.consumed(commit.base, head))
                {
                    pending.push(*update);
                }
            }
            verdict.heads.insert(*id, head);
            verdict.pending.insert(*id, pending);
        }
        for commit in &self.valid {
            if matches!(self.commits[commit], Commit::Aggregate(_)) {
                verdict.results.insert(*commit, self.result(*commit));
            }
        }
        verdict.roles.insert(self.delegate, Role::Delegate);
        let people: BTreeSet<PersonId> = self
            .order
            .iter()
            .filter_map(|operation| match operation.body() {
                Body::Grant(grant) => Some(grant.person),
                _ => None,
            })
            .collect();
        for person in people {
            let mut role = None;
            for operation in &self.order {
                if !self.decides_all(operation) {
                    continue;
                }
                match operation.body() {
                    Body::Grant(grant) if grant.person == person => role = Some(grant.role),
                    Body::Revoke(revoke) if revoke.person == person => role = None,
                    _ => {}
                }
            }
            if person != self.delegate {
                verdict.roles.extend(role.map(|role| (person, role)));
            }
        }
        verdict.void = self.void;
        verdict.idle = self.idle;
        verdict
    }

    fn decides_all(&self, operation: &Operation) -> bool {
        self.decides(operation.id(), &self.all) && operation.header().policy == self.revision
    }
}
