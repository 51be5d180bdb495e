//! A second evaluator, written from the rules and not from the first: sets of ids, no shortcuts, any cost.

mod steps;
mod work;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use flair_protocol::commit::{Commit, Outcome};
use flair_protocol::graph::Graph;
use flair_protocol::id::{BranchId, CommitId, OperationId};
use flair_protocol::key::PersonId;
use flair_protocol::operation::{Body, Operation};
use flair_protocol::policy::{Policy, Role};
use flair_protocol::state::State;

type Ids = BTreeSet<OperationId>;

/// What both evaluators must say.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Verdict {
    chain: Vec<OperationId>,
    frozen: Ids,
    void: Ids,
    idle: Ids,
    roles: BTreeMap<PersonId, Role>,
    heads: BTreeMap<BranchId, Option<CommitId>>,
    pending: BTreeMap<BranchId, Vec<CommitId>>,
    waiting: BTreeMap<BranchId, Vec<CommitId>>,
    proposed: BTreeMap<BranchId, Vec<CommitId>>,
    results: BTreeMap<CommitId, (Option<Outcome>, bool)>,
}

impl Verdict {
    /// What the real evaluator says.
    pub(crate) fn of(state: &State) -> Self {
        let aggregates =
            state.commits.iter().filter(|(_, info)| info.commit.is_recipe() && info.is_effective());
        let roles = state.members.keys().filter_map(|person| Some((*person, state.role(*person)?)));
        Self {
            chain: state.chain.clone(),
            frozen: state.frozen.iter().copied().collect(),
            void: state.void.keys().copied().collect(),
            idle: state.idle.keys().copied().collect(),
            roles: roles.collect(),
            heads: state.branches.values().map(|branch| (branch.id, branch.head)).collect(),
            pending: state.branches.values().map(|branch| (branch.id, branch.pending.clone())).collect(),
            waiting: state.branches.values().map(|branch| (branch.id, branch.waiting.clone())).collect(),
            proposed: state.branches.values().map(|branch| (branch.id, branch.proposed.clone())).collect(),
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
    genesis: OperationId,
    /// Answers that are asked for again and again.
    known: RefCell<BTreeMap<(OperationId, OperationId, Role), Option<Role>>>,
    void: Ids,
    idle: Ids,
    /// Publications of first commits, aggregates and steps that count, and of updates that fit their own past.
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
        Self {
            by_id: order.iter().map(|operation| (operation.id(), *operation)).collect(),
            all: past.keys().copied().collect(),
            order,
            past,
            genesis: OperationId::from_digest(graph.repo().digest()),
            known: RefCell::default(),
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

    // The policy.

    fn policy(&self, revision: OperationId) -> &'a Policy {
        match self.by_id[&revision].body() {
            Body::Genesis(genesis) => &genesis.policy,
            Body::Revision(revision) => revision.policy.known().unwrap(),
            _ => unreachable!(),
        }
    }

    fn version(&self, revision: OperationId) -> u64 {
        match self.by_id[&revision].body() {
            Body::Revision(revision) => revision.version,
            _ => 0,
        }
    }

    /// The parent of a revision that follows the rules.
    fn parent(&self, revision: OperationId) -> Option<OperationId> {
        let operation = self.by_id.get(&revision)?;
        let Body::Revision(body) = operation.body() else { return None };
        let stated = body.parent == self.genesis || self.parent(body.parent).is_some();
        let follows = stated
            && self.past[&revision].contains(&body.parent)
            && self.version(body.parent) + 1 == body.version
            && self.policy(body.parent).delegates.contains(&operation.author());
        follows.then_some(body.parent)
    }

    /// Whether what is said of the policy follows the rules.
    fn proper(&self, id: OperationId) -> bool {
        let operation = self.by_id[&id];
        let about = match operation.body() {
            Body::Revision(_) => return self.parent(id).is_some(),
            Body::Approve(approve) => approve.revision,
            Body::Resolve(resolve) => resolve.revision,
            _ => return false,
        };
        self.past[&id].contains(&about)
            && self
                .parent(about)
                .is_some_and(|parent| self.policy(parent).delegates.contains(&operation.author()))
    }

    /// The revisions in force within `within`, and those that contradict each other on top.
    fn chain(&self, within: &Ids) -> (Vec<OperationId>, Ids) {
        let mut chain = vec![self.genesis];
        loop {
            let current = *chain.last().unwrap();
            let quorum = self.policy(current).threshold as usize;
            let said: Vec<&Operation> =
                within.iter().filter(|id| self.proper(**id)).map(|id| self.by_id[id]).collect();
            let approvers = |revision: OperationId| -> BTreeSet<PersonId> {
                let approve = |operation: &&&Operation| {
                    operation.id() == revision
                        || matches!(operation.body(), Body::Approve(approve) if approve.revision == revision)
                };
                said.iter().filter(approve).map(|operation| operation.author()).collect()
            };
            let children: Ids = said
                .iter()
                .map(|operation| operation.id())
                .filter(|id| self.parent(*id) == Some(current) && approvers(*id).len() >= quorum)
                .collect();
            let chosen = |round: u64| -> Vec<OperationId> {
                let voters = |child: OperationId| -> BTreeSet<PersonId> {
                    let votes = |operation: &&&Operation| {
                        matches!(operation.body(),
                            Body::Resolve(resolve) if resolve.revision == child && resolve.round == round)
                    };
                    said.iter().filter(votes).map(|operation| operation.author()).collect()
                };
                children.iter().copied().filter(|child| voters(*child).len() >= quorum).collect()
            };
            let next = match children.len() {
                0 => return (chain, Ids::new()),
                1 => children.first().copied(),
                _ => (0..4).rev().map(chosen).find(|chosen| chosen.len() == 1).map(|chosen| chosen[0]),
            };
            match next {
                Some(next) => chain.push(next),
                None => return (chain, children),
            }
        }
    }

    /// Whether a revision in force ends the person's role as a delegate.
    fn dismisses(&self, revision: OperationId, person: PersonId) -> bool {
        self.parent(revision).is_some_and(|parent| {
            self.cut(revision, person).is_some()
                || (self.policy(parent).delegates.contains(&person)
                    && !self.policy(revision).delegates.contains(&person))
        })
    }

    fn cut(&self, revision: OperationId, person: PersonId) -> Option<&'a Vec<OperationId>> {
        let Body::Revision(body) = self.by_id[&revision].body() else { return None };
        body.cuts.iter().find(|cut| cut.person == person).map(|cut| &cut.keep)
    }

    fn under(&self, id: OperationId, frontier: &[OperationId]) -> bool {
        frontier.iter().any(|kept| self.past.get(kept).is_some_and(|past| past.contains(&id)))
    }

    fn spares(&self, revision: OperationId, id: OperationId) -> bool {
        match self.cut(revision, self.by_id[&id].author()) {
            Some(keep) => self.under(id, keep),
            None => self.past[&revision].contains(&id),
        }
    }

    // Standing.

    /// Whether `of` has signed two operations with one number, up to `seq`, within `within`.
    fn forked(&self, of: PersonId, seq: u64, within: &Ids) -> bool {
        let theirs = within.iter().map(|id| self.by_id[id].header()).filter(|header| header.author == of);
        let mut seen = BTreeSet::new();
        theirs.filter(|header| header.seq <= seq).any(|header| !seen.insert(header.seq))
    }

    /// Whether `id` was signed as a delegate and counts as that.
    fn decides(&self, id: OperationId, within: &Ids) -> bool {
        let (person, seq) = (self.by_id[&id].author(), self.by_id[&id].header().seq);
        let (own, chain) = (self.chain(&self.past[&id]).0, self.chain(within).0);
        let shared: Vec<_> = own.iter().zip(&chain).take_while(|(a, b)| a == b).collect();
        let (followed, later) = (*chain[shared.len() - 1..].first().unwrap(), &chain[shared.len()..]);
        if !self.policy(followed).delegates.contains(&person) {
            return false;
        }
        if later.iter().any(|revision| self.dismisses(*revision, person) && !self.spares(*revision, id)) {
            return false;
        }
        if !self.forked(person, seq, within) {
            return true;
        }
        within.iter().any(|by| {
            let other = self.by_id[by].author();
            other != person
                && !self.forked(other, u64::MAX, within)
                && self.past[by].contains(&id)
                && !self.forked(person, seq, &self.past[by])
                && self.decides(*by, within)
        })
    }

    /// What was said of a person within `within`.
    fn about(&self, person: PersonId, within: &Ids) -> Vec<&'a Operation> {
        let concerns = |operation: &&Operation| match operation.body() {
            Body::Grant(grant) => grant.person == person,
            Body::Revoke(revoke) => revoke.person == person,
            Body::Revision(_) => self.cut(operation.id(), person).is_some(),
            _ => false,
        };
        self.order
            .iter()
            .copied()
            .filter(|operation| within.contains(&operation.id()))
            .filter(concerns)
            .collect()
    }

    /// In which rank a grant or revocation was made, if it was its signer's to make.
    fn signer(&self, id: OperationId, within: &Ids, least: Role) -> Option<Role> {
        let signer = if self.decides(id, within) {
            Role::Delegate
        } else if least >= Role::Maintainer {
            return None;
        } else {
            self.member(id, within, Role::Maintainer)?
        };
        let (person, role) = match self.by_id[&id].body() {
            Body::Grant(grant) => (grant.person, grant.role),
            Body::Revoke(revoke) => (revoke.person, Role::Reader),
            _ => return None,
        };
        let seen = &self.past[&id];
        let delegate = self.policy(*self.chain(seen).0.last().unwrap()).delegates.contains(&person);
        let equal = signer == Role::Maintainer && self.held(person, seen, Role::Maintainer).is_some();
        (!delegate && !equal && role < signer).then_some(signer)
    }

    /// Whether `event` ends the grant `of`.
    fn ends(&self, event: &Operation, of: &Operation, within: &Ids, least: Role) -> bool {
        let Body::Grant(grant) = of.body() else { unreachable!() };
        event.id() != of.id()
            && self.past[&event.id()].contains(&of.id())
            && match event.body() {
                Body::Revision(_) => self.chain(within).0.contains(&event.id()),
                _ => self.signer(event.id(), within, least).is_some_and(|signer| signer > grant.role),
            }
    }

    /// The highest role above or at `least` that somebody holds at the end of `within` by a grant.
    fn held(&self, person: PersonId, within: &Ids, least: Role) -> Option<Role> {
        let about = self.about(person, within);
        let grants = about.iter().filter_map(|operation| match operation.body() {
            Body::Grant(grant) if grant.role >= least => Some((*operation, grant.role)),
            _ => None,
        });
        let stands = grants.filter(|(grant, _)| {
            self.signer(grant.id(), within, least).is_some()
                && !about.iter().any(|event| self.ends(event, grant, within, least))
        });
        stands.map(|(_, role)| role).max()
    }

    /// The highest role above or at `least` that a grant gave the signer of `id` and that stands.
    fn member(&self, id: OperationId, within: &Ids, least: Role) -> Option<Role> {
        // Pasts are told apart by the operation they are of; the whole set by the genesis, whose past is no question.
        let place = if *within == self.all {
            self.genesis
        } else {
            *self.past.iter().find(|(_, past)| *past == within).unwrap().0
        };
        if let Some(role) = self.known.borrow().get(&(id, place, least)) {
            return *role;
        }
        let person = self.by_id[&id].author();
        let mine = &self.past[&id];
        let about = self.about(person, within);
        let stands = |grant: &&Operation| {
            let Body::Grant(body) = grant.body() else { return false };
            let ended =
                about.iter().filter(|event| self.ends(event, grant, within, least)).any(|event| match event
                    .body()
                {
                    Body::Revision(_) => {
                        self.chain(mine).0.contains(&event.id()) || !self.spares(event.id(), id)
                    }
                    Body::Grant(_) => mine.contains(&event.id()),
                    Body::Revoke(revoke) => {
                        mine.contains(&event.id())
                            || !(self.past[&event.id()].contains(&id)
                                || self.under(id, &revoke.keep)
                                || self.vouched(id, body.role, within, |by| {
                                    self.past[&by].contains(&event.id())
                                }))
                    }
                    _ => unreachable!(),
                });
            let seq = self.by_id[&id].header().seq;
            body.role >= least
                && mine.contains(&grant.id())
                && self.signer(grant.id(), within, least).is_some()
                && !ended
                && (!self.forked(person, seq, within)
                    || self.vouched(id, body.role, within, |by| self.forked(person, seq, &self.past[&by])))
        };
        let roles = about.iter().filter(|grant| stands(grant)).map(|grant| match grant.body() {
            Body::Grant(grant) => grant.role,
            _ => unreachable!(),
        });
        let role = roles.max();
        self.known.borrow_mut().insert((id, place, least), role);
        role
    }

    /// Whether somebody above `role` had seen `id` and not what speaks against it.
    fn vouched(&self, id: OperationId, role: Role, within: &Ids, knew: impl Fn(OperationId) -> bool) -> bool {
        within.iter().copied().any(|by| {
            self.by_id[&by].author() != self.by_id[&id].author()
                && self.past[&by].contains(&id)
                && !knew(by)
                && (self.decides(by, within)
                    || (role < Role::Maintainer && self.member(by, within, Role::Maintainer).is_some()))
        })
    }

    /// The role in which `id` counts within `within`.
    fn role(&self, id: OperationId, within: &Ids) -> Option<Role> {
        let followed = self.by_id[&id].header().policy;
        let stated = followed == self.genesis || self.parent(followed).is_some();
        if id != self.genesis && !(stated && self.past[&id].contains(&followed)) {
            return None;
        }
        if self.decides(id, within) {
            return Some(Role::Delegate);
        }
        self.member(id, within, Role::Reader)
    }
}
