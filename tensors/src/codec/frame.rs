//! One zstd frame per block, with nothing in it that a peer can make large.

use zstd::zstd_safe::{self, CCtx, CParameter, DCtx, get_error_name};

use super::{CodecError, resize};

/// How blocks are compressed. Part of the format: other parameters would make other blobs of the same tensors.
///
/// Byte planes hold long runs or entropy, little between, so looking for matches in the latter only breaks literals
/// apart. A hash table of 256 entries finds the runs just as well as level 1's 16,384 do, and measured on weights, and
/// on steps of all and of one in a hundred of them, gives the same size or up to 4 % less at up to three times the
/// speed.
const PARAMETERS: [CParameter; 2] = [CParameter::CompressionLevel(1), CParameter::HashLog(8)];

/// zstd's contexts and the output buffer, made when first used.
#[derive(Default)]
pub(super) struct Frames {
    compressor: Option<CCtx<'static>>,
    decompressor: Option<DCtx<'static>>,
    frame: Vec<u8>,
}

impl Frames {
    /// Compresses `bytes` to one frame.
    pub(super) fn compress(&mut self, bytes: &[u8]) -> Result<&[u8], CodecError> {
        let compressor = ready(&mut self.compressor, compressor)?;
        resize(&mut self.frame, zstd_safe::compress_bound(bytes.len()));
        let length = compressor
            .compress2(self.frame.as_mut_slice(), bytes)
            .map_err(|code| CodecError::Zstd { reason: get_error_name(code) })?;
        Ok(self.frame.get(..length).unwrap_or_default())
    }

    /// How many bytes a frame says it holds.
    pub(super) fn content(frame: &[u8], most: usize) -> Result<usize, CodecError> {
        match zstd_safe::get_frame_content_size(frame) {
            Ok(Some(size)) if size <= most as u64 => Ok(size as usize),
            Ok(_) => Err(CodecError::Damaged { reason: "it holds more bytes than the block" }),
            Err(_) => Err(CodecError::Damaged { reason: "it is no zstd frame" }),
        }
    }

    /// Decompresses a frame that fills `out` exactly.
    ///
    /// The whole output is at hand, so zstd looks back into it and makes no window of its own: what a frame claims
    /// about its window or size costs nothing. Only a single frame is accepted, of exactly that size.
    pub(super) fn decompress(&mut self, frame: &[u8], out: &mut [u8]) -> Result<(), CodecError> {
        let damaged = |reason| CodecError::Damaged { reason };
        match zstd_safe::get_frame_content_size(frame) {
            Ok(Some(size)) if size == out.len() as u64 => {}
            Ok(_) => return Err(damaged("it holds another number of bytes than the block")),
            Err(_) => return Err(damaged("it is no zstd frame")),
        }
        match zstd_safe::find_frame_compressed_size(frame) {
            Ok(length) if length == frame.len() => {}
            _ => return Err(damaged("it is not exactly one zstd frame")),
        }
        let decompressor = ready(&mut self.decompressor, DCtx::try_create)?;
        match decompressor.decompress(out, frame) {
            Ok(length) if length == out.len() => Ok(()),
            Ok(_) => Err(damaged("it holds fewer bytes than the block")),
            Err(code) => Err(damaged(get_error_name(code))),
        }
    }
}

fn compressor() -> Option<CCtx<'static>> {
    let mut compressor = CCtx::try_create()?;
    for parameter in PARAMETERS {
        compressor.set_parameter(parameter).ok()?;
    }
    Some(compressor)
}

fn ready<T>(context: &mut Option<T>, create: impl FnOnce() -> Option<T>) -> Result<&mut T, CodecError> {
    if context.is_none() {
        *context = create();
    }
    context.as_mut().ok_or(CodecError::Zstd { reason: "no memory for a context" })
}
