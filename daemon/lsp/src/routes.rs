//! The routes under `/lsp`.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use pinfold_http::{ApiError, ApiResult, JsonBody, Query};
use pinfold_proto::toolbox::lsp::{
    CompletionList, CompletionRequest, DocumentRequest, ServerRequest, Symbol,
};
use pinfold_spawn::Sandbox;
use serde_json::json;

use crate::registry::Registry;
use crate::{answer, document, workspace};

/// The routes under `/lsp`, for at most `max` servers.
pub fn router(sandbox: Sandbox, max: usize) -> Router {
    Router::new()
        .route("/lsp/start", post(start))
        .route("/lsp/stop", post(stop))
        .route("/lsp/did-open", post(did_open))
        .route("/lsp/did-close", post(did_close))
        .route("/lsp/completions", post(completions))
        .route("/lsp/document-symbols", get(document_symbols))
        .route("/lsp/workspacesymbols", get(workspace_symbols))
        .with_state(Registry::new(sandbox, max))
}

fn required(members: &[(&str, &str)]) -> ApiResult<()> {
    match members.iter().find(|(_, value)| value.is_empty()) {
        Some((name, _)) => Err(ApiError::invalid_body(format_args!("{name} is required"))),
        None => Ok(()),
    }
}

async fn start(
    State(registry): State<Registry>,
    JsonBody(request): JsonBody<ServerRequest>,
) -> ApiResult<()> {
    let ServerRequest { language_id, path_to_project } = request;
    required(&[("languageId", &language_id), ("pathToProject", &path_to_project)])?;
    Ok(registry.start(&language_id, &path_to_project).await?)
}

async fn stop(State(registry): State<Registry>, JsonBody(request): JsonBody<ServerRequest>) -> ApiResult<()> {
    let ServerRequest { language_id, path_to_project } = request;
    required(&[("languageId", &language_id), ("pathToProject", &path_to_project)])?;
    Ok(registry.stop(&language_id, &path_to_project).await?)
}

async fn did_open(
    State(registry): State<Registry>,
    JsonBody(request): JsonBody<DocumentRequest>,
) -> ApiResult<()> {
    let DocumentRequest { language_id, path_to_project, uri } = request;
    required(&[("languageId", &language_id), ("pathToProject", &path_to_project), ("uri", &uri)])?;
    let server = registry.server(&language_id, &path_to_project).await?;
    Ok(server.open(&document::path(&registry.sandbox, &uri).await).await?)
}

async fn did_close(
    State(registry): State<Registry>,
    JsonBody(request): JsonBody<DocumentRequest>,
) -> ApiResult<()> {
    let DocumentRequest { language_id, path_to_project, uri } = request;
    required(&[("languageId", &language_id), ("pathToProject", &path_to_project), ("uri", &uri)])?;
    let server = registry.server(&language_id, &path_to_project).await?;
    Ok(server.close(&document::path(&registry.sandbox, &uri).await).await?)
}

async fn completions(
    State(registry): State<Registry>,
    JsonBody(request): JsonBody<CompletionRequest>,
) -> ApiResult<Json<CompletionList>> {
    let CompletionRequest { language_id, path_to_project, uri, position, context } = request;
    required(&[("languageId", &language_id), ("pathToProject", &path_to_project), ("uri", &uri)])?;
    let server = registry.server(&language_id, &path_to_project).await?;
    let mut params = json!({"position": position});
    if let Some(context) = context {
        params["context"] = json!(context);
    }
    let path = document::path(&registry.sandbox, &uri).await;
    Ok(Json(answer::completions(server.ask("textDocument/completion", &path, params).await?)))
}

async fn document_symbols(State(registry): State<Registry>, query: Query) -> ApiResult<Json<Vec<Symbol>>> {
    let (language, project) = (query.required("languageId")?, query.required("pathToProject")?);
    let path = document::path(&registry.sandbox, query.required("uri")?).await;
    let server = registry.server(language, project).await?;
    let found = server.ask("textDocument/documentSymbol", &path, json!({})).await?;
    Ok(Json(answer::symbols(&found, &document::uri(&path))))
}

async fn workspace_symbols(State(registry): State<Registry>, query: Query) -> ApiResult<Json<Vec<Symbol>>> {
    let (language, project) = (query.required("languageId")?, query.required("pathToProject")?);
    let name = query.required("query")?;
    let server = registry.server(language, project).await?;
    let project = document::path(&registry.sandbox, project).await;
    Ok(Json(workspace::symbols(&server, &project, name).await?))
}
