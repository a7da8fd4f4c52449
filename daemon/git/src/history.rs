//! `GET /git/history`: every commit that `HEAD` reaches, newest first, written as it is read.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use git2::{Commit, Repository};
use http::header::CONTENT_TYPE;
use pinfold_http::{ApiResult, Query};
use pinfold_proto::toolbox::git::CommitInfo;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::error::Failure;
use crate::repository::Context;

/// Bytes of JSON that are handed on at a time.
const CHUNK: usize = 64 << 10;

/// Besides `path`: `skip` and `limit`, counts of commits.
pub(crate) async fn history(State(context): State<Context>, query: Query) -> ApiResult<Response> {
    let path = query.required("path")?.to_owned();
    let skip = query.parsed::<usize>("skip")?.unwrap_or(0);
    let limit = query.parsed::<usize>("limit")?.unwrap_or(usize::MAX);
    // Opened first, so that a missing repository or commit is an error status and not a broken body.
    let repository = context
        .run(move |task| {
            let repository = task.open(&path)?;
            repository
                .head()
                .map_err(|error| Failure::from(error).during("the repository has no commits"))?;
            Ok(repository)
        })
        .await?;
    let (sender, receiver) = mpsc::channel(2);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = write(&repository, skip, limit, &sender) {
            tracing::warn!(%error, "the history broke off");
            // An error ends the body without its last chunk, so that the client does not take it for complete.
            let _gone = sender.blocking_send(Err(error));
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver));
    Ok(([(CONTENT_TYPE, "application/json; charset=utf-8")], body).into_response())
}

fn write(
    repository: &Repository,
    skip: usize,
    limit: usize,
    sender: &mpsc::Sender<Result<Bytes, Failure>>,
) -> Result<(), Failure> {
    let mut walk = repository.revwalk()?;
    walk.push_head()?;
    let mut chunk = vec![b'['];
    let mut first = true;
    for id in walk.skip(skip).take(limit) {
        let commit = repository.find_commit(id?)?;
        if !std::mem::take(&mut first) {
            chunk.push(b',');
        }
        serde_json::to_writer(&mut chunk, &info(&commit)).map_err(std::io::Error::from)?;
        if chunk.len() >= CHUNK && sender.blocking_send(Ok(std::mem::take(&mut chunk).into())).is_err() {
            // The client is gone.
            return Ok(());
        }
    }
    chunk.push(b']');
    let _gone = sender.blocking_send(Ok(chunk.into()));
    Ok(())
}

fn info(commit: &Commit<'_>) -> CommitInfo {
    let author = commit.author();
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    CommitInfo {
        hash: commit.id().to_string(),
        author: text(author.name_bytes()),
        email: text(author.email_bytes()),
        message: text(commit.message_bytes()),
        timestamp: timestamp(author.when()),
    }
}

/// RFC 3339 with the author's offset. Times that no calendar has become its first instant.
fn timestamp(time: git2::Time) -> String {
    let instant = jiff::Timestamp::from_second(time.seconds()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    let offset = time
        .offset_minutes()
        .checked_mul(60)
        .and_then(|seconds| jiff::tz::Offset::from_seconds(seconds).ok());
    match offset.filter(|offset| offset.seconds() != 0) {
        Some(offset) => instant.display_with_offset(offset).to_string(),
        None => instant.to_string(),
    }
}
