//! The two layers the network is made of, forward and backward, over a minibatch.
//!
//! A batch is a flat slice, example after example. Arithmetic is in f64 so that gradients can be checked closely;
//! files hold f32.

use rand::Rng;
use rand_distr::{Distribution, StandardUniform};

/// Lanes of a dot product; a fixed order of additions that the compiler may turn into SIMD.
const LANES: usize = 8;

/// y = W x + b.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Linear {
    pub(super) inputs: usize,
    pub(super) outputs: usize,
    /// Row-major, `outputs` × `inputs`.
    pub(super) weight: Vec<f64>,
    /// `outputs`.
    pub(super) bias: Vec<f64>,
}

impl Linear {
    /// Uniform in ±1/√inputs, as PyTorch starts `nn.Linear`.
    pub(super) fn init(inputs: usize, outputs: usize, random: &mut impl Rng) -> Self {
        let bound = 1.0 / (inputs as f64).sqrt();
        let mut draw = |count: usize| -> Vec<f64> {
            (0..count)
                .map(|_| {
                    let unit: f64 = StandardUniform.sample(random);
                    bound * (2.0 * unit - 1.0)
                })
                .collect()
        };
        Self { inputs, outputs, weight: draw(inputs * outputs), bias: draw(outputs) }
    }

    pub(super) fn forward(&self, input: &[f64]) -> Vec<f64> {
        let mut output = Vec::with_capacity(input.len() / self.inputs * self.outputs);
        for example in input.chunks_exact(self.inputs) {
            for (row, bias) in self.weight.chunks_exact(self.inputs).zip(&self.bias) {
                output.push(bias + dot(row, example));
            }
        }
        output
    }

    /// Gradients of the loss by weight, by bias and by input, given the one by output.
    pub(super) fn backward(&self, input: &[f64], by_output: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let mut by_weight = vec![0.0; self.weight.len()];
        let mut by_bias = vec![0.0; self.bias.len()];
        let mut by_input = vec![0.0; input.len()];
        let examples = input.chunks_exact(self.inputs).zip(by_output.chunks_exact(self.outputs));
        for ((example, slopes), back) in examples.zip(by_input.chunks_exact_mut(self.inputs)) {
            let rows = self.weight.chunks_exact(self.inputs).zip(by_weight.chunks_exact_mut(self.inputs));
            for (((row, row_slope), bias_slope), slope) in rows.zip(&mut by_bias).zip(slopes) {
                *bias_slope += slope;
                add_scaled(row_slope, *slope, example);
                add_scaled(back, *slope, row);
            }
        }
        (by_weight, by_bias, by_input)
    }
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (left_chunks, right_chunks) = (left.chunks_exact(LANES), right.chunks_exact(LANES));
    let rest: f64 = left_chunks.remainder().iter().zip(right_chunks.remainder()).map(|(l, r)| l * r).sum();
    for (l, r) in left_chunks.zip(right_chunks) {
        for (lane, (l, r)) in lanes.iter_mut().zip(l.iter().zip(r)) {
            *lane += l * r;
        }
    }
    lanes.iter().sum::<f64>() + rest
}

fn add_scaled(to: &mut [f64], scale: f64, from: &[f64]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += scale * from;
    }
}

/// Batch normalisation (Ioffe and Szegedy 2015, <https://arxiv.org/abs/1502.03167>), with PyTorch's conventions: a
/// batch is normalised by its own biased variance, the running variance takes the unbiased one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct BatchNorm {
    pub(super) weight: Vec<f64>,
    pub(super) bias: Vec<f64>,
    pub(super) running_mean: Vec<f64>,
    pub(super) running_var: Vec<f64>,
    pub(super) num_batches_tracked: i64,
}

/// What the backward pass needs of the forward pass.
pub(super) struct Normalised {
    /// The batch, normalised, before weight and bias.
    pub(super) unit: Vec<f64>,
    /// One over the batch's standard deviation, per feature.
    pub(super) inverse_deviation: Vec<f64>,
}

const EPSILON: f64 = 1e-5;
/// How far the running statistics move towards a batch's.
const MOMENTUM: f64 = 0.1;

impl BatchNorm {
    pub(super) fn init(features: usize) -> Self {
        Self {
            weight: vec![1.0; features],
            bias: vec![0.0; features],
            running_mean: vec![0.0; features],
            running_var: vec![1.0; features],
            num_batches_tracked: 0,
        }
    }

    /// Normalises a batch by its own statistics and remembers them in the running ones.
    pub(super) fn forward_training(&mut self, input: &[f64]) -> (Vec<f64>, Normalised) {
        let features = self.weight.len();
        let count = (input.len() / features) as f64;
        let mut mean = vec![0.0; features];
        for example in input.chunks_exact(features) {
            add_scaled(&mut mean, 1.0 / count, example);
        }
        let mut variance = vec![0.0; features];
        for example in input.chunks_exact(features) {
            for ((variance, value), mean) in variance.iter_mut().zip(example).zip(&mean) {
                *variance += (value - mean) * (value - mean) / count;
            }
        }
        for (running, mean) in self.running_mean.iter_mut().zip(&mean) {
            *running += MOMENTUM * (mean - *running);
        }
        for (running, variance) in self.running_var.iter_mut().zip(&variance) {
            *running += MOMENTUM * (variance * count / (count - 1.0) - *running);
        }
        self.num_batches_tracked += 1;

        let inverse_deviation: Vec<f64> = variance.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
        let unit = normalise(input, &mean, &inverse_deviation);
        (self.scale(&unit), Normalised { unit, inverse_deviation })
    }

    /// Normalises by the running statistics.
    pub(super) fn forward(&self, input: &[f64]) -> Vec<f64> {
        let inverse: Vec<f64> = self.running_var.iter().map(|v| 1.0 / (v + EPSILON).sqrt()).collect();
        self.scale(&normalise(input, &self.running_mean, &inverse))
    }

    /// Gradients of the loss by weight, by bias and by input, given the one by output.
    pub(super) fn backward(&self, kept: &Normalised, by_output: &[f64]) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let features = self.weight.len();
        let count = (by_output.len() / features) as f64;
        let mut by_weight = vec![0.0; features];
        let mut by_bias = vec![0.0; features];
        for (slopes, unit) in by_output.chunks_exact(features).zip(kept.unit.chunks_exact(features)) {
            for (((weight, bias), slope), unit) in
                by_weight.iter_mut().zip(&mut by_bias).zip(slopes).zip(unit)
            {
                *weight += slope * unit;
                *bias += slope;
            }
        }
        let mut by_input = Vec::with_capacity(by_output.len());
        for (slopes, units) in by_output.chunks_exact(features).zip(kept.unit.chunks_exact(features)) {
            let statistics = by_weight.iter().zip(&by_bias);
            let scales = self.weight.iter().zip(&kept.inverse_deviation);
            for (((slope, unit), (weight_slope, bias_slope)), (weight, inverse)) in
                slopes.iter().zip(units).zip(statistics).zip(scales)
            {
                by_input.push(weight * inverse * (slope - bias_slope / count - unit * weight_slope / count));
            }
        }
        (by_weight, by_bias, by_input)
    }

    fn scale(&self, unit: &[f64]) -> Vec<f64> {
        unit.chunks_exact(self.weight.len())
            .flat_map(|example| example.iter().zip(&self.weight).zip(&self.bias).map(|((u, w), b)| u * w + b))
            .collect()
    }
}

fn normalise(input: &[f64], mean: &[f64], inverse_deviation: &[f64]) -> Vec<f64> {
    input
        .chunks_exact(mean.len())
        .flat_map(|example| {
            example
                .iter()
                .zip(mean)
                .zip(inverse_deviation)
                .map(|((value, mean), inverse)| (value - mean) * inverse)
        })
        .collect()
}
