//! Homes that were copied, or restored from a backup.
//!
//! A node numbers what it signs, and two operations with one number void their author from there on. A home that was
//! restored forgot the last numbers; one that was copied shares them with its twin. So a home remembers which file its
//! key is in: the file of a copy is another one. In a repository that came with a copy, nothing is signed until a peer
//! that has nothing new for us was met: what we signed before is here by then, and the numbers go on after it.
//!
//! What can't be noticed: a whole disk that is set back to an earlier state, and two copies that go on side by side.

use std::os::unix::fs::MetadataExt as _;
use std::time::UNIX_EPOCH;

use crate::api::types::Problem;
use crate::home::Home;
use crate::store::{Batch, GLOBAL, Store};

/// Fact of the node: the file that the key is in.
const HOME: &str = "home";
/// Fact of a repository: it came with a copy of a home, and nothing is signed in it yet.
pub const COPIED: &str = "copied";

/// Compares the home with what it remembers of itself, and marks its repositories where it is a copy.
///
/// # Errors
/// A key file that can't be looked at, a store that fails.
pub async fn look(home: &Home, store: &Store) -> Result<(), Problem> {
    let here = identity(home)?;
    let known = store.fact(GLOBAL, HOME).await?;
    if known.as_deref() == Some(here.as_slice()) {
        return Ok(());
    }
    if known.is_some() {
        for repository in store.repositories().await? {
            store.publish(Batch::new(repository).fact(COPIED, b"1".as_slice())).await?;
        }
    }
    // Last, so that a crash in between marks them again.
    Ok(store.publish(Batch::new(GLOBAL).fact(HOME, here)).await?)
}

/// Repositories in which nothing is signed yet because the home is a copy.
///
/// # Errors
/// A store that fails.
pub async fn marked(store: &Store) -> Result<usize, Problem> {
    let mut marked = 0;
    for repository in store.repositories().await? {
        marked += usize::from(store.fact(repository, COPIED).await?.is_some());
    }
    Ok(marked)
}

/// Lets a copy sign again because its owner says so; gives the number of repositories.
///
/// # Errors
/// A store that fails.
pub async fn trust(store: &Store) -> Result<usize, Problem> {
    let mut trusted = 0;
    for repository in store.repositories().await? {
        if store.fact(repository, COPIED).await?.is_some() {
            store.publish(Batch::new(repository).forget(COPIED)).await?;
            trusted += 1;
        }
    }
    Ok(trusted)
}

/// What tells the key's file from a copy of it: its number, and when it came to be where the file system knows that.
fn identity(home: &Home) -> Result<Vec<u8>, Problem> {
    let about = std::fs::metadata(home.path().join("key")).map_err(Problem::internal)?;
    let born = about.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let mut identity = about.ino().to_le_bytes().to_vec();
    identity.extend_from_slice(&born.map_or(0, |time| time.as_nanos()).to_le_bytes());
    Ok(identity)
}
