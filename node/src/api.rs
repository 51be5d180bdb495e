//! The control API: HTTP with JSON over a Unix socket, and the client that commands use.
//!
//! One router serves both ways in: a node's socket ([`serve`]) and a service within the command's own process
//! ([`Client::in_process`]). Requests are `POST /v1/…` with JSON, lists without arguments are `GET`;
//! `/v1/events` sends what happens as server-sent events and `/v1/openapi.json` describes it all.

mod client;
mod document;
mod guard;
mod problem;
mod routes;
mod socket;
pub mod types;

pub use client::{Client, Events};
pub use routes::{router, serve};
pub use socket::Socket;

/// Where events are sent.
const EVENTS: &str = "/v1/events";
/// What our own client calls the other side.
const HOST: &str = "flair";
