//! Task arithmetic: θ = o + λ · (τ₁ + τ₂).
//!
//! G. Ilharco et al., "Editing models with task arithmetic", ICLR 2023, section 3. With λ = 1, the default, what each
//! branch learned counts in full, which is what merging means for text; the paper finds 0.3 to 0.5 best where several
//! tasks are added up that each changed the model much. `lambda` is λ: above 0, at most 100.

use super::Statistics;
use super::method::{Rule, Values3, lambda, step};
use super::pass::Place;
use crate::policy::{PolicyError, Values};

/// The rule, with λ.
#[derive(Debug)]
pub(super) struct Task {
    lambda: f64,
}

impl Task {
    pub(super) fn read(values: &Values) -> Result<Self, PolicyError> {
        Ok(Self { lambda: lambda(values)? })
    }
}

impl Rule for Task {
    fn explain(&self) -> String {
        format!("What both branches learned since their common ancestor is added up, times {}.", self.lambda)
    }

    fn merge(&self, _: &Place<'_>, values: Values3<'_>, out: &mut [f64], found: &mut Statistics) {
        for (out, (base, first, second)) in out.iter_mut().zip(values.each()) {
            let changes = [first - base, second - base];
            found.note(changes, changes);
            *out = step(base, self.lambda, changes[0] + changes[1]);
        }
    }
}

impl Statistics {
    /// Notes one element's changes, and what was kept of them.
    #[inline]
    pub(super) fn note(&mut self, changes: [f64; 2], kept: [f64; 2]) {
        let sums = self.changed.iter_mut().chain(&mut self.kept);
        sums.zip(changes.iter().chain(&kept)).for_each(|(sum, change)| *sum += u64::from(*change != 0.0));
        let [first, second] = kept;
        self.opposed += u64::from((first > 0.0 && second < 0.0) || (first < 0.0 && second > 0.0));
    }
}
