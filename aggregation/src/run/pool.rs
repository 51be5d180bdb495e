//! A few threads that work ahead while one hand takes the results in order.

use std::collections::BTreeMap;
use std::sync::mpsc::sync_channel;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// How many units per thread may be finished or under way before the first of them is taken.
pub(crate) const AHEAD: usize = 2;

/// Does `work` for every number below `count` and hands the results to `take` in ascending order.
///
/// Each thread has its own state from `setup`. No thread works more than [`AHEAD`] units per thread ahead of
/// `take`, which bounds the results that wait.
///
/// # Errors
/// The first error of any of the three; no further unit is begun after it.
pub(crate) fn ordered<S, T: Send, E: Send>(
    threads: usize,
    count: usize,
    setup: impl Fn() -> Result<S, E> + Sync,
    work: impl Fn(&mut S, usize) -> Result<T, E> + Sync,
    mut take: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    let threads = threads.min(count);
    if threads <= 1 {
        let mut state = setup()?;
        return (0..count).try_for_each(|unit| take(unit, work(&mut state, unit)?));
    }

    let tickets = Tickets { state: Mutex::default(), moved: Condvar::new(), count, window: threads * AHEAD };
    let (sender, receiver) = sync_channel(threads);
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, tickets, setup, work) = (sender.clone(), &tickets, &setup, &work);
            scope.spawn(move || {
                // If this thread panics, the others must not wait for its unit for ever.
                let guard = StopOnPanic(tickets);
                let mut state = match setup() {
                    Ok(state) => state,
                    Err(error) => return drop(sender.send(Err(error))),
                };
                while let Some(unit) = guard.0.next() {
                    let result = work(&mut state, unit).map(|result| (unit, result));
                    let failed = result.is_err();
                    if sender.send(result).is_err() || failed {
                        break;
                    }
                }
            });
        }
        drop(sender);

        let mut waiting = BTreeMap::new();
        let mut next = 0;
        let mut outcome = Ok(());
        // Results keep being received after a failure, so that no thread hangs on a full channel.
        for result in receiver {
            if outcome.is_err() {
                continue;
            }
            outcome = result.and_then(|(unit, result)| {
                waiting.insert(unit, result);
                while let Some(result) = waiting.remove(&next) {
                    take(next, result)?;
                    next += 1;
                }
                tickets.taken(next);
                Ok(())
            });
            if outcome.is_err() {
                tickets.stop();
            }
        }
        outcome
    })
}

/// Hands out unit numbers in order.
struct Tickets {
    state: Mutex<State>,
    moved: Condvar,
    count: usize,
    window: usize,
}

#[derive(Default)]
struct State {
    next: usize,
    taken: usize,
    stopped: bool,
}

impl Tickets {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is three plain values that are whole at any time, whatever a panicking thread was doing.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next unit, once it is near enough to what was taken; `None` when there is nothing left to do.
    fn next(&self) -> Option<usize> {
        let far = |state: &mut State| {
            !state.stopped && state.next < self.count && state.next >= state.taken + self.window
        };
        let mut state = self.moved.wait_while(self.lock(), far).unwrap_or_else(PoisonError::into_inner);
        if state.stopped || state.next >= self.count {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    fn taken(&self, units: usize) {
        self.lock().taken = units;
        self.moved.notify_all();
    }

    fn stop(&self) {
        self.lock().stopped = true;
        self.moved.notify_all();
    }
}

struct StopOnPanic<'a>(&'a Tickets);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn results_come_in_order_and_nobody_runs_far_ahead() {
        for threads in [0, 1, 2, 3, 8] {
            let (begun, taken) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let work = |(): &mut (), unit: usize| {
                begun.fetch_max(unit + 1, Ordering::SeqCst);
                assert!(unit < taken.load(Ordering::SeqCst) + AHEAD * threads.max(1));
                // Uneven work, so that threads finish out of order.
                Ok::<_, ()>(
                    (0..(unit * 7919) % 5000).map(|k| k as u64).sum::<u64>().wrapping_mul(0) as usize + unit,
                )
            };
            let take = |unit, result| {
                assert_eq!((unit, result), (taken.load(Ordering::SeqCst), unit));
                taken.fetch_add(1, Ordering::SeqCst);
                Ok(())
            };
            ordered(threads, 200, || Ok(()), work, take).unwrap();
            assert_eq!(taken.load(Ordering::SeqCst), 200);
        }
    }

    #[test]
    fn the_first_failure_ends_the_run() {
        for threads in [1, 4] {
            let work = |(): &mut (), unit| if unit == 20 { Err("work") } else { Ok(()) };
            assert_eq!(ordered(threads, 100, || Ok(()), work, |_, ()| Ok(())), Err("work"));
            let take = |unit, ()| if unit == 10 { Err("take") } else { Ok(()) };
            assert_eq!(ordered(threads, 100, || Ok(()), |(), _| Ok(()), take), Err("take"));
            let none = |(): &mut (), _| -> Result<(), _> { Ok(()) };
            assert_eq!(ordered(threads, 100, || Err("setup"), none, |_, ()| Ok(())), Err("setup"));
        }
    }

    #[test]
    fn a_panic_in_a_thread_comes_out_and_leaves_nobody_waiting() {
        let work = |(): &mut (), unit: usize| {
            assert!(unit != 5, "planted");
            Ok::<_, ()>(())
        };
        let run = || ordered(4, 1000, || Ok(()), work, |_, ()| Ok(()));
        assert!(catch_unwind(AssertUnwindSafe(run)).is_err());
    }
}
