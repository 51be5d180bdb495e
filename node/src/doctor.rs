//! Looking for what is wrong with a home.

use std::path::PathBuf;

use flair_node::api::types::{Code, Problem};
use flair_node::copies;
use flair_node::store::{Problem as Wrong, Store};

/// Checks key, settings, stores and every blob that is referred to; says what it found.
pub(super) async fn doctor(home: PathBuf, trust: bool) -> Result<(), Problem> {
    if let Ok(client) = super::running(&home) {
        let status: flair_node::api::types::NodeStatus = client.get("/v1/node").await?;
        let (peers, repositories) = (status.peers, status.repositories);
        super::say(&format!("a node runs; peers: {peers}, repositories: {repositories}"))?;
        return super::say("stop it (`flair-node stop`) to have its stores looked at");
    }
    let home = super::opened(home).await?;
    super::say(&format!("home {}", home.path().display()))?;
    home.secret()?;
    super::say("key ok")?;
    let config = home.config()?;
    super::say(&format!("settings ok; verify: {}", config.verify))?;
    let store = Store::open(&home).await?;
    let repositories = store.repositories().await?.len();
    super::say(&format!("operations ok; repositories: {repositories}"))?;
    copies::look(&home, &store).await?;
    if trust {
        super::say(&format!("repositories that may be signed in again: {}", copies::trust(&store).await?))?;
    }
    let marked = copies::marked(&store).await?;
    if marked > 0 {
        super::say(&format!(
            "this home is a copy; repositories that wait for a peer before anything is signed: {marked}"
        ))?;
    }
    let wrong = store.verify().await?;
    store.close().await;
    if wrong.is_empty() {
        return super::say("blobs ok: all that are referred to are here and whole");
    }
    for missing in &wrong {
        let what = match missing.problem {
            Wrong::Absent => "is not here",
            Wrong::Damaged => "is damaged",
        };
        super::say(&format!("blob {} {what}", missing.blob))?;
    }
    let text = format!("missing or damaged blobs: {}", wrong.len());
    Err(Problem::new(Code::Unverified, text)
        .help("start the node with a peer connected, or clone into another home"))
}
