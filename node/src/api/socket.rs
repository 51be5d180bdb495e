//! Where a node and its commands meet: a Unix socket that only this user can open.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::DuplexStream;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::home::{Home, HomeError};

/// How long to wait when the system has no room for a further connection.
const PAUSE: Duration = Duration::from_millis(200);

/// A bound control socket. Dropping it removes the file.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    // Whoever binds owns the home for as long as the socket is there.
    _home: Home,
}

impl Socket {
    /// Binds the socket of a home, for this user alone (mode 0600).
    ///
    /// # Errors
    /// When there is no place for it or the file system refuses.
    pub fn bind(home: &Home) -> Result<Self, HomeError> {
        let path = home.socket()?;
        let refused = |source| HomeError::Io { path: path.clone(), source };
        let listener = UnixListener::bind(&path).map_err(refused)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(refused)?;
        Ok(Self { listener, path, _home: home.clone() })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // What can't be removed is replaced by the next node.
        let _ = fs::remove_file(&self.path);
    }
}

impl Listener for Socket {
    type Io = UnixStream;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let me = rustix::process::geteuid().as_raw();
        loop {
            match self.listener.accept().await {
                // The mode of a socket file is not honoured everywhere; the kernel's word on the peer is.
                Ok((stream, _)) if stream.peer_cred().is_ok_and(|peer| peer.uid() == me) => {
                    return (stream, ());
                }
                Ok(_) => tracing::warn!("another user tried the control socket and was refused"),
                Err(error) => {
                    tracing::warn!(%error, "the control socket takes no connection now");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(())
    }
}

/// Connections from within this process.
#[derive(Debug)]
pub(super) struct Memory {
    streams: mpsc::Receiver<DuplexStream>,
    ended: Option<oneshot::Sender<()>>,
}

impl Memory {
    /// The listener, and what tells that nobody can connect any more.
    pub(super) fn new(streams: mpsc::Receiver<DuplexStream>) -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self { streams, ended: Some(sender) }, receiver)
    }
}

impl Listener for Memory {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        if let Some(stream) = self.streams.recv().await {
            return (stream, ());
        }
        if let Some(ended) = self.ended.take() {
            let _ = ended.send(());
        }
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_this_user_reaches_the_socket_and_a_stop_leaves_nothing() {
        let top = tempfile::tempdir().unwrap();
        let home = Home::open(top.path().join("home")).unwrap();
        let mut socket = Socket::bind(&home).unwrap();
        let path = Home::peek(home.path()).socket.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (accepted, stream) = tokio::join!(socket.accept(), UnixStream::connect(&path));
        assert_eq!(stream.unwrap().peer_cred().unwrap().uid(), accepted.0.peer_cred().unwrap().uid());
        drop(socket);
        assert!(!path.exists());
        assert!(!Home::peek(home.path()).running);
    }

    #[tokio::test]
    async fn a_dead_node_does_not_stand_in_the_way() {
        let top = tempfile::tempdir().unwrap();
        let home = Home::open(top.path().join("home")).unwrap();
        // A killed process removes nothing.
        std::mem::forget(Socket::bind(&home).unwrap());
        let again = Socket::bind(&home).unwrap();
        assert!(UnixStream::connect(again.path()).await.is_ok());
    }
}
