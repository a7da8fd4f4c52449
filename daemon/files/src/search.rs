//! `GET /files/search`: files and directories whose base name matches a pattern.

use std::ffi::OsStr;
use std::io;
use std::path::PathBuf;

use axum::extract::State;
use axum::response::Response;
use pinfold_http::{ApiResult, Query};
use pinfold_spawn::Sandbox;

use crate::find::report;
use crate::glob::Glob;
use crate::limit::Limit;
use crate::path;
use crate::stream::json_list;
use crate::walk::{Entry, walk};

/// Every match, in the order of the walk. `limit`, ours, is how many are wanted; `truncated` then says that there are more.
pub(crate) async fn search(State(sandbox): State<Sandbox>, query: Query) -> ApiResult<Response> {
    let given = PathBuf::from(query.required("path")?);
    let glob = Glob::parse(query.required("pattern")?);
    let mut limit = Limit::of(&query)?;
    let root = sandbox.resolve(&given);
    let given = path::clean(&given);
    Ok(json_list("{\"files\":[", "]}", move |list| {
        let Some(glob) = glob else { return Ok(()) };
        let mut more = false;
        let walked = walk(&root, &mut |entry: Entry<'_>| {
            let name = entry.name().map_or_else(|| path::base_name(&given), OsStr::to_owned);
            if list.abandoned() {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if !glob.matches(&name.to_string_lossy()) {
                return Ok(());
            }
            more = !limit.take();
            if more { Err(io::ErrorKind::Other.into()) } else { list.push(&report(&given, &entry.below())) }
        });
        if more {
            list.close_with("],\"truncated\":true}");
            return Ok(());
        }
        walked
    }))
}
