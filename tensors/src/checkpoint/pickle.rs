//! The machine that reads a pickle.
//!
//! It takes the opcodes of protocols 2 to 5 that `torch.save` writes. Its memory follows the length of the pickle and
//! nothing else: whatever a pickle says, a step makes at most one value, and both are counted.

use std::collections::BTreeMap;

use super::global::{Element, Known, known};
use super::value::{Object, Part, Placed, Ref, Storage, Value};
use super::{CheckpointError, MAX_STEPS, MAX_VALUES};
use crate::header::MAX_RANK;

/// Reads one pickle after another from bytes.
#[derive(Debug)]
pub struct Unpickler<'a> {
    bytes: &'a [u8],
    at: usize,
    steps: u64,
}

impl<'a> Unpickler<'a> {
    /// A reader at the start of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, steps: 0 }
    }

    /// Where the next pickle starts.
    pub const fn position(&self) -> usize {
        self.at
    }

    /// Reads a pickle to its end.
    ///
    /// # Errors
    /// If it calls what is not known, is damaged, or goes over a limit.
    pub fn object(&mut self) -> Result<Object, CheckpointError> {
        let mut machine = Machine {
            input: self,
            object: Object::default(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
        };
        while !machine.step()? {}
        let root = machine.pop()?;
        let mut object = machine.object;
        object.root = root;
        Ok(object)
    }

    const fn damaged(&self, what: &'static str) -> CheckpointError {
        CheckpointError::Damaged { what, at: self.at }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], CheckpointError> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.damaged("it ends too early"))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CheckpointError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| self.damaged("it ends too early"))
    }

    fn byte(&mut self) -> Result<u8, CheckpointError> {
        Ok(self.array::<1>()?[0])
    }

    /// A length of 1, 4 or 8 bytes, and as many bytes.
    fn counted<const N: usize>(&mut self) -> Result<&'a [u8], CheckpointError> {
        let mut wide = [0; 8];
        wide[..N].copy_from_slice(&self.array::<N>()?);
        let count =
            usize::try_from(u64::from_le_bytes(wide)).map_err(|_| self.damaged("a length overflows"))?;
        self.take(count)
    }

    fn line(&mut self) -> Result<&'a str, CheckpointError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().take(1024).position(|byte| *byte == b'\n');
        let line = self.take(end.ok_or_else(|| self.damaged("a name has no end"))?)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|_| self.damaged("a name is not text"))
    }

    fn count(&mut self, steps: usize) -> Result<(), CheckpointError> {
        self.steps = self.steps.saturating_add(steps as u64);
        if self.steps > MAX_STEPS {
            return Err(CheckpointError::Limit { what: "steps", limit: MAX_STEPS });
        }
        Ok(())
    }
}

struct Machine<'a, 'b> {
    input: &'b mut Unpickler<'a>,
    object: Object,
    stack: Vec<Ref>,
    marks: Vec<usize>,
    memo: BTreeMap<u32, Ref>,
}

impl Machine<'_, '_> {
    /// Takes one step; true at the end.
    fn step(&mut self) -> Result<bool, CheckpointError> {
        self.input.count(1)?;
        let code = self.input.byte()?;
        match code {
            b'.' => return Ok(true),
            // PROTO
            0x80 => {
                let version = self.input.byte()?;
                if !(2..=5).contains(&version) {
                    return Err(self.input.damaged("its protocol is not 2 to 5"));
                }
            }
            // FRAME
            0x95 => drop(self.input.take(8)?),
            b'(' => self.marks.push(self.stack.len()),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.marked()?),
            b'2' => {
                let top = self.top()?;
                self.stack.push(top);
            }
            b'N' => self.push(Value::None)?,
            0x88 => self.push(Value::Bool(true))?,
            0x89 => self.push(Value::Bool(false))?,
            b'J' => {
                let number = i32::from_le_bytes(self.input.array()?);
                self.push(Value::Int(number.into()))?;
            }
            b'K' => {
                let number = self.input.byte()?;
                self.push(Value::Int(number.into()))?;
            }
            b'M' => {
                let number = u16::from_le_bytes(self.input.array()?);
                self.push(Value::Int(number.into()))?;
            }
            0x8a => {
                let bytes = self.input.counted::<1>()?;
                self.long(bytes)?;
            }
            0x8b => {
                let bytes = self.input.counted::<4>()?;
                self.long(bytes)?;
            }
            b'G' => {
                let number = f64::from_be_bytes(self.input.array()?);
                self.push(Value::Float(number))?;
            }
            // Texts: of Python 3, then those of Python 2.
            b'X' | b'T' => {
                let bytes = self.input.counted::<4>()?;
                self.words(bytes)?;
            }
            0x8c | b'U' => {
                let bytes = self.input.counted::<1>()?;
                self.words(bytes)?;
            }
            0x8d => {
                let bytes = self.input.counted::<8>()?;
                self.words(bytes)?;
            }
            b'B' => {
                self.input.counted::<4>()?;
                self.push(Value::Data)?;
            }
            b'C' => {
                self.input.counted::<1>()?;
                self.push(Value::Data)?;
            }
            0x8e | 0x96 => {
                self.input.counted::<8>()?;
                self.push(Value::Data)?;
            }
            b')' => self.push(Value::Tuple(Box::default()))?,
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.marked()?;
                self.push(Value::Tuple(items.into()))?;
            }
            b']' => self.push(Value::List(Vec::new()))?,
            b'l' => {
                let items = self.marked()?;
                self.push(Value::List(items))?;
            }
            b'a' => {
                let item = self.pop()?;
                self.append(&[item])?;
            }
            b'e' => {
                let items = self.marked()?;
                self.append(&items)?;
            }
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b'd' => {
                let items = self.marked()?;
                self.push(Value::Dict(Vec::new()))?;
                self.set(&items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(&[key, value])?;
            }
            b'u' => {
                let items = self.marked()?;
                self.set(&items)?;
            }
            // EMPTY_SET, ADDITEMS, FROZENSET: no model needs what is in a set.
            0x8f => self.push(Value::Data)?,
            0x90 => {
                self.marked()?;
                self.top()?;
            }
            0x91 => {
                self.marked()?;
                self.push(Value::Data)?;
            }
            b'q' => {
                let place = self.input.byte()?;
                self.keep(place.into())?;
            }
            b'r' => {
                let place = u32::from_le_bytes(self.input.array()?);
                self.keep(place)?;
            }
            0x94 => {
                let place = self.memo.len() as u32;
                self.keep(place)?;
            }
            b'h' => {
                let place = self.input.byte()?;
                self.recall(place.into())?;
            }
            b'j' => {
                let place = u32::from_le_bytes(self.input.array()?);
                self.recall(place)?;
            }
            b'c' => {
                let module = self.input.line()?;
                let name = self.input.line()?;
                self.global(module, name)?;
            }
            0x93 => {
                let name = self.pop()?;
                let module = self.pop()?;
                let both = self.object.text(module).zip(self.object.text(name));
                let both = both.map(|(module, name)| (module.to_owned(), name.to_owned()));
                let (module, name) = both.ok_or_else(|| self.input.damaged("a name is not text"))?;
                self.global(&module, &name)?;
            }
            // REDUCE and NEWOBJ: a call.
            b'R' | 0x81 => {
                let arguments = self.pop()?;
                let callee = self.pop()?;
                let made = self.call(callee, arguments)?;
                self.stack.push(made);
            }
            // BUILD: attributes of an object, which no model needs.
            b'b' => {
                self.pop()?;
                self.top()?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.part(id)?;
            }
            code => return Err(CheckpointError::Opcode { code, at: self.input.at - 1 }),
        }
        Ok(false)
    }

    fn push(&mut self, value: Value) -> Result<(), CheckpointError> {
        let made = self.make(value)?;
        self.stack.push(made);
        Ok(())
    }

    fn make(&mut self, value: Value) -> Result<Ref, CheckpointError> {
        let values = &mut self.object.values;
        if values.len() >= MAX_VALUES {
            return Err(CheckpointError::Limit { what: "values", limit: MAX_VALUES as u64 });
        }
        values.push(value);
        Ok((values.len() - 1) as Ref)
    }

    fn top(&self) -> Result<Ref, CheckpointError> {
        self.stack.last().copied().ok_or_else(|| self.input.damaged("its stack is empty"))
    }

    fn pop(&mut self) -> Result<Ref, CheckpointError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.input.damaged("its stack is empty"));
        }
        self.stack.pop().ok_or_else(|| self.input.damaged("its stack is empty"))
    }

    /// Everything above the last mark.
    fn marked(&mut self) -> Result<Vec<Ref>, CheckpointError> {
        let mark = self.marks.pop().ok_or_else(|| self.input.damaged("it has no mark"))?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn tuple(&mut self, count: usize) -> Result<(), CheckpointError> {
        let mut items = [0; 3];
        for place in items.iter_mut().take(count).rev() {
            *place = self.pop()?;
        }
        self.push(Value::Tuple(items.into_iter().take(count).collect()))
    }

    fn long(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        if bytes.len() > 16 {
            return self.push(Value::Data);
        }
        let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        wide[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i128::from_le_bytes(wide)))
    }

    fn words(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        let text = match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            // Texts of Python 2 are bytes.
            Err(_) => bytes.iter().copied().map(char::from).collect(),
        };
        self.push(Value::Text(text))
    }

    fn append(&mut self, items: &[Ref]) -> Result<(), CheckpointError> {
        let at = self.top()?;
        match self.object.values.get_mut(at as usize) {
            Some(Value::List(list)) => list.extend(items),
            Some(Value::Data) => {}
            _ => return Err(self.input.damaged("it appends to what is no list")),
        }
        Ok(())
    }

    fn set(&mut self, items: &[Ref]) -> Result<(), CheckpointError> {
        let at = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        if !rest.is_empty() {
            return Err(self.input.damaged("a dict has a key without a value"));
        }
        match self.object.values.get_mut(at as usize) {
            Some(Value::Dict(dict)) => dict.extend(pairs.iter().map(|[key, value]| (*key, *value))),
            Some(Value::Data) => {}
            _ => return Err(self.input.damaged("it sets items of what is no dict")),
        }
        Ok(())
    }

    fn keep(&mut self, place: u32) -> Result<(), CheckpointError> {
        let top = self.top()?;
        self.memo.insert(place, top);
        Ok(())
    }

    fn recall(&mut self, place: u32) -> Result<(), CheckpointError> {
        let kept = self.memo.get(&place).copied();
        self.stack.push(kept.ok_or_else(|| self.input.damaged("it recalls what it never kept"))?);
        Ok(())
    }

    fn global(&mut self, module: &str, name: &str) -> Result<(), CheckpointError> {
        match known(module, name) {
            Some(known) => self.push(Value::Global(known)),
            None => Err(CheckpointError::Code { name: shown(module, name) }),
        }
    }

    fn items(&self, at: Ref) -> Result<&[Ref], CheckpointError> {
        match self.object.value(at) {
            Value::Tuple(items) => Ok(items),
            Value::List(items) => Ok(items),
            _ => Err(self.input.damaged("a tuple is something else")),
        }
    }

    /// What a call gives. Nothing is called: each known name says how its arguments are put together.
    fn call(&mut self, callee: Ref, arguments: Ref) -> Result<Ref, CheckpointError> {
        let Value::Global(callee) = *self.object.value(callee) else {
            return Err(self.input.damaged("it calls what has no name"));
        };
        let items = self.items(arguments)?;
        let first = items.first().copied();
        let first = || first.ok_or_else(|| self.input.damaged("a call lacks arguments"));
        match callee {
            Known::Dict => match first() {
                // A dict of a dict is seen as the same one: copies could be made without end.
                Ok(first) if matches!(self.object.value(first), Value::Dict(_)) => Ok(first),
                Ok(first) if matches!(self.object.value(first), Value::List(_)) => self.dict_of(first),
                _ => self.make(Value::Dict(Vec::new())),
            },
            Known::Same | Known::Parameter => first(),
            Known::Data => self.make(Value::Data),
            Known::Tensor => self.tensor(arguments, false),
            Known::TypedTensor => self.tensor(arguments, true),
            Known::Wrapped => {
                let items = self.items(arguments)?;
                let &[callee, _, arguments, ..] = items else {
                    return Err(self.input.damaged("a call lacks arguments"));
                };
                // One level: what it wraps is one of the others.
                match self.object.value(callee) {
                    Value::Global(Known::Wrapped) => Err(self.input.damaged("a wrapped tensor in another")),
                    _ => self.call(callee, arguments),
                }
            }
            Known::Storage(_) | Known::Type(_) => Err(self.input.damaged("it calls a type")),
        }
    }

    /// A dict from a list of pairs, as Python 2 wrote ordered dicts.
    fn dict_of(&mut self, list: Ref) -> Result<Ref, CheckpointError> {
        let rows = self.items(list)?.to_vec();
        self.input.count(rows.len())?;
        let mut pairs = Vec::with_capacity(rows.len());
        for row in rows {
            match self.items(row)? {
                &[key, value] => pairs.push((key, value)),
                _ => return Err(self.input.damaged("a dict is made of what are no pairs")),
            }
        }
        self.make(Value::Dict(pairs))
    }

    /// A storage named from outside the pickle: `("storage", type, key, place, count[, view])`.
    fn part(&mut self, id: Ref) -> Result<(), CheckpointError> {
        let broken = "a storage is not named as torch names them";
        let items = self.items(id)?;
        let (&[kind, class, key, _, count], view) = items
            .split_first_chunk::<5>()
            .map(|(five, rest)| (five, rest.first().copied()))
            .ok_or_else(|| self.input.damaged(broken))?;
        match self.object.text(kind) {
            Some("storage") => {}
            // `("module", class, source, …)`, which old torch wrote for whole models.
            Some("module") => return Err(CheckpointError::Code { name: "a module's source".into() }),
            _ => return Err(self.input.damaged(broken)),
        }
        let (Value::Global(Known::Storage(element)), Some(key)) =
            (self.object.value(class), self.object.text(key))
        else {
            return Err(self.input.damaged(broken));
        };
        let (element, key) = (*element, Box::<str>::from(key));
        let count = self.natural(count)?;
        let bytes =
            count.checked_mul(element.size()).ok_or_else(|| self.input.damaged("a storage is too large"))?;
        let storage = if let Some(&known) = self.object.keys.get(&key) {
            let one = self.object.storages.get(known as usize).map_or(0, |storage| storage.bytes);
            if one != bytes {
                return Err(CheckpointError::Sizes { key: key.into(), one, other: bytes });
            }
            known
        } else {
            let number = self.object.storages.len() as u32;
            self.object.storages.push(Storage { key: key.clone(), bytes });
            self.object.keys.insert(key, number);
            number
        };
        let mut part = Part { storage, element, offset: 0, count };
        if let Some(view) = view.filter(|view| !matches!(self.object.value(*view), Value::None)) {
            let &[_, offset, size] = self.items(view)? else { return Err(self.input.damaged(broken)) };
            let (offset, size) = (self.natural(offset)?, self.natural(size)?);
            if offset.checked_add(size).is_none_or(|end| end > count) {
                return Err(self.input.damaged("a view is outside its storage"));
            }
            part = Part { offset, count: size, ..part };
        }
        self.push(Value::Part(part))
    }

    fn natural(&self, at: Ref) -> Result<u64, CheckpointError> {
        match self.object.value(at) {
            Value::Int(number) => {
                u64::try_from(*number).map_err(|_| self.input.damaged("a size is negative"))
            }
            _ => Err(self.input.damaged("a size is no number")),
        }
    }

    fn naturals(&self, at: Ref) -> Result<Box<[u64]>, CheckpointError> {
        let items = self.items(at)?;
        if items.len() > MAX_RANK {
            return Err(CheckpointError::Tensor { what: format!("it has {} dimensions", items.len()) });
        }
        items.iter().map(|item| self.natural(*item)).collect()
    }

    /// A tensor: storage, offset, shape, strides, and more that does not matter; a typed one's type is the seventh.
    fn tensor(&mut self, arguments: Ref, typed: bool) -> Result<Ref, CheckpointError> {
        let items = self.items(arguments)?;
        let lacks = || self.input.damaged("a tensor lacks arguments");
        let &[part, offset, shape, stride] = items.first_chunk::<4>().ok_or_else(lacks)?;
        let kind = items.get(6).copied();
        let Value::Part(part) = *self.object.value(part) else {
            return Err(self.input.damaged("a tensor has no storage"));
        };
        let (offset, shape, stride) = (self.natural(offset)?, self.naturals(shape)?, self.naturals(stride)?);
        let refuse = |what: String| Err(CheckpointError::Tensor { what });
        if shape.len() != stride.len() {
            return refuse(format!("it has {} dimensions and {} strides", shape.len(), stride.len()));
        }
        let (mut element, mut count, mut first) = (part.element, part.count, part.offset);
        if typed {
            let Some(Value::Global(Known::Type(kind))) = kind.map(|kind| self.object.value(kind)) else {
                return Err(lacks());
            };
            let (Element::Untyped, size) = (element, kind.size()) else {
                return Err(self.input.damaged("a typed tensor in a typed storage"));
            };
            (element, count, first) = (*kind, count / size, first / size);
        }
        if !fits(offset, &shape, &stride, count) {
            return refuse(format!(
                "its shape {shape:?} with strides {stride:?} from {offset} on goes over the {count} elements of its \
                 storage"
            ));
        }
        let placed =
            Placed { storage: part.storage, element, offset: first.saturating_add(offset), shape, stride };
        let number = self.object.tensors.len() as u32;
        self.object.tensors.push(placed);
        self.make(Value::Tensor(number))
    }
}

/// Whether the furthest element of a view is within `count`.
fn fits(offset: u64, shape: &[u64], stride: &[u64], count: u64) -> bool {
    if shape.contains(&0) {
        return true;
    }
    let steps = shape.iter().zip(stride).try_fold(offset, |at, (size, stride)| {
        (size - 1).checked_mul(*stride).and_then(|steps| at.checked_add(steps))
    });
    steps.is_some_and(|last| last < count)
}

/// A foreign name made fit for a message.
fn shown(module: &str, name: &str) -> String {
    let dotted = format!("{module}.{name}");
    dotted.chars().take(100).flat_map(char::escape_default).collect()
}
