//! The tensors of safetensors files, checked before anything is made of them, and written back under the same header.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flair_tensors::header::PREFIX;
use flair_tensors::{DType, Header, TensorInfo};
use tch::{Kind, Tensor};

use crate::Problem;
use crate::problem::at;

/// A safetensors file: its checked header, and where its tensors are.
#[derive(Debug)]
pub struct Weights {
    path: PathBuf,
    file: File,
    header: Header,
}

impl Weights {
    /// Opens a file and checks its header against its length.
    ///
    /// # Errors
    /// What is not safetensors, cut, or damaged.
    pub fn open(path: &Path) -> Result<Self, Problem> {
        let mut file = File::open(path).map_err(at(path))?;
        let about = file.metadata().map_err(at(path))?;
        if !about.is_file() {
            return Err(Problem::file(path, "this is not a file"));
        }
        let mut first = [0; PREFIX];
        file.read_exact(&mut first)
            .map_err(|_| Problem::file(path, "this is too short for a safetensors file"))?;
        let length = Header::prefix_len(first).map_err(at(path))?;
        let after = about.len() - PREFIX as u64;
        if length > after {
            let why = format!("the header claims {length} bytes, and {after} are there: the file is cut");
            return Err(Problem::file(path, why));
        }
        let mut json = vec![0; usize::try_from(length).map_err(at(path))?];
        file.read_exact(&mut json).map_err(at(path))?;
        let header = Header::parse(&json, Some(after - length)).map_err(at(path))?;
        Ok(Self { path: path.to_owned(), file, header })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// What it says of a tensor.
    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.header.tensors().iter().find(|tensor| tensor.name == name)
    }

    /// Reads one tensor's bytes.
    ///
    /// # Errors
    /// What the operating system refuses.
    pub fn bytes(&mut self, tensor: &TensorInfo) -> Result<Vec<u8>, Problem> {
        let start = self.header.bytes().len() as u64 + tensor.start;
        let mut bytes = vec![0; usize::try_from(tensor.length()).map_err(at(&self.path))?];
        self.file
            .seek(SeekFrom::Start(start))
            .and_then(|_| self.file.read_exact(&mut bytes))
            .map_err(at(&self.path))?;
        Ok(bytes)
    }

    /// Reads one tensor.
    ///
    /// # Errors
    /// What the operating system refuses; a dtype that libtorch has not.
    pub fn tensor(&mut self, tensor: &TensorInfo) -> Result<Tensor, Problem> {
        let kind = kind(tensor.dtype).ok_or_else(|| {
            let why = format!("`{}` is {}, which libtorch does not compute with", tensor.name, tensor.dtype);
            Problem::file(&self.path, why)
        })?;
        let bytes = self.bytes(tensor)?;
        // The header was checked: the bytes are as many as shape and dtype take, which tch leaves to its callers.
        Ok(Tensor::f_from_data_size(&bytes, &shape(tensor), kind)?)
    }

    /// Writes a file with the same header and other tensors, which are asked for one by one.
    ///
    /// # Errors
    /// What `value` refuses or the operating system does; bytes of another length.
    pub fn write_like(
        &self,
        out: &mut impl Write,
        mut value: impl FnMut(&TensorInfo) -> Result<Vec<u8>, Problem>,
    ) -> Result<(), Problem> {
        let io = |error: io::Error| Problem::new(format!("the weights can't be written: {error}"));
        out.write_all(self.header.bytes()).map_err(io)?;
        for tensor in self.header.tensors() {
            let bytes = value(tensor)?;
            if bytes.len() as u64 != tensor.length() {
                return Err(Problem::new(format!("`{}` is not as long as it was", tensor.name)).exit(1));
            }
            out.write_all(&bytes).map_err(io)?;
        }
        out.flush().map_err(io)
    }
}

/// A tensor's shape, as libtorch takes it.
pub fn shape(tensor: &TensorInfo) -> Vec<i64> {
    // A header's shapes are checked to fit a file's length, or hold a zero.
    tensor.shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect()
}

/// A tensor's elements, little-endian and in order.
///
/// # Errors
/// What libtorch refuses.
pub fn raw(tensor: &Tensor) -> Result<Vec<u8>, Problem> {
    let tensor = tensor.f_detach()?.f_contiguous()?;
    let count = tensor.numel();
    let mut bytes = vec![0; count * tensor.f_kind()?.elt_size_in_bytes()];
    if count > 0 {
        tensor.f_copy_data_u8(&mut bytes, count)?;
    }
    Ok(bytes)
}

/// libtorch's word for a dtype; none for unsigned integers of more than 8 bits.
pub const fn kind(dtype: DType) -> Option<Kind> {
    Some(match dtype {
        DType::Bool => Kind::Bool,
        DType::U8 => Kind::Uint8,
        DType::I8 => Kind::Int8,
        DType::F8E5M2 => Kind::Float8e5m2,
        DType::F8E4M3 => Kind::Float8e4m3fn,
        DType::I16 => Kind::Int16,
        DType::F16 => Kind::Half,
        DType::BF16 => Kind::BFloat16,
        DType::I32 => Kind::Int,
        DType::F32 => Kind::Float,
        DType::F64 => Kind::Double,
        DType::I64 => Kind::Int64,
        DType::U16 | DType::U32 | DType::U64 => return None,
    })
}

/// The name of a dtype, as safetensors has it where it does.
pub fn named(kind: Kind) -> String {
    DType::ALL
        .into_iter()
        .find(|dtype| self::kind(*dtype) == Some(kind))
        .map_or_else(|| format!("{kind:?}"), |dtype| dtype.to_string())
}
