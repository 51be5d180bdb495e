//! The stories in `tests/stories` are executed, each twice: with a node running for everybody, and without.

#[cfg(test)]
mod api;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod memory;
#[cfg(test)]
mod nodes;
#[cfg(test)]
mod pattern;
#[cfg(test)]
mod story;
