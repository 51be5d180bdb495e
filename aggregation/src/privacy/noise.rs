//! Exact samples of a rounded normal distribution.
//!
//! The method is algorithm N of Karney, "Sampling exactly from the normal distribution" (ACM Transactions on Mathematical
//! Software 42(1), 2016): comparisons of uniform numbers whose digits are drawn as they are needed, and no arithmetic
//! that rounds. *n* = ±(k + x) comes out with k a whole number and x a fraction of which any number of digits can be had.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::STEPS;
use crate::kernel::CHUNK;

/// Coordinates whose noise is drawn from one stream.
pub const RUN: usize = CHUNK;

/// The noise of one release. Each run of [`RUN`] coordinates has a stream of ChaCha20 of its own, so that several threads
/// can draw, and the same run can be drawn again; never use one for two releases.
///
/// ChaCha20 under a secret key that the system's random source gave cannot be told from randomness by anybody who does
/// not have the key: it is what that source itself is made of. The key is forgotten with this value; whoever had it could
/// take the noise off.
pub struct Noise {
    key: [u8; 32],
}

impl Noise {
    /// Noise under this key, which must come from the system's random source.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// Replaces `out` by the first `count` samples of run number `run`: ⌊2³²·n⌋ with n standard normal, independent.
    pub fn run(&self, run: u64, count: usize, out: &mut Vec<i64>) {
        let mut stream = ChaCha20Rng::from_seed(self.key);
        stream.set_stream(run);
        let mut sampler = Sampler::<_, 32>(stream);
        out.clear();
        out.extend((0..count.min(RUN)).map(|_| sampler.next()));
    }
}

impl std::fmt::Debug for Noise {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Noise")
    }
}

/// A uniform number of [0, 1): its digits in base 2^`DIGIT`, as far as they were needed.
struct Uniform {
    first: u32,
    more: Vec<u32>,
}

/// Draws normal numbers from a source of bits. Tests use small digits, with which ties are frequent.
struct Sampler<R, const DIGIT: i32>(R);

impl<R: Rng, const DIGIT: i32> Sampler<R, DIGIT> {
    fn next(&mut self) -> i64 {
        let (whole, mut part) = self.normal();
        let (mut fraction, mut bits, mut place) = (0u64, 0, 0);
        while bits < STEPS {
            fraction = fraction << DIGIT | u64::from(self.digit(&mut part, place));
            bits += DIGIT;
            place += 1;
        }
        let size = (u64::from(whole) << STEPS | fraction >> (bits - STEPS)).cast_signed();
        // Rounded down, and so to the next one for negative numbers.
        if self.draw() & 1 == 0 { size } else { !size }
    }

    /// The whole and the fractional part of a normal number's size.
    fn normal(&mut self) -> (u32, Uniform) {
        loop {
            // With probability in proportion to exp(−k/2), then exp(−k²/2).
            let mut whole = 0u32;
            while self.half() {
                whole += 1;
            }
            if !(0..whole * whole.saturating_sub(1)).all(|_| self.half()) {
                continue;
            }
            // And exp(−x(2k + x)/2), as a product of k + 1 factors.
            let mut part = self.uniform();
            if (0..=whole).all(|_| self.factor(whole, &mut part)) {
                return (whole, part);
            }
        }
    }

    /// True with probability exp(−1/2): a falling sequence that begins below one half has an even length (von Neumann).
    fn half(&mut self) -> bool {
        let mut last = self.uniform();
        if last.first >> (DIGIT - 1) == 1 {
            return true;
        }
        let mut even = false;
        loop {
            let mut next = self.uniform();
            if !self.less(&mut next, &mut last) {
                return even;
            }
            last = next;
            even = !even;
        }
    }

    /// True with probability exp(−x(2k + x)/(2k + 2)), in the same way.
    fn factor(&mut self, whole: u32, part: &mut Uniform) -> bool {
        let mut next = self.uniform();
        if !self.less(&mut next, part) || !self.share(whole, part) {
            return true;
        }
        let (mut last, mut even) = (next, false);
        loop {
            let mut next = self.uniform();
            if !self.less(&mut next, &mut last) || !self.share(whole, part) {
                return even;
            }
            last = next;
            even = !even;
        }
    }

    /// True with probability (2k + x)/(2k + 2).
    fn share(&mut self, whole: u32, part: &mut Uniform) -> bool {
        let choices = 2 * whole + 2;
        // The largest multiple of the number of choices; what lies beyond is drawn again.
        let most = u32::MAX - u32::MAX % choices;
        let choice = loop {
            let draw = self.draw();
            if draw < most {
                break draw % choices;
            }
        };
        choice < 2 * whole
            || choice == 2 * whole && {
                let mut other = self.uniform();
                self.less(&mut other, part)
            }
    }

    /// Whether one number is smaller: by the first digits that differ.
    fn less(&mut self, left: &mut Uniform, right: &mut Uniform) -> bool {
        if left.first != right.first {
            return left.first < right.first;
        }
        let mut place = 1;
        loop {
            let (left, right) = (self.digit(left, place), self.digit(right, place));
            if left != right {
                return left < right;
            }
            place += 1;
        }
    }

    fn digit(&mut self, number: &mut Uniform, place: usize) -> u32 {
        let Some(place) = place.checked_sub(1) else { return number.first };
        while number.more.len() <= place {
            let digit = self.draw() >> (32 - DIGIT);
            number.more.push(digit);
        }
        number.more[place]
    }

    fn uniform(&mut self) -> Uniform {
        Uniform { first: self.draw() >> (32 - DIGIT), more: Vec::new() }
    }

    fn draw(&mut self) -> u32 {
        self.0.next_u32()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The normal distribution, by numerical integration: an oracle of its own.
    fn normal(x: f64) -> f64 {
        let steps = 200;
        let width = x / f64::from(steps);
        let density = |t: f64| (-t * t / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let inner: f64 =
            (1..steps).map(|i| density(f64::from(i) * width) * if i % 2 == 1 { 4.0 } else { 2.0 }).sum();
        0.5 + (density(0.0) + inner + density(x)) * width / 3.0
    }

    /// Moments, the largest distance from the normal distribution (Kolmogorov and Smirnov), and the tails.
    fn check<const DIGIT: i32>(count: u32) {
        let mut sampler = Sampler::<_, DIGIT>(ChaCha20Rng::from_seed([7; 32]));
        let mut samples: Vec<f64> =
            (0..count).map(|_| (sampler.next() as f64 + 0.5) / 32f64.exp2()).collect();
        let n = f64::from(count);
        let moment = |power| samples.iter().map(|x| x.powi(power)).sum::<f64>() / n;
        // Five standard errors each: those of the first, second, third and fourth moment.
        for (power, expected, error) in [(1, 0.0, 1.0f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let found = moment(power);
            assert!((found - expected).abs() < 5.0 * (error / n).sqrt(), "moment {power}: {found}");
        }
        samples.sort_by(f64::total_cmp);
        let distance = samples
            .iter()
            .enumerate()
            .map(|(place, x)| (normal(*x) - (place as f64 + 0.5) / n).abs())
            .fold(0.0, f64::max);
        // Exceeded by chance once in 10 000 keys, and the key is fixed.
        assert!(distance < 2.2 / n.sqrt(), "{distance}");
        let beyond = samples.iter().filter(|x| x.abs() > 3.0).count() as f64;
        let expected = n * 2.0 * (1.0 - normal(3.0));
        assert!((beyond - expected).abs() < 5.0 * expected.sqrt(), "{beyond} of {expected}");
        assert!(samples.iter().any(|x| x.abs() > 4.0), "the tail is not cut");
    }

    #[test]
    fn samples_are_normal_whatever_the_size_of_digits() {
        check::<32>(200_000);
        // Here most comparisons go beyond the first digit, which with 32 bits happens once in four thousand million.
        check::<1>(100_000);
        check::<3>(100_000);
    }

    #[test]
    fn low_bits_are_as_random_as_high_ones() {
        let mut samples = Vec::new();
        let noise = Noise::new([3; 32]);
        let mut counts = [0u32; 32];
        let runs = 16;
        for run in 0..runs {
            noise.run(run, RUN, &mut samples);
            for sample in &samples {
                for (bit, count) in counts.iter_mut().enumerate() {
                    *count += u32::from(sample >> bit & 1 == 1);
                }
            }
        }
        let n = runs as f64 * RUN as f64;
        for (bit, count) in counts.iter().enumerate().take(24) {
            assert!((f64::from(*count) - n / 2.0).abs() < 5.0 * (n / 4.0).sqrt(), "bit {bit}: {count}");
        }
    }

    #[test]
    fn runs_differ_and_each_can_be_drawn_again() {
        let draw = |key, run, count| {
            let mut out = Vec::new();
            Noise::new(key).run(run, count, &mut out);
            out
        };
        let first = draw([1; 32], 0, RUN);
        assert_eq!(draw([1; 32], 0, 10), first[..10]);
        assert_ne!(draw([1; 32], 1, 10), first[..10]);
        assert_ne!(draw([2; 32], 0, 10), first[..10]);
        assert_eq!(draw([1; 32], 0, 2 * RUN).len(), RUN);
    }
}
