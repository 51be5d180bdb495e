//! A small network and its training, in plain Rust: it stands for the user's own script.
//!
//! linear 64 → 32, batch-norm, relu, linear 32 → 10, softmax cross-entropy; SGD with momentum (Sutskever et al.
//! 2013, as in PyTorch: v ← μ v + g, θ ← θ − η v). Same seed, same file, same images: same result.

mod file;
mod layer;

use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::digits::{CLASSES, Image, PIXELS};
use layer::{BatchNorm, Linear};

/// Width of the hidden layer.
pub const HIDDEN: usize = 32;

/// Why training, reading or writing failed.
#[derive(Debug, thiserror::Error)]
pub enum TrainerError {
    /// The model file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is no safetensors file with the network's tensors.
    #[error("{path}: {source}")]
    Tensors {
        /// The file.
        path: PathBuf,
        /// What the safetensors library says.
        source: safetensors::SafeTensorError,
    },
    /// A tensor is of another network.
    #[error("{path}: tensor {name} is {found}, this network has {expected}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its dtype and shape.
        found: String,
        /// The network's dtype and shape.
        expected: String,
    },
    /// A batch-norm needs at least two examples in a batch.
    #[error(
        "cannot train on {images} images in batches of {batch}: a batch-norm needs at least 2 in a batch"
    )]
    TooFew {
        /// Images given.
        images: usize,
        /// Batch size asked for.
        batch: usize,
    },
}

/// How to train.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Training {
    /// Passes over the images.
    pub epochs: usize,
    /// Images in a batch, at least 2.
    pub batch: usize,
    /// Learning rate η.
    pub learning_rate: f64,
    /// Momentum μ, 0 to 1; velocity starts at 0 in each call, as a script's new optimiser does.
    pub momentum: f64,
    /// Seed of the order of images.
    pub seed: u64,
}

/// The network.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    fc1: Linear,
    bn1: BatchNorm,
    fc2: Linear,
}

/// Gradients, in the order of [`Network::trained_mut`].
type Gradients = [Vec<f64>; 6];

impl Network {
    /// A new network: linear layers uniform in ±1/√inputs, the batch-norm neutral.
    pub fn init(seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        Self {
            fc1: Linear::init(PIXELS, HIDDEN, &mut random),
            bn1: BatchNorm::init(HIDDEN),
            fc2: Linear::init(HIDDEN, CLASSES, &mut random),
        }
    }

    /// Reads a `.safetensors` file.
    ///
    /// # Errors
    /// When it cannot be read, is no such file, or holds another network.
    pub fn load(path: &Path) -> Result<Self, TrainerError> {
        file::read(path)
    }

    /// Writes a `.safetensors` file; values are rounded to f32.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainerError> {
        file::write(self, path)
    }

    /// Trains on `images`, and returns the mean loss of the last epoch. A last batch of a single image is left out.
    ///
    /// # Errors
    /// With fewer than two images in a batch.
    pub fn train(&mut self, images: &[Image], how: &Training) -> Result<f64, TrainerError> {
        if images.len() < 2 || how.batch < 2 {
            return Err(TrainerError::TooFew { images: images.len(), batch: how.batch });
        }
        let mut random = ChaCha8Rng::seed_from_u64(how.seed);
        let mut order: Vec<&Image> = images.iter().collect();
        let mut velocity: Gradients = self.trained_mut().map(|values| vec![0.0; values.len()]);
        let mut loss = 0.0;
        for _ in 0..how.epochs {
            order.shuffle(&mut random);
            let (mut sum, mut seen) = (0.0, 0);
            for batch in order.chunks(how.batch).filter(|batch| batch.len() > 1) {
                let (loss, gradients) = self.slope(batch);
                sum += loss * batch.len() as f64;
                seen += batch.len();
                for ((values, speeds), slopes) in
                    self.trained_mut().into_iter().zip(&mut velocity).zip(&gradients)
                {
                    for ((value, speed), slope) in values.iter_mut().zip(speeds).zip(slopes) {
                        *speed = how.momentum * *speed + slope;
                        *value -= how.learning_rate * *speed;
                    }
                }
            }
            loss = sum / f64::from(u32::try_from(seen).unwrap_or(u32::MAX));
        }
        Ok(loss)
    }

    /// Share of `images` whose digit the network names, 0 to 1; 0 for none.
    pub fn accuracy(&self, images: &[Image]) -> f64 {
        let right = images.iter().filter(|image| self.classify(image) == usize::from(image.label)).count();
        right as f64 / images.len().max(1) as f64
    }

    /// The digit that the network sees, by the running statistics.
    pub fn classify(&self, image: &Image) -> usize {
        let hidden = relu(self.bn1.forward(&self.fc1.forward(&image.normalised())));
        let scores = self.fc2.forward(&hidden);
        scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(digit, _)| digit)
    }

    /// Every f32 tensor: name as in the file, shape, values row by row.
    pub fn tensors(&self) -> [(&'static str, Vec<usize>, &[f64]); 8] {
        [
            ("fc1.weight", vec![HIDDEN, PIXELS], &self.fc1.weight),
            ("fc1.bias", vec![HIDDEN], &self.fc1.bias),
            ("bn1.weight", vec![HIDDEN], &self.bn1.weight),
            ("bn1.bias", vec![HIDDEN], &self.bn1.bias),
            ("bn1.running_mean", vec![HIDDEN], &self.bn1.running_mean),
            ("bn1.running_var", vec![HIDDEN], &self.bn1.running_var),
            ("fc2.weight", vec![CLASSES, HIDDEN], &self.fc2.weight),
            ("fc2.bias", vec![CLASSES], &self.fc2.bias),
        ]
    }

    /// As [`Network::tensors`], to write to.
    pub fn tensors_mut(&mut self) -> [(&'static str, Vec<usize>, &mut [f64]); 8] {
        [
            ("fc1.weight", vec![HIDDEN, PIXELS], &mut self.fc1.weight),
            ("fc1.bias", vec![HIDDEN], &mut self.fc1.bias),
            ("bn1.weight", vec![HIDDEN], &mut self.bn1.weight),
            ("bn1.bias", vec![HIDDEN], &mut self.bn1.bias),
            ("bn1.running_mean", vec![HIDDEN], &mut self.bn1.running_mean),
            ("bn1.running_var", vec![HIDDEN], &mut self.bn1.running_var),
            ("fc2.weight", vec![CLASSES, HIDDEN], &mut self.fc2.weight),
            ("fc2.bias", vec![CLASSES], &mut self.fc2.bias),
        ]
    }

    /// Batches the batch-norm has seen, the i64 tensor `bn1.num_batches_tracked`.
    pub fn num_batches_tracked(&self) -> i64 {
        self.bn1.num_batches_tracked
    }

    /// Sets [`Network::num_batches_tracked`].
    pub fn set_num_batches_tracked(&mut self, batches: i64) {
        self.bn1.num_batches_tracked = batches;
    }

    /// What SGD moves: everything but the running statistics.
    fn trained_mut(&mut self) -> [&mut Vec<f64>; 6] {
        [
            &mut self.fc1.weight,
            &mut self.fc1.bias,
            &mut self.bn1.weight,
            &mut self.bn1.bias,
            &mut self.fc2.weight,
            &mut self.fc2.bias,
        ]
    }

    /// Mean cross-entropy of a batch and its gradients; moves the running statistics.
    fn slope(&mut self, batch: &[&Image]) -> (f64, Gradients) {
        let input: Vec<f64> = batch.iter().flat_map(|image| image.normalised()).collect();
        let (normalised, kept) = self.bn1.forward_training(&self.fc1.forward(&input));
        let hidden = relu(normalised);
        let scores = self.fc2.forward(&hidden);
        let (loss, by_scores) = cross_entropy(&scores, batch);

        let (fc2_weight, fc2_bias, mut by_hidden) = self.fc2.backward(&hidden, &by_scores);
        for (slope, value) in by_hidden.iter_mut().zip(&hidden) {
            if *value <= 0.0 {
                *slope = 0.0;
            }
        }
        let (bn1_weight, bn1_bias, by_linear) = self.bn1.backward(&kept, &by_hidden);
        let (fc1_weight, fc1_bias, _) = self.fc1.backward(&input, &by_linear);
        (loss, [fc1_weight, fc1_bias, bn1_weight, bn1_bias, fc2_weight, fc2_bias])
    }
}

fn relu(mut values: Vec<f64>) -> Vec<f64> {
    for value in &mut values {
        *value = value.max(0.0);
    }
    values
}

/// Mean of `−ln softmax(scores)[label]` over the batch, and its gradient by score.
fn cross_entropy(scores: &[f64], batch: &[&Image]) -> (f64, Vec<f64>) {
    let count = batch.len() as f64;
    let mut loss = 0.0;
    let mut slopes = Vec::with_capacity(scores.len());
    for (scores, image) in scores.chunks_exact(CLASSES).zip(batch) {
        // Shifted by the largest, so that no exponential overflows.
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - largest).exp()).sum();
        for (digit, score) in scores.iter().enumerate() {
            let share = (score - largest).exp() / sum;
            let target = digit == usize::from(image.label);
            if target {
                loss += (sum.ln() - (score - largest)) / count;
            }
            slopes.push((share - f64::from(u8::from(target))) / count);
        }
    }
    (loss, slopes)
}

#[cfg(test)]
mod tests;
