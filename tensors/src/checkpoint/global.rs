//! The names that a checkpoint may refer to. Each stands for data; none is a function that could do anything else.

use std::fmt;

use crate::dtype::DType;

/// The type of a tensor's elements in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// One that safetensors files have.
    Known(DType),
    /// Bytes whose type the tensor tells.
    Untyped,
    /// One that they do not have here: complex or quantised numbers.
    Other {
        /// What it is.
        name: &'static str,
        /// Bytes of one element.
        size: u8,
    },
}

impl Element {
    /// Bytes of one element.
    pub(super) const fn size(self) -> u64 {
        match self {
            Self::Known(dtype) => dtype.size() as u64,
            Self::Untyped => 1,
            Self::Other { size, .. } => size as u64,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(dtype) => f.pad(dtype.name()),
            Self::Untyped => f.pad("untyped"),
            Self::Other { name, .. } => f.pad(name),
        }
    }
}

/// What a known name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// `OrderedDict` and its like: called with nothing, with pairs, or with a dict.
    Dict,
    /// `torch.Size`: called with a tuple, which it then is.
    Same,
    /// What becomes plain data that no model needs.
    Data,
    /// A kind of storage.
    Storage(Element),
    /// `torch.float32` and so on.
    Type(Element),
    /// `_rebuild_tensor` and `_rebuild_tensor_v2`: storage, offset, shape, strides, …
    Tensor,
    /// `_rebuild_tensor_v3`: the same, and at the seventh place the type, over an untyped storage.
    TypedTensor,
    /// `_rebuild_parameter` and its like: a tensor first, which it then is.
    Parameter,
    /// `_rebuild_from_type_v2`: function, type, arguments, attributes.
    Wrapped,
}

/// What `module.name` stands for, if that is known.
pub(super) fn known(module: &str, name: &str) -> Option<Known> {
    Some(match (module, name) {
        ("collections", "OrderedDict" | "defaultdict" | "Counter") | ("builtins" | "__builtin__", "dict") => {
            Known::Dict
        }
        (
            "builtins" | "__builtin__",
            "set" | "frozenset" | "list" | "int" | "float" | "bytes" | "complex",
        )
        | ("_codecs", "encode")
        | ("torch", "device" | "Tensor")
        | ("torch.nn.parameter", "Parameter" | "Buffer")
        | ("torch.serialization", "_get_layout")
        | ("torch.storage", "TypedStorage") => Known::Data,
        ("torch", "Size") => Known::Same,
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => Known::Tensor,
        ("torch._utils", "_rebuild_tensor_v3") => Known::TypedTensor,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => Known::Parameter,
        ("torch._tensor", "_rebuild_from_type_v2") => Known::Wrapped,
        ("torch.storage", "UntypedStorage" | "_UntypedStorage") | ("torch", "UntypedStorage") => {
            Known::Storage(Element::Untyped)
        }
        ("torch" | "torch.cuda", name) => {
            if let Some(kind) = name.strip_suffix("Storage") {
                Known::Storage(storage(kind)?)
            } else {
                Known::Type(dtype(name)?)
            }
        }
        _ => return None,
    })
}

fn storage(kind: &str) -> Option<Element> {
    Some(match kind {
        "Double" => Element::Known(DType::F64),
        "Float" => Element::Known(DType::F32),
        "Half" => Element::Known(DType::F16),
        "BFloat16" => Element::Known(DType::BF16),
        "Long" => Element::Known(DType::I64),
        "Int" => Element::Known(DType::I32),
        "Short" => Element::Known(DType::I16),
        "Char" => Element::Known(DType::I8),
        "Byte" => Element::Known(DType::U8),
        "Bool" => Element::Known(DType::Bool),
        "ComplexFloat" => Element::Other { name: "complex", size: 8 },
        "ComplexDouble" => Element::Other { name: "complex", size: 16 },
        "QInt32" => Element::Other { name: "quantised", size: 4 },
        "QInt8" | "QUInt8" | "QUInt4x2" | "QUInt2x4" => Element::Other { name: "quantised", size: 1 },
        _ => return None,
    })
}

fn dtype(name: &str) -> Option<Element> {
    Some(match name {
        "float64" => Element::Known(DType::F64),
        "float32" => Element::Known(DType::F32),
        "float16" => Element::Known(DType::F16),
        "bfloat16" => Element::Known(DType::BF16),
        "float8_e4m3fn" => Element::Known(DType::F8E4M3),
        "float8_e5m2" => Element::Known(DType::F8E5M2),
        "int64" => Element::Known(DType::I64),
        "int32" => Element::Known(DType::I32),
        "int16" => Element::Known(DType::I16),
        "int8" => Element::Known(DType::I8),
        "uint64" => Element::Known(DType::U64),
        "uint32" => Element::Known(DType::U32),
        "uint16" => Element::Known(DType::U16),
        "uint8" => Element::Known(DType::U8),
        "bool" => Element::Known(DType::Bool),
        "float8_e4m3fnuz" | "float8_e5m2fnuz" | "float8_e8m0fnu" | "float4_e2m1fn_x2" => {
            Element::Other { name: "small float", size: 1 }
        }
        "complex32" => Element::Other { name: "complex", size: 4 },
        "complex64" => Element::Other { name: "complex", size: 8 },
        "complex128" => Element::Other { name: "complex", size: 16 },
        _ => return None,
    })
}
