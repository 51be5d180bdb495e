//! Two and three real endpoints on loopback.

mod swarm;
mod transfer;

use std::time::Duration;

/// No step of a test takes longer.
const PATIENCE: Duration = Duration::from_mins(1);

/// The secret key of test node `number`.
fn secret(number: u8) -> [u8; 32] {
    [number; 32]
}

async fn in_time<T>(what: &str, step: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(PATIENCE, step).await;
    outcome.unwrap_or_else(|_| panic!("not within {} s: {what}", PATIENCE.as_secs()))
}
