//! `GET /files/find`: which lines below a path contain a text or match an expression.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_proto::toolbox::files::Match;
use pinfold_spawn::Sandbox;
use serde::Serialize;

use crate::directory::Directory;
use crate::limit::Limit;
use crate::needle::Needle;
use crate::scan::Line;
use crate::stream::{Feed, JsonList, json_list};
use crate::{blocking, parallel, path};

/// Every matching line, in the order of the walk. Three parameters are ours: `ignoreCase=true` takes letters in any case, `regex=true` takes the
/// pattern as a regular expression, and `limit` is how many lines are wanted; the one after the last then says that there are more.
pub(crate) async fn find(State(sandbox): State<Sandbox>, query: Query) -> ApiResult<Response> {
    let given = PathBuf::from(query.required("path")?);
    let pattern = query.required("pattern")?.to_owned();
    let any_case = query.flag("ignoreCase");
    let needle = if query.flag("regex") {
        // Some milliseconds for the largest that is taken.
        blocking(move || Needle::expression(&pattern, any_case).map_err(ApiError::bad_request)).await?
    } else {
        Needle::text(&pattern, any_case)
    };
    let limit = Limit::of(&query)?;
    let root = sandbox.resolve(&given);
    let search = move |list: &mut JsonList| {
        let mut found = Found { given: path::clean(&given), last: None, list, limit };
        parallel::search(&root, &needle, &mut found)
    };
    Ok(json_list("[", "]", search))
}

/// Where a line was found.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) directory: Arc<Directory>,
    /// The file's among the directory's entries.
    pub(crate) index: usize,
}

/// Takes what is found, in order.
#[derive(Debug)]
pub(crate) struct Found<'f> {
    given: PathBuf,
    /// The file of the line before and how it is reported.
    last: Option<(Place, String)>,
    list: &'f mut JsonList,
    limit: Limit,
}

impl Found<'_> {
    /// Sends one line. False when no more are wanted.
    pub(crate) fn push(&mut self, place: &Place, line: Line) -> io::Result<bool> {
        if !self.limit.take() {
            self.list.push(&Cut { file: "", line: 0, content: "", truncated: true })?;
            return Ok(false);
        }
        let same = |(last, _): &(Place, String)| {
            last.index == place.index && Arc::ptr_eq(&last.directory, &place.directory)
        };
        let (_, file) = match self.last.take().filter(same) {
            Some(last) => self.last.insert(last),
            None => {
                self.last.insert((place.clone(), report(&self.given, &place.directory.below(place.index))))
            }
        };
        self.list.push(&Match { file: file.clone(), line: line.number, content: line.content })?;
        Ok(true)
    }

    /// What tells whether the client has left.
    pub(crate) fn client(&self) -> Feed {
        self.list.client()
    }
}

/// In place of a line: there are more than were wanted.
#[derive(Debug, Serialize)]
struct Cut {
    file: &'static str,
    line: u64,
    content: &'static str,
    truncated: bool,
}

/// The root as it was asked for, joined with what is below it.
pub(crate) fn report(given: &Path, below: &Path) -> String {
    if below.as_os_str().is_empty() {
        path::text(given)
    } else {
        path::text(&path::clean(&given.join(below)))
    }
}
