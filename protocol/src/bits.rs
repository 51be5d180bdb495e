//! Sets of small numbers that share what is equal: most operations see what the one before them saw.

use std::sync::Arc;

const WORDS: usize = 64;
const PAGE: usize = WORDS * 64;
type Page = [u64; WORDS];

/// A set of numbers from 0, in pages that clones share until they differ.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bits {
    pages: Vec<Option<Arc<Page>>>,
}

impl Bits {
    pub(crate) fn has(&self, number: usize) -> bool {
        let at = number % PAGE;
        self.pages
            .get(number / PAGE)
            .and_then(Option::as_ref)
            .is_some_and(|page| page[at / 64] >> (at % 64) & 1 == 1)
    }

    pub(crate) fn insert(&mut self, number: usize) {
        if self.pages.len() <= number / PAGE {
            self.pages.resize(number / PAGE + 1, None);
        }
        let page = self.pages[number / PAGE].get_or_insert_with(|| Arc::new([0; WORDS]));
        let at = number % PAGE;
        Arc::make_mut(page)[at / 64] |= 1 << (at % 64);
    }

    /// Whether every number of `other` is here.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        other.pages.iter().enumerate().all(|(at, theirs)| match (self.pages.get(at), theirs) {
            (_, None) => true,
            (Some(Some(mine)), Some(theirs)) => Arc::ptr_eq(mine, theirs) || within(theirs, mine),
            (_, Some(theirs)) => theirs.iter().all(|word| *word == 0),
        })
    }

    /// Adds every number of `other`.
    fn join(&mut self, other: &Self) {
        if self.pages.len() < other.pages.len() {
            self.pages.resize(other.pages.len(), None);
        }
        for (mine, theirs) in self.pages.iter_mut().zip(&other.pages) {
            match (mine, theirs) {
                (_, None) => {}
                (mine @ None, Some(theirs)) => *mine = Some(Arc::clone(theirs)),
                (Some(mine), Some(theirs)) if Arc::ptr_eq(mine, theirs) || within(theirs, mine) => {}
                (Some(mine), Some(theirs)) if within(mine, theirs) => *mine = Arc::clone(theirs),
                (Some(mine), Some(theirs)) => {
                    let page = Arc::make_mut(mine);
                    page.iter_mut().zip(theirs.iter()).for_each(|(word, more)| *word |= more);
                }
            }
        }
    }

    /// The union of several sets; one of them, shared, where it holds the others.
    pub(crate) fn union<'a>(sets: impl IntoIterator<Item = &'a Arc<Self>>) -> Arc<Self> {
        let mut all: Option<Arc<Self>> = None;
        for set in sets {
            all = Some(match all {
                None => Arc::clone(set),
                Some(all) if Arc::ptr_eq(&all, set) || all.covers(set) => all,
                Some(all) if set.covers(&all) => Arc::clone(set),
                Some(mut all) => {
                    Arc::make_mut(&mut all).join(set);
                    all
                }
            });
        }
        all.unwrap_or_default()
    }
}

fn within(part: &Page, whole: &Page) -> bool {
    part.iter().zip(whole).all(|(part, whole)| part & !whole == 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn unions_hold_what_their_parts_hold(
            parts in prop::collection::vec(prop::collection::btree_set(0usize..3 * PAGE, 0..20), 0..6),
        ) {
            let sets: Vec<Arc<Bits>> = parts.iter().map(|part| {
                let mut bits = Bits::default();
                for number in part {
                    bits.insert(*number);
                }
                Arc::new(bits)
            }).collect();
            let union = Bits::union(&sets);
            let numbers: BTreeSet<usize> = parts.iter().flatten().copied().collect();
            for number in 0..=3 * PAGE {
                prop_assert_eq!(union.has(number), numbers.contains(&number));
            }
            for (set, part) in sets.iter().zip(&parts) {
                prop_assert!(union.covers(set));
                prop_assert_eq!(set.covers(&union), *part == numbers);
            }
        }
    }
}
