//! The daemon of Flair: everything that touches the world. Stores, network, worker, working folder, service and
//! control API. The command `flair` and the tests use it as a library.

pub mod api;
pub mod home;
pub mod net;
pub mod store;
