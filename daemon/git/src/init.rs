//! `POST /git/init`.

use axum::extract::State;
use git2::{Repository, RepositoryInitOptions};
use http::StatusCode;
use pinfold_http::{ApiResult, JsonBody};
use pinfold_proto::toolbox::git::InitRequest;

use crate::error::Failure;
use crate::repository::Context;
use crate::required;

pub(crate) async fn init(
    State(context): State<Context>,
    JsonBody(request): JsonBody<InitRequest>,
) -> ApiResult<StatusCode> {
    required(&[("path", &request.path)])?;
    context
        .run(move |task| {
            let mut options = RepositoryInitOptions::new();
            options.bare(request.bare).mkpath(true).external_template(false);
            let branch = &request.initial_branch;
            if !branch.is_empty() {
                if !git2::Branch::name_is_valid(branch)? {
                    return Err(Failure::invalid(format!("{branch:?} is not a valid branch name")));
                }
                options.initial_head(branch);
            }
            let path = task.sandbox.resolve(&request.path);
            let made = Repository::init_opts(&path, &options);
            made.map(drop)
                .map_err(|error| Failure::from(error).during(&format!("could not make {}", path.display())))
        })
        .await?;
    Ok(StatusCode::CREATED)
}
