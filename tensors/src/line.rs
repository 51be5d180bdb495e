//! Blocks on several threads, their results taken in order.
//!
//! Blocks are coded and decoded independently of one another; only who hashes or writes a tensor needs them one after
//! the other. A [`Line`] hands out blocks to any number of threads, and lets each deliver when it is its block's turn: so
//! what comes out is the same on one thread as on many, and no thread holds more than one block.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Blocks to be prepared on any threads and delivered in order to a `T`; an `E` ends it.
#[derive(Debug)]
pub struct Line<T, E> {
    count: u64,
    next: AtomicU64,
    turn: Mutex<Turn<T, E>>,
    bell: Condvar,
}

#[derive(Debug)]
struct Turn<T, E> {
    /// The block whose turn it is.
    at: u64,
    /// Until it is given back.
    sink: Option<T>,
    error: Option<E>,
    /// A thread panicked with a block in hand.
    lost: bool,
}

impl<T, E> Line<T, E> {
    /// A line of `count` blocks, delivered to `sink`.
    pub fn new(count: u64, sink: T) -> Self {
        Self {
            count,
            next: AtomicU64::new(0),
            turn: Mutex::new(Turn { at: 0, sink: Some(sink), error: None, lost: false }),
            bell: Condvar::new(),
        }
    }

    /// Whether there are blocks that nobody has begun.
    pub fn is_open(&self) -> bool {
        self.next.load(Ordering::Relaxed) < self.count
    }

    /// Takes part until no block is left to begin: `prepare` runs beside those of other threads, `deliver` one at a
    /// time and in the order of the blocks. `S` is the thread's own, for buffers.
    ///
    /// The first error by the order of blocks is kept for [`finish`](Self::finish), and nothing after it is delivered.
    pub fn work<S>(
        &self,
        own: &mut S,
        mut prepare: impl FnMut(u64, &mut S) -> Result<(), E>,
        mut deliver: impl FnMut(&mut T, u64, &mut S) -> Result<(), E>,
    ) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.count {
                self.close();
                return;
            }
            let lost = Lost(self);
            let prepared = prepare(index, own);
            let mut turn = self.turn();
            while turn.at != index && turn.error.is_none() && !turn.lost {
                turn = self.wait(turn);
            }
            if turn.error.is_none()
                && !turn.lost
                && let Some(sink) = &mut turn.sink
            {
                match prepared.and_then(|()| deliver(sink, index, own)) {
                    Ok(()) => turn.at += 1,
                    Err(error) => {
                        turn.error = Some(error);
                        self.close();
                    }
                }
            }
            drop(turn);
            drop(lost);
            self.bell.notify_all();
        }
    }

    /// Waits for the blocks that other threads still have in hand, and gives the sink, or what went wrong. `None` when
    /// a thread panicked.
    ///
    /// Call it after [`work`](Self::work): it prepares nothing itself.
    pub fn finish(&self) -> Option<Result<T, E>> {
        let mut turn = self.turn();
        while turn.at != self.count && turn.error.is_none() && !turn.lost {
            turn = self.wait(turn);
        }
        match turn.error.take() {
            _ if turn.lost => None,
            Some(error) => Some(Err(error)),
            None => turn.sink.take().map(Ok),
        }
    }

    /// Lets nobody begin another block.
    fn close(&self) {
        self.next.store(self.count, Ordering::Relaxed);
    }

    fn turn(&self) -> MutexGuard<'_, Turn<T, E>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, turn: MutexGuard<'a, Turn<T, E>>) -> MutexGuard<'a, Turn<T, E>> {
        self.bell.wait(turn).unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropped in a panic, it tells whoever waits for the block that this thread had: they would wait for ever.
struct Lost<'a, T, E>(&'a Line<T, E>);

impl<T, E> Drop for Lost<'_, T, E> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.close();
            self.0.turn().lost = true;
            self.0.bell.notify_all();
        }
    }
}

/// Prepares `count` blocks on up to `threads` threads, this one among them, and delivers them in order to `sink`, which
/// it gives back. Each thread has buffers of its own, an `S`.
///
/// # Errors
/// The first error of `prepare` or `deliver` by the order of blocks; nothing after it was delivered.
///
/// # Panics
/// If `prepare` or `deliver` does.
pub fn in_order<S: Default, T: Send, E: Send>(
    threads: NonZeroUsize,
    count: u64,
    sink: T,
    prepare: impl Fn(u64, &mut S) -> Result<(), E> + Sync,
    deliver: impl Fn(&mut T, u64, &mut S) -> Result<(), E> + Sync,
) -> Result<T, E> {
    let line = Line::new(count, sink);
    let work = || line.work(&mut S::default(), &prepare, &deliver);
    thread::scope(|scope| {
        let others = (threads.get() as u64).min(count).saturating_sub(1);
        for _ in 0..others {
            scope.spawn(work);
        }
        work();
    });
    // A panic of another thread has gone on in this one by now.
    line.finish().unwrap_or_else(|| unreachable!("a thread panicked"))
}
