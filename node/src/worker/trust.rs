//! Whose word is taken for an aggregate's result, and what is run instead.
//!
//! A node that verifies always runs every aggregate. One that samples, and a light one, take a result that enough other
//! members attest and nobody contradicts. Whoever attests one result says by it that any other is wrong: a single honest
//! member who ran the recipe is enough to keep a light node from what many dishonest ones vouch for. What may not be
//! taken in time is run after all, or everybody could wait for everybody else.

use std::collections::BTreeSet;
use std::time::Duration;

use flair_protocol::commit::Outcome;
use flair_protocol::id::{BranchId, CommitId, RepositoryId};
use flair_protocol::key::PersonId;
use flair_protocol::policy::Role;
use flair_protocol::state::{CommitInfo, Publication, State};

use super::desk::Desk;
use crate::home::Verify;
use crate::hub::Hub;
use crate::shelf::Shelf;

/// What a node does about an aggregate that is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Gets the inputs, and runs it.
    Run,
    /// Fetches the result that others attest.
    Take,
    /// Waits for others to say more of it.
    Wait,
}

/// Whose word is taken for an aggregate's result.
pub(crate) struct Trust<'a> {
    /// Whose node it is; none when it may be anybody's.
    me: Option<PersonId>,
    verify: Verify,
    /// Other members who could attest something.
    others: usize,
    /// How many others must attest what a sample leaves out, or an old aggregate of a clone without history.
    attesters: usize,
    /// How long is waited before what may not be taken is run.
    patience: Duration,
    /// Whether this node aggregates by itself.
    aggregates: bool,
    desk: Option<(&'a Desk, RepositoryId)>,
}

impl<'a> Trust<'a> {
    /// What a node takes that runs whatever it can: old aggregates of a clone without history, when `attesters` others
    /// attest them, or all others there are.
    pub(crate) fn new(state: &State, me: impl Into<Option<PersonId>>, attesters: usize) -> Self {
        let me = me.into();
        let member = |person: &PersonId| state.role(*person).is_some_and(|role| role >= Role::Contributor);
        let others = state.members.keys().filter(|person| Some(**person) != me && member(person)).count();
        Self {
            me,
            verify: Verify::Always,
            others,
            attesters,
            patience: Duration::ZERO,
            aggregates: false,
            desk: None,
        }
    }

    /// What this node takes, by its settings.
    pub(crate) fn of(hub: &'a Hub, state: &State) -> Self {
        let config = &hub.config;
        Self {
            verify: config.verify_of(&state.repo.to_string()),
            patience: Duration::from_secs(config.quorum_wait),
            aggregates: config.aggregate
                && state.role(hub.me()).is_some_and(|role| role >= Role::Contributor),
            desk: Some((&hub.desk, state.repo)),
            ..Self::new(state, hub.me(), config.attesters)
        }
    }

    /// Whether what is waited for is ever taken without being run, apart from the start of a clone.
    pub(crate) fn relies(&self) -> bool {
        self.verify != Verify::Always
    }

    /// Whether nothing is run as long as others do.
    pub(crate) fn light(&self) -> bool {
        matches!(self.verify, Verify::Quorum(_))
    }

    /// How many others must attest an aggregate, up to which generation the clone began or after; none where it is run.
    fn need(&self, commit: CommitId, old: bool) -> Option<usize> {
        let fewer = self.attesters.min(self.others).max(1);
        match self.verify {
            Verify::Always => old.then_some(fewer),
            Verify::Sample(share) if !old && self.draws(commit, share.value()) => None,
            Verify::Sample(_) if old => Some(fewer),
            Verify::Sample(_) => Some(self.attesters),
            Verify::Quorum(count) => Some(usize::try_from(count).unwrap_or(usize::MAX)),
        }
    }

    /// Whether a sample has this aggregate in it: the same after every restart, and another for each node.
    fn draws(&self, commit: CommitId, share: f64) -> bool {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"flair/sample/1");
        hasher.update(self.me.as_ref().map_or(&[0; 32], |me| me.as_bytes()));
        hasher.update(commit.as_bytes());
        let mut first = [0; 8];
        hasher.finalize_xof().fill(&mut first);
        // 2^64 as a float: the quotient is in [0, 1].
        (u64::from_le_bytes(first) as f64) / 18_446_744_073_709_551_616.0 < share
    }

    /// Whether at least `need` others attest a result, which somebody published, and nobody says otherwise.
    pub(crate) fn holds(&self, info: &CommitInfo, need: usize) -> bool {
        let Some(result) = info.result.filter(|result| !contested(info, *result)) else { return false };
        let supporters = info.claims.iter().filter(|claim| claim.outcome == result);
        let others = supporters.flat_map(|claim| &claim.supporters).filter(|who| Some(**who) != self.me);
        others.count() >= need && source(info).is_some()
    }

    /// As [`holds`](Self::holds), with as many as a clone without history asks for.
    pub(crate) fn holds_old(&self, info: &CommitInfo) -> bool {
        self.holds(info, self.attesters.min(self.others).max(1))
    }

    /// What this node does about an aggregate that is not here.
    pub(crate) fn way(&self, state: &State, shelf: &Shelf, commit: CommitId) -> Way {
        let Some(info) = state.commits.get(&commit) else { return Way::Wait };
        let old = shelf.since().is_some_and(|since| state.generation(commit).is_some_and(|at| at <= since));
        let asked = self.desk.is_some_and(|(desk, repo)| desk.asked(repo, commit));
        match self.need(commit, old).filter(|_| !asked && !shelf.doubts(commit)) {
            None => Way::Run,
            Some(need) if self.holds(info, need) => Way::Take,
            Some(need) if !self.relies() || self.others < need || self.waited(commit) => Way::Run,
            Some(_) => Way::Wait,
        }
    }

    /// Whether an aggregate was waited for as long as it is.
    fn waited(&self, commit: CommitId) -> bool {
        self.desk.is_none_or(|(desk, repo)| desk.waited(repo, commit) >= self.patience)
    }

    /// Whether the fetch of an attested aggregate failed so often that it is run if its inputs can be had.
    pub(crate) fn unserved(&self, commit: CommitId) -> bool {
        self.desk.is_some_and(|(desk, repo)| desk.unserved(repo, commit))
    }

    /// Whether an aggregate is fetched instead of being run.
    pub(crate) fn takes_over(&self, state: &State, shelf: &Shelf, commit: CommitId) -> bool {
        let recipe = |info: &CommitInfo| info.commit.is_recipe();
        state.commits.get(&commit).is_some_and(recipe) && self.way(state, shelf, commit) == Way::Take
    }

    /// Whether nothing is left to fetch or run of a commit.
    pub(crate) fn settled(&self, state: &State, shelf: &Shelf, commit: CommitId) -> bool {
        let Some(held) = shelf.held(commit) else { return shelf.faulty(commit).is_some() };
        if !held.attested {
            return true;
        }
        if let Some(source) = state.source(commit).filter(|source| *source != commit) {
            // A revert has what its target has.
            return shelf.held(source).is_none_or(|held| held.attested);
        }
        let asked = self.desk.is_some_and(|(desk, repo)| desk.asked(repo, commit));
        let taken = shelf.since().is_some() || self.need(commit, false).is_some();
        taken && !asked && contradicted(state, shelf, commit).is_empty()
    }

    /// Whether pending updates are fetched: a light node leaves them to others, unless these don't aggregate.
    pub(crate) fn gathers(&self, state: &State, branch: BranchId) -> bool {
        let Some((desk, repo)) = self.desk.filter(|_| self.light()) else { return true };
        let late = |head| desk.idle(branch, head) >= self.patience;
        let ready = || state.next_inputs(branch).is_some_and(|next| next.ready() && late(next.parent));
        desk.gathering(repo) || (self.aggregates && ready())
    }

    /// Whether updates and steps that wait for accepts are fetched: a light node leaves them to who decides.
    pub(crate) fn reviews(&self, state: &State) -> bool {
        !self.light() || self.me.and_then(|me| state.role(me)).is_some_and(|role| role >= Role::Maintainer)
    }

    /// Aggregates that somebody asked to have run.
    pub(crate) fn asked(&self) -> Vec<CommitId> {
        self.desk.map_or_else(Vec::new, |(desk, repo)| desk.all_asked(repo))
    }
}

/// Whether anybody says that this is not an aggregate's result.
fn contested(info: &CommitInfo, outcome: Outcome) -> bool {
    info.result != Some(outcome) || !against(info, outcome).is_empty()
}

/// Who says that this is not an aggregate's result: by refuting it, or by attesting another.
fn against(info: &CommitInfo, outcome: Outcome) -> BTreeSet<PersonId> {
    let people = info
        .claims
        .iter()
        .map(|claim| if claim.outcome == outcome { &claim.refuters } else { &claim.supporters });
    people.flatten().copied().collect()
}

/// Who contradicts the result of an aggregate that was taken as others attest it, or of the one that a revert goes back
/// to; nobody where it was run here.
pub(crate) fn contradicted(state: &State, shelf: &Shelf, commit: CommitId) -> Vec<PersonId> {
    let held = shelf.held(commit).filter(|held| held.attested);
    let Some(outcome) = held.and_then(|held| held.outcome()) else { return Vec::new() };
    let info = state.commits.get(&state.source(commit).unwrap_or(commit));
    info.map_or_else(Vec::new, |info| against(info, outcome).into_iter().collect())
}

/// The publication that says where the tensors are: of an aggregate or merge, one with the result that counts.
pub(crate) fn source(info: &CommitInfo) -> Option<&Publication> {
    match info.commit.as_ref() {
        recipe if recipe.is_recipe() => {
            info.effective().find(|made| made.result.is_some() && made.result == info.result)
        }
        _ => info.publication(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use flair_protocol::commit::{Aggregate, Commit, KERNEL, MODE};
    use flair_protocol::id::{Digest, ModelId, OperationId, PackId, StateId};
    use flair_protocol::key::SecretKey;
    use flair_protocol::state::{Claim, Effect};

    use super::*;

    fn person(number: u8) -> PersonId {
        SecretKey::from_bytes(&[number; 32]).public()
    }

    fn outcome(number: u8) -> Outcome {
        let digest = Digest::from_bytes([number; 32]);
        Outcome { model: ModelId::from_digest(digest), state: StateId::from_digest(digest) }
    }

    fn claim(number: u8, supporters: &[u8], refuters: &[u8]) -> Claim {
        let people = |numbers: &[u8]| numbers.iter().map(|number| person(*number)).collect();
        Claim { outcome: outcome(number), supporters: people(supporters), refuters: people(refuters) }
    }

    fn commit(number: u8) -> CommitId {
        CommitId::from_digest(Digest::from_bytes([number; 32]))
    }

    /// An aggregate that person 1 published with result 1.
    fn aggregate(claims: Vec<Claim>) -> CommitInfo {
        let zero = Digest::from_bytes([0; 32]);
        let recipe = Aggregate {
            repo: RepositoryId::from_digest(zero),
            branch: BranchId::from_digest(zero),
            parent: CommitId::from_digest(zero),
            inputs: Vec::new(),
            policy: OperationId::from_digest(zero),
            mode: MODE.to_owned(),
            kernel: KERNEL,
        };
        let publication = Publication {
            operation: OperationId::from_digest(zero),
            person: person(1),
            pack: PackId::from_digest(zero),
            pack_bytes: 0,
            result: Some(outcome(1)),
            time: 0,
            effect: Effect::Full,
        };
        CommitInfo {
            commit: Arc::new(Commit::Aggregate(recipe)),
            publications: vec![publication],
            reviews: Vec::new(),
            evaluations: Vec::new(),
            result: claims.first().map(|claim| claim.outcome),
            claims,
            skipped: false,
            acceptance: None,
        }
    }

    fn trust<'a>(verify: &str, desk: Option<(&'a Desk, RepositoryId)>) -> Trust<'a> {
        Trust {
            me: Some(person(9)),
            verify: Verify::parse(verify).unwrap(),
            others: 5,
            attesters: 2,
            patience: Duration::from_hours(1),
            aggregates: true,
            desk,
        }
    }

    #[test]
    fn a_result_is_taken_over_only_where_enough_others_attest_it_and_nobody_says_otherwise() {
        let trust = trust("quorum:2", None);
        let holds = |claims| trust.holds(&aggregate(claims), 2);
        assert!(holds(vec![claim(1, &[1, 2], &[])]));
        assert!(holds(vec![claim(1, &[1, 2], &[]), claim(2, &[], &[3])]), "what nobody attests any more");
        assert!(!holds(vec![]));
        assert!(!holds(vec![claim(1, &[1], &[])]), "too few");
        assert!(!holds(vec![claim(1, &[1, 9], &[])]), "one's own word does not count");
        assert!(!holds(vec![claim(1, &[1, 2, 3], &[4])]), "refuted");
        assert!(!holds(vec![claim(1, &[1, 2, 3], &[]), claim(2, &[4], &[])]), "another result is attested");
        assert!(
            !holds(vec![claim(2, &[2, 3], &[])]),
            "nobody published this result, so nobody says where it is"
        );
    }

    #[test]
    fn each_mode_runs_takes_or_waits() {
        use Way::{Run, Take, Wait};
        let desk = Desk::default();
        let repo = RepositoryId::from_digest(Digest::from_bytes([7; 32]));
        let mut state = State::evaluate(&flair_protocol::graph::Graph::new(repo));
        let attested = |by: &[u8]| aggregate(vec![claim(1, by, &[])]);
        let sides = [(1, attested(&[1])), (2, attested(&[1, 2])), (3, attested(&[1, 2, 3]))];
        state.commits.extend(sides.map(|(number, info)| (commit(number), info)));
        let refuted = aggregate(vec![claim(1, &[1, 2, 3], &[4])]);
        state.commits.insert(commit(4), refuted);
        let shelf = Shelf::default();
        let ways = |verify: &str| {
            let trust = trust(verify, Some((&desk, repo)));
            [1, 2, 3, 4].map(|number| trust.way(&state, &shelf, commit(number)))
        };
        assert_eq!(ways("always"), [Run; 4]);
        assert_eq!(ways("sample:1"), [Run; 4]);
        assert_eq!(ways("sample:1e-300"), [Wait, Take, Take, Wait]);
        assert_eq!(ways("quorum:3"), [Wait, Wait, Take, Wait]);
        assert_eq!(ways("quorum:6"), [Run; 4], "there are not so many others");
        let impatient = Trust { patience: Duration::ZERO, ..trust("quorum:3", Some((&desk, repo))) };
        assert_eq!([1, 3, 4].map(|number| impatient.way(&state, &shelf, commit(number))), [Run, Take, Run]);
        desk.ask(repo, commit(3));
        assert_eq!(ways("quorum:3"), [Wait, Wait, Run, Wait], "somebody asked to have it run");
        shelf.doubt(commit(2));
        assert_eq!(ways("quorum:2"), [Wait, Run, Run, Wait], "its bytes were not what was attested");
    }

    #[test]
    fn a_sample_is_the_same_after_a_restart_another_on_each_node_and_as_large_as_said() {
        let drawn = |me: u8, share: f64| {
            let trust = Trust { me: Some(person(me)), ..trust("always", None) };
            let commits = (0..2000u32).map(|number| CommitId::from_digest(Digest::of(&number.to_le_bytes())));
            commits.filter(|commit| trust.draws(*commit, share)).collect::<BTreeSet<_>>()
        };
        let (a, b) = (drawn(1, 0.1), drawn(2, 0.1));
        assert_eq!(a, drawn(1, 0.1));
        assert_ne!(a, b);
        // Three standard deviations of a binomial with n = 2000, p = 0.1 are 40.
        assert!([a.len(), b.len()].iter().all(|count| count.abs_diff(200) < 40), "{} {}", a.len(), b.len());
        assert!(a.is_subset(&drawn(1, 0.3)), "a larger sample has the smaller in it");
        assert_eq!((drawn(1, 1.0).len(), drawn(1, 1e-300).len()), (2000, 0));
    }
}
