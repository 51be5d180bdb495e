//! Who takes part in an aggregate, and with what share: decided from the contributions' relations alone.
//!
//! A person's updates in one set form a forest: an update whose base is another update of the set stands on it,
//! the others are roots. One person pulls once, so updates beside each other are averaged and updates on top of
//! each other add up:
//!
//! value(group of siblings) = mean over the siblings of (Δ + value(the group that stands on it))
//!
//! where all roots of a person are siblings. Written out, an update's *share* of its person's movement is 1 over
//! the product of the sizes of the sibling groups on the way from its root down to it. For values that are
//! averaged and not moved (batch-norm statistics) a person's value is the mean over the leaves of the forest.
//!
//! A skipped update takes everything that stands on it along: what was learned on top of a faulty update is
//! known only relative to it.

use crate::policy::Standing;
use crate::run::Part;
use flair_tensors::id::Digest;
use std::collections::{BTreeMap, BTreeSet};

/// One accepted update that an aggregate takes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contribution {
    /// The update's commit.
    pub commit: Digest,
    /// Whose it is.
    pub person: Digest,
    /// What it was trained from: its movement is the difference to this.
    pub base: Base,
    /// How many examples it claims to be trained on.
    pub examples: u64,
    /// How many local steps it claims to have taken, if it says.
    pub steps: Option<u64>,
    /// How many aggregates were made on the branch since its base.
    pub staleness: u32,
}

/// What an update was trained from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Base {
    /// An aggregate (or the first commit) of the branch.
    Aggregate(Digest),
    /// An earlier update by the same person, which may be in the same set.
    Own(Digest),
}

/// Why an update has no part in the result. It is consumed all the same: whether it is faulty is part of what the
/// recipe computes, so that everybody skips the same ones.
///
/// The text of a reason may be recorded in the result, so it is the same for everybody too, and changes only with
/// [`KERNEL_VERSION`](crate::KERNEL_VERSION).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// Its bytes were known to be wrong beforehand. What exactly is wrong with them (the value here) may have been
    /// noticed differently by different people, so the text leaves it out.
    #[error("its bytes are wrong")]
    Faulty(String),
    /// It, or its base, holds a NaN or an infinity.
    #[error("tensor '{tensor}' holds a NaN or an infinity")]
    NotFinite {
        /// The first such tensor in file order.
        tensor: String,
    },
    /// It changed a tensor that must stay as it is.
    #[error("tensor '{tensor}' was changed, but its role says that it must stay equal")]
    Changed {
        /// The first such tensor in file order.
        tensor: String,
    },
    /// The rule took others and not its author. It is not faulty, and its author's next one may well be taken.
    #[error("the rule {rule} left its author out: others' changes are closer to one another")]
    LeftOut {
        /// The rule.
        rule: &'static str,
    },
    /// It stands on an update of the set that is skipped.
    #[error("it stands on the update {0}, which was skipped")]
    OnSkipped(Digest),
    /// The update it says is its author's own is someone else's, or stands on it in turn.
    #[error("its base {0} is not an earlier update of its author")]
    NotOwn(Digest),
}

/// The persons and shares of a set of contributions.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Persons with at least one update that takes part, in the order of their ids.
    pub(crate) persons: Vec<Person>,
    /// Per contribution: how it takes part, or `None` if it is skipped.
    pub(crate) inputs: Vec<Option<Input>>,
}

/// A person who takes part.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Person {
    pub(crate) id: Digest,
    pub(crate) standing: Standing,
    /// The person's updates that take part, ascending.
    pub(crate) inputs: Vec<usize>,
}

/// How one contribution takes part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Input {
    /// Index of its person.
    pub(crate) person: usize,
    /// Its movement is divided by this before it is added to its person's; `None` if it is no part of that.
    pub(crate) divisor: Option<f64>,
    /// Its values are divided by this before they are added to its person's; `None` unless it is a leaf.
    pub(crate) leaves: Option<f64>,
    /// Where to read what its movement is measured from: the same place for all that share it.
    pub(crate) base: Part,
}

/// What a person's movement is measured from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// Each update from its own base: movements in one forest add up.
    Base,
    /// The person's models, which are the leaves of the forest, from the aggregate's parent.
    Parent,
}

impl Plan {
    /// Plans the contributions that are not in `skipped`, and adds to `skipped` those that fall with them.
    pub(crate) fn new(
        contributions: &[Contribution],
        from: From,
        skipped: &mut BTreeMap<usize, Skip>,
    ) -> Self {
        let order = order(contributions, skipped);
        let mut siblings: BTreeMap<(Digest, Option<usize>), u32> = BTreeMap::new();
        let mut parents = BTreeSet::new();
        for (_, contribution, parent) in &order {
            *siblings.entry((contribution.person, *parent)).or_default() += 1;
            parents.extend(*parent);
        }
        let mut people: BTreeMap<Digest, Vec<(usize, &Contribution)>> = BTreeMap::new();
        let mut divisors: BTreeMap<usize, f64> = BTreeMap::new();
        for (index, contribution, parent) in &order {
            let above = parent.and_then(|parent| divisors.get(&parent)).copied().unwrap_or(1.0);
            let beside = siblings.get(&(contribution.person, *parent)).copied().unwrap_or(1);
            divisors.insert(*index, above * f64::from(beside));
            people.entry(contribution.person).or_default().push((*index, contribution));
        }

        let mut plan = Self { persons: Vec::new(), inputs: vec![None; contributions.len()] };
        let mut bases: BTreeMap<Base, Part> = BTreeMap::new();
        let known: BTreeMap<Digest, usize> =
            order.iter().map(|(index, one, _)| (one.commit, *index)).collect();
        for (id, mut updates) in people {
            updates.sort_by_key(|(index, _)| *index);
            let leaves = updates.iter().filter(|(index, _)| !parents.contains(index)).count() as f64;
            let mut steps = Some(0.0);
            for (index, contribution) in &updates {
                let share = divisors.get(index).copied().unwrap_or(1.0);
                let is_leaf = !parents.contains(index);
                let stated = contribution.steps.filter(|steps| *steps > 0);
                steps = steps.zip(stated).map(|(sum, steps)| sum + steps as f64 / share);
                let base = match contribution.base {
                    _ if from == From::Parent => Part::Parent,
                    Base::Own(commit) if known.contains_key(&commit) => {
                        known.get(&commit).map_or(Part::Base(*index), |own| Part::Input(*own))
                    }
                    elsewhere => *bases.entry(elsewhere).or_insert(Part::Base(*index)),
                };
                if let Some(input) = plan.inputs.get_mut(*index) {
                    *input = Some(Input {
                        person: plan.persons.len(),
                        divisor: match from {
                            From::Base => Some(share),
                            From::Parent => is_leaf.then_some(leaves),
                        },
                        leaves: is_leaf.then_some(leaves),
                        base,
                    });
                }
            }
            let most =
                |of: fn(&Contribution) -> u64| updates.iter().map(|(_, one)| of(one)).max().unwrap_or(0);
            let standing = Standing {
                examples: most(|one| one.examples),
                staleness: u32::try_from(most(|one| u64::from(one.staleness))).unwrap_or(u32::MAX),
                steps,
            };
            plan.persons.push(Person {
                id,
                standing,
                inputs: updates.iter().map(|(index, _)| *index).collect(),
            });
        }
        plan
    }

    /// The contributions that take part, ascending.
    pub(crate) fn taking_part(&self) -> impl Iterator<Item = (usize, Input)> {
        self.inputs.iter().enumerate().filter_map(|(index, input)| Some((index, (*input)?)))
    }
}

/// The contributions that take part, each after the one it stands on, with that one's index.
fn order<'a>(
    contributions: &'a [Contribution],
    skipped: &mut BTreeMap<usize, Skip>,
) -> Vec<(usize, &'a Contribution, Option<usize>)> {
    let indices: BTreeMap<Digest, usize> =
        contributions.iter().enumerate().map(|(index, one)| (one.commit, index)).collect();
    let mut standing_on: BTreeMap<Option<usize>, Vec<usize>> = BTreeMap::new();
    for (index, one) in contributions.iter().enumerate() {
        let parent = match one.base {
            Base::Own(commit) => indices.get(&commit).copied(),
            Base::Aggregate(_) => None,
        };
        standing_on.entry(parent).or_default().push(index);
    }

    let mut order = Vec::with_capacity(contributions.len());
    let mut reached = BTreeSet::new();
    let mut next = vec![None];
    while let Some(parent) = next.pop() {
        for index in standing_on.get(&parent).into_iter().flatten() {
            let Some(one) = contributions.get(*index) else { continue };
            reached.insert(*index);
            next.push(Some(*index));
            if let Some((parent, below)) =
                parent.and_then(|parent| Some((parent, contributions.get(parent)?)))
            {
                if below.person != one.person {
                    skipped.entry(*index).or_insert(Skip::NotOwn(below.commit));
                } else if skipped.contains_key(&parent) {
                    skipped.entry(*index).or_insert(Skip::OnSkipped(below.commit));
                }
            }
            if !skipped.contains_key(index) {
                order.push((*index, one, parent));
            }
        }
    }
    // Commit ids are hashes of what they name, so a circle cannot be made; but nothing here relies on it.
    for (index, one) in contributions.iter().enumerate() {
        if let (false, Base::Own(commit)) = (reached.contains(&index), one.base) {
            skipped.entry(index).or_insert(Skip::NotOwn(commit));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> Digest {
        Digest::of(name.as_bytes())
    }

    /// Contributions from (name, person, base) in the order given; a base that starts with '@' is an aggregate.
    fn set(updates: &[(&str, &str, &str)]) -> Vec<Contribution> {
        let base = |name: &str| match name.strip_prefix('@') {
            Some(_) => Base::Aggregate(id(name)),
            None => Base::Own(id(name)),
        };
        updates
            .iter()
            .map(|(commit, person, on)| Contribution {
                commit: id(commit),
                person: id(person),
                base: base(on),
                examples: commit.len() as u64,
                steps: Some(commit.len() as u64 * 6),
                staleness: on.len() as u32,
            })
            .collect()
    }

    fn divisors(plan: &Plan) -> Vec<Option<f64>> {
        plan.inputs.iter().map(|input| input.and_then(|input| input.divisor)).collect()
    }

    #[test]
    fn parallel_updates_are_averaged_and_chained_ones_add_up() {
        let updates = set(&[
            ("a", "ann", "@0"),
            ("b", "ann", "@0"),
            ("c", "ann", "b"),
            ("d", "ann", "c"),
            ("x", "bob", "@0"),
        ]);
        let plan = Plan::new(&updates, From::Base, &mut BTreeMap::new());
        assert_eq!(divisors(&plan), [Some(2.0), Some(2.0), Some(2.0), Some(2.0), Some(1.0)]);
        let leaves: Vec<_> = plan.inputs.iter().map(|input| input.unwrap().leaves).collect();
        assert_eq!(leaves, [Some(2.0), None, None, Some(2.0), Some(1.0)]);
    }

    #[test]
    fn shares_multiply_down_a_branching_chain() {
        let updates = set(&[
            ("r", "ann", "@0"),
            ("s", "ann", "r"),
            ("t", "ann", "r"),
            ("u", "ann", "t"),
            ("v", "ann", "t"),
            ("w", "ann", "t"),
        ]);
        let plan = Plan::new(&updates, From::Base, &mut BTreeMap::new());
        assert_eq!(divisors(&plan), [1.0, 2.0, 2.0, 6.0, 6.0, 6.0].map(Some));
        assert_eq!(plan.persons.len(), 1);
    }

    #[test]
    fn order_of_mention_does_not_matter() {
        let updates = set(&[("d", "ann", "c"), ("c", "ann", "b"), ("b", "ann", "@0"), ("a", "ann", "@0")]);
        assert_eq!(divisors(&Plan::new(&updates, From::Base, &mut BTreeMap::new())), [Some(2.0); 4]);
    }

    #[test]
    fn what_stands_on_a_skipped_update_is_skipped_and_the_rest_share_anew() {
        let updates = set(&[("a", "ann", "@0"), ("b", "ann", "@0"), ("c", "ann", "b"), ("d", "ann", "c")]);
        let mut skipped = BTreeMap::from([(1, Skip::Faulty("cut short".to_owned()))]);
        let plan = Plan::new(&updates, From::Base, &mut skipped);
        assert_eq!(divisors(&plan), [Some(1.0), None, None, None]);
        assert_eq!(skipped.get(&2), Some(&Skip::OnSkipped(id("b"))));
        assert_eq!(skipped.get(&3), Some(&Skip::OnSkipped(id("c"))));
    }

    #[test]
    fn reasons_read_the_same_for_everybody() {
        let tensor = "w".to_owned();
        let reasons = [
            Skip::Faulty("block 7 does not decode".to_owned()),
            Skip::NotFinite { tensor: tensor.clone() },
            Skip::Changed { tensor },
            Skip::LeftOut { rule: "krum" },
            Skip::OnSkipped(Digest::from_bytes([0; 32])),
            Skip::NotOwn(Digest::from_bytes([0; 32])),
        ];
        let zero = "a".repeat(52);
        assert_eq!(
            reasons.map(|reason| reason.to_string()),
            [
                "its bytes are wrong".to_owned(),
                "tensor 'w' holds a NaN or an infinity".to_owned(),
                "tensor 'w' was changed, but its role says that it must stay equal".to_owned(),
                "the rule krum left its author out: others' changes are closer to one another".to_owned(),
                format!("it stands on the update {zero}, which was skipped"),
                format!("its base {zero} is not an earlier update of its author"),
            ]
        );
    }

    #[test]
    fn nobody_stands_on_anothers_update_or_on_a_circle() {
        let updates = set(&[
            ("a", "ann", "@0"),
            ("b", "bob", "a"),
            ("c", "bob", "b"),
            ("x", "cy", "y"),
            ("y", "cy", "x"),
            ("z", "cy", "z"),
        ]);
        let mut skipped = BTreeMap::new();
        let plan = Plan::new(&updates, From::Base, &mut skipped);
        assert_eq!(plan.taking_part().count(), 1);
        assert_eq!(skipped.get(&1), Some(&Skip::NotOwn(id("a"))));
        assert_eq!(skipped.get(&2), Some(&Skip::OnSkipped(id("b"))));
        assert_eq!(skipped.get(&5), Some(&Skip::NotOwn(id("z"))));
        assert_eq!(skipped.len(), 5);
    }

    #[test]
    fn a_person_stands_for_the_most_examples_and_the_most_staleness() {
        let updates = set(&[("long", "ann", "@0"), ("b", "ann", "@12345"), ("c", "ann", "far away")]);
        let plan = Plan::new(&updates, From::Base, &mut BTreeMap::new());
        assert_eq!(plan.persons[0].standing, Standing { examples: 4, staleness: 8, steps: Some(12.0) });
        assert_eq!(plan.persons[0].inputs, [0, 1, 2]);
    }

    #[test]
    fn steps_add_up_as_movements_do() {
        let chain = set(&[("aa", "ann", "@0"), ("b", "ann", "aa"), ("c", "ann", "aa")]);
        // 12 steps, and the mean of 6 and 6 on top of them.
        assert_eq!(Plan::new(&chain, From::Base, &mut BTreeMap::new()).persons[0].standing.steps, Some(18.0));
        for unsaid in [None, Some(0)] {
            let mut updates = chain.clone();
            updates[1].steps = unsaid;
            assert_eq!(Plan::new(&updates, From::Base, &mut BTreeMap::new()).persons[0].standing.steps, None);
        }
    }

    #[test]
    fn mixing_takes_the_leaves_from_the_parent() {
        let updates = set(&[("a", "ann", "@0"), ("b", "ann", "a"), ("c", "ann", "@1"), ("d", "bob", "@1")]);
        let plan = Plan::new(&updates, From::Parent, &mut BTreeMap::new());
        assert_eq!(divisors(&plan), [None, Some(2.0), Some(2.0), Some(1.0)]);
        assert!(plan.taking_part().all(|(_, input)| input.base == Part::Parent));
    }

    #[test]
    fn a_shared_base_is_read_in_one_place() {
        let updates = set(&[
            ("a", "ann", "@0"),
            ("b", "bob", "@0"),
            ("c", "bob", "b"),
            ("d", "cy", "@1"),
            ("e", "dan", "gone"),
        ]);
        let plan = Plan::new(&updates, From::Base, &mut BTreeMap::new());
        let bases: Vec<_> = plan.inputs.iter().map(|input| input.unwrap().base).collect();
        let shared = bases[0];
        assert!(shared == Part::Base(0) || shared == Part::Base(1));
        assert_eq!(bases[1..], [shared, Part::Input(1), Part::Base(3), Part::Base(4)]);
    }
}
