//! HTTP's column of `MAPPING.md`: a request becomes a record, and its header list a view.
//!
//! ```text
//! native block = *( name ": " value LF )     names in lower case, values as they came
//! ```

use axum::http::{HeaderMap, header};
use bytes::{BufMut, BytesMut};
use mainstem_broker::Stamp;
use mainstem_schemas::{
    Address, Correlation, Dialect, Path, Record, RecordDraft, RecordError, ReplyTo, Value, View,
    flags,
};

/// Headers that belong to the connection or to the sender alone, and are never stored.
const NOT_STORED: [header::HeaderName; 12] = [
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONNECTION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    header::ACCEPT,
];

/// What a CloudEvent in binary mode must say (CloudEvents 1.0.2, HTTP binding 3.1).
const EVENT_REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];

/// The address a URL's path names. Each segment is percent-decoded by itself, so `%2F` is a slash
/// inside a segment.
pub(super) fn address(url_path: &str) -> Option<Address> {
    let topic = url_path.strip_prefix("/topics/").filter(|topic| !topic.is_empty())?;
    let path = Path::of(topic.split('/').map(percent_decode));
    Some(Address::http(path.render(Dialect::Mqtt)))
}

/// The record of a request.
pub(super) fn record(
    stamp: &Stamp,
    namespace: &str,
    address: &Address,
    headers: &HeaderMap,
    durable: bool,
    body: &[u8],
) -> Result<Record, RecordError> {
    let mut native = BytesMut::new();
    for (name, value) in headers.iter().filter(|(name, _)| !NOT_STORED.contains(name)) {
        native.put_slice(name.as_str().as_bytes());
        native.put_slice(b": ");
        native.put_slice(value.as_bytes());
        native.put_u8(b'\n');
    }
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let mut draft = RecordDraft::new(address, namespace, &native, body);
    draft.flags = if durable { flags::DURABLE } else { 0 };
    draft.qos = u8::from(durable);
    draft.id = stamp.id;
    draft.now = stamp.now;
    if let Some(seconds) = number("x-expires-in") {
        draft.expiry = stamp.now.plus(seconds.saturating_mul(1000));
    }
    draft.priority = number("x-priority").map_or(0, |n| u8::try_from(n).unwrap_or(u8::MAX));
    draft.encode()
}

/// The CloudEvents reading of a record that came by HTTP.
#[must_use]
pub fn view(record: &Record) -> View {
    let native = record.native();
    let mut view = View { time: record.appended(), ..View::default() };
    for line in native.split(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line);
        if let Some((name, value)) = line.split_once(": ") {
            read_header(&mut view, name, value);
        }
    }
    let given = |required: &&str| view.event.iter().any(|(n, v)| n == *required && !v.is_empty());
    if !EVENT_REQUIRED.iter().all(given) {
        view.event.clear();
    }
    for (name, value) in &view.event {
        match name.as_str() {
            "id" => view.id = Some(value.clone()),
            "type" => view.kind = Some(value.clone()),
            "dataschema" => view.data_schema = Some(value.clone()),
            "partitionkey" => view.partition_key = Some(value.clone()),
            _ => {}
        }
    }
    view
}

fn read_header(view: &mut View, name: &str, value: &str) {
    let text = || Some(value.to_owned());
    match name {
        "content-type" => view.content_type = text(),
        "content-encoding" => view.content_encoding = text(),
        "idempotency-key" | "x-message-id" => view.id = text(),
        "x-data-schema" => view.data_schema = text(),
        "x-correlation-id" => view.correlation = text().map(Correlation::Text),
        "x-reply-to" => view.reply_to = Some(ReplyTo::from_text(value)),
        "x-priority" => view.priority = value.trim().parse().ok(),
        "x-tag" => view.tag = text(),
        "x-keys" => view.keys.extend(value.split_whitespace().map(str::to_owned)),
        "traceparent" => view.trace_parent = text(),
        "tracestate" => view.trace_state = text(),
        _ => {
            if let Some(name) = name.strip_prefix("x-meta-") {
                view.props.push((name.to_owned(), Value::Text(value.to_owned())));
            } else if let Some(attribute) = name.strip_prefix("ce-") {
                let value = String::from_utf8_lossy(&percent_decode(value)).into_owned();
                view.event.push((attribute.to_owned(), value));
            }
        }
    }
}

/// `%XX` as the byte it stands for; any other `%` is a plain `%`.
pub(super) fn percent_decode(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let digit = |at: usize| tail.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        let escaped =
            digit(0).zip(digit(1)).and_then(|(high, low)| u8::try_from(high << 4 | low).ok());
        match escaped.filter(|_| *byte == b'%') {
            Some(decoded) => {
                out.push(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use mainstem_schemas::UnixMillis;

    use super::*;

    fn sample(headers: &[(&'static str, &'static str)]) -> Record {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let now = UnixMillis(1000);
        let stamp = Stamp { now, id: mainstem_schemas::RecordId::new(now, 1) };
        let address = address("/topics/a/b").unwrap();
        record(&stamp, "/", &address, &map, true, b"body").unwrap()
    }

    #[test]
    fn a_url_names_the_same_path_as_a_topic() {
        let check = |url: &str, segments: &[&str]| {
            assert_eq!(address(url).unwrap().path(), Path::of(segments), "{url}");
        };
        check("/topics/a/b", &["a", "b"]);
        check("/topics/a%2Fb/c%20d", &["a/b", "c d"]);
        check("/topics/a//%", &["a", "", "%"]);
        check("/topics/%252F", &["%2F"]);
        check("/topics/$sys", &["$sys"]);
        assert_eq!(address("/topics/"), None);
    }

    #[test]
    fn headers_become_the_view() {
        let record = sample(&[
            ("content-type", "text/plain"),
            ("x-correlation-id", "c1"),
            ("x-reply-to", "t:answers"),
            ("x-priority", "7"),
            ("x-expires-in", "60"),
            ("x-keys", "k1 k2"),
            ("x-meta-site", "north"),
            ("authorization", "Basic secret"),
        ]);
        assert_eq!((record.priority(), record.expiry()), (7, UnixMillis(61_000)));
        assert!(!String::from_utf8_lossy(&record.native()).contains("secret"));
        let view = view(&record);
        assert_eq!(view.content_type.as_deref(), Some("text/plain"));
        assert_eq!(view.correlation, Some(Correlation::Text("c1".to_owned())));
        assert_eq!(view.reply_to, Some(ReplyTo::Topic("answers".to_owned())));
        assert_eq!(view.priority, Some(7));
        assert_eq!(view.keys, ["k1", "k2"]);
        assert_eq!(view.props, [("site".to_owned(), Value::Text("north".to_owned()))]);
        assert!(view.event.is_empty());
    }

    #[test]
    fn an_event_needs_all_four_attributes() {
        let whole = [
            ("ce-id", "1"),
            ("ce-source", "/s"),
            ("ce-specversion", "1.0"),
            ("ce-type", "t%20u"),
            ("ce-partitionkey", "p"),
        ];
        let view_of = |headers: &[(&'static str, &'static str)]| view(&sample(headers));
        let event = view_of(&whole);
        assert_eq!((event.id.as_deref(), event.kind.as_deref()), (Some("1"), Some("t u")));
        assert_eq!(event.partition_key.as_deref(), Some("p"));
        assert_eq!(event.event.len(), 5);
        assert!(view_of(&whole[1..]).event.is_empty());
    }
}
