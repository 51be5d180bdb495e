//! Node keys: 32 bytes here, a `PeerId` in libp2p and an `EndpointId` in iroh.

use libp2p::{
    PeerId,
    identity::{PublicKey, ed25519},
};
use thiserror::Error;

/// The ed25519 public key of a node. Both transports authenticate it in their handshake.
pub type NodeKey = [u8; 32];

/// 32 bytes that are no ed25519 public key.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{} is not an ed25519 public key; copy the node's id again from `flair id`", short(.0))]
pub struct InvalidKey(pub NodeKey);

/// The libp2p name (`12D3Koo…`) of a node key.
///
/// # Errors
/// If the bytes are not a point of the curve.
pub fn peer_id(key: &NodeKey) -> Result<PeerId, InvalidKey> {
    let key = ed25519::PublicKey::try_from_bytes(key).map_err(|_| InvalidKey(*key))?;
    Ok(PublicKey::from(key).to_peer_id())
}

/// The node key inside a `PeerId`; `None` unless it is an ed25519 key written out in full (the identity
/// multihash), which is the only kind of peer this network knows.
pub fn key_of(peer: &PeerId) -> Option<NodeKey> {
    const IDENTITY: u64 = 0;
    let hash = peer.as_ref();
    if hash.code() != IDENTITY {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?.try_into_ed25519().ok()?;
    Some(key.to_bytes())
}

/// The first ten hexadecimal digits of a key or hash, for errors and logs.
pub fn short(bytes: &[u8; 32]) -> String {
    blake3::Hash::from_bytes(*bytes).to_hex().chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;

    #[test]
    fn a_key_survives_the_way_to_a_peer_id_and_back() {
        let pair = Keypair::generate_ed25519();
        let peer = pair.public().to_peer_id();
        let key = key_of(&peer).expect("ed25519");
        assert_eq!(peer_id(&key).expect("valid"), peer);
    }

    #[test]
    fn only_full_ed25519_ids_have_a_key() {
        assert_eq!(key_of(&PeerId::random()), None);
        let secp: PeerId = "16Uiu2HAm3ubjVUcWKEGLDD6rKyvjVCc3jjVQ5Dt2XHrGjqVv4Mw9"
            .parse()
            .unwrap_or_else(|_| PeerId::random());
        assert_eq!(key_of(&secp), None);
    }
}
