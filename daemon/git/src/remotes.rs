//! `/git/remotes`.

use axum::Json;
use axum::extract::State;
use http::StatusCode;
use pinfold_http::{ApiResult, JsonBody, Query};
use pinfold_proto::toolbox::git::{AddRemoteRequest, Remote, RemoteList};

use crate::error::{Failure, Kind};
use crate::remote::{Address, Login, Wire};
use crate::repository::Context;
use crate::required;

pub(crate) async fn list(State(context): State<Context>, query: Query) -> ApiResult<Json<RemoteList>> {
    let path = query.required("path")?.to_owned();
    context
        .run(move |task| {
            let repository = task.open(&path)?;
            let mut remotes = Vec::new();
            for name in repository.remotes()?.iter_bytes() {
                let name = String::from_utf8_lossy(name).into_owned();
                let remote = repository.find_remote(&name)?;
                remotes.push(Remote { url: String::from_utf8_lossy(remote.url_bytes()).into_owned(), name });
            }
            remotes.sort_by(|a, b| a.name.cmp(&b.name));
            Ok(RemoteList { remotes })
        })
        .await
        .map(Json)
}

pub(crate) async fn add(
    State(context): State<Context>,
    JsonBody(request): JsonBody<AddRemoteRequest>,
) -> ApiResult<StatusCode> {
    let AddRemoteRequest { path, name, url, fetch, overwrite } = request;
    required(&[("path", &path), ("name", &name), ("url", &url)])?;
    context
        .run(move |task| {
            let repository = task.open(&path)?;
            if !git2::Remote::is_valid_name(&name) {
                return Err(Failure::invalid(format!("{name:?} is not a valid remote name")));
            }
            if repository.find_remote(&name).is_ok() {
                if !overwrite {
                    return Err(Failure::new(
                        Kind::Conflict,
                        format!("a remote named {name:?} already exists"),
                    ));
                }
                repository.remote_delete(&name)?;
            }
            let remote = repository.remote(&name, &url)?;
            if fetch {
                let wire = Wire::new(task, &Address::of(remote.url()?, task)?, Login::none(), false);
                wire.fetch(&repository, remote, &[], 0)?;
            }
            Ok(())
        })
        .await?;
    Ok(StatusCode::CREATED)
}
