//! Tests of the test network from outside, in one binary.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

#[cfg(test)]
#[path = "main/bench.rs"]
mod bench;
#[path = "main/command.rs"]
mod command;
#[path = "main/disk.rs"]
mod disk;
#[path = "main/kills.rs"]
mod kills;
#[path = "main/learning.rs"]
mod learning;
#[path = "main/light.rs"]
mod light;
#[path = "main/people.rs"]
mod people;
#[path = "main/phases.rs"]
mod phases;
#[path = "main/study.rs"]
mod study;
