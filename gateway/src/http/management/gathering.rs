//! Lists as they are asked for: filtered, sorted, cut to columns, and in pages.

use std::cmp::Ordering;

use axum::{
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use regex::{Regex, RegexBuilder};
use serde_json::{Map, Value as Json, json};

use super::answer::{Answer, Failure};
use crate::http::normalize::percent_decode;

/// Items in one page, unless fewer are asked for, and at most.
const PAGE_SIZE: usize = 100;
const PAGE_SIZE_MAX: usize = 500;
/// What a pattern may take when compiled.
const PATTERN_BYTES_MAX: usize = 1 << 20;

/// The query of a request.
#[derive(Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Errors: it is not UTF-8.
    pub(super) fn of(uri: &Uri) -> Result<Self, Failure> {
        let text = |text: &str| {
            let decoded = String::from_utf8(percent_decode(&text.replace('+', " ")));
            decoded.map_err(|_| Failure::bad("the query is not UTF-8"))
        };
        let parts = uri.query().unwrap_or_default().split('&').filter(|part| !part.is_empty());
        let parts = parts.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Ok((text(name)?, text(value)?))
        });
        Ok(Self(parts.collect::<Result<_, Failure>>()?))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn is_true(&self, name: &str) -> bool {
        self.get(name) == Some("true")
    }

    fn number(&self, name: &str) -> Result<Option<usize>, Failure> {
        let Some(text) = self.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
        let number = text.parse().ok().filter(|number| *number > 0);
        let wrong = || Failure::bad(format!("{name} is not a number above 0"));
        number.map(Some).ok_or_else(wrong)
    }
}

/// Which items of a list, and what of them.
pub(super) struct Wanted {
    name: Option<Regex>,
    sort: Option<String>,
    is_reverse: bool,
    columns: Option<Vec<String>>,
    /// Its number, and how long it is.
    page: Option<(usize, usize)>,
}

impl Wanted {
    pub(super) fn new(query: &Query) -> Result<Self, Failure> {
        let name = match query.get("name").filter(|name| !name.is_empty()) {
            None => None,
            Some(name) => {
                let is_pattern = query.is_true("use_regex");
                let pattern = if is_pattern { name.to_owned() } else { regex::escape(name) };
                let mut builder = RegexBuilder::new(&pattern);
                let built = builder.case_insensitive(true).size_limit(PATTERN_BYTES_MAX).build();
                let wrong = |error| Failure::bad(format!("name is no regular expression: {error}"));
                Some(built.map_err(wrong)?)
            }
        };
        let page = match query.number("page")? {
            None => None,
            Some(page) => {
                let size = query.number("page_size")?.unwrap_or(PAGE_SIZE);
                if size > PAGE_SIZE_MAX {
                    let text = format!("page_size is over {PAGE_SIZE_MAX}");
                    return Err(Failure::bad(text));
                }
                Some((page, size))
            }
        };
        let columns = query.get("columns").filter(|columns| !columns.is_empty());
        Ok(Self {
            name,
            sort: query.get("sort").filter(|sort| !sort.is_empty()).map(str::to_owned),
            is_reverse: query.is_true("sort_reverse"),
            columns: columns.map(|all| all.split(',').map(str::to_owned).collect()),
            page,
        })
    }

    fn cut(&self, item: Json) -> Json {
        let Some(columns) = &self.columns else { return item };
        let mut out = Map::new();
        for column in columns {
            if let Some(value) = at(&item, column) {
                set(&mut out, column, value.clone());
            }
        }
        Json::Object(out)
    }
}

/// A list being gathered. What is not asked for is counted and let go, and what need not be sorted is
/// written at once: there may be very many.
pub(super) struct Gathering {
    wanted: Wanted,
    total: usize,
    filtered: usize,
    unsorted: Vec<Json>,
    written: String,
    items: usize,
}

impl Gathering {
    pub(super) fn new(query: &Query) -> Result<Self, Failure> {
        let wanted = Wanted::new(query)?;
        let (unsorted, written) = (Vec::new(), String::new());
        Ok(Self { wanted, total: 0, filtered: 0, unsorted, written, items: 0 })
    }

    /// Adds an item behind those that were added.
    pub(super) fn add(&mut self, name: &str, item: impl FnOnce() -> Json) {
        self.total += 1;
        if self.wanted.name.as_ref().is_some_and(|pattern| !pattern.is_match(name)) {
            return;
        }
        if self.wanted.sort.is_some() || self.wanted.is_reverse {
            self.filtered += 1;
            self.unsorted.push(item());
        } else {
            self.place(item);
        }
    }

    /// The next one in its final order.
    fn place(&mut self, item: impl FnOnce() -> Json) {
        let at = self.filtered;
        self.filtered += 1;
        let is_shown = self.wanted.page.is_none_or(|(page, size)| {
            let from = (page - 1).saturating_mul(size);
            (from..from.saturating_add(size)).contains(&at)
        });
        if is_shown {
            if self.items > 0 {
                self.written.push(',');
            }
            self.items += 1;
            self.written.push_str(&self.wanted.cut(item()).to_string());
        }
    }

    pub(super) fn answer(mut self) -> Answer {
        let mut unsorted = std::mem::take(&mut self.unsorted);
        if let Some(key) = &self.wanted.sort {
            unsorted.sort_by(|a, b| compare(at(a, key), at(b, key)));
        }
        if self.wanted.is_reverse {
            unsorted.reverse();
        }
        if !unsorted.is_empty() {
            self.filtered = 0;
            unsorted.into_iter().for_each(|item| self.place(|| item));
        }
        let Self { wanted, total, filtered, written, items, .. } = self;
        let Some((page, size)) = wanted.page else {
            return Ok(written_json(format!("[{written}]")));
        };
        let pages = filtered.div_ceil(size);
        if page > pages.max(1) {
            let reason =
                format!("Page out of range, page: {page} page size: {size}, len: {filtered}");
            return Err(Failure::new(StatusCode::BAD_REQUEST, "page_out_of_range", reason));
        }
        Ok(written_json(format!(
            "{{\"filtered_count\":{filtered},\"item_count\":{items},\"items\":[{written}],\
             \"page\":{page},\"page_count\":{pages},\"page_size\":{size},\"total_count\":{total}}}"
        )))
    }
}

/// A list that is all there, as it is asked for.
pub(in crate::http) fn list(uri: &Uri, items: Vec<Json>) -> Answer {
    let mut all = Gathering::new(&Query::of(uri)?)?;
    for item in items {
        let name = item.get("name").and_then(Json::as_str).unwrap_or_default().to_owned();
        all.add(&name, || item);
    }
    all.answer()
}

fn written_json(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// One thing, cut to the columns that are asked for.
pub(super) fn show(query: &Query, item: Json) -> Answer {
    Ok(axum::Json(Wanted::new(query)?.cut(item)).into_response())
}

/// The value at a path of names with dots between them.
fn at<'a>(item: &'a Json, path: &str) -> Option<&'a Json> {
    path.split('.').try_fold(item, |item, name| item.get(name))
}

fn set(out: &mut Map<String, Json>, path: &str, value: Json) {
    let Some((name, rest)) = path.split_once('.') else {
        out.insert(path.to_owned(), value);
        return;
    };
    let inner = out.entry(name.to_owned()).or_insert_with(|| json!({}));
    if let Json::Object(inner) = inner {
        set(inner, rest, value);
    }
}

/// Nothing before numbers before texts before the rest.
fn compare(a: Option<&Json>, b: Option<&Json>) -> Ordering {
    let rank = |value: Option<&Json>| match value {
        None | Some(Json::Null) => 0,
        Some(Json::Bool(_)) => 1,
        Some(Json::Number(_)) => 2,
        Some(Json::String(_)) => 3,
        Some(Json::Array(_) | Json::Object(_)) => 4,
    };
    match (a, b) {
        (Some(Json::Bool(a)), Some(Json::Bool(b))) => a.cmp(b),
        (Some(Json::Number(a)), Some(Json::Number(b))) => {
            let (a, b) = (a.as_f64().unwrap_or_default(), b.as_f64().unwrap_or_default());
            a.total_cmp(&b)
        }
        (Some(Json::String(a)), Some(Json::String(b))) => a.cmp(b),
        (a, b) => rank(a).cmp(&rank(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gather(query: &str) -> Result<String, Failure> {
        let uri: Uri = format!("/api/queues?{query}").parse().unwrap();
        let mut all = Gathering::new(&Query::of(&uri)?)?;
        for (name, n) in [("a", 3), ("b", 1), ("ab", 2)] {
            all.add(name, || json!({ "name": name, "in": { "n": n } }));
        }
        let response = all.answer()?;
        assert_eq!(response.status(), StatusCode::OK);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let body = runtime.block_on(axum::body::to_bytes(response.into_body(), 4096)).unwrap();
        Ok(String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn lists_are_filtered_sorted_and_cut() {
        let names = |query: &str| gather(&format!("{query}&columns=name")).unwrap();
        assert_eq!(names(""), r#"[{"name":"a"},{"name":"b"},{"name":"ab"}]"#);
        assert_eq!(names("name=B"), r#"[{"name":"b"},{"name":"ab"}]"#);
        assert_eq!(names("name=%5Ea&use_regex=true"), r#"[{"name":"a"},{"name":"ab"}]"#);
        assert_eq!(names("sort=in.n"), r#"[{"name":"b"},{"name":"ab"},{"name":"a"}]"#);
        assert_eq!(
            names("sort=in.n&sort_reverse=true"),
            r#"[{"name":"a"},{"name":"ab"},{"name":"b"}]"#
        );
    }

    #[test]
    fn pages_tell_what_there_is() {
        let page = gather("page=2&page_size=2&columns=in.n").unwrap();
        let expected = r#"{"filtered_count":3,"item_count":1,"items":[{"in":{"n":2}}],"page":2,"page_count":2,"page_size":2,"total_count":3}"#;
        assert_eq!(page, expected);
        for wrong in
            ["page=3&page_size=2", "page=0", "page=1&page_size=501", "name=(&use_regex=true"]
        {
            assert!(gather(wrong).is_err(), "{wrong}");
        }
    }
}
