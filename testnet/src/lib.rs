//! Many nodes on one machine: demo, faults, containers, benchmarks.
