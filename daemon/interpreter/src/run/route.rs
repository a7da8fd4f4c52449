//! The route.

use std::collections::BTreeMap;
use std::io;

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use pinfold_http::{ApiError, ApiResult, JsonBody};
use pinfold_process::{Ended, Processes, Program};
use pinfold_proto::toolbox::interpreter::{Artifacts, CodeRun};
use pinfold_spawn::{SpawnError, is_valid_name};
use serde_json::{Map, Value, json};

use super::language::{Language, Prepared};

/// Exit code of a shell that does not find a command.
const NOT_FOUND: i32 = 127;
/// Exit code of a shell that may not run a command.
const NOT_EXECUTABLE: i32 = 126;

pub(crate) fn router(processes: Processes) -> Router {
    Router::new().route("/process/code-run", post(code_run)).with_state(processes)
}

async fn code_run(
    State(processes): State<Processes>,
    JsonBody(request): JsonBody<CodeRun>,
) -> ApiResult<Response> {
    let language = check(&request)?;
    // A client that goes away does not stop its program.
    let outcome = tokio::spawn(run(processes, language, request)).await;
    outcome.map_err(|error| ApiError::internal(format_args!("the program was lost: {error}")))?
}

fn check(request: &CodeRun) -> ApiResult<Language> {
    if request.code.is_empty() {
        return Err(ApiError::invalid_body("code is required"));
    }
    if request.language.is_empty() {
        return Err(ApiError::invalid_body("language is required"));
    }
    let bad = |what: String| ApiError::bad_request(format_args!("bad request: {what}"));
    if let Some(name) = request.envs.keys().find(|name| !is_valid_name(name)) {
        return Err(bad(format!("{name:?} is not a variable name")));
    }
    if request.envs.values().chain(&request.argv).any(|text| text.contains('\0')) {
        return Err(bad("an argument or variable cannot hold a NUL byte".to_owned()));
    }
    request.language.parse().map_err(bad)
}

async fn run(processes: Processes, language: Language, request: CodeRun) -> ApiResult<Response> {
    let sandbox = processes.sandbox();
    let failed =
        |error: io::Error| ApiError::internal(format_args!("the program could not be prepared: {error}"));
    let Prepared { mut command, variables, charts, _directory } =
        language.prepare(sandbox, &request).await.map_err(failed)?;
    command.current_dir(&sandbox.work_dir);
    let own: BTreeMap<String, String> =
        variables.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    sandbox.environment.apply(&mut command, own.iter().chain(&request.envs));
    let outcome = processes.run(Program { command, limit: request.timeout }).await?;
    let ended: Ended = match outcome {
        Ok(ended) => ended,
        Err(error) => return Ok(not_started(&error)),
    };
    let mut members = Map::new();
    if let Some(charts) = charts {
        let charts = charts.collected().await;
        if !charts.is_empty() {
            members.insert(
                "artifacts".to_owned(),
                serde_json::to_value(Artifacts { charts }).unwrap_or_default(),
            );
        }
    }
    let code = ended.exit.shell_code();
    Ok(ended.answer(code, members))
}

/// What a shell would have said.
fn not_started(error: &SpawnError) -> Response {
    let (code, text) = match error {
        SpawnError::Start { program, source, .. } if source.kind() == io::ErrorKind::NotFound => {
            (NOT_FOUND, format!("{program}: command not found\n"))
        }
        SpawnError::Start { program, source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            (NOT_EXECUTABLE, format!("{program}: permission denied\n"))
        }
        other => (-1, format!("{other}\n")),
    };
    let body: Value = json!({ "exitCode": code, "result": text });
    axum::response::IntoResponse::into_response(axum::Json(body))
}
