//! The first pass: which inputs are sound, and how far each person moved.

use super::blocks::{Budget, Worker};
use super::layout::{Kind, Layout, Unit};
use super::{Error, Part, Progress, Request, Source, Step, is_unmoved, pool};
use crate::kernel::CHUNK;
use crate::kernel::float::Float;
use crate::kernel::norm::{Tree, all_finite, dot, squared_distance};
use crate::kernel::sum::add_difference;
use crate::plan::{Plan, Skip};
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A scan of some persons' updates.
pub(super) struct Scan<'a, R> {
    source: &'a R,
    layout: &'a Layout<'a>,
    plan: &'a Plan,
    /// Indices of the persons to look at.
    persons: &'a [usize],
    budget: Budget,
    /// Per tensor, whether there is anything to look at.
    looked_at: Vec<bool>,
    /// Per contribution, the first unit known to hold a fault: later units need not look at it.
    faulty_at: Vec<AtomicUsize>,
}

/// What a scan found.
pub(super) struct Found {
    /// Unsound inputs, each with its first fault in file order.
    pub(super) faults: BTreeMap<usize, Skip>,
    /// Per person looked at, the norm of its movement; meaningless for owners of unsound inputs.
    pub(super) norms: Vec<f64>,
}

/// What one unit showed.
#[derive(Default)]
pub(super) struct Piece {
    faults: Vec<(usize, Skip)>,
    /// For each person who moved here: place in the scan's list, and the sums of squares of the runs.
    squares: Vec<(usize, Vec<f64>)>,
}

/// Collects what the units of a scan show, in their order.
pub(super) struct Tally {
    faults: BTreeMap<usize, Skip>,
    /// Per person looked at: the runs of the tensor at hand, and the sum over the tensors before it.
    trees: Vec<Tree>,
    squares: Vec<f64>,
    tensor: usize,
}

impl<'a, R: Source> Scan<'a, R> {
    pub(super) fn new(
        request: &Request<'_>,
        source: &'a R,
        layout: &'a Layout<'a>,
        plan: &'a Plan,
        persons: &'a [usize],
    ) -> Self {
        let looked_at = layout.tensors.iter().enumerate().map(|(tensor, about)| match about.kind {
            _ if persons.is_empty() => false,
            Kind::Moved(_) => {
                plan.taking_part().any(|(index, input)| !is_unmoved(source, index, input, tensor))
            }
            Kind::Averaged(_) | Kind::Equal => true,
            Kind::Largest(_) => false,
        });
        Self {
            source,
            layout,
            plan,
            persons,
            budget: Budget::new(request, layout),
            looked_at: looked_at.collect(),
            faulty_at: plan.inputs.iter().map(|_| AtomicUsize::new(usize::MAX)).collect(),
        }
    }

    /// Whether this tensor has anything to look at.
    pub(super) fn looks_at(&self, tensor: usize) -> bool {
        self.looked_at.get(tensor).copied().unwrap_or(false)
    }

    pub(super) fn run<E: StdError + Send + 'static>(
        &self,
        progress: &dyn Fn(Progress),
    ) -> Result<Found, Error<R::Error, E>> {
        let units = self.layout.units(|tensor, _| self.looks_at(tensor));
        let total = units.iter().map(|unit| unit.len as u64).sum();
        let mut done = 0;
        let mut tally = Tally::new(self.persons.len());
        let setup = || Worker::new(self.source, self.layout, self.budget);
        let work = |worker: &mut Worker<'a, R>, index: usize| match units.get(index) {
            Some(unit) => {
                worker.blocks.turn_to(*unit);
                self.look(worker, index, *unit)
            }
            None => Ok(Piece::default()),
        };
        let take = |index: usize, piece: Piece| {
            if let Some(unit) = units.get(index) {
                tally.add(unit.tensor, piece);
                done += unit.len as u64;
                progress(Progress { step: Step::Check, done, total });
            }
            Ok(())
        };
        pool::ordered(self.budget.threads, units.len(), setup, work, take)?;
        Ok(tally.finish())
    }

    /// Looks at one unit, to which the worker's blocks are turned; `index` is its place in the pass.
    pub(super) fn look<E: StdError>(
        &self,
        worker: &mut Worker<'a, R>,
        index: usize,
        unit: Unit,
    ) -> Result<Piece, Error<R::Error, E>> {
        let mut piece = Piece::default();
        match self.layout.kind(unit.tensor) {
            Kind::Moved(float) => {
                for place in 0..self.persons.len() {
                    if let Some(runs) = self.measure(worker, index, unit, place, float, &mut piece.faults)? {
                        piece.squares.push((place, runs));
                    }
                }
            }
            Kind::Averaged(float) => {
                for input in self.inputs(index) {
                    let held = worker.blocks.hold(&[Part::Input(input)])?;
                    let sound = held.iter().all(|place| all_finite(float, worker.blocks.get(*place)));
                    if !sound {
                        self.fault(index, input, self.not_finite(unit), &mut piece.faults);
                    }
                }
            }
            Kind::Equal => {
                let parent = self.source.id(Part::Parent, unit.tensor);
                for input in self.inputs(index) {
                    if parent.is_some() && parent == self.source.id(Part::Input(input), unit.tensor) {
                        continue;
                    }
                    let held = worker.blocks.hold(&[Part::Parent, Part::Input(input)])?;
                    let mut bytes = held.iter().map(|place| worker.blocks.get(*place));
                    if bytes.next() != bytes.next() {
                        let changed = Skip::Changed { tensor: self.layout.name(unit.tensor) };
                        self.fault(index, input, changed, &mut piece.faults);
                    }
                }
            }
            Kind::Largest(_) => {}
        }
        Ok(piece)
    }

    /// The sums of squares of a person's movement in this unit, run by run; `None` if it moved nothing here.
    fn measure<E: StdError>(
        &self,
        worker: &mut Worker<'a, R>,
        index: usize,
        unit: Unit,
        place: usize,
        float: Float,
        faults: &mut Vec<(usize, Skip)>,
    ) -> Result<Option<Vec<f64>>, Error<R::Error, E>> {
        let person = self.persons.get(place).and_then(|person| self.plan.persons.get(*person));
        let Some(person) = person else { return Ok(None) };
        let moving =
            person.inputs.iter().filter_map(|input| self.plan.inputs.get(*input).copied().flatten()?.divisor);
        let alone = moving.count() == 1;
        let run = CHUNK * float.size();
        worker.sums.clear();
        let mut runs = None;
        for input in person.inputs.iter().copied() {
            let Some(Some(share)) = self.plan.inputs.get(input) else { continue };
            if is_unmoved(self.source, input, *share, unit.tensor) || self.is_faulty(index, input) {
                continue;
            }
            let held = worker.blocks.hold(&[Part::Input(input), share.base])?;
            let [update, base] =
                [0, 1].map(|place| held.get(place).map_or(&[][..], |at| worker.blocks.get(*at)));
            let pieces = || update.chunks(run).zip(base.chunks(run));
            let squares: Vec<f64> =
                pieces().map(|(update, base)| squared_distance(float, update, base)).collect();
            if squares.iter().any(|sum| !sum.is_finite()) {
                self.fault(index, input, self.not_finite(unit), faults);
                continue;
            }
            let Some(divisor) = share.divisor else { continue };
            if alone {
                runs = Some(squares);
            } else {
                worker.sums.resize(unit.len / float.size(), 0.0);
                let share = 1.0 / divisor;
                for (sums, (update, base)) in worker.sums.chunks_mut(CHUNK).zip(pieces()) {
                    add_difference(float, sums, share, update, base);
                }
            }
        }
        if !worker.sums.is_empty() {
            runs = Some(worker.sums.chunks(CHUNK).map(|sums| dot(sums, sums)).collect());
        }
        Ok(runs)
    }

    /// The inputs of the persons looked at that this unit need examine.
    fn inputs(&self, index: usize) -> impl Iterator<Item = usize> {
        let persons = self.persons.iter().filter_map(|person| self.plan.persons.get(*person));
        persons
            .flat_map(|person| person.inputs.iter().copied())
            .filter(move |input| !self.is_faulty(index, *input))
    }

    fn is_faulty(&self, index: usize, input: usize) -> bool {
        self.faulty_at.get(input).is_some_and(|first| first.load(Ordering::Relaxed) < index)
    }

    fn fault(&self, index: usize, input: usize, skip: Skip, faults: &mut Vec<(usize, Skip)>) {
        if let Some(first) = self.faulty_at.get(input) {
            first.fetch_min(index, Ordering::Relaxed);
        }
        faults.push((input, skip));
    }

    fn not_finite(&self, unit: Unit) -> Skip {
        Skip::NotFinite { tensor: self.layout.name(unit.tensor) }
    }
}

impl Tally {
    /// A tally of this many persons.
    pub(super) fn new(persons: usize) -> Self {
        let (trees, squares) = (vec![Tree::default(); persons], vec![0.0; persons]);
        Self { faults: BTreeMap::new(), trees, squares, tensor: 0 }
    }

    /// Adds what the next unit showed.
    pub(super) fn add(&mut self, tensor: usize, piece: Piece) {
        if tensor != self.tensor {
            self.close();
            self.tensor = tensor;
        }
        for (input, fault) in piece.faults {
            self.faults.entry(input).or_insert(fault);
        }
        for (person, runs) in piece.squares {
            if let Some(tree) = self.trees.get_mut(person) {
                for run in runs {
                    tree.push(run);
                }
            }
        }
    }

    /// Whether an input was found to be unsound so far.
    pub(super) fn has_faults(&self) -> bool {
        !self.faults.is_empty()
    }

    pub(super) fn finish(mut self) -> Found {
        self.close();
        // Only f64 tensors can move so far that the sum overflows; results hold finite numbers only.
        let norms = self.squares.into_iter().map(|squares| squares.sqrt().min(f64::MAX)).collect();
        Found { faults: self.faults, norms }
    }

    /// Ends a tensor: its sums of squares join those of the tensors before it.
    fn close(&mut self) {
        for (squares, tree) in self.squares.iter_mut().zip(&mut self.trees) {
            *squares += tree.take();
        }
    }
}
