//! What releases cost, exactly: Gaussian differential privacy.
//!
//! One release of the Gaussian mechanism with noise multiplier z is μ-GDP with μ = 1/z, and releases compose to
//! μ = √(Σ 1/zᵢ²), with nothing lost (Dong, Roth and Su, "Gaussian differential privacy", JRSS B 84(1), 2022, corollary
//! 3.3). For each ε it is (ε, δ)-differentially private with
//!
//! δ = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ)
//!
//! and no smaller δ (Balle and Wang, "Improving the Gaussian mechanism for differential privacy: analytical calibration
//! and optimal denoising", ICML 2018, theorem 8). Multipliers may be chosen after earlier releases were seen, as long as
//! a bound on Σ 1/zᵢ² that was set before is kept (Smith and Thakurta, "Fully adaptive composition for Gaussian
//! differential privacy", 2022): that is what a budget is.

use libm::erfc;

/// Rounds of bisection: after 200 the two ends are neighbours.
const ROUNDS: usize = 200;

/// The μ of several releases together.
pub fn compose(mus: impl IntoIterator<Item = f64>) -> f64 {
    mus.into_iter().fold(0.0, |sum: f64, mu| sum + mu * mu).sqrt()
}

/// The smallest δ with which μ-GDP is (ε, δ)-differential privacy. For μ ≥ 0 and ε ≥ 0.
pub fn delta(mu: f64, epsilon: f64) -> f64 {
    if mu <= 0.0 {
        return 0.0;
    }
    // With t = ε/μ both terms have the factor exp(−(t − μ/2)²/2), and no large power is left to cancel out.
    let (t, half) = (epsilon / mu, mu / 2.0);
    let (near, far) = ((t - half) / std::f64::consts::SQRT_2, (t + half) / std::f64::consts::SQRT_2);
    if near < 0.0 {
        // e^ε Φ(−far) is below one here, and erfc(near) between one and two.
        return 0.5 * (erfc(near) - (-near * near).exp() * scaled(far));
    }
    0.5 * (-near * near).exp() * (scaled(near) - scaled(far))
}

/// exp(x²)·erfc(x) for x ≥ 0.
fn scaled(x: f64) -> f64 {
    if x < 20.0 {
        return (x * x).exp() * erfc(x);
    }
    // Its asymptotic series: the sixth term is below 10⁻¹³ from here on.
    let square = 2.0 * x * x;
    let mut term = 1.0;
    let mut sum = 1.0;
    for odd in [1.0, 3.0, 5.0, 7.0, 9.0] {
        term *= -odd / square;
        sum += term;
    }
    sum / (x * std::f64::consts::PI.sqrt())
}

/// The smallest ε with which μ-GDP is (ε, δ)-differential privacy, rounded up; infinite if there is none below 10¹².
pub fn epsilon(mu: f64, goal: f64) -> f64 {
    if delta(mu, 0.0) <= goal {
        return 0.0;
    }
    let (_, enough) = edge(|epsilon| delta(mu, epsilon) > goal);
    if delta(mu, enough) > goal { f64::INFINITY } else { enough }
}

/// The largest μ that is (ε, δ)-differential privacy, rounded down.
pub fn mu(epsilon: f64, goal: f64) -> f64 {
    edge(|mu| delta(mu, epsilon) <= goal).0
}

/// Where `holds`, which is true of small numbers, ends to be true: two neighbouring numbers, the first that it is true of
/// and the second that it is not. Looked for up to 10¹².
fn edge(holds: impl Fn(f64) -> bool) -> (f64, f64) {
    let (mut low, mut high) = (0.0, 1.0);
    while high < 1e12 && holds(high) {
        low = high;
        high *= 2.0;
    }
    for _ in 0..ROUNDS {
        let middle = f64::midpoint(low, high);
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    (low, high)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn near(found: f64, expected: f64, relative: f64) -> bool {
        (found - expected).abs() <= relative * expected.abs()
    }

    /// Computed with mpmath 1.3 to 60 digits, from the formula as it stands.
    #[test]
    fn delta_agrees_with_sixty_digits() {
        for (mu, epsilon, expected) in [
            (0.1, 0.0, 0.039_877_611_676_744_92),
            (0.1, 0.3, 4.435_197_882_025_084e-5),
            (0.5, 1.0, 0.006_829_594_983_114_575),
            (1.0, 1.0, 0.126_936_737_506_643_95),
            (1.0, 6.0, 2.787_859_763_763_682e-9),
            (2.0, 10.0, 9.940_202_816_118_153e-6),
            (4.0, 8.0, 0.405_589_358_698_031_06),
            (10.0, 50.0, 0.460_493_305_898_614),
            (10.0, 120.0, 7.443_163_705_324_08e-13),
            (40.0, 1000.0, 2.536_296_514_956_551e-7),
            (100.0, 5000.0, 0.496_010_976_018_643_2),
            (100.0, 6000.0, 6.920_401_854_427_357e-24),
        ] {
            let found = delta(mu, epsilon);
            assert!(near(found, expected, 1e-11), "δ({mu}, {epsilon}) = {found}, not {expected}");
        }
    }

    #[test]
    fn epsilon_agrees_with_sixty_digits() {
        for (mu, goal, expected) in [
            (0.05, 1e-5, 0.160_042_034_458_132_13),
            (0.05, 1e-9, 0.260_196_773_718_018_7),
            (0.1, 1e-5, 0.340_669_364_684_326_4),
            (0.25, 1e-5, 0.926_341_503_998_229_4),
            (0.5, 1e-5, 1.993_091_404_415_119_6),
            (0.5, 1e-9, 2.909_732_380_763_617),
            (1.0, 1e-5, 4.377_178_095_681_225),
            (2.0, 1e-5, 9.997_256_146_434_3),
            (4.0, 1e-9, 31.381_840_071_786_647),
            (10.0, 1e-5, 91.817_289_624_663_75),
            (30.0, 1e-9, 629.022_801_852_776_5),
        ] {
            let found = epsilon(mu, goal);
            assert!(near(found, expected, 1e-10), "ε({mu}, {goal}) = {found}, not {expected}");
        }
    }

    /// δ is by definition the mass by which one density exceeds e^ε times the other.
    #[test]
    fn delta_is_the_mass_by_which_one_density_exceeds_the_other() {
        let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        for (mu, epsilon) in [(0.2, 0.1), (0.5, 1.0), (1.0, 2.0), (3.0, 7.0)] {
            // Simpson's rule from where they cross on.
            let (from, parts) = (epsilon / mu + mu / 2.0, 20_000);
            let width = 14.0 / f64::from(parts);
            let excess = |x: f64| density(x - mu) - epsilon.exp() * density(x);
            let sum: f64 = (0..=parts)
                .map(|i| {
                    let weight = match i {
                        0 => 1.0,
                        i if i == parts => 1.0,
                        i if i % 2 == 1 => 4.0,
                        _ => 2.0,
                    };
                    weight * excess(from + f64::from(i) * width)
                })
                .sum();
            let (found, expected) = (delta(mu, epsilon), sum * width / 3.0);
            assert!(near(found, expected, 1e-7), "δ({mu}, {epsilon}) = {found}, not {expected}");
        }
    }

    #[test]
    fn releases_add_up_as_squares() {
        assert_eq!(compose([]).to_bits(), 0f64.to_bits());
        assert!(near(compose([0.3, 0.4]), 0.5, 1e-15));
        assert!(near(compose(std::iter::repeat_n(0.1, 100)), 1.0, 1e-12));
        assert_eq!(epsilon(0.0, 1e-5).to_bits(), 0f64.to_bits());
    }

    proptest! {
        #[test]
        fn a_budgets_mu_is_the_largest_that_keeps_it(budget in 0.01f64..200.0, exponent in 2i32..12) {
            let goal = 10f64.powi(-exponent);
            let most = mu(budget, goal);
            prop_assert!(epsilon(most, goal) <= budget * (1.0 + 1e-9));
            prop_assert!(epsilon(most * 1.0001, goal) > budget);
        }

        #[test]
        fn more_noise_costs_less(mu in 0.01f64..50.0, more in 1.001f64..3.0, epsilon in 0.0f64..100.0) {
            prop_assert!(delta(mu / more, epsilon) <= delta(mu, epsilon));
            prop_assert!(delta(mu, epsilon * more) <= delta(mu, epsilon));
        }
    }
}
