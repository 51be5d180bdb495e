//! Automerge changes by one actor, made one after another and applied in one batch.
//!
//! Automerge's own transactions look at the whole document for each operation: ten thousand changes took seconds
//! that way and take a fraction of one in a batch. A single writer needs none of that: which value a key has at
//! the moment is known here.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use automerge::legacy::{ElementId, Key, ObjectId, Op, OpId, OpType, SortedVec};
use automerge::{ActorId, AutomergeError, Change, ChangeHash, ExpandedChange, ObjType, ScalarValue};

/// A map or list of the document: the number of the operation that made it; the root has none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Object(Option<u64>);

/// The document's root map.
pub(super) const ROOT: Object = Object(None);

/// Changes in the making.
pub(super) struct Writer {
    actor: ActorId,
    /// Operations written so far, all changes together.
    written: u64,
    /// The operations of the change in the making.
    operations: Vec<Op>,
    /// The operation that set each key of each map.
    set: BTreeMap<(Object, String), u64>,
    changes: Vec<Change>,
    last: Option<ChangeHash>,
}

impl Writer {
    pub(super) fn new(actor: &[u8]) -> Self {
        let (operations, set, changes) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { actor: ActorId::from(actor), written: 0, operations, set, changes, last: None }
    }

    /// Sets a key of a map.
    pub(super) fn put(&mut self, map: Object, key: &str, value: impl Into<ScalarValue>) {
        self.set(map, key, OpType::Put(value.into()));
    }

    /// Puts a new map or list under a key of a map.
    pub(super) fn make(&mut self, map: Object, key: &str, kind: ObjType) -> Object {
        Object(Some(self.set(map, key, OpType::Make(kind))))
    }

    /// Removes a key of a map, if it is there.
    pub(super) fn delete(&mut self, map: Object, key: &str) {
        if self.set.contains_key(&(map, key.to_owned())) {
            self.set(map, key, OpType::Delete);
            self.set.remove(&(map, key.to_owned()));
        }
    }

    /// Fills a new list.
    pub(super) fn fill(&mut self, list: Object, values: impl IntoIterator<Item = ScalarValue>) {
        let mut before = ElementId::Head;
        for value in values {
            let number = self.write(list, Key::Seq(before), None, true, OpType::Put(value));
            before = ElementId::Id(self.operation(number));
        }
    }

    /// Ends a change; one without operations is none.
    pub(super) fn commit(&mut self, message: String) {
        let operations = std::mem::take(&mut self.operations);
        let start = (self.written + 1).saturating_sub(operations.len() as u64);
        let Some(start_op) = NonZeroU64::new(start).filter(|_| !operations.is_empty()) else { return };
        let change = Change::from(ExpandedChange {
            operations,
            actor_id: self.actor.clone(),
            hash: None,
            seq: self.changes.len() as u64 + 1,
            start_op,
            time: 0,
            message: Some(message),
            deps: self.last.into_iter().collect(),
            extra_bytes: Vec::new(),
            author: None,
        });
        self.last = Some(change.hash());
        self.changes.push(change);
    }

    /// All changes as a document.
    pub(super) fn finish(self) -> Result<automerge::AutoCommit, AutomergeError> {
        let mut document = automerge::AutoCommit::new();
        document.apply_changes(self.changes)?;
        Ok(document)
    }

    fn set(&mut self, map: Object, key: &str, action: OpType) -> u64 {
        let before = self.set.get(&(map, key.to_owned())).copied();
        let number = self.write(map, Key::Map(key.into()), before, false, action);
        self.set.insert((map, key.to_owned()), number);
        number
    }

    fn write(&mut self, object: Object, key: Key, before: Option<u64>, insert: bool, action: OpType) -> u64 {
        let obj = object.0.map_or(ObjectId::Root, |number| ObjectId::Id(self.operation(number)));
        let pred: SortedVec<OpId> = before.map(|number| self.operation(number)).into_iter().collect();
        self.operations.push(Op { action, obj, key, pred, insert });
        self.written += 1;
        self.written
    }

    fn operation(&self, number: u64) -> OpId {
        OpId::new(number, &self.actor)
    }
}
