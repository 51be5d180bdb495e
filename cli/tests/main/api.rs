//! Promises of the control API, over a real socket and within the process.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use flair_node::api::types::{Code, Identity, Problem, Repository};
use flair_node::api::{Client, Socket};
use flair_node::home::{Config, Home};
use flair_node::service::Service;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Sends bytes as they are and returns the whole answer.
async fn raw(socket: &Path, text: String) -> String {
    let socket = socket.to_owned();
    let sent = tokio::task::spawn_blocking(move || {
        let mut stream = UnixStream::connect(socket).unwrap();
        // An answer may come before all was taken.
        let _ = stream.write_all(text.as_bytes());
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    });
    sent.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_answers_its_user_and_no_web_page_and_stops_with_streams_open() {
    let top = TempDir::new().unwrap();
    let home = Home::open(top.path().join("home")).unwrap();
    let service = Service::online(home.clone(), Config::default()).await.unwrap();
    let socket = Socket::bind(&home).unwrap();
    let path = socket.path().to_owned();
    let (answering, stopping) = (service.clone(), service.clone());
    let served = tokio::spawn(flair_node::api::serve(socket, answering, async move {
        stopping.stopped().await;
    }));

    let client = Client::running(home.path()).unwrap();
    let identity: Identity = client.get("/v1/identity").await.unwrap();
    assert!(identity.node && identity.key.starts_with("did:key:"));

    let get = |headers: &str| format!("GET /v1/identity HTTP/1.1\r\n{headers}Connection: close\r\n\r\n");
    assert!(raw(&path, get("Host: flair\r\n")).await.starts_with("HTTP/1.1 200"));
    for foreign in [
        "Host: evil.example\r\n",
        "Host: localhost:3000\r\n",
        "Host: flair\r\nOrigin: http://localhost:3000\r\n",
        "Host: flair\r\nSec-Fetch-Site: same-site\r\n",
    ] {
        let answer = raw(&path, get(foreign)).await;
        assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("\"denied\""), "{foreign}: {answer}");
    }
    let long = format!("{{\"place\": \"{}\"}}", "x".repeat(2 << 20));
    let head =
        "POST /v1/status HTTP/1.1\r\nHost: flair\r\nConnection: close\r\nContent-Type: application/json";
    let answer = raw(&path, format!("{head}\r\nContent-Length: {}\r\n\r\n{long}", long.len())).await;
    assert!(answer.contains("\"invalid\"") || answer.is_empty(), "{answer}");

    let mut events = client.events().await.unwrap();
    let () = client.post("/v1/shutdown", &()).await.map(|_: Value| ()).unwrap();
    while events.next().await.is_some() {}
    served.await.unwrap().unwrap();
    service.close().await;
    assert!(!path.exists());
    let gone = client.get::<Identity>("/v1/identity").await.unwrap_err();
    assert_eq!(gone.code, Code::Offline);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_a_node_gets_the_same_answers_and_every_path_is_described() {
    let top = TempDir::new().unwrap();
    let (client, service) = Client::open(&top.path().join("home")).await.unwrap();
    let identity: Identity = client.get("/v1/identity").await.unwrap();
    assert!(!identity.node);
    let none: Vec<Repository> = client.get("/v1/repositories").await.unwrap();
    assert!(none.is_empty());

    let refused = async |path: &str, body: Value| -> Problem {
        client.post::<Value, Value>(path, &body).await.unwrap_err()
    };
    assert_eq!(refused("/v1/nothing", json!({})).await.code, Code::NotFound);
    assert_eq!(refused("/v1/identity", json!({})).await.code, Code::Invalid);
    let wrong = refused("/v1/status", json!({"place": 3})).await;
    assert_eq!(wrong.code, Code::Invalid);
    assert!(wrong.message.contains("place"), "{wrong}");
    let peer =
        json!({"connect": "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWGvLk7H8cNN5Pzj9V7wpQ2Ge3QWsxv3nPLtDPkPuhe5Vp"});
    assert_eq!(refused("/v1/peer", peer).await.code, Code::Offline);

    let document: Value = client.get("/v1/openapi.json").await.unwrap();
    let paths = document["paths"].as_object().unwrap();
    assert_eq!(paths.len(), 58, "{:?}", paths.keys());
    // Every schema that is referred to is there.
    let text = document.to_string();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name} is not described");
    }
    drop(client);
    service.unwrap().close().await;
}
