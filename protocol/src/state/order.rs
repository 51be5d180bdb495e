//! A graph's operations in (Lamport time, id) order, which no order of arrival can change.

use super::forest::Forest;
use crate::graph::Graph;
use crate::id::OperationId;
use crate::key::PublicKey;
use crate::operation::Operation;

/// Words of a batch of [`Order::above`]: 512 operations at a time.
const WORDS: usize = 8;
const BATCH: usize = WORDS * 64;
type Mask = [u64; WORDS];

/// Operations by rank: an operation's past has smaller ranks, and its rank depends on the set alone.
pub(super) struct Order<'a> {
    graph: &'a Graph,
    operations: Vec<&'a Operation>,
    deps: Vec<Vec<usize>>,
    rank_of_place: Vec<usize>,
    /// Everybody who signed something, by key.
    pub(super) people: Vec<PublicKey>,
    /// The author of each operation, as an index into `people`.
    pub(super) author: Vec<usize>,
    /// Each author's operations, by rank.
    pub(super) by_author: Vec<Vec<usize>>,
    /// Every operation under its author's previous one.
    pub(super) chain: Forest,
}

impl<'a> Order<'a> {
    pub(super) fn new(graph: &'a Graph) -> Self {
        let mut places: Vec<usize> = (0..graph.len()).collect();
        places.sort_unstable_by_key(|place| graph.at(*place).order());
        let mut rank_of_place = vec![0; places.len()];
        for (rank, place) in places.iter().enumerate() {
            rank_of_place[*place] = rank;
        }
        let people: Vec<PublicKey> = graph.authors().collect();
        let mut author_of_place = vec![0; places.len()];
        for (number, person) in people.iter().enumerate() {
            for place in graph.by_author(*person).flat_map(|(_, places)| places) {
                author_of_place[*place] = number;
            }
        }
        let mut order = Self {
            graph,
            operations: Vec::with_capacity(places.len()),
            deps: Vec::with_capacity(places.len()),
            rank_of_place,
            by_author: vec![Vec::new(); people.len()],
            people,
            author: Vec::with_capacity(places.len()),
            chain: Forest::default(),
        };
        for (rank, place) in places.into_iter().enumerate() {
            let operation = graph.at(place);
            let author = author_of_place[place];
            let prev = operation.header().prev;
            let prev = graph.deps(place).iter().find(|dep| Some(graph.at(**dep).id()) == prev);
            order.chain.push(prev.map(|prev| order.rank_of_place[*prev]));
            order.by_author[author].push(rank);
            order.author.push(author);
            order.deps.push(graph.deps(place).iter().map(|dep| order.rank_of_place[*dep]).collect());
            order.operations.push(operation);
        }
        order
    }

    pub(super) fn len(&self) -> usize {
        self.operations.len()
    }

    pub(super) fn at(&self, rank: usize) -> &'a Operation {
        self.operations[rank]
    }

    pub(super) fn id(&self, rank: usize) -> OperationId {
        self.operations[rank].id()
    }

    pub(super) fn deps(&self, rank: usize) -> &[usize] {
        &self.deps[rank]
    }

    pub(super) fn rank(&self, id: OperationId) -> Option<usize> {
        self.graph.place(id).map(|place| self.rank_of_place[place])
    }

    /// Answers many questions "is `source` in the past of `of`?" at once: calls `yes` with the number of each
    /// question whose answer is yes. Memory is that of one batch, time is operations × sources / 64.
    pub(super) fn above(&self, questions: &[(usize, usize)], mut yes: impl FnMut(usize)) {
        let mut sorted: Vec<usize> = (0..questions.len()).collect();
        sorted.sort_unstable_by_key(|question| questions[*question]);
        let mut masks: Vec<Mask> = vec![[0; WORDS]; self.len()];
        let mut rest = sorted.as_slice();
        while let Some(first) = rest.first() {
            let lowest = questions[*first].0;
            let (mut sources, mut taken, mut highest) = (Vec::new(), 0, lowest);
            for question in rest {
                let (source, of) = questions[*question];
                if sources.last() != Some(&source) {
                    if sources.len() == BATCH {
                        break;
                    }
                    sources.push(source);
                }
                highest = highest.max(of);
                taken += 1;
            }
            let mut next = 0;
            for rank in lowest..=highest {
                let mut mask = [0; WORDS];
                for dep in self.deps(rank).iter().filter(|dep| **dep >= lowest) {
                    join(&mut mask, &masks[*dep]);
                }
                if sources.get(next) == Some(&rank) {
                    mask[next / 64] |= 1 << (next % 64);
                    next += 1;
                }
                masks[rank] = mask;
            }
            let (batch, others) = rest.split_at(taken);
            for question in batch {
                let (source, of) = questions[*question];
                let bit = sources.binary_search(&source).unwrap_or_default();
                if source < of && masks[of][bit / 64] >> (bit % 64) & 1 == 1 {
                    yes(*question);
                }
            }
            rest = others;
        }
    }
}

fn join(mask: &mut Mask, other: &Mask) {
    for (word, more) in mask.iter_mut().zip(other) {
        *word |= more;
    }
}
