//! Which publications and evaluations of commits an operation has seen.

use std::collections::{BTreeMap, BTreeSet};

use super::Order;
use crate::id::CommitId;
use crate::limits;
use crate::operation::Body;

/// What [`sightings`] finds.
pub(super) struct Sightings {
    /// For each operation: the commits it names and their publications in its past, by rank; sorted.
    pub(super) seen: Vec<Vec<(CommitId, usize)>>,
    /// For each aggregate or external: the evaluations of its inputs in its past, by rank; sorted.
    pub(super) measured: BTreeMap<usize, Vec<usize>>,
    /// Publications and evaluations that repeat their author's earlier ones too often.
    pub(super) surplus: BTreeSet<usize>,
}

/// Operations about a commit, without those by authors who said it often enough.
#[derive(Default)]
struct Said(BTreeMap<CommitId, Vec<usize>>);

impl Said {
    fn about(&self, commit: CommitId) -> &[usize] {
        self.0.get(&commit).map_or(&[], Vec::as_slice)
    }

    /// Notes one more; not if its author has `most` in the same chain, or too many over all ends of a forked one.
    fn note(&mut self, order: &Order<'_>, commit: CommitId, rank: usize, most: usize) -> bool {
        let earlier = self.0.entry(commit).or_default();
        let own = earlier.iter().filter(|other| order.author[**other] == order.author[rank]);
        let before = own.clone().filter(|other| order.chain.covers(**other, rank)).count();
        let fits = before < most && own.count() < limits::FORKED;
        if fits {
            earlier.push(rank);
        }
        fits
    }
}

/// Whether an operation is in the past of another, asked many times.
#[derive(Default)]
struct Questions {
    asked: Vec<(usize, usize)>,
    /// The commit that each is about; none where it is about an evaluation.
    named: Vec<Option<CommitId>>,
}

impl Questions {
    fn ask(&mut self, sources: &[usize], of: usize, named: Option<CommitId>) {
        self.asked.extend(sources.iter().map(|source| (*source, of)));
        self.named.resize(self.asked.len(), named);
    }
}

/// Finds which publications of the commits that an operation names are in its past; and, if evaluations are asked for
/// at all, which evaluations of its inputs are in an aggregate's.
///
/// Without a bound on how often one author publishes one commit, a thousand publications named by a thousand
/// attestations would be a million questions.
pub(super) fn sightings(order: &Order<'_>, required: bool) -> Sightings {
    let (mut publications, mut evaluations) = (Said::default(), Said::default());
    let mut surplus = BTreeSet::new();
    let mut questions = Questions::default();
    for rank in 0..order.len() {
        let mut ask = |commit: &CommitId| questions.ask(publications.about(*commit), rank, Some(*commit));
        let mut fits = true;
        match order.at(rank).body() {
            Body::Publish(publish) => {
                let commit = &publish.commit;
                let merged = commit.merge().map(|merge| &merge.other);
                commit.base().iter().chain(commit.inputs()).chain(merged).for_each(ask);
                for input in commit.inputs().iter().filter(|_| required) {
                    questions.ask(evaluations.about(*input), rank, None);
                }
                fits = publications.note(order, publish.id, rank, limits::PUBLICATIONS);
            }
            Body::Evaluate(evaluation) => {
                ask(&evaluation.commit);
                fits = evaluations.note(order, evaluation.commit, rank, limits::EVALUATIONS);
            }
            Body::Attest(attest) => ask(&attest.commit),
            Body::Refute(refute) => ask(&refute.commit),
            Body::Review(review) => ask(&review.commit),
            Body::BranchCreate(create) => create.from.iter().for_each(ask),
            _ => {}
        }
        if !fits {
            surplus.insert(rank);
        }
    }
    let mut seen = vec![Vec::new(); order.len()];
    let mut measured: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    order.above(&questions.asked, |number| {
        let (source, of) = questions.asked[number];
        match questions.named[number] {
            Some(commit) => seen[of].push((commit, source)),
            None => measured.entry(of).or_default().push(source),
        }
    });
    for seen in &mut seen {
        seen.sort_unstable();
    }
    for measured in measured.values_mut() {
        measured.sort_unstable();
    }
    Sightings { seen, measured, surplus }
}
