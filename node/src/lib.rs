//! The daemon of Flair: everything that touches the world. Stores, network, worker, working folder, service and
//! control API. The command `flair` and the tests use it as a library.

pub mod api;
pub mod bundle;
pub mod checkpoint;
pub mod copies;
pub mod doors;
pub mod evaluate;
pub mod folder;
pub mod home;
pub mod hub;
pub mod models;
pub mod net;
pub mod network;
pub mod privacy;
mod problem;
pub mod repository;
pub mod service;
pub mod shelf;
pub mod store;
pub mod worker;
