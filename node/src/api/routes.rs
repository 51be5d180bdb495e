//! What can be asked, and how it reaches the service.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, State};
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use axum::{Json, Router, middleware, routing};
use futures_util::stream;
use tokio::sync::{broadcast, watch};

use super::document::Routes;
use super::socket::Socket;
use super::types::{Code, Event, Problem};
use super::{EVENTS, guard};
use crate::service::Service;

/// Largest request, in bytes. Models pass by path.
const LARGEST: usize = 1 << 20;
/// How long a stop waits for answers that are under way.
const PATIENCE: Duration = Duration::from_secs(5);

/// Serves a node's socket until `stop`, then lets answers that are under way go out, for at most five seconds.
///
/// # Errors
/// When the socket fails.
pub async fn serve(
    socket: Socket,
    service: Service,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (sender, stopping) = watch::channel(false);
    let router = routed(service, stopping.clone());
    let stop = async move {
        stop.await;
        // Streams of events would never end by themselves.
        let _ = sender.send(true);
    };
    let served = axum::serve(socket, router).with_graceful_shutdown(stop);
    tokio::select! {
        result = async { served.await } => result,
        () = patience(stopping) => Ok(()),
    }
}

/// The router over a service in this process.
pub fn router(service: Service) -> Router {
    // The channel's other end is gone, which no stream takes for a stop.
    routed(service, watch::channel(false).1)
}

async fn patience(mut stopping: watch::Receiver<bool>) {
    if stopping.wait_for(|stops| *stops).await.is_err() {
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(PATIENCE).await;
}

fn routed(service: Service, stopping: watch::Receiver<bool>) -> Router {
    let (router, document) = routes(stopping).finish();
    let document = Arc::new(document);
    let described = async move || Json(Arc::clone(&document)).into_response();
    router
        .route("/v1/openapi.json", routing::get(described))
        .fallback(async || Problem::new(Code::NotFound, "the control API has no such path").into_response())
        .method_not_allowed_fallback(async || {
            Problem::new(Code::Invalid, "lists are GET, requests are POST").into_response()
        })
        .with_state(service)
        .layer(DefaultBodyLimit::max(LARGEST))
        .layer(middleware::from_fn(guard::refuse_foreign))
}

/// A handler that hands a request to the service's method.
macro_rules! to {
    ($method:ident) => {
        async |service: Service, request| service.$method(request).await
    };
}

fn routes(stopping: watch::Receiver<bool>) -> Routes<Service> {
    let events = async move |State(service): State<Service>| follow(service.events(), stopping.clone());
    Routes::new()
        .get("/v1/identity", "Who this node is", async |s: Service| s.identity().await)
        .get("/v1/node", "How the node is", async |s: Service| s.node_status().await)
        .get("/v1/peers", "Peers", async |s: Service| s.peers().await)
        .get("/v1/repositories", "Repositories this node has", async |s: Service| s.repositories().await)
        .described::<Event>(EVENTS, "What happens, as it happens", routing::get(events))
        .post("/v1/peer", "Dial a peer or lift a ban", to!(peer))
        .post("/v1/import", "Convert a PyTorch checkpoint to safetensors", to!(import))
        .post("/v1/init", "Start a repository from a model", to!(init))
        .post("/v1/ticket", "Make a ticket", to!(ticket))
        .post("/v1/clone", "Get a repository", to!(clone_repository))
        .post("/v1/fetch", "Get what is not here yet", to!(fetch))
        .post("/v1/join", "Ask to contribute", to!(join))
        .post("/v1/status", "Where folder and repository stand", to!(status))
        .post("/v1/diff", "Compare two models", to!(diff))
        .post("/v1/commit", "Make a draft from the folder", to!(commit))
        .post("/v1/push", "Publish the drafts as one update", to!(push))
        .post("/v1/privacy", "What differential privacy was spent", to!(privacy))
        .post("/v1/pull", "Move the folder to the newest head", to!(pull))
        .post("/v1/checkout", "Move the folder to a branch or commit", to!(checkout))
        .post("/v1/restore", "Set the files back to the folder's commit", to!(restore))
        .post("/v1/external-base", "The model that an adapter is for", to!(external))
        .post("/v1/external-base/pin", "Pin the model that an adapter is for", to!(external_pin))
        .post("/v1/reset", "Undo drafts", to!(reset))
        .post("/v1/log", "History", to!(log))
        .post("/v1/show", "One commit", to!(show))
        .post("/v1/verify", "Run recipes again", to!(verify))
        .post("/v1/aggregate", "Aggregate now", to!(aggregate))
        .post("/v1/aggregate/trial", "Try the next aggregate, perhaps without an input", to!(aggregate_trial))
        .post("/v1/aggregate/simulate", "Compare rules on the same updates", to!(simulate))
        .post("/v1/merge", "Merge another branch", to!(merge))
        .post("/v1/revert", "Go back to an earlier model", to!(revert))
        .post("/v1/members", "Members", to!(members))
        .post("/v1/member/grant", "Give a role", to!(grant))
        .post("/v1/member/revoke", "Take a role away", to!(revoke))
        .post("/v1/policy", "The policy in force and what is proposed", to!(policy))
        .post("/v1/policy/propose", "Propose a change of the policy", to!(policy_propose))
        .post("/v1/policy/approve", "Approve of a proposed change", to!(policy_approve))
        .post("/v1/policy/resolve", "Choose between contradicting changes", to!(policy_resolve))
        .post("/v1/policy/explain", "A policy in words", to!(policy_explain))
        .post("/v1/audit", "Check everything behind a model again", to!(audit))
        .post("/v1/review", "Judge a commit", to!(review))
        .post("/v1/reviews", "What waits for accepts", to!(reviews))
        .post("/v1/evaluations", "What is to be evaluated", to!(evaluations))
        .post("/v1/evaluate/seal", "Hash data and code of an evaluation", to!(evaluate_seal))
        .post("/v1/evaluate", "Publish what was measured", to!(evaluate))
        .post("/v1/branches", "Branches", to!(branches))
        .post("/v1/branch/create", "Create a branch", to!(branch_create))
        .post("/v1/branch/rename", "Rename a branch", to!(branch_rename))
        .post("/v1/branch/delete", "Delete a branch", to!(branch_delete))
        .post("/v1/seed", "Follow a repository or stop", to!(seed))
        .post("/v1/export", "Write a commit's files, or the repository document", to!(export))
        .post("/v1/bundle/create", "Write a bundle", to!(bundle_create))
        .post("/v1/bundle/verify", "Check a bundle", to!(bundle_verify))
        .post("/v1/bundle/apply", "Take over what a bundle has", to!(bundle_apply))
        .post("/v1/du", "What takes how much of the disk", to!(du))
        .post("/v1/gc", "Give back what nothing needs", async |s: Service, (): ()| s.gc().await)
        .post("/v1/fsck", "Read everything that is kept, and mend it", to!(fsck))
        .post("/v1/shutdown", "Stop the node", async |s: Service, (): ()| s.shutdown().await)
}

/// Sends events until the node stops. Who reads too slowly is told that some are missing.
fn follow(receiver: broadcast::Receiver<Event>, stopping: watch::Receiver<bool>) -> Response {
    let events = stream::unfold((receiver, stopping), async |(mut receiver, mut stopping)| {
        let event = tokio::select! {
            Ok(_) = stopping.wait_for(|stops| *stops) => return None,
            event = receiver.recv() => match event {
                Ok(event) => event,
                Err(broadcast::error::RecvError::Lagged(missed)) => Event {
                    kind: "work".into(),
                    repo: None,
                    text: format!("{missed} events were missed"),
                    done: None,
                    total: None,
                },
                Err(broadcast::error::RecvError::Closed) => return None,
            },
        };
        let event = sse::Event::default().json_data(event).unwrap_or_default();
        Some((Ok::<_, Infallible>(event), (receiver, stopping)))
    });
    Sse::new(events).keep_alive(KeepAlive::default()).into_response()
}
