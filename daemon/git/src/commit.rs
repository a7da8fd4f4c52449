//! `POST /git/commit`.

use axum::Json;
use axum::extract::State;
use git2::{Repository, Signature};
use pinfold_http::{ApiResult, JsonBody};
use pinfold_proto::toolbox::git::{CommitRequest, CommitResponse};

use crate::error::{Failure, Kind};
use crate::repository::Context;
use crate::required;

pub(crate) async fn commit(
    State(context): State<Context>,
    JsonBody(request): JsonBody<CommitRequest>,
) -> ApiResult<Json<CommitResponse>> {
    required(&[
        ("path", &request.path),
        ("message", &request.message),
        ("author", &request.author),
        ("email", &request.email),
    ])?;
    let hash = context.run(move |task| make(task.open(&request.path)?, &request)).await?;
    Ok(Json(CommitResponse { hash }))
}

fn make(mut repository: Repository, request: &CommitRequest) -> Result<String, Failure> {
    let mut index = repository.index()?;
    if index.has_conflicts() {
        return Err(Failure::new(
            Kind::MergeConflict,
            "the index has unmerged files: resolve and add them first",
        ));
    }
    let message = git2::message_prettify(&request.message, None)?;
    if message.is_empty() {
        return Err(Failure::invalid("the commit message is blank"));
    }
    let who = Signature::now(&request.author, &request.email)
        .map_err(|error| Failure::invalid(format!("the author cannot be recorded: {}", error.message())))?;
    // A merge that was begun elsewhere is concluded.
    let mut merged = Vec::new();
    if repository.state() == git2::RepositoryState::Merge {
        repository.mergehead_foreach(|id| {
            merged.push(*id);
            true
        })?;
    }
    let tree = repository.find_tree(index.write_tree()?)?;
    let head = match repository.head() {
        Ok(head) => Some(head.peel_to_commit()?),
        Err(error) if error.code() == git2::ErrorCode::UnbornBranch => None,
        Err(error) => return Err(error.into()),
    };
    let unchanged = head.as_ref().map_or(tree.is_empty(), |head| head.tree_id() == tree.id());
    if unchanged && merged.is_empty() && !request.allow_empty {
        return Err(Failure::new(Kind::Conflict, "nothing to commit: no changes are staged"));
    }
    let mut parents: Vec<_> = head.into_iter().collect();
    for id in merged {
        parents.push(repository.find_commit(id)?);
    }
    let parents: Vec<_> = parents.iter().collect();
    let id = repository.commit(Some("HEAD"), &who, &who, &message, &tree, &parents)?;
    repository.cleanup_state()?;
    Ok(id.to_string())
}
