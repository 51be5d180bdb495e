//! The control API: HTTP with JSON over a Unix socket, and the client that commands use.

pub mod types;
