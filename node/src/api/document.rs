//! Routes and their OpenAPI description from one list, so that neither can say what the other does not.

use std::collections::BTreeMap;
use std::future::Future;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::response::{IntoResponse as _, Response};
use axum::routing;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, InfoBuilder, OpenApi, OpenApiBuilder, Paths, Ref, RefOr, Required,
    ResponseBuilder, Schema,
};

use super::types::{Code, Problem};

/// Routes over a service `S`, as they are listed.
pub(super) struct Routes<S> {
    router: Router<S>,
    paths: Paths,
    schemas: BTreeMap<String, RefOr<Schema>>,
}

impl<S: Clone + Send + Sync + 'static> Routes<S> {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { router: Router::new(), paths: Paths::new(), schemas: BTreeMap::new() }
    }

    /// `GET path`, answered by `call`.
    pub(super) fn get<R, F, A>(mut self, path: &str, summary: &str, call: F) -> Self
    where
        R: Serialize + ToSchema + Send + 'static,
        F: Fn(S) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<R, Problem>> + Send + 'static,
    {
        let answer = self.schema::<R>();
        self.describe(HttpMethod::Get, path, summary, None, answer);
        let handler = async move |State(service): State<S>| run(call(service)).await;
        self.router = self.router.route(path, routing::get(handler));
        self
    }

    /// `POST path` with a JSON body `T`, answered by `call`.
    pub(super) fn post<T, R, F, A>(mut self, path: &str, summary: &str, call: F) -> Self
    where
        T: DeserializeOwned + ToSchema + Send + 'static,
        R: Serialize + ToSchema + Send + 'static,
        F: Fn(S, T) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Result<R, Problem>> + Send + 'static,
    {
        let (body, answer) = (self.schema::<T>(), self.schema::<R>());
        self.describe(HttpMethod::Post, path, summary, Some(body), answer);
        let handler = async move |State(service): State<S>, body: Result<Json<T>, JsonRejection>| match body {
            Ok(Json(request)) => run(call(service, request)).await,
            Err(error) => Problem::new(Code::Invalid, error.body_text()).into_response(),
        };
        self.router = self.router.route(path, routing::post(handler));
        self
    }

    /// Describes a route whose handler is made by hand.
    pub(super) fn described<R: ToSchema>(
        mut self,
        path: &str,
        summary: &str,
        route: routing::MethodRouter<S>,
    ) -> Self {
        let answer = self.schema::<R>();
        self.describe(HttpMethod::Get, path, summary, None, answer);
        self.router = self.router.route(path, route);
        self
    }

    /// The router, and the document about it.
    pub(super) fn finish(mut self) -> (Router<S>, OpenApi) {
        self.schema::<Problem>();
        let info = InfoBuilder::new()
            .title("Flair control API")
            .description(Some(
                "What the command `flair` asks of a node. Ids are text in full; models pass by path.",
            ))
            .version(env!("CARGO_PKG_VERSION"))
            .build();
        let components = ComponentsBuilder::new().schemas_from_iter(self.schemas).build();
        let document =
            OpenApiBuilder::new().info(info).paths(self.paths).components(Some(components)).build();
        (self.router, document)
    }

    /// A reference to the schema of `T`, which is put into the document with all that it refers to.
    fn schema<T: ToSchema>(&mut self) -> RefOr<Schema> {
        let mut found = Vec::new();
        T::schemas(&mut found);
        let name = T::name();
        self.schemas.extend(found);
        // A list has no name of its own.
        if name == "Vec" {
            return T::schema();
        }
        self.schemas.insert(name.to_string(), T::schema());
        RefOr::Ref(Ref::from_schema_name(name))
    }

    fn describe(
        &mut self,
        method: HttpMethod,
        path: &str,
        summary: &str,
        body: Option<RefOr<Schema>>,
        answer: RefOr<Schema>,
    ) {
        let json = |schema: RefOr<Schema>| ContentBuilder::new().schema(Some(schema)).build();
        let kind = if path == super::EVENTS { "text/event-stream" } else { "application/json" };
        let problem = RefOr::Ref(Ref::from_schema_name(Problem::name()));
        let body = body.map(|schema| {
            RequestBodyBuilder::new()
                .content("application/json", json(schema))
                .required(Some(Required::True))
                .build()
        });
        let name = path.trim_start_matches("/v1/").replace(['/', '.'], "_");
        let operation = OperationBuilder::new()
            .operation_id(Some(name))
            .summary(Some(summary))
            .request_body(body)
            .response("200", ResponseBuilder::new().description("Done").content(kind, json(answer)))
            .response(
                "default",
                ResponseBuilder::new().description("Not done").content("application/json", json(problem)),
            )
            .build();
        self.paths.paths.insert(path.into(), PathItem::new(method, operation));
    }
}

/// Runs a request to its end even if who asked has gone, so that nothing is left half done.
async fn run<R: Serialize + Send + 'static>(
    request: impl Future<Output = Result<R, Problem>> + Send + 'static,
) -> Response {
    match tokio::spawn(request).await {
        Ok(Ok(answer)) => Json(answer).into_response(),
        Ok(Err(problem)) => problem.into_response(),
        Err(error) => {
            tracing::error!(%error, "a request failed inside");
            Problem::new(Code::Internal, "the request failed inside the node")
                .help("the node's log has more; please report it")
                .into_response()
        }
    }
}
