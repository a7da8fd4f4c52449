//! The routes as the daemon serves them: each request goes to a process of its own ([`child`]), in which the engine serves it.
//!
//! Invariants:
//! * nothing of a repository is read in this process, so neither its size nor libgit2 can harm the daemon;
//! * an operation that changes a repository has it to itself ([`turns`]), until its process is gone;
//! * a clone appears complete at its path, or not at all, whatever became of its process ([`clone`]).

mod child;
mod clone;
mod turns;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request, State};
use axum::response::Response;
use axum::routing::on;
use http::HeaderValue;
use http::request::Parts;
use pinfold_http::{ApiError, ApiResult, json};
use pinfold_proto::toolbox::git::ConfigScope;
use pinfold_spawn::Sandbox;
use serde::Deserialize;

use crate::config::SYSTEM;
use crate::operations::{Manner, OPERATIONS, Operation};
use child::Child;
pub(crate) use clone::DIRECTORY;
use turns::{Turn, Turns};

/// Longest time of a clone, push, pull or fetch, such as `10m`; none when unset or malformed.
const TIMEOUT: &str = "PINFOLD_GIT_TIMEOUT";

/// What the routes are made from.
#[derive(Debug, Clone)]
struct Front {
    sandbox: Sandbox,
    program: Arc<Path>,
    turns: Turns,
}

/// The routes under `/git`. `program` is started for each request, under the name that [`crate::is_engine`] knows.
pub fn router(sandbox: Sandbox, program: impl Into<Arc<Path>>) -> Router {
    let front = Front { sandbox, program: program.into(), turns: Turns::default() };
    let add = |router: Router<Front>, operation: &Operation| {
        let around = match operation.manner {
            Manner::Look => on(operation.method, look),
            Manner::Change => on(operation.method, change),
            Manner::Transfer => on(operation.method, transfer),
            Manner::Configure => on(operation.method, configure),
            Manner::Clone => on(operation.method, clone::clone),
        };
        router.route(operation.path, around)
    };
    OPERATIONS.iter().fold(Router::new(), add).with_state(front)
}

/// A request, read to its end.
struct Asked {
    head: Parts,
    body: Bytes,
    /// Where a clone is to grow.
    directory: Option<HeaderValue>,
}

/// The members that say whose turn a request waits for. What is wrong with them the engine says.
#[derive(Default, Deserialize)]
struct Named {
    path: Option<String>,
    scope: Option<ConfigScope>,
}

impl Asked {
    async fn read(request: Request) -> ApiResult<Self> {
        let (head, body) = request.into_parts();
        let request = Request::from_parts(head.clone(), body);
        let body = Bytes::from_request(request, &()).await.map_err(ApiError::invalid_body)?;
        Ok(Self { head, body, directory: None })
    }

    fn named(&self) -> Named {
        json::first_value(&self.body).unwrap_or_default()
    }
}

async fn look(State(front): State<Front>, request: Request) -> ApiResult<Response> {
    front.run(Asked::read(request).await?, None, None).await
}

async fn change(State(front): State<Front>, request: Request) -> ApiResult<Response> {
    let asked = Asked::read(request).await?;
    let turn = front.turn(&asked.named().path.unwrap_or_default()).await;
    front.run(asked, Some(turn), None).await
}

async fn transfer(State(front): State<Front>, request: Request) -> ApiResult<Response> {
    let asked = Asked::read(request).await?;
    let turn = front.turn(&asked.named().path.unwrap_or_default()).await;
    let limit = front.limit();
    front.run(asked, Some(turn), limit).await
}

/// Writers of one scope's configuration come one after another.
async fn configure(State(front): State<Front>, request: Request) -> ApiResult<Response> {
    let asked = Asked::read(request).await?;
    let Named { path, scope } = asked.named();
    let file = match scope.unwrap_or_default() {
        ConfigScope::Global => front.sandbox.home.join(".gitconfig").to_string_lossy().into_owned(),
        ConfigScope::System => SYSTEM.to_owned(),
        ConfigScope::Local => path.unwrap_or_default(),
    };
    let turn = front.turn(&file).await;
    front.run(asked, Some(turn), None).await
}

impl Front {
    async fn turn(&self, path: &str) -> Turn {
        self.turns.wait(&self.sandbox.resolve(path)).await
    }

    /// The limit for a whole transfer, for those who want one: silence has limits anyway, but a slow remote may take hours.
    fn limit(&self) -> Option<Duration> {
        let text = self.sandbox.environment.get(TIMEOUT)?;
        match pinfold_settings::parse_duration(&text) {
            Ok(limit) => Some(limit).filter(|limit| !limit.is_zero()),
            Err(error) => {
                tracing::warn!(variable = TIMEOUT, %error, "the limit is ignored");
                None
            }
        }
    }

    /// Serves one request in a process of its own, whose end is also that of the turn.
    async fn run(&self, asked: Asked, turn: Option<Turn>, limit: Option<Duration>) -> ApiResult<Response> {
        Child::start(self, turn, limit).await?.ask(asked).await
    }
}
