//! Threads that share out tensors: each takes one of its own, and who finds none left helps with the blocks of others.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::locked;

/// A tensor under way that other threads can help with.
pub(super) trait Job {
    /// Whether it has blocks that nobody has begun.
    fn is_open(&self) -> bool;
}

/// Tasks of which each is begun once, in their order.
#[derive(Debug)]
pub(super) struct Crew<J> {
    state: Mutex<State<J>>,
    bell: Condvar,
}

#[derive(Debug)]
struct State<J> {
    waiting: VecDeque<usize>,
    /// Tasks under way.
    busy: usize,
    /// What they can be helped with.
    shared: Vec<(usize, Arc<J>)>,
}

/// What a thread is to do next.
#[derive(Debug)]
pub(super) enum Task<'a, J: Job> {
    /// A task of its own.
    Own(Own<'a, J>),
    /// Blocks of another thread's.
    Help(Arc<J>),
}

/// A task under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Own<'a, J: Job> {
    crew: &'a Crew<J>,
    pub(super) number: usize,
}

impl<J: Job> Crew<J> {
    pub(super) fn new(tasks: impl IntoIterator<Item = usize>) -> Self {
        let state = State { waiting: tasks.into_iter().collect(), busy: 0, shared: Vec::new() };
        Self { state: Mutex::new(state), bell: Condvar::new() }
    }

    /// The next thing to do; none when all is done, or all that is left is in others' hands.
    pub(super) fn next(&self) -> Option<Task<'_, J>> {
        let mut state = locked(&self.state);
        loop {
            if let Some(number) = state.waiting.pop_front() {
                state.busy += 1;
                return Some(Task::Own(Own { crew: self, number }));
            }
            if let Some((_, job)) = state.shared.iter().find(|(_, job)| job.is_open()) {
                return Some(Task::Help(job.clone()));
            }
            if state.busy == 0 {
                return None;
            }
            state = self.bell.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets nobody begin another task.
    pub(super) fn stop(&self) {
        locked(&self.state).waiting.clear();
    }
}

impl<J: Job> Own<'_, J> {
    /// Lets others help.
    pub(super) fn share(&self, job: &Arc<J>) {
        locked(&self.crew.state).shared.push((self.number, job.clone()));
        self.crew.bell.notify_all();
    }
}

impl<J: Job> Drop for Own<'_, J> {
    fn drop(&mut self) {
        let mut state = locked(&self.crew.state);
        state.busy -= 1;
        state.shared.retain(|(number, _)| *number != self.number);
        drop(state);
        self.crew.bell.notify_all();
    }
}
