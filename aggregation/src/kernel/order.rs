//! Order statistics over contributions, per coordinate: medians, trimmed means, means around the median.
//!
//! Rows of numbers, one a person, are sorted column by column with a sorting network: a fixed list of
//! compare-and-exchange steps that depends on the number of rows only (Batcher's merge exchange, Knuth, *The Art of
//! Computer Programming* 3, 5.2.2, algorithm M). Whole rows are compared at a time, so vector instructions do many
//! columns at once. What a sort gives is the same whatever the method: a second implementation may sort as it likes.

/// What becomes of the persons' numbers at one coordinate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Statistic {
    /// Their sum over a divisor, in the order of the commit ids.
    Mean {
        /// What the sum is divided by.
        divisor: f64,
    },
    /// The middle one; half of each of the two in the middle where their number is even.
    Median,
    /// The mean, in ascending order, of those left when so many are cut off at each end.
    Trimmed {
        /// How many are cut off at each end.
        each_end: usize,
    },
    /// The mean, in ascending order, of so many that are nearest to the median: of two equally near, the lower.
    Central {
        /// How many.
        count: usize,
    },
}

/// How many columns are sorted at a time: few enough that ten rows of them stay in the nearest cache.
const TILE: usize = 256;

/// Sorts columns and takes their statistic; for a fixed number of rows.
#[derive(Clone, Debug)]
pub struct Ranking {
    rows: usize,
    statistic: Statistic,
    /// Pairs of rows to compare, the lower number to go to the first.
    steps: Vec<(usize, usize)>,
    /// A tile of columns.
    tile: Vec<f64>,
}

impl Ranking {
    /// The ranking of so many rows, for a statistic that is none of sums.
    pub fn new(rows: usize, statistic: Statistic) -> Self {
        let wanted = |row: usize| match statistic {
            Statistic::Median => row == rows / 2 || (rows.is_multiple_of(2) && row + 1 == rows / 2),
            Statistic::Trimmed { each_end } => row >= each_end && row + each_end < rows,
            Statistic::Central { .. } | Statistic::Mean { .. } => true,
        };
        let mut live: Vec<bool> = (0..rows).map(wanted).collect();
        let mut steps = network(rows);
        // Backwards: a step that nothing wanted depends on is left out.
        steps.reverse();
        steps.retain(|(low, high)| {
            let needed = live[*low] || live[*high];
            live[*low] |= needed;
            live[*high] |= needed;
            needed
        });
        steps.reverse();
        Self { rows, statistic, steps, tile: Vec::new() }
    }

    /// Writes the statistic of every column of `matrix` to `out`. The matrix holds one row after the other, each as
    /// long as `out`.
    ///
    /// There must be no −0 and no NaN among the numbers: sums that start from 0 are never −0, and faulty inputs were
    /// left out before.
    pub fn reduce(&mut self, matrix: &[f64], out: &mut [f64]) {
        let width = out.len();
        for start in (0..width).step_by(TILE) {
            let columns = start..width.min(start + TILE);
            self.tile.clear();
            for row in 0..self.rows {
                let place = row * width;
                self.tile.extend_from_slice(&matrix[place + columns.start..place + columns.end]);
            }
            self.sort(columns.len());
            self.take(&mut out[columns]);
        }
    }

    fn sort(&mut self, width: usize) {
        for (low, high) in &self.steps {
            let (before, after) = self.tile.split_at_mut(high * width);
            let lows = &mut before[low * width..(low + 1) * width];
            for (low, high) in lows.iter_mut().zip(&mut after[..width]) {
                // Without −0 and NaN these give one of the two, bit for bit; comparing and branching would do a column at
                // a time.
                (*low, *high) = (low.min(*high), low.max(*high));
            }
        }
    }

    /// The statistic of sorted columns.
    fn take(&self, out: &mut [f64]) {
        let (rows, width) = (self.rows, out.len());
        let row = |row: usize| &self.tile[row * width..(row + 1) * width];
        let mean_of = |out: &mut [f64], first: usize, count: usize| {
            out.fill(0.0);
            for row in (first..first + count).map(row) {
                for (sum, value) in out.iter_mut().zip(row) {
                    *sum += value;
                }
            }
            for sum in out {
                *sum /= count as f64;
            }
        };
        match self.statistic {
            _ if rows == 0 => out.fill(0.0),
            Statistic::Median if rows.is_multiple_of(2) => {
                for (out, (lower, upper)) in out.iter_mut().zip(row(rows / 2 - 1).iter().zip(row(rows / 2))) {
                    *out = lower * 0.5 + upper * 0.5;
                }
            }
            Statistic::Median => out.copy_from_slice(row(rows / 2)),
            Statistic::Trimmed { each_end } => {
                let each_end = each_end.min((rows - 1) / 2);
                mean_of(out, each_end, rows - 2 * each_end);
            }
            Statistic::Mean { .. } => mean_of(out, 0, rows),
            Statistic::Central { count } => {
                let count = count.clamp(1, rows);
                let mut column = vec![0.0; rows];
                for (place, out) in out.iter_mut().enumerate() {
                    for (row, value) in column.iter_mut().enumerate() {
                        *value = self.tile[row * width + place];
                    }
                    *out = around_the_median(&column, count);
                }
            }
        }
    }
}

/// The mean of the `count` numbers nearest to the median of a sorted column.
///
/// The farthest is always at one of the ends: it is dropped (of two equally far, the upper) until so many are left.
fn around_the_median(column: &[f64], count: usize) -> f64 {
    let rows = column.len();
    let median = if rows.is_multiple_of(2) {
        column[rows / 2 - 1] * 0.5 + column[rows / 2] * 0.5
    } else {
        column[rows / 2]
    };
    let (mut first, mut end) = (0, rows);
    while end - first > count {
        if (column[first] - median).abs() > (column[end - 1] - median).abs() {
            first += 1;
        } else {
            end -= 1;
        }
    }
    column[first..end].iter().fold(0.0, |sum, value| sum + value) / count as f64
}

/// Batcher's merge exchange for any number of rows.
fn network(rows: usize) -> Vec<(usize, usize)> {
    let mut steps = Vec::new();
    let top = rows.next_power_of_two() / 2;
    let mut span = top;
    while span > 0 {
        let (mut reach, mut rest, mut distance) = (top, 0, span);
        loop {
            let pairs = (0..rows.saturating_sub(distance)).filter(|row| row & span == rest);
            steps.extend(pairs.map(|row| (row, row + distance)));
            if reach == span {
                break;
            }
            distance = reach - span;
            reach /= 2;
            rest = span;
        }
        span /= 2;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The statistic, by the definition.
    fn naive(column: &[f64], statistic: Statistic) -> f64 {
        let mut sorted = column.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            sorted[middle - 1] * 0.5 + sorted[middle] * 0.5
        } else {
            sorted[middle]
        };
        let mean = |values: &[f64]| values.iter().fold(0.0, |sum, value| sum + value) / values.len() as f64;
        match statistic {
            Statistic::Median => median,
            Statistic::Trimmed { each_end } => mean(&sorted[each_end..sorted.len() - each_end]),
            Statistic::Mean { .. } => mean(&sorted),
            Statistic::Central { count } => {
                // A stable sort keeps the lower of two equally near ones first.
                sorted.sort_by(|one, other| (one - median).abs().total_cmp(&(other - median).abs()));
                let mut nearest = sorted[..count].to_vec();
                nearest.sort_by(f64::total_cmp);
                mean(&nearest)
            }
        }
    }

    #[test]
    fn the_network_sorts_every_pattern_of_zeros_and_ones() {
        for rows in 0..=12usize {
            for pattern in 0..1u32 << rows {
                let mut column: Vec<u32> = (0..rows).map(|row| pattern >> row & 1).collect();
                for (low, high) in network(rows) {
                    if column[high] < column[low] {
                        column.swap(low, high);
                    }
                }
                assert!(column.is_sorted(), "{rows} rows, pattern {pattern:b}");
            }
        }
    }

    #[test]
    fn infinities_are_sorted_like_other_numbers() {
        let matrix = [f64::INFINITY, 1.0, f64::NEG_INFINITY, 2.0, 3.0];
        let mut out = [0.0];
        Ranking::new(5, Statistic::Median).reduce(&matrix, &mut out);
        assert_eq!(out.map(f64::to_bits), [2.0f64.to_bits()]);
    }

    proptest! {
        #[test]
        fn any_columns_give_what_the_definition_says(
            rows in 1usize..40,
            width in prop::sample::select(vec![1usize, 3, 255, 256, 257, 700]),
            seed: u64,
            pick: prop::sample::Index,
        ) {
            // Few different values, so that ties are common.
            let value = |place: u64| {
                let mixed = (seed ^ place).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
                (mixed % 23) as f64 * 0.37 - 4.0
            };
            let matrix: Vec<f64> = (0..(rows * width) as u64).map(value).collect();
            let statistics = [
                Statistic::Median,
                Statistic::Trimmed { each_end: pick.index(rows.div_ceil(2)) },
                Statistic::Central { count: pick.index(rows) + 1 },
            ];
            for statistic in statistics {
                let mut out = vec![f64::NAN; width];
                Ranking::new(rows, statistic).reduce(&matrix, &mut out);
                for column in 0..width {
                    let numbers: Vec<f64> = (0..rows).map(|row| matrix[row * width + column]).collect();
                    let expected = naive(&numbers, statistic);
                    prop_assert_eq!(out[column].to_bits(), expected.to_bits(), "{:?}", statistic);
                }
            }
        }
    }
}
