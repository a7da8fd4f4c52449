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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
enum SortKey {
    Number(i64),
    Text(String),
}

/// A [`SortKey`] that is only looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum KeyRef<'a> {
    Number(i64),
    Text(&'a str),
}

impl SortKey {
    fn as_ref(&self) -> KeyRef<'_> {
        match self {
            Self::Number(number) => KeyRef::Number(*number),
            Self::Text(text) => KeyRef::Text(text),
        }
    }
}

/// What sandboxes are sorted by, and which way.
#[derive(Clone, Copy)]
struct Sorting {
    key: for<'a> fn(&'a Record, i64) -> KeyRef<'a>,
    descending: bool,
}

impl Sorting {
    fn of(query: &Query) -> ApiResult<Self> {
        let descending = match query.get("order").filter(|order| !order.is_empty()) {
            None | Some("desc" | "DESC") => true,
            Some("asc" | "ASC") => false,
            Some(other) => {
                return Err(ApiError::bad_request(format_args!("order is asc or desc, not {other:?}")));
            }
        };
        let key: for<'a> fn(&'a Record, i64) -> KeyRef<'a> =
            match query.get("sort").filter(|sort| !sort.is_empty()).unwrap_or("lastActivityAt") {
                "name" => |r, _| KeyRef::Text(&r.name),
                "cpu" => |r, _| KeyRef::Number(r.cpu.into()),
                "memoryGib" | "memory" => |r, _| KeyRef::Number(r.memory.into()),
                "diskGib" | "disk" => |r, _| KeyRef::Number(r.disk.into()),
                "lastActivityAt" => |_, active| KeyRef::Number(active),
                "createdAt" => |r, _| KeyRef::Number(r.created_at),
                "updatedAt" => |r, _| KeyRef::Number(r.updated_at),
                other => return Err(ApiError::bad_request(format_args!("cannot sort by {other:?}"))),
            };
        Ok(Self { key, descending })
    }

    /// Ties break by id.
    fn compare(self, a: (KeyRef<'_>, &str), b: (KeyRef<'_>, &str)) -> Ordering {
        if self.descending { b.cmp(&a) } else { a.cmp(&b) }
    }
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
}

impl Row {
    fn place(&self, sorting: Sorting) -> (KeyRef<'_>, &str) {
        ((sorting.key)(&self.record, self.active), &self.record.id)
    }
}

/// The first rows of many: what cannot be among them is neither copied nor kept.
struct First {
    rows: Vec<Row>,
    most: usize,
    sorting: Sorting,
    /// Where they begin.
    after: Option<Cursor>,
    /// The last one that was kept, once there were enough.
    bound: Option<Row>,
}

impl First {
    /// Whether it is one to keep is asked only of a row that can be among the first: its place is cheaper to look at than its labels.
    fn offer(&mut self, record: &Arc<Record>, active: i64, tests: &[Test]) {
        let sorting = self.sorting;
        let place = ((sorting.key)(record, active), record.id.as_str());
        let before = |cursor: &Cursor| {
            sorting.compare(place, (cursor.value.as_ref(), &cursor.id)) != Ordering::Greater
        };
        let beyond = |bound: &Row| sorting.compare(place, bound.place(sorting)) == Ordering::Greater;
        if self.after.as_ref().is_some_and(before)
            || self.bound.as_ref().is_some_and(beyond)
            || !tests.iter().all(|test| test(record, active))
        {
            return;
        }
        self.rows.push(Row { record: Arc::clone(record), active });
        if self.rows.len() >= self.most * 2 {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let sorting = self.sorting;
        if self.rows.len() > self.most {
            let by = |a: &Row, b: &Row| sorting.compare(a.place(sorting), b.place(sorting));
            self.rows.select_nth_unstable_by(self.most - 1, by);
            self.rows.truncate(self.most);
            self.bound =
                self.rows.last().map(|row| Row { record: Arc::clone(&row.record), active: row.active });
        }
    }

    fn sorted(mut self) -> Vec<Row> {
        self.cut();
        let sorting = self.sorting;
        self.rows.sort_unstable_by(|a, b| sorting.compare(a.place(sorting), b.place(sorting)));
        self.rows
    }
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
    let sorting = Sorting::of(&query)?;
    let after = match query.get("cursor").filter(|cursor| !cursor.is_empty()) {
        None => None,
        Some(cursor) => {
            let invalid = || ApiError::bad_request("the cursor is not one that this API gave out");
            let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| invalid())?;
            Some(serde_json::from_slice::<Cursor>(&bytes).map_err(|_| invalid())?)
        }
    };
    let tests = tests(&query)?;
    // One more tells whether there is a next page.
    let mut first = First { rows: Vec::new(), most: limit + 1, sorting, after, bound: None };
    core.directory.scan(|record, active| -> Option<()> {
        first.offer(record, active, &tests);
        None
    });
    let mut rows = first.sorted();
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next_cursor = rows.last().filter(|_| more).map(|row| {
        let value = match (sorting.key)(&row.record, row.active) {
            KeyRef::Number(number) => SortKey::Number(number),
            KeyRef::Text(text) => SortKey::Text(text.to_owned()),
        };
        let cursor = Cursor { value, id: row.record.id.clone() };
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
    let sorting = Sorting::of(&query)?;
    let tests = tests(&query)?;
    let mut rows = core.directory.scan(|record, active| {
        let shown = tests.iter().all(|test| test(record, active));
        shown.then(|| Row { record: Arc::clone(record), active })
    });
    rows.sort_unstable_by(|a, b| sorting.compare(a.place(sorting), b.place(sorting)));
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

/// Whether the text begins so, in whatever case.
fn begins(text: &str, prefix: &str) -> bool {
    if let Some(head) = text.as_bytes().get(..prefix.len())
        && head.is_ascii()
        && prefix.is_ascii()
    {
        return head.eq_ignore_ascii_case(prefix.as_bytes());
    }
    let mut text = text.chars().flat_map(char::to_lowercase);
    prefix.chars().flat_map(char::to_lowercase).all(|wanted| text.next() == Some(wanted))
}

type Test = Box<dyn Fn(&Record, i64) -> bool + Send>;

fn tests(query: &Query) -> ApiResult<Vec<Test>> {
    let mut tests: Vec<Test> = Vec::new();
    let errored = query.flag("includeErroredDeleted");
    tests.push(Box::new(move |r, _| {
        let failed = matches!(r.state, SandboxState::Error | SandboxState::BuildFailed);
        r.desired != DesiredState::Destroyed || (errored && failed)
    }));
    let warm = query.flag("includeWarm");
    tests.push(Box::new(move |r, _| warm || r.warm_pool_id.is_none()));
    let text = |key: &str| query.get(key).filter(|v| !v.is_empty()).map(str::to_owned);
    if let Some(prefix) = text("id") {
        tests.push(Box::new(move |r, _| begins(&r.id, &prefix)));
    }
    if let Some(prefix) = text("name") {
        tests.push(Box::new(move |r, _| begins(&r.name, &prefix)));
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
    type Moment = fn(&Record, i64) -> i64;
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
    let moments: [(&str, &str, Moment); 2] = [
        ("createdAtAfter", "createdAtBefore", |r, _| r.created_at),
        ("lastActivityAfter", "lastActivityBefore", |_, active| active),
    ];
    for (after, before, value) in moments {
        let (after, before) = (moment(after)?, moment(before)?);
        if after.is_some() || before.is_some() {
            tests.push(Box::new(move |r, active| {
                after.is_none_or(|at| value(r, active) >= at)
                    && before.is_none_or(|at| value(r, active) <= at)
            }));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::begins;

    #[test]
    fn a_prefix_has_any_case() {
        assert!(begins("Box-1", "bOX") && begins("Ärger", "är") && begins("x", "") && begins("ÄB", "äb"));
        assert!(!begins("bo", "box") && !begins("abox", "box") && !begins("é", "e") && !begins("Äx", "äb"));
    }
}
