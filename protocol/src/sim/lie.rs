//! What liars say instead of the truth.

use super::bodies;
use super::world::{Message, World};
use crate::id::{Digest, OperationId};
use crate::key::SecretKey;
use crate::operation::Operation;
use crate::wire::{Announcement, Frontier, Response};

impl World {
    /// Liars come after the honest nodes.
    pub(super) fn is_liar(&self, node: usize) -> bool {
        node >= self.options.nodes.max(1)
    }

    /// What `from` says instead of `message`, if it lies this time.
    pub(super) fn lie(&mut self, from: usize, message: &Message) -> Option<Message> {
        if !self.is_liar(from) || self.below(2) == 0 {
            return None;
        }
        let lie = match message {
            Message::Announcement(_) => {
                let rubbish = self.rubbish(from)?;
                Message::Announcement(Box::new(Announcement::of(&rubbish)))
            }
            Message::Response(id, Response::Hello { blobs, peers, joins, .. }) => {
                let (blobs, peers, joins) = (blobs.clone(), peers.clone(), joins.clone());
                let frontier = self.nowhere();
                Message::Response(*id, Response::Hello { frontier, blobs, peers, joins })
            }
            Message::Response(id, Response::Operations { operations, more, frontier }) => {
                let (mut operations, mut more, mut frontier) = (operations.clone(), *more, frontier.clone());
                match self.below(7) {
                    0 if !operations.is_empty() => drop(operations.remove(0)),
                    1 => operations.reverse(),
                    2 => more = true,
                    3 => frontier = self.nowhere(),
                    4 => operations.clear(),
                    5 => return Some(Message::Response(*id, Response::Unknown)),
                    _ => operations.extend(self.rubbish(from)),
                }
                Message::Response(*id, Response::Operations { operations, more, frontier })
            }
            _ => return None,
        };
        self.report.lies += 1;
        Some(lie)
    }

    /// A set that nobody has.
    fn nowhere(&mut self) -> Frontier {
        let number = self.below(u64::MAX);
        let heads = vec![OperationId::from_digest(Digest::of(&number.to_le_bytes()))];
        let digest = Digest::of(heads[0].as_bytes());
        Frontier { heads, count: number, digest }
    }

    /// An operation that must not enter any set, signed all the same.
    fn rubbish(&mut self, from: usize) -> Option<Operation> {
        let number = self.below(u64::MAX);
        let stranger = SecretKey::from_bytes(&[number as u8; 32]);
        let node = &self.nodes[from];
        let graph = node.engine.as_ref()?.graph();
        if graph.is_empty() {
            return None;
        }
        let key = if number.is_multiple_of(3) { &stranger } else { &node.key };
        let mut position = graph.position(key.public(), number);
        match number % 3 {
            1 => position.lamport += 1 + number % 5,
            2 => {
                let missing = OperationId::from_digest(Digest::of(&number.to_le_bytes()));
                position.deps = vec![missing];
                position.deps.extend(position.prev);
            }
            _ => {}
        }
        Operation::sign(key, position, bodies::later(number)).ok()
    }
}
