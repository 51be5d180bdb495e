//! What a pickle built: values in one arena that refer to each other by number, so that neither a cycle nor depth
//! costs anything.

use std::collections::BTreeMap;

use super::global::{Element, Known};

/// The number of a value in the arena.
pub(super) type Ref = u32;

/// One value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(Box<str>),
    Tuple(Box<[Ref]>),
    List(Vec<Ref>),
    Dict(Vec<(Ref, Ref)>),
    /// Something named by module and name that is known.
    Global(Known),
    /// A part of a storage.
    Part(Part),
    /// A tensor, by its number in the table.
    Tensor(u32),
    /// Plain data that no model needs: a device, a set, bytes.
    Data,
}

/// A part of a storage, as a tensor sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) storage: u32,
    pub(super) element: Element,
    /// In elements.
    pub(super) offset: u64,
    /// In elements; in bytes where the storage is untyped.
    pub(super) count: u64,
}

/// A storage that a checkpoint names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Storage {
    /// Its key: the name of its entry in a zip file, or in the list of a legacy file.
    pub key: Box<str>,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A tensor, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Placed {
    /// The storage, by its place in [`Object::storages`].
    pub storage: u32,
    /// Type of its elements.
    pub element: Element,
    /// The first element, counted from the start of the storage.
    pub offset: u64,
    /// Its dimensions, outermost first.
    pub shape: Box<[u64]>,
    /// For each dimension, how many elements of the storage one step takes.
    pub stride: Box<[u64]>,
}

/// What one pickle holds.
#[derive(Debug, Default)]
pub struct Object {
    pub(super) values: Vec<Value>,
    pub(super) root: Ref,
    pub(super) tensors: Vec<Placed>,
    pub(super) storages: Vec<Storage>,
    pub(super) keys: BTreeMap<Box<str>, u32>,
}

impl Object {
    /// The storages that its tensors are in.
    pub fn storages(&self) -> &[Storage] {
        &self.storages
    }

    /// The storage with this key, by its place and with its size.
    pub fn storage(&self, key: &str) -> Option<(u32, &Storage)> {
        let place = *self.keys.get(key)?;
        Some((place, self.storages.get(place as usize)?))
    }

    /// The number that it is, if it is one.
    pub fn integer(&self) -> Option<i128> {
        match self.value(self.root) {
            Value::Int(number) => Some(*number),
            _ => None,
        }
    }

    /// The texts that it is a list of, if it is one.
    pub fn texts(&self) -> Option<Vec<&str>> {
        match self.value(self.root) {
            Value::List(items) => items.iter().map(|item| self.text(*item)).collect(),
            _ => None,
        }
    }

    /// Whether it is a dict in which `key` is true or false.
    pub fn flag(&self, key: &str) -> Option<bool> {
        let Value::Dict(pairs) = self.value(self.root) else { return None };
        let (_, value) = pairs.iter().find(|(name, _)| self.text(*name) == Some(key))?;
        match self.value(*value) {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    pub(super) fn value(&self, at: Ref) -> &Value {
        self.values.get(at as usize).unwrap_or(&Value::None)
    }

    pub(super) fn text(&self, at: Ref) -> Option<&str> {
        match self.value(at) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}
