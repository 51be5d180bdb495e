//! Answers in words. Plain text that stays the same without a terminal: times in UTC, ids by their first characters.

pub(crate) mod audit;
pub(crate) mod bundle;
pub(crate) mod evaluation;
pub(crate) mod graph;
pub(crate) mod history;
pub(crate) mod policy;
pub(crate) mod privacy;
pub(crate) mod review;
pub(crate) mod setup;
pub(crate) mod simulation;
pub(crate) mod status;
pub(crate) mod step;
pub(crate) mod store;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod together;
pub(crate) mod work;

pub(crate) use table::Rows;
pub(crate) use text::{bytes, count, number, short, time, warn};
