//! Three versions of a model as they come out of training: a sentence encoder (BERT with few layers) in f32.
//!
//! Version 1 has the sizes and spreads of trained weights; its numbers are drawn. Version 2 changes one matrix.
//! Version 3 is version 2 after ten steps of AdamW (Loshchilov and Hutter 2019, as in PyTorch) on drawn gradients:
//! every weight decays, so every weight moves. A row of the embedding has a gradient only in steps in which its token
//! occurs, which words do by Zipf's law.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rand::{Rng, RngExt as _, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, Normal, StandardNormal};
use safetensors::{Dtype, View};

use super::BenchError;

const SEED: u64 = 7;
/// Steps between version 2 and 3.
const STEPS: i32 = 10;
/// A usual rate for fine-tuning; the rest are PyTorch's defaults.
const LEARNING_RATE: f64 = 2e-5;
const BETAS: (f64, f64) = (0.9, 0.999);
const EPSILON: f64 = 1e-8;
const DECAY: f64 = 0.01;
/// Tokens in a step.
const TOKENS: f64 = 8192.0;
/// The tensor that version 2 changes.
const CHANGED: &str = "encoder.layer.0.intermediate.dense.weight";

/// Sizes of the encoder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Words.
    pub vocabulary: usize,
    /// Width.
    pub hidden: usize,
    /// Layers.
    pub layers: usize,
}

impl Shape {
    /// The sizes of all-MiniLM-L6-v2: 22.7 million weights, 90.9 MB.
    pub const SENTENCES: Self = Self { vocabulary: 30_522, hidden: 384, layers: 6 };

    /// Names, sizes, means and spreads.
    fn tensors(self) -> Vec<(String, Vec<usize>, f32, f32)> {
        let Self { vocabulary, hidden, layers } = self;
        let mut tensors = vec![
            ("embeddings.word_embeddings.weight".to_owned(), vec![vocabulary, hidden], 0.0, 0.05),
            ("embeddings.position_embeddings.weight".to_owned(), vec![512, hidden], 0.0, 0.01),
            ("embeddings.token_type_embeddings.weight".to_owned(), vec![2, hidden], 0.0, 0.02),
        ];
        let norm = |tensors: &mut Vec<_>, name: &str| {
            tensors.push((format!("{name}.weight"), vec![hidden], 0.9, 0.1));
            tensors.push((format!("{name}.bias"), vec![hidden], 0.0, 0.1));
        };
        let dense = |tensors: &mut Vec<_>, name: &str, out: usize, inner: usize| {
            tensors.push((format!("{name}.weight"), vec![out, inner], 0.0, 0.05));
            tensors.push((format!("{name}.bias"), vec![out], 0.0, 0.1));
        };
        norm(&mut tensors, "embeddings.LayerNorm");
        for layer in 0..layers {
            let at = format!("encoder.layer.{layer}");
            for name in ["self.query", "self.key", "self.value", "output.dense"] {
                dense(&mut tensors, &format!("{at}.attention.{name}"), hidden, hidden);
            }
            norm(&mut tensors, &format!("{at}.attention.output.LayerNorm"));
            dense(&mut tensors, &format!("{at}.intermediate.dense"), 4 * hidden, hidden);
            dense(&mut tensors, &format!("{at}.output.dense"), hidden, 4 * hidden);
            norm(&mut tensors, &format!("{at}.output.LayerNorm"));
        }
        dense(&mut tensors, "pooler.dense", hidden, hidden);
        tensors
    }
}

/// The versions' files.
#[derive(Clone, Debug)]
pub(super) struct Files {
    /// In order.
    pub(super) versions: [PathBuf; 3],
    /// Bytes of one.
    pub(super) bytes: u64,
}

/// Writes the three versions to `dir`: `v1.safetensors` and so on. Same shape, same bytes.
///
/// # Errors
/// When the disk refuses.
pub fn write(dir: &Path, shape: Shape) -> Result<(), BenchError> {
    files(dir, shape).map(drop)
}

/// The three versions that somebody else wrote to `dir`.
pub(super) fn given(dir: &Path) -> Result<Files, BenchError> {
    let versions = [1, 2, 3].map(|version| dir.join(format!("v{version}.safetensors")));
    let mut bytes = 0;
    for version in versions.iter().rev() {
        bytes = std::fs::metadata(version).map_err(BenchError::io(version.display()))?.len();
    }
    Ok(Files { versions, bytes })
}

pub(super) fn files(dir: &Path, shape: Shape) -> Result<Files, BenchError> {
    std::fs::create_dir_all(dir).map_err(BenchError::io(dir.display()))?;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut tensors: Vec<Tensor> = Vec::new();
    for (name, shape, mean, spread) in shape.tensors() {
        let drawn = Normal::new(mean, spread).map_err(BenchError::broken)?;
        let values = (0..shape.iter().product()).map(|_| drawn.sample(&mut random)).collect();
        tensors.push(Tensor { name, shape, values });
    }
    let save = |version: usize, tensors: &[Tensor]| {
        let path = dir.join(format!("v{version}.safetensors"));
        let views = tensors.iter().map(|tensor| (&tensor.name, tensor));
        let about = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::serialize_to_file(views, Some(about), &path)
            .map(|()| path.clone())
            .map_err(|source| BenchError::Tensors { path, source })
    };
    let first = save(1, &tensors)?;
    for tensor in tensors.iter_mut().filter(|tensor| tensor.name == CHANGED) {
        train(&mut tensor.values, &[true; STEPS as usize], &mut random);
    }
    let second = save(2, &tensors)?;
    for tensor in &mut tensors {
        let rows = tensor.name == "embeddings.word_embeddings.weight";
        let width = if rows { shape.hidden } else { tensor.values.len() };
        for (row, values) in tensor.values.chunks_mut(width).enumerate() {
            let seen: [bool; STEPS as usize] =
                std::array::from_fn(|_| !rows || occurs(row, shape, &mut random));
            train(values, &seen, &mut random);
        }
    }
    let third = save(3, &tensors)?;
    let bytes = std::fs::metadata(&first).map_err(BenchError::io(first.display()))?.len();
    Ok(Files { versions: [first, second, third], bytes })
}

/// Whether the token of a row occurs in a step: it is drawn with a chance of 1 / (rank · harmonic number).
fn occurs(row: usize, shape: Shape, random: &mut impl Rng) -> bool {
    let harmonic = (shape.vocabulary as f64).ln() + 0.577;
    let expected = TOKENS / ((row + 1) as f64 * harmonic);
    random.random_bool(1.0 - (-expected).exp())
}

/// AdamW on gradients of which a third is the same in all steps; none in steps that do not see these weights.
fn train(values: &mut [f32], seen: &[bool; STEPS as usize], random: &mut impl Rng) {
    for value in values {
        let trend: f64 = StandardNormal.sample(random);
        let (mut mean, mut square) = (0.0_f64, 0.0_f64);
        for (step, seen) in (1..=STEPS).zip(seen) {
            let noise: f64 = if *seen { StandardNormal.sample(random) } else { 0.0 };
            let gradient = if *seen { 0.5 * trend + noise } else { 0.0 };
            mean = BETAS.0 * mean + (1.0 - BETAS.0) * gradient;
            square = BETAS.1 * square + (1.0 - BETAS.1) * gradient * gradient;
            let decayed = (f64::from(*value) * (1.0 - LEARNING_RATE * DECAY)) as f32;
            let (mean, square) = (mean / (1.0 - BETAS.0.powi(step)), square / (1.0 - BETAS.1.powi(step)));
            let moved = LEARNING_RATE * mean / (square.sqrt() + EPSILON);
            *value = (f64::from(decayed) - moved) as f32;
        }
    }
}

struct Tensor {
    name: String,
    shape: Vec<usize>,
    values: Vec<f32>,
}

impl View for &Tensor {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn data_len(&self) -> usize {
        self.values.len() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_two_changes_one_tensor_and_version_three_every_weight_a_little() {
        let dir = tempfile::tempdir().unwrap();
        let shape = Shape { vocabulary: 100, hidden: 16, layers: 1 };
        let files = files(dir.path(), shape).unwrap();
        let read = |version: usize| std::fs::read(&files.versions[version - 1]).unwrap();
        let (one, two, three) = (read(1), read(2), read(3));
        let [one, two, three] =
            [&one, &two, &three].map(|bytes| safetensors::SafeTensors::deserialize(bytes).unwrap());
        let floats = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks::<4>().0.iter().map(|four| f32::from_le_bytes(*four)).collect()
        };
        let (mut weights, mut moved) = (0, 0);
        for name in one.names() {
            let [first, second, third] =
                [&one, &two, &three].map(|file| floats(file.tensor(name).unwrap().data()));
            assert_eq!(first != second, name == CHANGED, "{name}");
            for (old, new) in second.iter().zip(&third) {
                assert!((old - new).abs() < 1e-3, "{name}: {old} {new}");
                weights += 1;
                moved += usize::from(old.to_bits() != new.to_bits());
            }
        }
        assert!(moved * 100 > weights * 99, "{moved} of {weights} moved");
    }

    #[test]
    fn the_shape_of_sentences_has_ninety_megabytes() {
        let tensors = Shape::SENTENCES.tensors();
        let weights: usize = tensors.iter().map(|(_, shape, ..)| shape.iter().product::<usize>()).sum();
        assert_eq!(weights * 4, 90_852_864);
    }
}
