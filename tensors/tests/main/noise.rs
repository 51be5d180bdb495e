//! Tensors to try things on, the same on every run.

/// A xorshift generator: enough for test data.
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 56) as u8).collect()
    }

    /// Roughly normal, mean 0 and variance 1: the sum of twelve uniform numbers.
    pub(crate) fn normal(&mut self) -> f64 {
        (0..12).map(|_| (self.next() >> 11) as f64 / (1_u64 << 53) as f64).sum::<f64>() - 6.0
    }
}

/// Weights of a trained layer, and the same after a first AdamW step of learning rate 2e-5 (Loshchilov and Hutter 2019):
/// each weight moves by the rate, less what the denominator's epsilon takes of small gradients.
pub(crate) fn step(count: usize, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut noise = Noise::new(seed);
    let base: Vec<f32> = (0..count).map(|_| (noise.normal() * 0.04) as f32).collect();
    let next = base
        .iter()
        .map(|weight| {
            let gradient = (noise.normal() * 1e-3) as f32;
            weight * (1.0 - 2e-5 * 0.01) - 2e-5 * gradient / (gradient.abs() + 1e-8)
        })
        .collect();
    (base, next)
}

pub(crate) fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// The upper halves: bf16 by truncation.
pub(crate) fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| ((value.to_bits() >> 16) as u16).to_le_bytes()).collect()
}
