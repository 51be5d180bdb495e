//! A branch without a network: a head, and the kernels that make the next one from updates.

use std::collections::BTreeMap;

use flair_aggregation::memory::{Inputs, Kept, Model, Output};
use flair_aggregation::plan::{Base, Contribution};
use flair_aggregation::policy::Policy;
use flair_aggregation::run::{self, Request, TensorSpec};
use flair_tensors::dtype::DType;
use flair_tensors::id::Digest;
use flair_tensors::role::Role;

use super::StudyError;
use crate::trainer::Network;

/// Aggregates whose norms are remembered, as nodes do.
const REMEMBERED: usize = 5;
/// Room for the blocks of small tensors.
const MEMORY: usize = 64 << 20;

/// A model that somebody has, by its place in history.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) network: Network,
    pub(super) base: Base,
    /// Aggregates before it, or before what it was trained from.
    generation: u32,
}

impl Version {
    /// Whether aggregates were made since the other.
    pub(super) fn newer(&self, than: &Self) -> bool {
        self.generation > than.generation
    }
}

/// A trained update.
#[derive(Clone, Debug)]
pub(super) struct Update {
    pub(super) person: usize,
    pub(super) from: Version,
    pub(super) network: Network,
    pub(super) examples: u64,
    id: Digest,
}

impl Update {
    /// What its author trains on from, before it is in an aggregate.
    pub(super) fn version(&self) -> Version {
        Version { network: self.network.clone(), base: Base::Own(self.id), generation: self.from.generation }
    }
}

/// A branch.
#[derive(Debug)]
pub(super) struct Arena {
    policy: Policy,
    /// Persons that an aggregate needs.
    pub(super) every: usize,
    head: Network,
    generation: u32,
    carried: Kept,
    norms: Vec<Vec<f64>>,
    updates: u64,
}

impl Arena {
    pub(super) fn new(
        rule: &str,
        settings: &[(&str, &str)],
        every: usize,
        first: Network,
    ) -> Result<Self, StudyError> {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Ok(Self {
            policy: Policy::parse(rule, &settings)?,
            every,
            head: first,
            generation: 0,
            carried: Kept::new(),
            norms: Vec::new(),
            updates: 0,
        })
    }

    pub(super) fn withstands(&self, persons: usize) -> Option<usize> {
        self.policy.withstands(persons)
    }

    pub(super) fn head(&self) -> Version {
        Version {
            network: self.head.clone(),
            base: Base::Aggregate(named(0, u64::from(self.generation))),
            generation: self.generation,
        }
    }

    /// An update as it is published.
    pub(super) fn publish(
        &mut self,
        person: usize,
        from: Version,
        network: Network,
        examples: usize,
    ) -> Update {
        self.updates += 1;
        Update { person, from, network, examples: examples as u64, id: named(2, self.updates) }
    }

    /// Makes the next head of `updates`.
    pub(super) fn aggregate(&mut self, mut updates: Vec<Update>) -> Result<(), StudyError> {
        updates.sort_by_key(|update| update.id);
        let contributions: Vec<Contribution> = updates
            .iter()
            .map(|update| Contribution {
                commit: update.id,
                person: named(1, update.person as u64),
                base: update.from.base,
                examples: update.examples,
                steps: None,
                staleness: self.generation - update.from.generation,
            })
            .collect();
        let tensors = specs(&self.head);
        let request = Request {
            policy: &self.policy,
            every: u32::try_from(self.every).unwrap_or(u32::MAX),
            contributions: &contributions,
            tensors: &tensors,
            history: &self.norms,
            threads: 1,
            memory_budget: MEMORY,
        };
        let inputs = Inputs {
            parent: model(&self.head),
            carried: std::mem::take(&mut self.carried),
            updates: updates
                .iter()
                .map(|update| (model(&update.network), model(&update.from.network)))
                .collect(),
            faulty: BTreeMap::new(),
        };
        let mut output = Output::default();
        let outcome = run::aggregate(&request, &inputs, &mut output, &|_| {})
            .map_err(|error| StudyError::Aggregate(error.to_string()))?;
        let (made, carried) = output.finish();
        read(&made, &mut self.head);
        self.carried = carried;
        self.norms.push(outcome.norms);
        self.norms.drain(..self.norms.len().saturating_sub(REMEMBERED));
        self.generation += 1;
        Ok(())
    }
}

/// An id of a kind of thing.
fn named(kind: u8, number: u64) -> Digest {
    let mut bytes = [kind; 32];
    for (place, byte) in bytes.iter_mut().skip(1).zip(number.to_be_bytes()) {
        *place = byte;
    }
    Digest::from_bytes(bytes)
}

fn specs(network: &Network) -> Vec<TensorSpec> {
    let floats = network.tensors().map(|(name, shape, _)| TensorSpec {
        name: name.to_owned(),
        dtype: DType::F32,
        shape: shape.iter().map(|size| *size as u64).collect(),
        role: if name.contains("running") { Role::BatchNorm } else { Role::Float },
    });
    let counter = TensorSpec {
        name: "bn1.num_batches_tracked".to_owned(),
        dtype: DType::I64,
        shape: Vec::new(),
        role: Role::Counter,
    };
    floats.into_iter().chain([counter]).collect()
}

/// The network as its file holds it: values in f32.
#[allow(clippy::cast_possible_truncation, reason = "models are files of f32")]
fn model(network: &Network) -> Model {
    let floats = network.tensors().map(|(_, _, values)| {
        values.iter().flat_map(|value| (*value as f32).to_le_bytes()).collect::<Vec<u8>>()
    });
    Model::new(floats.into_iter().chain([network.num_batches_tracked().to_le_bytes().to_vec()]))
}

fn read(model: &Model, network: &mut Network) {
    let mut last = 0;
    for (index, (_, _, values)) in network.tensors_mut().into_iter().enumerate() {
        let (numbers, _) = model.tensor(index).unwrap_or_default().as_chunks::<4>();
        for (value, bytes) in values.iter_mut().zip(numbers) {
            *value = f64::from(f32::from_le_bytes(*bytes));
        }
        last = index + 1;
    }
    if let Some(bytes) = model.tensor(last).and_then(|bytes| bytes.try_into().ok()) {
        network.set_num_batches_tracked(i64::from_le_bytes(bytes));
    }
}
