//! Sums over coordinates in one fixed shape, whatever the block size or the number of threads.
//!
//! A tensor's elements are cut, from its start, into runs of 4,096 ([`CHUNK`]). Within a run element *k* is
//! added to lane *k* mod 16, and the 16 lanes are folded in halves (8, 4, 2, 1). The runs' sums meet in a binary
//! tree in which every left branch is a full power of two ([`Tree`]), like the tree of a Merkle log: which sums
//! meet depends only on how many runs there are. Tensors' sums are added in file order.

use super::CHUNK;
use super::float::{Float, Format, dispatch};
use flair_tensors::block::BLOCK;

/// How many running sums a run of elements is spread over.
pub const LANES: usize = 16;

/// Whether a block of this many bytes is a power of two of whole runs, whatever float type its elements have. With any
/// other block the trees of blocks would meet in other pairs than runs do ([`Tree::append`]), and distances between
/// persons would depend on where blocks end.
const fn joins(block: usize) -> bool {
    let mut size = 2;
    while size <= 8 {
        if !block.is_multiple_of(size * CHUNK) || !(block / (size * CHUNK)).is_power_of_two() {
            return false;
        }
        size *= 2;
    }
    true
}

// A build with other blocks ends here.
const _: () = assert!(joins(BLOCK), "a block must be a power of two of whole runs");

/// The sum of the products of two equally long sequences of at most [`CHUNK`] numbers: one run of the fixed
/// shape. What is longer than the other is ignored.
pub fn dot(left: &[f64], right: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            lanes[lane] += left[lane] * right[lane];
        }
    }
    for (lane, (left, right)) in lanes.iter_mut().zip(left_rest.iter().zip(right_rest)) {
        *lane += left * right;
    }
    fold(lanes)
}

/// The sum of the squares of `input − base` over one run of at most [`CHUNK`] elements. It is finite if and only
/// if all elements are, except that an `f64` difference beyond 10¹⁵⁴ also makes it infinite.
pub fn squared_distance(float: Float, input: &[u8], base: &[u8]) -> f64 {
    dispatch!(float, squares(input, base))
}

/// The sum of the squared differences of two equally long sequences of at most [`CHUNK`] numbers: one run of the
/// fixed shape.
pub fn squared_gap(left: &[f64], right: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    for (left, right) in left.iter().zip(right) {
        for lane in 0..LANES {
            let gap = left[lane] - right[lane];
            lanes[lane] += gap * gap;
        }
    }
    for (lane, (left, right)) in lanes.iter_mut().zip(left_rest.iter().zip(right_rest)) {
        let gap = left - right;
        *lane += gap * gap;
    }
    fold(lanes)
}

/// Whether all of these elements are finite numbers.
pub fn all_finite(float: Float, bytes: &[u8]) -> bool {
    fn check<F: Format<N>, const N: usize>(bytes: &[u8]) -> bool {
        bytes.as_chunks::<N>().0.iter().all(|element| F::widen(*element).is_finite())
    }
    dispatch!(float, check(bytes))
}

fn squares<F: Format<N>, const N: usize>(input: &[u8], base: &[u8]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (input, input_rest) = input.as_chunks::<N>().0.as_chunks::<LANES>();
    let (base, base_rest) = base.as_chunks::<N>().0.as_chunks::<LANES>();
    for (input, base) in input.iter().zip(base) {
        for lane in 0..LANES {
            let difference = F::widen(input[lane]) - F::widen(base[lane]);
            lanes[lane] += difference * difference;
        }
    }
    for (lane, (input, base)) in lanes.iter_mut().zip(input_rest.iter().zip(base_rest)) {
        let difference = F::widen(*input) - F::widen(*base);
        *lane += difference * difference;
    }
    fold(lanes)
}

fn fold(mut lanes: [f64; LANES]) -> f64 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}

/// The sum of the sums of runs, as a binary tree that grows from the left and holds one number a level.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Sums of complete subtrees, widest first, with their heights.
    subtrees: Vec<(u32, f64)>,
}

impl Tree {
    /// Adds the sum of the next run.
    pub fn push(&mut self, sum: f64) {
        self.grow(0, sum);
    }

    /// Adds the runs of another tree behind its own: the same as pushing them one by one.
    ///
    /// This tree's runs must fill subtrees at least as wide as the other's, as the runs of whole blocks do.
    ///
    /// # Panics
    /// If they don't, which no block size that builds can bring about.
    pub fn append(&mut self, other: Self) {
        let width = |subtree: Option<&(u32, f64)>| subtree.map(|(height, _)| *height);
        let (own, others) = (width(self.subtrees.last()), width(other.subtrees.first()));
        assert!(own.is_none() || own >= others, "runs of a block that is cut short have others behind them");
        for (height, sum) in other.subtrees {
            self.grow(height, sum);
        }
    }

    fn grow(&mut self, mut height: u32, mut total: f64) {
        while let Some((_, left)) = self.subtrees.pop_if(|(other, _)| *other == height) {
            total += left;
            height += 1;
        }
        self.subtrees.push((height, total));
    }

    /// The sum of everything pushed (zero if nothing was), and a tree that is empty again.
    pub fn take(&mut self) -> f64 {
        let mut subtrees = self.subtrees.drain(..).rev().map(|(_, sum)| sum);
        let last = subtrees.next().unwrap_or(0.0);
        subtrees.fold(last, |right, left| left + right)
    }
}

/// The sums of runs of one tensor that arrive in pieces of any length, met in the fixed shape: `f64` values in,
/// dot products out. Used where the pieces do not fall on run boundaries.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    left: Vec<f64>,
    right: Vec<f64>,
}

impl Stream {
    /// Appends a piece of both sequences and hands every run that is now whole to `run`.
    pub fn push(&mut self, left: &[f64], right: &[f64], mut run: impl FnMut(&[f64], &[f64])) {
        self.left.extend_from_slice(left);
        self.right.extend_from_slice(right);
        let whole = self.left.len().min(self.right.len()) / CHUNK * CHUNK;
        let (lefts, rights) = (self.left.get(..whole), self.right.get(..whole));
        if let (Some(lefts), Some(rights)) = (lefts, rights) {
            lefts.chunks(CHUNK).zip(rights.chunks(CHUNK)).for_each(|(left, right)| run(left, right));
        }
        self.left.drain(..whole);
        self.right.drain(..whole);
    }

    /// Hands the last, shorter run to `run`, if there is one.
    pub fn finish(&mut self, mut run: impl FnMut(&[f64], &[f64])) {
        if !self.left.is_empty() {
            run(&self.left, &self.right);
        }
        self.left.clear();
        self.right.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_16_lanes_folded_in_halves() {
        let values: Vec<f64> = (0..40).map(|k| 1.0 / f64::from(k + 1)).collect();
        let ones = vec![1.0; 40];
        let mut lanes = [0.0; 16];
        for (k, value) in values.iter().enumerate() {
            lanes[k % 16] += value;
        }
        let eight: Vec<f64> = (0..8).map(|j| lanes[j] + lanes[j + 8]).collect();
        let four: Vec<f64> = (0..4).map(|j| eight[j] + eight[j + 4]).collect();
        let expected = (four[0] + four[2]) + (four[1] + four[3]);
        assert_eq!(dot(&values, &ones).to_bits(), expected.to_bits());
    }

    #[test]
    fn the_tree_depends_on_the_count_only() {
        let s = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7];
        let mut tree = Tree::default();
        for sum in s {
            tree.push(sum);
        }
        let expected = ((s[1] + s[0]) + (s[3] + s[2])) + ((s[5] + s[4]) + s[6]);
        assert_eq!(tree.take().to_bits(), expected.to_bits());
        assert_eq!(tree.take().to_bits(), 0.0f64.to_bits(), "and the tree is empty again");
    }

    #[test]
    fn trees_of_blocks_joined_are_the_tree_of_all_runs() {
        let sums: Vec<f64> = (0..300).map(|k| 1.0 / f64::from(k * k + 1)).collect();
        for count in [0, 1, 63, 64, 65, 128, 200, 300] {
            let (mut whole, mut joined) = (Tree::default(), Tree::default());
            for sum in &sums[..count] {
                whole.push(*sum);
            }
            for block in sums[..count].chunks(64) {
                let mut tree = Tree::default();
                for sum in block {
                    tree.push(*sum);
                }
                joined.append(tree);
            }
            assert_eq!(joined.take().to_bits(), whole.take().to_bits(), "{count} runs");
        }
    }

    #[test]
    fn blocks_whose_runs_would_meet_otherwise_do_not_build() {
        for block in [1 << 16, 1 << 17, 1 << 20, 1 << 24] {
            assert!(joins(block), "{block}");
        }
        for block in [0, 4096, 1 << 13, 1 << 14, 3 << 15, 5 << 16, (1 << 20) - 1, (1 << 20) + 8, 3 << 20] {
            assert!(!joins(block), "{block}");
        }
    }

    #[test]
    #[should_panic(expected = "cut short")]
    fn a_tree_of_another_width_is_not_joined() {
        let block = |runs: usize| {
            let mut tree = Tree::default();
            (0..runs).for_each(|run| tree.push(run as f64));
            tree
        };
        let mut joined = block(3);
        joined.append(block(3));
    }

    #[test]
    fn bytes_and_numbers_give_the_same_run() {
        let input: Vec<f32> = (0..4096u16).map(|k| f32::from(k) * 0.37).collect();
        let base: Vec<f32> = (0..4096u16).map(|k| f32::from(k) * 0.36 + 1.0).collect();
        let bytes = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let difference: Vec<f64> =
            input.iter().zip(&base).map(|(a, b)| f64::from(*a) - f64::from(*b)).collect();
        let sum = squared_distance(Float::F32, &bytes(&input), &bytes(&base));
        assert_eq!(sum.to_bits(), dot(&difference, &difference).to_bits());
        let widened = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
        assert_eq!(sum.to_bits(), squared_gap(&widened(&input), &widened(&base)).to_bits());
    }

    #[test]
    fn a_run_with_an_infinity_or_nan_anywhere_is_not_finite() {
        for position in [0, 15, 16, 17, 100] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut input = vec![1.0f32; 101];
                input[position] = bad;
                let bytes: Vec<u8> = input.iter().flat_map(|v| v.to_le_bytes()).collect();
                let fine: Vec<u8> = [1.0f32; 101].iter().flat_map(|v| v.to_le_bytes()).collect();
                assert!(!squared_distance(Float::F32, &bytes, &fine).is_finite());
                assert!(!squared_distance(Float::F32, &bytes, &bytes).is_finite(), "not even against itself");
                assert!(!all_finite(Float::F32, &bytes));
                assert!(all_finite(Float::F32, &fine));
            }
        }
    }

    #[test]
    fn pieces_of_any_length_give_the_same_runs() {
        let values: Vec<f64> = (0..10_000).map(|k| f64::from(k).sqrt()).collect();
        let mut whole = Tree::default();
        values.chunks(CHUNK).for_each(|run| whole.push(dot(run, run)));
        let whole = whole.take();
        for piece in [1, 7, 4095, 4096, 4097, 10_000] {
            let (mut stream, mut tree) = (Stream::default(), Tree::default());
            for values in values.chunks(piece) {
                stream.push(values, values, |left, right| tree.push(dot(left, right)));
            }
            stream.finish(|left, right| tree.push(dot(left, right)));
            assert_eq!(tree.take().to_bits(), whole.to_bits());
        }
    }
}
