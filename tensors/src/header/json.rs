//! The JSON of a header, read without a map that would swallow duplicates.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{HeaderError, MAX_RANK, MAX_TENSORS, TensorInfo, byte_len, shown};
use crate::dtype::DType;

/// The key that is not a tensor.
pub(super) const METADATA: &str = "__metadata__";

/// What the JSON says, unchecked but for duplicates and numbers of things.
pub(super) struct Parsed {
    pub(super) tensors: Vec<Entry>,
    pub(super) metadata: BTreeMap<String, String>,
}

/// One tensor as written.
pub(super) struct Entry {
    pub(super) name: String,
    fields: Fields,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    dtype: String,
    shape: Shape,
    data_offsets: (u64, u64),
}

/// Dimensions; reading stops at the first one too many.
struct Shape(Vec<u64>);

impl Entry {
    /// The tensor, once its dtype is known, its rank is low and its offsets span what its shape needs.
    pub(super) fn check(self) -> Result<TensorInfo, HeaderError> {
        let Self { name, fields: Fields { dtype, shape: Shape(shape), data_offsets: (start, end) } } = self;
        let Ok(dtype) = dtype.parse::<DType>() else {
            return Err(HeaderError::DType { name, dtype: shown(&dtype) });
        };
        if shape.len() > MAX_RANK {
            return Err(HeaderError::Rank { name });
        }
        let Some(expected) = byte_len(dtype, &shape) else {
            return Err(HeaderError::Overflow { name });
        };
        if end.checked_sub(start) != Some(expected) {
            return Err(HeaderError::Length { name, expected, start, end });
        }
        Ok(TensorInfo { name, dtype, shape, start, end })
    }
}

/// Reads the JSON object of a header.
pub(super) fn parse(json: &[u8]) -> Result<Parsed, HeaderError> {
    if json.first() != Some(&b'{') {
        return Err(HeaderError::Json { reason: "it does not start with {".to_owned() });
    }
    let mut refused = None;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let result = Top { refused: &mut refused }
        .deserialize(&mut deserializer)
        .and_then(|parsed| deserializer.end().map(|()| parsed));
    match (result, refused) {
        (_, Some(error)) => Err(error),
        (Ok(parsed), None) => Ok(parsed),
        (Err(error), None) => Err(HeaderError::Json { reason: shown_reason(&error) }),
    }
}

fn shown_reason(error: &serde_json::Error) -> String {
    error.to_string().chars().take(200).flat_map(char::escape_debug).collect()
}

/// Reads the outer object. An error that deserves its own name goes to `refused`.
struct Top<'a> {
    refused: &'a mut Option<HeaderError>,
}

impl Top<'_> {
    fn refuse<E: de::Error>(self, error: HeaderError) -> E {
        *self.refused = Some(error);
        E::custom("refused")
    }
}

impl<'de> DeserializeSeed<'de> for Top<'_> {
    type Value = Parsed;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Parsed, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Top<'_> {
    type Value = Parsed;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
        let mut names = BTreeSet::new();
        let mut tensors = Vec::new();
        let mut metadata = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if !names.insert(name.clone()) {
                return Err(self.refuse(HeaderError::Duplicate { name: shown(&name) }));
            }
            if name == METADATA {
                match map.next_value::<Metadata>()? {
                    Metadata::Map(read) => metadata = read,
                    Metadata::Duplicate(key) => {
                        let name = format!("{METADATA}.{}", shown(&key));
                        return Err(self.refuse(HeaderError::Duplicate { name }));
                    }
                }
                continue;
            }
            if tensors.len() == MAX_TENSORS {
                return Err(self.refuse(HeaderError::TooMany));
            }
            let fields = map.next_value()?;
            tensors.push(Entry { name, fields });
        }
        Ok(Parsed { tensors, metadata })
    }
}

/// The metadata map, or the key that stands in it twice.
enum Metadata {
    Map(BTreeMap<String, String>),
    Duplicate(String),
}

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of texts")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut texts = BTreeMap::new();
                let mut duplicate = None;
                while let Some((key, text)) = map.next_entry::<String, String>()? {
                    if texts.insert(key.clone(), text).is_some() {
                        duplicate = Some(key);
                    }
                }
                Ok(duplicate.map_or(Metadata::Map(texts), Metadata::Duplicate))
            }
        }

        deserializer.deserialize_map(Texts)
    }
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Sizes;

        impl<'de> Visitor<'de> for Sizes {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of sizes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(size) = sizes.next_element::<u64>()? {
                    // One more than accepted is kept, so that the check can name the tensor.
                    if shape.len() <= MAX_RANK {
                        shape.push(size);
                    }
                }
                Ok(Shape(shape))
            }
        }

        deserializer.deserialize_seq(Sizes)
    }
}
