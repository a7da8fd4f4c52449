//! `GET /files` and `GET /files/info`.

use std::fs::{DirEntry, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_proto::toolbox::files::FileInfo;
use pinfold_spawn::Sandbox;

use crate::blocking;
use crate::error::failed;
use crate::info::Describer;
use crate::stream::{JsonList, json_list};

/// One entry.
pub(crate) async fn info(State(sandbox): State<Sandbox>, query: Query) -> ApiResult<Json<FileInfo>> {
    let path = sandbox.resolve(query.required("path")?);
    blocking(move || Describer::new().at(&path).map_err(|error| failed("stat", &path, &error)))
        .await
        .map(Json)
}

/// The entries of a directory, by name; with a depth, each sub-directory's entries follow it. Links are not followed into.
pub(crate) async fn list(State(sandbox): State<Sandbox>, query: Query) -> ApiResult<Response> {
    let path = query.get("path").filter(|p| !p.is_empty()).unwrap_or(".");
    let path = sandbox.resolve(path);
    let depth = query.parsed::<u32>("depth")?.unwrap_or(1);
    if depth == 0 {
        return Err(ApiError::bad_request("the query parameter depth must be at least 1"));
    }
    // Opened before the answer begins, so that a failure still has its status.
    let (path, entries) = blocking(move || match entries(&path) {
        Ok(entries) => Ok((path, entries)),
        Err(error) => Err(failed("list", &path, &error)),
    })
    .await?;
    Ok(json_list("[", "]", move |list| {
        Listing { describer: Describer::new(), list }.write(&path, entries, depth)
    }))
}

/// What is known of an entry without opening it.
struct Entry {
    path: PathBuf,
    metadata: Metadata,
    /// A directory itself, not a link to one.
    directory: bool,
}

fn entries(directory: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = std::fs::read_dir(directory)?.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_cached_key(DirEntry::file_name);
    Ok(entries)
}

fn entry(directory: &Path, entry: &DirEntry) -> Option<Entry> {
    let path = directory.join(entry.file_name());
    let own = entry.metadata().ok()?;
    let directory = own.is_dir();
    // A link is described by what it leads to, or by itself if that is nothing.
    let metadata = if own.is_symlink() { std::fs::metadata(&path).unwrap_or(own) } else { own };
    Some(Entry { path, metadata, directory })
}

struct Listing<'a> {
    describer: Describer,
    list: &'a mut JsonList,
}

impl Listing<'_> {
    fn write(&mut self, directory: &Path, found: Vec<DirEntry>, depth: u32) -> io::Result<()> {
        for found in found {
            // Gone since the directory was read: not an entry any more.
            let Some(entry) = entry(directory, &found) else { continue };
            let info = self.describer.describe(&entry.path, &entry.metadata);
            self.list.push(&info)?;
            if entry.directory && depth > 1 {
                // A sub-directory that may not be read is listed without its entries.
                let below = entries(&entry.path).unwrap_or_default();
                self.write(&entry.path, below, depth - 1)?;
            }
        }
        Ok(())
    }
}
