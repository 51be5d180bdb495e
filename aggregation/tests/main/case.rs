//! A recipe with its tensors in memory, and numbers that come from nowhere but a seed.

use flair_aggregation::memory::{Inputs, Kept, Model, Output};
use flair_aggregation::{Base, Carried, Contribution, Outcome, Policy, Request, TensorSpec, aggregate};
use flair_tensors::dtype::DType;
use flair_tensors::id::Digest;
use flair_tensors::role::Role;

/// A recipe and everything it reads. Updates may be added in any order.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) policy: Policy,
    pub(super) every: u32,
    pub(super) tensors: Vec<TensorSpec>,
    pub(super) parent: Model,
    pub(super) carried: Kept,
    pub(super) history: Vec<Vec<f64>>,
    pub(super) updates: Vec<Update>,
}

#[derive(Clone)]
pub(super) struct Update {
    pub(super) about: Contribution,
    pub(super) model: Model,
    pub(super) base: Model,
    pub(super) faulty: Option<String>,
}

/// What came out of a run.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Product {
    pub(super) outcome: Outcome,
    pub(super) model: Model,
    pub(super) carried: Kept,
    /// Commit ids in the order of the outcome's indices.
    pub(super) commits: Vec<Digest>,
}

pub(super) fn id(name: &str) -> Digest {
    Digest::of(name.as_bytes())
}

pub(super) fn policy(rule: &str, settings: &[(&str, &str)]) -> Policy {
    let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Policy::parse(rule, &settings).unwrap()
}

pub(super) fn spec(name: &str, dtype: DType, elements: usize, role: Role) -> TensorSpec {
    TensorSpec { name: name.to_owned(), dtype, shape: vec![elements as u64], role }
}

impl Case {
    /// FedBuff for one person without clipping; `polynomial:0.5`.
    pub(super) fn new(tensors: Vec<TensorSpec>, parent: Model) -> Self {
        Self {
            policy: policy("fedbuff", &[("clip", "none")]),
            every: 1,
            tensors,
            parent,
            carried: Kept::new(),
            history: Vec::new(),
            updates: Vec::new(),
        }
    }

    /// One `f32` tensor.
    pub(super) fn of_f32(parent: &[f32]) -> Self {
        let tensors = vec![spec("w", DType::F32, parent.len(), Role::Float)];
        Self::new(tensors, Model::new([f32s(parent)]))
    }

    /// Adds an update on the parent.
    pub(super) fn update(&mut self, commit: &str, person: &str, model: Model) -> &mut Contribution {
        let base = self.parent.clone();
        self.update_on(commit, person, Base::Aggregate(id("parent")), model, base)
    }

    /// Adds an update on some base.
    pub(super) fn update_on(
        &mut self,
        commit: &str,
        person: &str,
        on: Base,
        model: Model,
        base: Model,
    ) -> &mut Contribution {
        let about = Contribution {
            commit: id(commit),
            person: id(person),
            base: on,
            examples: 1,
            steps: None,
            staleness: 0,
        };
        self.updates.push(Update { about, model, base, faulty: None });
        let last = self.updates.len() - 1;
        &mut self.updates[last].about
    }

    pub(super) fn run(&self) -> Product {
        self.run_with(2, 256 << 20)
    }

    pub(super) fn run_with(&self, threads: usize, memory_budget: usize) -> Product {
        let mut updates: Vec<&Update> = self.updates.iter().collect();
        updates.sort_by_key(|update| update.about.commit);
        let contributions: Vec<_> = updates.iter().map(|update| update.about.clone()).collect();
        let faults = updates.iter().enumerate();
        let inputs = Inputs {
            parent: self.parent.clone(),
            carried: self.carried.clone(),
            updates: updates.iter().map(|update| (update.model.clone(), update.base.clone())).collect(),
            faulty: faults.filter_map(|(index, update)| Some((index, update.faulty.clone()?))).collect(),
        };
        let request = Request {
            policy: &self.policy,
            every: self.every,
            contributions: &contributions,
            tensors: &self.tensors,
            history: &self.history,
            threads,
            memory_budget,
        };
        let mut output = Output::default();
        let outcome = aggregate(&request, &inputs, &mut output, &|_| ()).unwrap();
        let (model, carried) = output.finish();
        Product { outcome, model, carried, commits: contributions.iter().map(|one| one.commit).collect() }
    }
}

impl Product {
    /// The index that a commit has in the outcome.
    pub(super) fn index(&self, commit: &str) -> usize {
        self.commits.iter().position(|other| *other == id(commit)).unwrap()
    }

    /// A tensor's `f32` values.
    pub(super) fn values(&self, tensor: usize) -> Vec<f32> {
        read_f32s(self.model.tensor(tensor).unwrap())
    }

    /// One digest of everything that was computed.
    pub(super) fn digest(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for tensor in 0..self.model.len() {
            hasher.update(self.model.tensor(tensor).unwrap());
            for (what, name) in Carried::ALL.into_iter().zip(["master", "momentum", "variance"]) {
                if let Some(bytes) = self.carried.get(&(what, tensor)) {
                    hasher.update(name.as_bytes());
                    hasher.update(bytes);
                }
            }
        }
        for number in self.outcome.norms.iter().chain(self.outcome.weights.iter().flatten()) {
            hasher.update(&number.to_le_bytes());
        }
        for (index, _) in &self.outcome.skipped {
            hasher.update(&(*index as u64).to_le_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }
}

pub(super) fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn f64s(values: &[f64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn i64s(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

pub(super) fn read_f32s(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

/// Any number of bytes from a seed.
pub(super) fn noise(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Finite numbers of a float type over many magnitudes, zeros and subnormals among them.
pub(super) fn numbers(seed: &str, dtype: DType, elements: usize) -> Vec<u8> {
    let mut bytes = noise(seed, elements * dtype.size());
    for (index, element) in bytes.chunks_exact_mut(dtype.size()).enumerate() {
        let (high, second) = match dtype {
            // Clearing the upper exponent bits keeps the value finite; every 17th becomes subnormal or zero.
            DType::F32 | DType::BF16 => (element.len() - 1, element.len() - 2),
            _ => (element.len() - 1, element.len() - 1),
        };
        if index % 17 == 0 {
            element[high] &= 0x80;
            if matches!(dtype, DType::F32 | DType::BF16) {
                element[second] &= 0x7f;
            } else if dtype == DType::F16 {
                element[high] &= 0x83;
            }
        } else {
            element[high] &= 0xbf;
        }
    }
    bytes
}

/// The same numbers a little moved: some of the lower bits of every element are changed.
pub(super) fn moved(seed: &str, dtype: DType, from: &[u8]) -> Vec<u8> {
    let mut bytes = from.to_vec();
    let low = dtype.size() / 2;
    for (element, noise) in
        bytes.chunks_exact_mut(dtype.size()).zip(noise(seed, from.len()).chunks_exact(dtype.size()))
    {
        for (byte, noise) in element.iter_mut().zip(noise).take(low) {
            *byte ^= noise;
        }
    }
    bytes
}
