//! Questions and answers on the wire: a length and that many bytes.

use std::io;

use libp2p::{
    StreamProtocol,
    futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    request_response,
};

use super::{MAX_REQUEST, MAX_RESPONSE};

/// The protocol's name.
pub(super) const PROTOCOL: StreamProtocol = StreamProtocol::new("/flair/sync/1");

/// What a peer asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Something.
    Bytes(Vec<u8>),
    /// Something that breaks the framing. An error would do as well, but libp2p tells nobody whose it was.
    Broken(String),
}

/// A 4-byte big-endian length and the bytes, in both directions.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Codec;

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Request;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Request>
    where
        T: AsyncRead + Unpin + Send,
    {
        match read(io, MAX_REQUEST).await {
            Ok(bytes) => Ok(Request::Bytes(bytes)),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Ok(Request::Broken(error.to_string()))
            }
            Err(error) => Err(error),
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read(io, MAX_RESPONSE).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Request) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        match request {
            Request::Bytes(bytes) => write(io, &bytes, MAX_REQUEST).await,
            Request::Broken(reason) => Err(io::Error::new(io::ErrorKind::InvalidData, reason)),
        }
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write(io, &bytes, MAX_RESPONSE).await
    }
}

/// Reads one message. Memory grows with what arrives, never with what the length claims.
async fn read<T>(io: &mut T, limit: usize) -> io::Result<Vec<u8>>
where
    T: AsyncRead + Unpin + Send,
{
    let mut length = [0; 4];
    io.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length);
    if length as usize > limit {
        return Err(too_large(length as usize, limit));
    }
    let mut bytes = Vec::new();
    io.take(u64::from(length)).read_to_end(&mut bytes).await?;
    if bytes.len() < length as usize {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

async fn write<T>(io: &mut T, bytes: &[u8], limit: usize) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let length = u32::try_from(bytes.len()).map_err(|_| too_large(bytes.len(), limit))?;
    if bytes.len() > limit {
        return Err(too_large(bytes.len(), limit));
    }
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(bytes).await?;
    io.flush().await
}

fn too_large(length: usize, limit: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes; {limit} are allowed"))
}

#[cfg(test)]
mod tests {
    use libp2p::futures::{executor::block_on, io::Cursor};

    use super::*;

    fn framed(length: u32, bytes: &[u8]) -> Cursor<Vec<u8>> {
        Cursor::new([&length.to_be_bytes(), bytes].concat())
    }

    #[test]
    fn a_message_is_read_as_it_was_written() {
        for bytes in [vec![], vec![7; 1], vec![9; 64 * 1024]] {
            let mut wire = Cursor::new(Vec::new());
            block_on(write(&mut wire, &bytes, MAX_REQUEST)).expect("write");
            wire.set_position(0);
            assert_eq!(block_on(read(&mut wire, MAX_REQUEST)).expect("read"), bytes);
        }
    }

    #[test]
    fn a_claimed_length_beyond_the_limit_is_refused_before_anything_is_read() {
        let error = block_on(read(&mut framed(u32::MAX, &[]), MAX_RESPONSE)).expect_err("refused");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let error = block_on(write(&mut Cursor::new(Vec::new()), &vec![0; MAX_REQUEST + 1], MAX_REQUEST));
        assert_eq!(error.expect_err("refused").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_message_cut_short_is_an_error() {
        for wire in [framed(5, b"abc"), Cursor::new(vec![0, 0])] {
            let mut wire = wire;
            let error = block_on(read(&mut wire, MAX_REQUEST)).expect_err("cut");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        }
    }
}
