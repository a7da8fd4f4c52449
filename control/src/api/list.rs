//! Lists of sandboxes (control-plane contract 8).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use pinfold_http::{ApiError, ApiResult, Query};
use pinfold_proto::control::list::{PaginatedSandboxes, SandboxPage};
use pinfold_proto::control::sandbox::{DesiredState, Sandbox, SandboxState};
use serde::{Deserialize, Serialize};

use super::auth::User;
use super::sandbox_now;
use crate::core::Core;
use crate::sandbox::plan::wire_state;
use crate::store::sandboxes::Record;
use crate::{time, wire};

pub(super) fn routes() -> Router<Arc<Core>> {
    Router::new()
        .route("/sandbox", get(list))
        .route("/sandbox/paginated", get(paginated))
        .route("/sandbox/{id}", get(one))
}

async fn one(
    State(core): State<Arc<Core>>,
    _user: User,
    headers: HeaderMap,
    Path(id): Path<String>,
) -> ApiResult<Json<Sandbox>> {
    let handle = core.directory.get(&id)?;
    Ok(Json(sandbox_now(&core, &handle, &headers)))
}

/// A value that sandboxes are sorted by.
#[derive(Debug, Clone, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(untagged)]
enum SortKey {
    Number(i64),
    Text(String),
}

/// The place after which a page begins.
#[derive(Debug, Serialize, Deserialize)]
struct Cursor {
    value: SortKey,
    id: String,
}

struct Row {
    record: Arc<Record>,
    active: i64,
    key: SortKey,
}

impl Row {
    fn place(&self) -> (&SortKey, &str) {
        (&self.key, &self.record.id)
    }
}

fn compare(a: (&SortKey, &str), b: (&SortKey, &str), descending: bool) -> Ordering {
    let order = a.0.partial_cmp(b.0).unwrap_or(Ordering::Equal).then_with(|| a.1.cmp(b.1));
    if descending { order.reverse() } else { order }
}

async fn list(
    State(core): State<Arc<Core>>,
    _user: User,
    headers: HeaderMap,
    query: Query,
) -> ApiResult<Json<SandboxPage>> {
    let limit = query.parsed::<usize>("limit")?.unwrap_or(100);
    if !(1..=200).contains(&limit) {
        return Err(ApiError::bad_request("limit must be from 1 to 200"));
    }
    let descending = descending(&query)?;
    let mut rows = matching(&core, &query)?;
    if let Some(cursor) = query.get("cursor").filter(|cursor| !cursor.is_empty()) {
        let invalid = || ApiError::bad_request("the cursor is not one that this API gave out");
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| invalid())?;
        let cursor: Cursor = serde_json::from_slice(&bytes).map_err(|_| invalid())?;
        rows.retain(|row| compare(row.place(), (&cursor.value, &cursor.id), descending) == Ordering::Greater);
    }
    let more = rows.len() > limit;
    if more {
        // Only the page is sorted, however many there are.
        rows.select_nth_unstable_by(limit - 1, |a, b| compare(a.place(), b.place(), descending));
        rows.truncate(limit);
    }
    rows.sort_unstable_by(|a, b| compare(a.place(), b.place(), descending));
    let next_cursor = rows.last().filter(|_| more).map(|row| {
        let cursor = Cursor { value: row.key.clone(), id: row.record.id.clone() };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&cursor).unwrap_or_default())
    });
    let base = core.base_url(Some(&headers));
    let items = rows.iter().map(|row| wire::sandbox(&core, &row.record, row.active, &base)).collect();
    Ok(Json(SandboxPage { items, next_cursor }))
}

async fn paginated(
    State(core): State<Arc<Core>>,
    _user: User,
    headers: HeaderMap,
    query: Query,
) -> ApiResult<Json<PaginatedSandboxes>> {
    let (page, limit) = page_of(&query)?;
    let descending = descending(&query)?;
    let mut rows = matching(&core, &query)?;
    rows.sort_unstable_by(|a, b| compare(a.place(), b.place(), descending));
    let total = rows.len();
    let base = core.base_url(Some(&headers));
    let shown = rows.iter().skip((page - 1).saturating_mul(limit)).take(limit);
    let items = shown.map(|row| wire::sandbox(&core, &row.record, row.active, &base)).collect();
    Ok(Json(PaginatedSandboxes { items, total, page, total_pages: total.div_ceil(limit) }))
}

/// `page` and `limit` of a page list.
pub(super) fn page_of(query: &Query) -> ApiResult<(usize, usize)> {
    let page = query.parsed::<usize>("page")?.unwrap_or(1);
    let limit = query.parsed::<usize>("limit")?.unwrap_or(100);
    if page < 1 || !(1..=200).contains(&limit) {
        return Err(ApiError::bad_request("page must be at least 1, and limit from 1 to 200"));
    }
    Ok((page, limit))
}

fn descending(query: &Query) -> ApiResult<bool> {
    match query.get("order").filter(|order| !order.is_empty()) {
        None | Some("desc" | "DESC") => Ok(true),
        Some("asc" | "ASC") => Ok(false),
        Some(other) => Err(ApiError::bad_request(format_args!("order is asc or desc, not {other:?}"))),
    }
}

type Test = Box<dyn Fn(&Record, i64) -> bool + Send>;

fn matching(core: &Core, query: &Query) -> ApiResult<Vec<Row>> {
    let tests = tests(query)?;
    let sort = query.get("sort").filter(|sort| !sort.is_empty()).unwrap_or("lastActivityAt");
    let key: fn(&Record, i64) -> SortKey = match sort {
        "name" => |r, _| SortKey::Text(r.name.clone()),
        "cpu" => |r, _| SortKey::Number(r.cpu.into()),
        "memoryGib" | "memory" => |r, _| SortKey::Number(r.memory.into()),
        "diskGib" | "disk" => |r, _| SortKey::Number(r.disk.into()),
        "lastActivityAt" => |_, active| SortKey::Number(active),
        "createdAt" => |r, _| SortKey::Number(r.created_at),
        "updatedAt" => |r, _| SortKey::Number(r.updated_at),
        other => return Err(ApiError::bad_request(format_args!("cannot sort by {other:?}"))),
    };
    Ok(core.directory.scan(|record, active| {
        let shown = tests.iter().all(|test| test(record, active));
        shown.then(|| Row { key: key(record, active), record: Arc::clone(record), active })
    }))
}

fn tests(query: &Query) -> ApiResult<Vec<Test>> {
    let mut tests: Vec<Test> = Vec::new();
    let errored = query.flag("includeErroredDeleted");
    tests.push(Box::new(move |r, _| {
        let failed = matches!(r.state, SandboxState::Error | SandboxState::BuildFailed);
        r.desired != DesiredState::Destroyed || (errored && failed)
    }));
    let warm = query.flag("includeWarm");
    tests.push(Box::new(move |r, _| warm || r.warm_pool_id.is_none()));
    let text = |key: &str| query.get(key).filter(|v| !v.is_empty()).map(str::to_lowercase);
    if let Some(prefix) = text("id") {
        tests.push(Box::new(move |r, _| r.id.to_lowercase().starts_with(&prefix)));
    }
    if let Some(prefix) = text("name") {
        tests.push(Box::new(move |r, _| r.name.to_lowercase().starts_with(&prefix)));
    }
    if let Some(labels) = query.get("labels").filter(|labels| !labels.is_empty()) {
        let invalid = |_| ApiError::bad_request("labels must be a JSON object of strings");
        let labels: BTreeMap<String, String> = serde_json::from_str(labels).map_err(invalid)?;
        tests
            .push(Box::new(move |r, _| labels.iter().all(|(name, value)| r.labels.get(name) == Some(value))));
    }
    let any_of = |key: &str| -> Vec<String> { query.all(key).into_iter().map(str::to_owned).collect() };
    let states = any_of("states");
    if let Some(unknown) = states.iter().find(|word| SandboxState::from_word(word).is_none()) {
        return Err(ApiError::bad_request(format_args!("{unknown:?} is not a sandbox state")));
    }
    if !states.is_empty() {
        tests.push(Box::new(move |r, _| states.iter().any(|s| s == wire_state(r.state, r.desired).as_str())));
    }
    let snapshots = any_of("snapshots");
    if !snapshots.is_empty() {
        tests.push(Box::new(move |r, _| r.snapshot.as_ref().is_some_and(|s| snapshots.contains(s))));
    }
    let regions = any_of("regionIds");
    if !regions.is_empty() {
        tests.push(Box::new(move |r, _| regions.contains(&r.region)));
    }
    let classes = any_of("sandboxClasses");
    if !classes.is_empty() {
        let containers = classes.iter().any(|class| class == "container");
        tests.push(Box::new(move |_, _| containers));
    }
    number_tests(query, &mut tests)?;
    for (key, wanted) in
        [("isPublic", (|r: &Record| r.public) as fn(&Record) -> bool), ("isRecoverable", |r| r.recoverable)]
    {
        if let Some(value) = query.parsed::<bool>(key)? {
            tests.push(Box::new(move |r, _| wanted(r) == value));
        }
    }
    Ok(tests)
}

fn number_tests(query: &Query, tests: &mut Vec<Test>) -> ApiResult<()> {
    type Number = fn(&Record) -> u32;
    let numbers: [(&str, &str, Number); 4] = [
        ("minCpu", "maxCpu", |r| r.cpu),
        ("minMemoryGiB", "maxMemoryGiB", |r| r.memory),
        ("minDiskGiB", "maxDiskGiB", |r| r.disk),
        ("minGpu", "maxGpu", |r| r.gpu),
    ];
    for (min, max, value) in numbers {
        let (min, max) = (query.parsed::<u32>(min)?, query.parsed::<u32>(max)?);
        if min.is_some() || max.is_some() {
            tests.push(Box::new(move |r, _| {
                min.is_none_or(|min| value(r) >= min) && max.is_none_or(|max| value(r) <= max)
            }));
        }
    }
    let moment = |key: &str| match query.get(key).filter(|v| !v.is_empty()) {
        None => Ok(None),
        Some(text) => time::parse(text)
            .map(Some)
            .ok_or_else(|| ApiError::bad_request(format_args!("{key} is not a time: {text:?}"))),
    };
    let (after, before) = (moment("createdAtAfter")?, moment("createdAtBefore")?);
    tests.push(Box::new(move |r, _| {
        after.is_none_or(|at| r.created_at >= at) && before.is_none_or(|at| r.created_at <= at)
    }));
    let (after, before) = (moment("lastActivityAfter")?, moment("lastActivityBefore")?);
    tests.push(Box::new(move |_, active| {
        after.is_none_or(|at| active >= at) && before.is_none_or(|at| active <= at)
    }));
    Ok(())
}
