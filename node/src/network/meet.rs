//! Which peers a repository is spoken about with.

use std::collections::BTreeSet;
use std::sync::Arc;

use flair_protocol::engine::Input;
use flair_protocol::key::PublicKey;

use super::topic;
use crate::hub::Hub;
use crate::repository::Repository;

/// Meets the peers that are connected already and may know of a repository; takes part in its gossip where it is public.
pub async fn follow(hub: &Arc<Hub>, repository: &Arc<Repository>) {
    meet(hub, repository, true).await;
}

/// Meets the connected peers that may know of a repository, with `again` those that are met already, too, and leaves
/// those that may not any more.
pub(super) async fn meet(hub: &Arc<Hub>, repository: &Arc<Repository>, again: bool) {
    let Some(network) = hub.network.get() else { return };
    let repo = repository.id();
    if hub.doors.public(repo)
        && let Err(error) = network.net.subscribe(topic(repo)).await
    {
        tracing::warn!(%error, "the repository's topic was not joined");
    }
    let met: BTreeSet<PublicKey> =
        repository.engine(|engine| engine.peers().map(|status| status.peer).collect()).await;
    let connected = network.net.peers().await.unwrap_or_default();
    let mut inputs = vec![network.addresses(repo, &hub.doors).await];
    inputs.extend(
        connected
            .into_iter()
            .map(|peer| PublicKey::from_bytes(peer.key))
            .filter(|peer| hub.doors.asks(repo, *peer) && (again || !met.contains(peer)))
            .map(|peer| Input::Up { peer }),
    );
    let gone = met.into_iter().filter(|peer| !hub.doors.asks(repo, *peer));
    inputs.extend(gone.map(|peer| Input::Down { peer }));
    hub.drive(repository, inputs).await;
}

/// Does what follows from other people than before being allowed to know of a repository: `removed` are cut off, and
/// whoever is connected and may now is met.
pub async fn doors_changed(hub: &Arc<Hub>, repository: &Arc<Repository>, removed: &[PublicKey]) {
    let Some(network) = hub.network.get() else { return };
    for peer in removed {
        network.transfer.cut(peer.as_bytes());
    }
    if hub.seeding(repository.id()).await.unwrap_or(false) {
        meet(hub, repository, false).await;
    }
}

/// Leaves the gossip of a repository and its peers.
pub async fn unfollow(hub: &Arc<Hub>, repository: &Arc<Repository>) {
    let Some(network) = hub.network.get() else { return };
    if let Err(error) = network.net.unsubscribe(topic(repository.id())).await {
        tracing::warn!(%error, "the repository's topic was not left");
    }
    let peers =
        repository.engine(|engine| engine.peers().map(|status| status.peer).collect::<Vec<_>>()).await;
    hub.drive(repository, peers.into_iter().map(|peer| Input::Down { peer }).collect()).await;
}
