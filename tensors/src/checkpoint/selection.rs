//! Which of a checkpoint's tensors are the model, and under which names.

use std::collections::{BTreeMap, BTreeSet};

use super::global::Element;
use super::value::{Object, Placed, Ref, Value};
use super::view::View;
use super::{CheckpointError, MAX_STEPS};
use crate::dtype::DType;
use crate::header::{MAX_NAME, MAX_TENSORS};

/// What wrappers put before the names of what they wrap, once or at any depth.
const WRAPPERS: [&str; 4] = ["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"];
/// How often written tensors may show what is stored.
const GROWTH: u64 = 4;
/// What may be written in any case, in bytes.
const SPARE: u64 = 16 << 20;
/// Most things that are named as left out or as choices.
const NAMED: usize = 32;
/// How deep state dicts are looked for.
const DEPTH: usize = 4;

/// What the user wants.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice<'a> {
    /// Where the state dict is, keys joined by dots; none looks for the only one.
    pub key: Option<&'a str>,
    /// Whether names lose what wrappers put before them.
    pub strip: bool,
    /// Whether tied tensors are written out one by one.
    pub untie: bool,
}

/// A tensor of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Its name.
    pub name: String,
    /// Type of its elements.
    pub dtype: DType,
    /// Its dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Its storage, by its place in [`Object::storages`].
    pub storage: u32,
    /// Where its elements are in the storage.
    pub view: View,
}

/// A name for a tensor that has another name already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tied {
    /// The name that is left out.
    pub name: String,
    /// The name it is written under.
    pub kept: String,
}

/// Something that is not part of the model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Where it is, keys joined by dots.
    pub key: String,
    /// What it is, in words.
    pub what: String,
}

/// The model in a checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Where the state dict is; empty when it is the whole.
    pub key: String,
    /// Its tensors in the order of a safetensors file: widest elements first, then by name.
    pub tensors: Vec<Named>,
    /// Tied tensors, which are written once.
    pub tied: Vec<Tied>,
    /// What wrappers put before names, with the number of tensors.
    pub prefixes: Vec<(String, u64)>,
    /// What is left out, the first few.
    pub left: Vec<Left>,
    /// What else is left out, in number.
    pub more: u64,
}

impl Selection {
    /// Bytes of all tensors.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().fold(0, |bytes: u64, tensor| bytes.saturating_add(tensor.view.length()))
    }
}

/// Finds the model in what a checkpoint's pickle holds.
///
/// # Errors
/// If there is none, or several and none is chosen; if a tensor has a type that can't be written, or names clash.
pub fn select(object: &Object, choice: Choice<'_>) -> Result<Selection, CheckpointError> {
    let (key, root) = find(object, choice.key)?;
    let mut selection = Selection { key, ..Selection::default() };
    let Value::Dict(pairs) = object.value(root) else {
        return Err(CheckpointError::Empty { found: words(object, root) });
    };
    // A key that is set twice has its last value, at its first place.
    let mut rows: Vec<(&str, &Placed)> = Vec::new();
    let mut places: BTreeMap<&str, usize> = BTreeMap::new();
    for (key, value) in pairs {
        match (object.text(*key), object.value(*value)) {
            (Some(name), Value::Tensor(number)) => {
                let Some(placed) = object.tensors.get(*number as usize) else { continue };
                if let Some(row) = places.get(name).and_then(|place| rows.get_mut(*place)) {
                    row.1 = placed;
                } else {
                    places.insert(name, rows.len());
                    rows.push((name, placed));
                }
            }
            _ => leave(&mut selection, &label(object, *key), object, *value),
        }
    }
    around(object, &mut selection);
    if rows.len() > MAX_TENSORS {
        return Err(CheckpointError::TooMany { count: rows.len() });
    }
    selection.prefixes = prefixes(&rows.iter().map(|(name, _)| *name));

    let mut names = BTreeSet::new();
    let mut kept: BTreeMap<&Placed, String> = BTreeMap::new();
    let mut stored: BTreeMap<u32, u64> = BTreeMap::new();
    for (name, placed) in rows {
        let name = if choice.strip { stripped(name, &selection.prefixes) } else { name.to_owned() };
        let dtype = match placed.element {
            Element::Known(dtype) => dtype,
            Element::Untyped => return Err(CheckpointError::Element { name, element: "untyped" }),
            Element::Other { name: element, .. } => return Err(CheckpointError::Element { name, element }),
        };
        if !names.insert(name.clone()) {
            return Err(CheckpointError::Duplicate { name });
        }
        let view = View::new(dtype.size(), placed.offset, &placed.shape, &placed.stride);
        let empty = view.length() == 0;
        if !choice.untie && !empty {
            if let Some(kept) = kept.get(placed) {
                selection.tied.push(Tied { name, kept: kept.clone() });
                continue;
            }
            kept.insert(placed, name.clone());
        }
        let bytes = object.storages.get(placed.storage as usize).map_or(0, |storage| storage.bytes);
        stored.insert(placed.storage, bytes);
        let shape = placed.shape.to_vec();
        selection.tensors.push(Named { name, dtype, shape, storage: placed.storage, view });
    }
    if selection.tensors.is_empty() {
        return Err(CheckpointError::Empty { found: words(object, root) });
    }
    let stored = stored.values().fold(0, |sum: u64, bytes| sum.saturating_add(*bytes));
    let written = selection.bytes();
    if written > stored.saturating_mul(GROWTH).saturating_add(SPARE) {
        return Err(CheckpointError::Grows { stored, written });
    }
    selection.tensors.sort_by(|a, b| b.dtype.cmp(&a.dtype).then_with(|| a.name.cmp(&b.name)));
    Ok(selection)
}

/// The state dict that is meant: where it is, and which value.
fn find(object: &Object, key: Option<&str>) -> Result<(String, Ref), CheckpointError> {
    let mut all = dicts(object)?;
    let keys = |all: &[Found]| {
        let nested = all.iter().filter(|found| !found.key.is_empty());
        nested.take(NAMED).map(|found| format!("`{}`", shown(&found.key))).collect::<Vec<_>>()
    };
    if let Some(key) = key {
        let found = all.iter().find(|found| found.key == key).map(|found| (found.key.clone(), found.at));
        return found.ok_or_else(|| CheckpointError::Key { key: shown(key), keys: keys(&all) });
    }
    // An optimiser's state is nobody's model, unless somebody says so.
    all.retain(|found| !found.key.split('.').any(|segment| segment.starts_with("optim")));
    let most = all.iter().map(|found| found.tensors).max().unwrap_or(0);
    match all.as_slice() {
        [] => Err(CheckpointError::Empty { found: words(object, object.root) }),
        [only] => Ok((only.key.clone(), only.at)),
        // A model at the top, and something small beside it.
        [first, others @ ..] if first.key.is_empty() && others.iter().all(|other| other.tensors < most) => {
            Ok((first.key.clone(), first.at))
        }
        _ => Err(CheckpointError::Several { keys: keys(&all) }),
    }
}

/// A dict that has tensors by name.
struct Found {
    key: String,
    at: Ref,
    tensors: usize,
}

/// The dicts of a checkpoint that have tensors by name, from the outside in.
fn dicts(object: &Object) -> Result<Vec<Found>, CheckpointError> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    let mut level = vec![(String::new(), object.root)];
    let mut looks = 0_u64;
    for _ in 0..DEPTH {
        let mut next = Vec::new();
        for (key, at) in level {
            // A cycle, or one dict in several places.
            if !seen.insert(at) {
                continue;
            }
            let Value::Dict(pairs) = object.value(at) else { continue };
            looks += pairs.len() as u64;
            if looks > MAX_STEPS {
                return Err(CheckpointError::Limit { what: "steps", limit: MAX_STEPS });
            }
            let tensor = |(name, value): &(Ref, Ref)| {
                object.text(*name).is_some() && matches!(object.value(*value), Value::Tensor(_))
            };
            let tensors = pairs.iter().filter(|pair| tensor(pair)).count();
            if tensors > 0 {
                found.push(Found { key: key.clone(), at, tensors });
            }
            for (name, value) in pairs {
                let name = object.text(*name).filter(|name| name.len() <= MAX_NAME);
                if let (Some(name), Value::Dict(_)) = (name, object.value(*value)) {
                    next.push((join(&key, name), *value));
                }
            }
        }
        level = next;
    }
    Ok(found)
}

/// Notes what is beside the state dict: an optimiser's state, say.
fn around(object: &Object, selection: &mut Selection) {
    let chosen = selection.key.clone();
    if chosen.is_empty() {
        return;
    }
    let Value::Dict(pairs) = object.value(object.root) else { return };
    for (key, value) in pairs {
        let key = label(object, *key);
        if chosen != key && !chosen.starts_with(&format!("{key}.")) {
            leave(selection, &key, object, *value);
        }
    }
}

fn leave(selection: &mut Selection, key: &str, object: &Object, value: Ref) {
    if selection.left.len() < NAMED {
        selection.left.push(Left { key: shown(key), what: words(object, value) });
    } else {
        selection.more += 1;
    }
}

/// What a key reads like.
fn label(object: &Object, key: Ref) -> String {
    match object.value(key) {
        Value::Text(text) => text.to_string(),
        Value::Int(number) => number.to_string(),
        _ => "(a key that is no text)".to_owned(),
    }
}

/// What a value is.
fn words(object: &Object, at: Ref) -> String {
    let many = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    match object.value(at) {
        Value::None => "nothing".to_owned(),
        Value::Bool(flag) => format!("the value {flag}"),
        Value::Int(number) => format!("the number {number}"),
        Value::Float(number) => format!("the number {number}"),
        Value::Text(text) => format!("the text \"{}\"", shown(text)),
        Value::Tuple(items) => format!("a tuple of {}", many(items.len(), "value")),
        Value::List(items) => format!("a list of {}", many(items.len(), "value")),
        Value::Dict(pairs) => format!("a dict of {}", many(pairs.len(), "value")),
        Value::Tensor(number) => {
            let shape = object.tensors.get(*number as usize).map(|tensor| tensor.shape.clone());
            format!("a tensor of shape {:?} without a name", shape.unwrap_or_default())
        }
        Value::Part(_) => "a storage".to_owned(),
        Value::Global(_) | Value::Data => "other data".to_owned(),
    }
}

fn join(key: &str, name: &str) -> String {
    if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") }
}

/// A foreign text made fit for a message.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_default).collect()
}

/// What wrappers put before names: `module` where all names start with it, the others wherever they are.
fn prefixes<'a>(names: &(impl Iterator<Item = &'a str> + Clone)) -> Vec<(String, u64)> {
    let total = names.clone().count() as u64;
    let mut found = Vec::new();
    for wrapper in WRAPPERS {
        let has = |name: &&str| match wrapper {
            // A usual name for a part of a model too.
            "module" => first(name) == Some(wrapper),
            _ => name.split('.').any(|segment| segment == wrapper),
        };
        let count = names.clone().filter(has).count() as u64;
        if count > 0 && (wrapper != "module" || count == total) {
            found.push((format!("{wrapper}."), count));
        }
    }
    found
}

/// The first segment of a name that is not a wrapper's own.
fn first(name: &str) -> Option<&str> {
    name.split('.').find(|segment| *segment == "module" || !WRAPPERS.contains(segment))
}

fn stripped(name: &str, prefixes: &[(String, u64)]) -> String {
    let wraps = |segment: &str| prefixes.iter().any(|(prefix, _)| prefix.strip_suffix('.') == Some(segment));
    let mut leading = true;
    let mut kept = Vec::new();
    for segment in name.split('.') {
        // `module` is a wrapper's only at the front.
        if wraps(segment) && (leading || segment != "module") {
            leading &= segment != "module";
            continue;
        }
        leading = false;
        kept.push(segment);
    }
    kept.join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrappers_are_told_from_parts_of_a_model() {
        let strip = |names: &[&str]| -> (Vec<String>, Vec<String>) {
            let found = prefixes(&names.iter().copied());
            let names = names.iter().map(|name| stripped(name, &found)).collect();
            (found.into_iter().map(|(prefix, _)| prefix).collect(), names)
        };
        let (found, names) = strip(&["module.fc.weight", "module.module.bias"]);
        assert_eq!((found, names), (vec!["module.".into()], vec!["fc.weight".into(), "module.bias".into()]));
        let (found, names) = strip(&["module.fc.weight", "head.bias"]);
        assert_eq!(found, Vec::<String>::new());
        assert_eq!(names, ["module.fc.weight", "head.bias"]);
        let (found, names) = strip(&["_orig_mod.module.a.w", "_orig_mod.module.b._orig_mod.w"]);
        assert_eq!(found, ["module.", "_orig_mod."]);
        assert_eq!(names, ["a.w", "b.w"]);
        let (_, names) = strip(&["module._orig_mod.a.w"]);
        assert_eq!(names, ["a.w"]);
    }
}
