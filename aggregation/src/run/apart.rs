//! How far persons are apart: the pass before the second one, for rules that compare movements.

use super::blocks::{Budget, Worker};
use super::layout::{Kind, Layout, Unit};
use super::rows::{Term, by_rows};
use super::{Error, Part, Progress, Request, Shortened, Source, Step, is_unmoved, pool};
use crate::kernel::CHUNK;
use crate::kernel::norm::{Tree, squared_gap};
use crate::plan::Plan;
use crate::policy::Distances;
use std::error::Error as StdError;

/// The measuring of the persons of a plan, two by two.
pub(super) struct Apart<'a, R> {
    source: &'a R,
    layout: &'a Layout<'a>,
    plan: &'a Plan,
    budget: Budget,
    /// Per contribution, what makes its movement part of its person's weighed movement.
    factors: Vec<f64>,
}

impl<'a, R: Source> Apart<'a, R> {
    pub(super) fn new(
        request: &Request<'_>,
        source: &'a R,
        layout: &'a Layout<'a>,
        plan: &'a Plan,
        shortened: &Shortened,
    ) -> Self {
        let factors = shortened.factors(plan, &shortened.discounts);
        Self { source, layout, plan, budget: Budget::new(request, layout), factors }
    }

    /// The squared distances of the persons' weighed movements, over all `float` tensors. Each is a sum in the fixed
    /// shape of [`crate::kernel::norm`].
    pub(super) fn run<E: StdError + Send + 'static>(
        &self,
        progress: &dyn Fn(Progress),
    ) -> Result<Distances, Error<R::Error, E>> {
        let persons = self.plan.persons.len();
        let pairs: Vec<(usize, usize)> =
            (0..persons).flat_map(|one| (one + 1..persons).map(move |other| (one, other))).collect();
        let units = self.layout.units(|tensor, about| {
            matches!(about.kind, Kind::Moved(_)) && !pairs.is_empty() && self.is_moved(tensor)
        });
        let total = units.iter().map(|unit| unit.len as u64).sum();
        let mut done = 0;
        let (mut trees, mut squares) = (vec![Tree::default(); pairs.len()], vec![0.0; pairs.len()]);
        let mut close = |trees: &mut Vec<Tree>| {
            squares.iter_mut().zip(trees).for_each(|(squares, tree)| *squares += tree.take());
        };
        let mut tensor = None;
        let setup = || Worker::new(self.source, self.layout, self.budget);
        let work = |worker: &mut Worker<'a, R>, index: usize| match units.get(index) {
            Some(unit) => {
                worker.blocks.turn_to(*unit);
                self.measure(worker, *unit, &pairs)
            }
            None => Ok(Vec::new()),
        };
        let take = |index: usize, found: Vec<Tree>| {
            if let Some(unit) = units.get(index) {
                if tensor.replace(unit.tensor).is_some_and(|before| before != unit.tensor) {
                    close(&mut trees);
                }
                trees.iter_mut().zip(found).for_each(|(tree, found)| tree.append(found));
                done += unit.len as u64;
                progress(Progress { step: Step::Compare, done, total });
            }
            Ok(())
        };
        pool::ordered(self.budget.threads, units.len(), setup, work, take)?;
        close(&mut trees);
        let mut distances = Distances::new(persons);
        for ((one, other), square) in pairs.iter().zip(squares) {
            distances.set(*one, *other, square);
        }
        Ok(distances)
    }

    /// Whether anybody moved a tensor.
    fn is_moved(&self, tensor: usize) -> bool {
        self.plan.taking_part().any(|(index, input)| !is_unmoved(self.source, index, input, tensor))
    }

    /// The sums of one unit's runs, pair by pair.
    fn measure<E: StdError>(
        &self,
        worker: &mut Worker<'a, R>,
        unit: Unit,
        pairs: &[(usize, usize)],
    ) -> Result<Vec<Tree>, Error<R::Error, E>> {
        let mut trees = vec![Tree::default(); pairs.len()];
        let Kind::Moved(float) = self.layout.kind(unit.tensor) else { return Ok(trees) };
        let rows: Vec<Vec<Term>> =
            self.plan.persons.iter().map(|person| self.terms(&person.inputs, unit.tensor)).collect();
        let Worker { blocks, matrix, .. } = worker;
        by_rows(blocks, matrix, unit, float, &rows, |range, matrix| {
            let row =
                |person: usize| matrix.get(person * range.len()..(person + 1) * range.len()).unwrap_or(&[]);
            for ((one, other), tree) in pairs.iter().zip(&mut trees) {
                // Who moved nothing here has a row of zeros, and two of them are not apart.
                for (left, right) in row(*one).chunks(CHUNK).zip(row(*other).chunks(CHUNK)) {
                    tree.push(squared_gap(left, right));
                }
            }
        })?;
        Ok(trees)
    }

    fn terms(&self, inputs: &[usize], tensor: usize) -> Vec<Term> {
        let term = |index: &usize| {
            let input = (*self.plan.inputs.get(*index)?)?;
            let factor = self.factors.get(*index).copied().filter(|factor| *factor != 0.0)?;
            let moves = !is_unmoved(self.source, *index, input, tensor);
            moves.then_some((factor, Part::Input(*index), Some(input.base)))
        };
        inputs.iter().filter_map(term).collect()
    }
}
