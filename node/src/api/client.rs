//! Talks to a node: through its socket, or to a service in this very process. Both ways take the same requests
//! through the same router, so a command behaves alike with and without a node.

use std::path::{Path, PathBuf};

use axum::Router;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::socket::Memory;
use super::types::{Code, Event, Problem};
use super::{EVENTS, HOST};
use crate::home::Home;
use crate::service::Service;

/// Largest answer that is read, in bytes.
const LARGEST: usize = 64 << 20;
/// Largest event that is read, in bytes.
const LARGEST_EVENT: usize = 1 << 20;
/// Bytes between the two ends of a connection within the process.
const PIPE: usize = 64 << 10;

/// A way to a node.
#[derive(Clone, Debug)]
pub struct Client(Way);

#[derive(Clone, Debug)]
enum Way {
    Socket(PathBuf),
    Memory(mpsc::Sender<DuplexStream>),
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Client {
    /// Through the socket at `path`.
    pub fn socket(path: &Path) -> Self {
        Self(Way::Socket(path.into()))
    }

    /// Through the socket that the node of this home noted, if one answers there.
    pub fn running(home: &Path) -> Option<Self> {
        let seen = Home::peek(home);
        seen.socket.filter(|_| seen.running).map(|path| Self::socket(&path))
    }

    /// To the node of this home if one runs; else to a service of our own, which is returned too: whoever asked for it
    /// closes it in the end.
    ///
    /// # Errors
    /// A home in use by a node that does not answer, damaged, or of a newer version.
    pub async fn open(home: &Path) -> Result<(Self, Option<Service>), Problem> {
        if let Some(client) = Self::running(home) {
            return Ok((client, None));
        }
        let path = home.to_owned();
        let home =
            tokio::task::spawn_blocking(move || Home::open(path)).await.map_err(Problem::internal)??;
        let service = Service::offline(home).await?;
        Ok((Self::in_process(super::router(service.clone())), Some(service)))
    }

    /// To a router in this process, for as long as a copy of the client lives. Must be called within a runtime.
    pub fn in_process(router: Router) -> Self {
        let (sender, receiver) = mpsc::channel(8);
        let (memory, ended) = Memory::new(receiver);
        tokio::spawn(async move {
            let ended = async { ended.await.unwrap_or_default() };
            axum::serve(memory, router).with_graceful_shutdown(ended).await
        });
        Self(Way::Memory(sender))
    }

    /// Asks for something.
    ///
    /// # Errors
    /// What the node says, or that it does not answer.
    pub async fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, Problem> {
        answer(self.send(Method::GET, path, Bytes::new()).await?).await
    }

    /// Makes a request.
    ///
    /// # Errors
    /// What the node says, or that it does not answer.
    pub async fn post<T: Serialize + Sync, R: DeserializeOwned>(
        &self,
        path: &str,
        request: &T,
    ) -> Result<R, Problem> {
        let body = serde_json::to_vec(request).map_err(|error| internal(&error))?;
        answer(self.send(Method::POST, path, body.into()).await?).await
    }

    /// Listens to what happens from now on.
    ///
    /// # Errors
    /// When the node does not answer.
    pub async fn events(&self) -> Result<Events, Problem> {
        let response = self.send(Method::GET, EVENTS, Bytes::new()).await?;
        if !response.status().is_success() {
            return Err(refusal(response).await);
        }
        Ok(Events { body: response.into_body(), text: Vec::new() })
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>, Problem> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, HOST)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| internal(&error))?;
        let mut connection = self.connect().await?;
        connection.send_request(request).await.map_err(|error| self.silent(&error))
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, Problem> {
        let stream: Box<dyn Stream> = match &self.0 {
            Way::Socket(path) => Box::new(UnixStream::connect(path).await.map_err(|e| self.silent(&e))?),
            Way::Memory(sender) => {
                let (ours, theirs) = tokio::io::duplex(PIPE);
                sender.send(theirs).await.map_err(|error| self.silent(&error))?;
                Box::new(ours)
            }
        };
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.silent(&error))?;
        // Ends by itself with the response; what went wrong shows in the response too.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn silent(&self, error: &dyn std::error::Error) -> Problem {
        match &self.0 {
            Way::Socket(path) => Problem::new(
                Code::Offline,
                format!("the node at {} does not answer: {error}", path.display()),
            )
            .help("it may have just stopped: try again, or look with `flair-node status`"),
            Way::Memory(_) => Problem::new(Code::Internal, format!("the service does not answer: {error}")),
        }
    }
}

async fn answer<R: DeserializeOwned>(response: Response<Incoming>) -> Result<R, Problem> {
    if !response.status().is_success() {
        return Err(refusal(response).await);
    }
    let bytes = collect(response).await?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Problem::new(Code::Internal, format!("the node's answer can't be read: {error}"))
            .help("command and node may be of different versions: restart the node")
    })
}

async fn refusal(response: Response<Incoming>) -> Problem {
    let status = response.status();
    let said = collect(response).await.ok();
    said.and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_else(|| Problem::new(Code::Internal, format!("the node answered {status}")))
}

async fn collect(response: Response<Incoming>) -> Result<Bytes, Problem> {
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    body.map(http_body_util::Collected::to_bytes)
        .map_err(|error| Problem::new(Code::Internal, format!("the node's answer broke off: {error}")))
}

fn internal(error: &dyn std::error::Error) -> Problem {
    Problem::new(Code::Internal, error.to_string())
}

/// What happens, as it happens.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    text: Vec<u8>,
}

impl Events {
    /// The next event; none when the node stops or the connection ends.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.text.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.text.drain(..end + 2).collect();
                if let Some(event) = parse(&block) {
                    return Some(event);
                }
            }
            if self.text.len() > LARGEST_EVENT {
                return None;
            }
            let frame = self.body.frame().await?.ok()?;
            if let Ok(data) = frame.into_data() {
                self.text.extend_from_slice(&data);
            }
        }
    }
}

/// One block of a stream of server-sent events; comments and what this build does not know give none.
fn parse(block: &[u8]) -> Option<Event> {
    let text = std::str::from_utf8(block).ok()?;
    let data: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim_start).collect();
    serde_json::from_str(&data.join("\n")).ok()
}
