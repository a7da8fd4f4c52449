//! `GET /process/tree`, ours: every process of the sandbox, so that no client has to parse `ps`.

use axum::Json;
use pinfold_http::{ApiError, ApiResult};
use pinfold_proto::toolbox::process::ProcessInfo;
use pinfold_spawn::tree;

pub(crate) async fn list() -> ApiResult<Json<Vec<ProcessInfo>>> {
    let all = tokio::task::spawn_blocking(tree::all).await.map_err(ApiError::internal)?;
    let info = |entry: tree::Entry| ProcessInfo {
        pid: entry.pid,
        parent: entry.parent,
        group: entry.group,
        session: entry.session,
        state: entry.state,
        name: entry.name,
    };
    let mut list: Vec<ProcessInfo> = all.into_iter().map(info).collect();
    list.sort_by_key(|process| process.pid);
    Ok(Json(list))
}
