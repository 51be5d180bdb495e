//! The network: two transports under one ed25519 key.
//!
//! [`swarm`] (libp2p: TCP, Noise, Yamux) carries presence, announcements and the questions peers ask each
//! other to catch up. [`transfer`] (iroh: QUIC) carries blobs. Payloads are opaque here: what they mean and
//! whether they may be believed is decided by the caller.
//!
//! Nothing in here reaches out on its own. A node dials the addresses its user gave it and answers those who
//! dial it; relays, DNS lookups of peers, port mapping and public discovery are not built in, and mDNS is off
//! unless asked for.

mod address;
mod key;
pub mod swarm;
pub mod transfer;

pub(crate) use address::scope_of;
pub use address::{Scope, scope};
pub use key::{InvalidKey, NodeKey, key_of, peer_id, short};
pub use libp2p::{Multiaddr, PeerId};
