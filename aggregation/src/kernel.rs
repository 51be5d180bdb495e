//! Exact arithmetic: the few loops every result goes through, the same bit for bit on every machine.
//!
//! What makes a floating-point result differ between machines is the *order* of the operations and which of
//! them are rounded, so both are fixed here:
//!
//! - Additions, multiplications, divisions and square roots are IEEE 754 operations on `f64`, one after the
//!   other. Fused multiply-add, `powf`, `exp`, `ln` and `sin` appear nowhere: their results depend on the
//!   processor or on the maths library.
//! - A sum over contributions is taken per coordinate, in the order of the commit ids. Threads and vector
//!   instructions split the work *across* coordinates only, so they cannot reorder anything.
//! - A sum over coordinates (a norm, a dot product) is taken in a fixed shape: [`norm`] tells which.
//! - An order statistic over contributions is that of their numbers, whatever the method of sorting ([`order`]).
//! - A result is rounded once, to the nearest number of the target type, ties to even ([`float`]).

pub mod counter;
pub mod float;
pub mod norm;
pub mod order;
pub mod server;
pub mod sum;

use std::hint::black_box;

/// The version of this arithmetic. A change that alters a single bit of a single result raises it; it is part
/// of every aggregate's identity.
pub const KERNEL_VERSION: u32 = 1;

/// The name of the numeric mode: sums in `f64`, in the order of the commit ids.
pub const MODE: &str = "f64-ordered";

/// How many elements the loops take at a time: small enough that every running sum stays in the first-level
/// cache, and the length of the runs that the fixed shape of [`norm`] is built from.
pub const CHUNK: usize = 4096;

/// Whether this thread's processor mode keeps subnormal numbers.
///
/// Some libraries switch a thread to "flush to zero" for speed. Results would then differ from everyone else's,
/// so workers ask before they begin.
pub fn keeps_subnormals() -> bool {
    let halved = black_box(f64::MIN_POSITIVE) * black_box(0.5);
    let doubled = black_box(f64::from_bits(1)) * black_box(2.0);
    let narrowed = black_box(1.0e-40_f64) as f32;
    let shrunk = black_box(f32::MIN_POSITIVE) * black_box(0.5_f32);
    halved != 0.0 && doubled != 0.0 && narrowed != 0.0 && shrunk != 0.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_in_its_default_mode_keeps_subnormals() {
        assert!(keeps_subnormals());
    }
}
