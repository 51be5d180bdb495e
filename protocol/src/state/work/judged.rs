//! What people said of a commit: reviews and evaluations, and what protected branches ask for.

use std::collections::BTreeSet;

use super::{Horizon, NoEffect, Work};
use crate::id::CommitId;
use crate::key::PersonId;
use crate::limits;
use crate::operation::Body;
use crate::operation::body::{Judgement, Review};
use crate::operation::evaluation::Evaluation;
use crate::policy::{BranchRule, Requirement, Role};

impl Work<'_> {
    /// Checks a review, its author's standing apart, and notes it beside its commit.
    pub(super) fn review(&mut self, rank: usize, review: &Review) -> Result<(), NoEffect> {
        if self.seen(rank, review.commit).next().is_none() {
            return Err(NoEffect::Unseen(review.commit));
        }
        let reviews = self.reviews.entry(review.commit).or_default();
        let before = reviews.iter().filter(|earlier| self.order.chain.covers(**earlier, rank));
        if before.count() >= limits::REVIEWS {
            return Err(NoEffect::Reviews);
        }
        reviews.push(rank);
        Ok(())
    }

    /// Checks an evaluation, its author's standing apart, and notes it beside its commit.
    pub(super) fn evaluation(&mut self, rank: usize, evaluation: &Evaluation) -> Result<(), NoEffect> {
        if self.surplus.contains(&rank) {
            return Err(NoEffect::Evaluations);
        }
        let commit = evaluation.commit;
        let publication = self.seen(rank, commit).next().ok_or(NoEffect::Unseen(commit))?;
        let base = match self.order.at(publication).body() {
            Body::Publish(publish) => publish.commit.base(),
            _ => None,
        };
        if evaluation.base != base {
            return Err(NoEffect::Against(commit));
        }
        self.evaluations.entry(commit).or_default().push(rank);
        Ok(())
    }

    /// Whether an update has what its branch asks for in the past of the aggregate `rank`, which is `horizon`.
    pub(super) fn passes(
        &self,
        rank: usize,
        update: CommitId,
        author: PersonId,
        rule: &BranchRule,
        horizon: &Horizon<'_>,
    ) -> Result<(), NoEffect> {
        if rule.accepts > 0 {
            let (found, needed) = (self.accepts(update, author, rule.accepts, horizon), rule.accepts);
            if found < needed {
                return Err(NoEffect::Unreviewed { input: update, found, needed });
            }
        }
        for requirement in &rule.require {
            let (found, needed) =
                (self.meeting(rank, update, author, requirement, horizon), requirement.from);
            if found < needed {
                return Err(NoEffect::Unevaluated { input: update, found, needed });
            }
        }
        Ok(())
    }

    /// By how many persons but the author an update had evaluations in the past of `rank` that meet a requirement: of
    /// each, the last that has the metric.
    fn meeting(
        &self,
        rank: usize,
        update: CommitId,
        author: PersonId,
        requirement: &Requirement,
        horizon: &Horizon<'_>,
    ) -> u32 {
        let mut heard = BTreeSet::new();
        let mut meeting = 0;
        let known = self.measured.get(&rank).map_or(&[][..], Vec::as_slice);
        for by in self.evaluations.get(&update).into_iter().flatten().rev().copied() {
            let Body::Evaluate(evaluation) = self.order.at(by).body() else { continue };
            let person = self.order.at(by).author();
            let Some(met) = requirement.met(evaluation).filter(|_| person != author) else { continue };
            if heard.contains(&person)
                || known.binary_search(&by).is_err()
                || !self.authority.standing(by, horizon).is_ok_and(|role| role >= Role::Verifier)
            {
                continue;
            }
            heard.insert(person);
            meeting += u32::from(met);
        }
        meeting
    }

    /// How many persons had accepted an update within `horizon`. The author is one of them only where one is enough.
    fn accepts(&self, update: CommitId, author: PersonId, needed: u32, horizon: &Horizon<'_>) -> u32 {
        let mut heard = BTreeSet::new();
        let mut accepts = 0;
        for review in self.reviews.get(&update).into_iter().flatten().rev().copied() {
            let Body::Review(said) = self.order.at(review).body() else { continue };
            let person = self.order.at(review).author();
            if said.judgement == Judgement::Comment
                || heard.contains(&person)
                || !self.authority.holds(horizon, review)
                || !self.authority.standing(review, horizon).is_ok_and(|role| role >= Role::Maintainer)
            {
                continue;
            }
            heard.insert(person);
            accepts += u32::from(said.judgement == Judgement::Accept && (person != author || needed < 2));
        }
        accepts
    }
}
