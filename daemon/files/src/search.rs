//! `GET /files/search`: files and directories whose base name matches a pattern.

use std::path::PathBuf;

use axum::extract::State;
use axum::response::Response;
use pinfold_http::{ApiResult, Query};
use pinfold_spawn::Sandbox;

use crate::find::report;
use crate::glob::Glob;
use crate::path;
use crate::stream::json_list;
use crate::walk::{Entry, walk};

/// Every match, in the order of the walk.
pub(crate) async fn search(State(sandbox): State<Sandbox>, query: Query) -> ApiResult<Response> {
    let given = PathBuf::from(query.required("path")?);
    let glob = Glob::parse(query.required("pattern")?);
    let root = sandbox.resolve(&given);
    let given = path::clean(&given);
    Ok(json_list("{\"files\":[", "]}", move |list| {
        let Some(glob) = glob else { return Ok(()) };
        walk(&root, &mut |entry: Entry| {
            let name = if entry.below.as_os_str().is_empty() {
                path::base_name(&given)
            } else {
                path::base_name(&entry.below)
            };
            if glob.matches(&name.to_string_lossy()) {
                list.push(&report(&given, &entry.below))
            } else {
                Ok(())
            }
        })
    }))
}
