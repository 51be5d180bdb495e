//! Announced operations that are on their way, and the verdicts that gossip waits for.

use std::collections::{BTreeMap, BTreeSet};

use super::exchange::{Peer, Token};
use crate::id::OperationId;
use crate::limits;

/// Verdicts owed for one operation.
const TOKENS: usize = 8;

#[derive(Debug)]
struct Hint {
    peer: Peer,
    tokens: Vec<Token>,
    expires: u64,
}

#[derive(Debug, Default)]
pub(super) struct Hints {
    by_id: BTreeMap<OperationId, Hint>,
    expiries: BTreeSet<(u64, OperationId)>,
    /// Hints by the peer that gave them: one that floods does not take the room of others.
    counts: BTreeMap<Peer, usize>,
}

impl Hints {
    pub(super) fn contains(&self, id: OperationId) -> bool {
        self.by_id.contains_key(&id)
    }

    /// Owes one more verdict on an operation that is on its way; whether there was room.
    pub(super) fn join(&mut self, id: OperationId, token: Token) -> bool {
        let hint = self.by_id.get_mut(&id).filter(|hint| hint.tokens.len() < TOKENS);
        hint.map(|hint| hint.tokens.push(token)).is_some()
    }

    /// `peer` says that an operation exists; whether there was room for it.
    pub(super) fn add(&mut self, id: OperationId, peer: Peer, token: Token, expires: u64) -> bool {
        let count = self.counts.entry(peer).or_default();
        if *count >= limits::HINTS {
            return false;
        }
        *count += 1;
        self.by_id.insert(id, Hint { peer, tokens: vec![token], expires });
        self.expiries.insert((expires, id));
        true
    }

    /// The verdicts owed for an operation, now given.
    pub(super) fn take(&mut self, id: OperationId) -> Option<Vec<Token>> {
        let Hint { peer, tokens, expires } = self.by_id.remove(&id)?;
        self.expiries.remove(&(expires, id));
        if let Some(count) = self.counts.get_mut(&peer) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&peer);
            }
        }
        Some(tokens)
    }

    /// When the next verdict can wait no longer.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.expiries.first().map(|(expires, _)| *expires)
    }

    /// Operations whose verdicts can wait no longer.
    pub(super) fn overdue(&self, now: u64) -> Vec<OperationId> {
        self.expiries.iter().take_while(|(expires, _)| *expires <= now).map(|(_, id)| *id).collect()
    }
}
