//! How a log is told: places, times, sizes and fields, as text and as JSON.

use std::collections::BTreeMap;

use mainstem_broker::{
    describe::{Described, Field, Spot},
    survey::Finding,
};
use mainstem_schemas::{QueueId, UnixMillis};
use serde_json::{Map, Value, json};

/// The queues whose names are known.
pub(super) type Names = BTreeMap<QueueId, String>;

/// `2026-11-21T07:03:02.123Z`.
pub(super) fn time(time: UnixMillis) -> String {
    const DAY_MS: u64 = 24 * 3600 * 1000;
    let (days, rest) = (time.0 / DAY_MS, time.0 % DAY_MS);
    // Howard Hinnant's civil_from_days, for days since 1970-01-01 only.
    let day = days + 719_468;
    let era_day = day % 146_097;
    let era_year = (era_day - era_day / 1460 + era_day / 36_524 - era_day / 146_096) / 365;
    let year_day = era_day - (365 * era_year + era_year / 4 - era_year / 100);
    let shifted = (5 * year_day + 2) / 153;
    let day_of_month = year_day - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era_year + day / 146_097 * 400 + u64::from(month <= 2);
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, ms) = (rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day_of_month:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}

/// `1.5 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB"];
    let Some(power) = (1..=4_u32).rev().find(|power| bytes >> (10 * power) > 0) else {
        return format!("{bytes} B");
    };
    let tenths = (u128::from(bytes) * 10) >> (10 * power);
    let unit = usize::try_from(power).ok().and_then(|power| units.get(power - 1));
    format!("{}.{} {}", tenths / 10, tenths % 10, unit.unwrap_or(&"B"))
}

/// `38 %`.
pub(super) fn share(part: u64, whole: u64) -> String {
    match (part * 100).checked_div(whole) {
        Some(percent) => format!("{percent} %"),
        None => "-".to_owned(),
    }
}

/// What an entry says, on one line.
pub(super) fn text(described: &Described, names: &Names) -> String {
    let mut line = String::new();
    for (name, field) in &described.fields {
        line.push_str(if line.is_empty() { "" } else { " " });
        line.push_str(name);
        line.push('=');
        line.push_str(&field_text(field, names));
    }
    if let Some((_, name)) = &described.names {
        line = format!("{} {line}", quoted(name));
    }
    line
}

fn field_text(field: &Field, names: &Names) -> String {
    match field {
        Field::Number(number) => number.to_string(),
        Field::Text(text) => quoted(text),
        Field::Time(at) => time(*at),
        Field::Position(position) => position.0.to_string(),
        Field::Queue(queue) => queue_text(*queue, names),
        Field::Cursor(cursor) => cursor.0.to_string(),
        Field::Places(places) => {
            let place =
                |(queue, spot): &(QueueId, Spot)| format!("{}@{spot}", queue_text(*queue, names));
            places.iter().map(place).collect::<Vec<_>>().join(",")
        }
        Field::Ranges(ranges) => {
            let range = |(from, to): &(Spot, Spot)| match to.number.saturating_sub(from.number) {
                1 => from.to_string(),
                _ => format!("{from}..{}", to.number),
            };
            ranges.iter().map(range).collect::<Vec<_>>().join(",")
        }
    }
}

/// Text that stays one word on one line, whatever a peer put into it.
fn quoted(text: &str) -> String {
    let plain = |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '"' | '\\' | '=');
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("{text:?}") }
}

/// The queue's name, or its number while no entry has told its name.
fn queue_text(queue: QueueId, names: &Names) -> String {
    names.get(&queue).map_or_else(|| format!("#{}", queue.0), |name| quoted(name))
}

/// What an entry says. A name that an entry says several times becomes a list.
pub(super) fn object(described: &Described, names: &Names) -> Map<String, Value> {
    let mut values = BTreeMap::<_, Vec<Value>>::new();
    if let Some((_, name)) = &described.names {
        values.insert("name", vec![json!(name)]);
    }
    for (name, field) in &described.fields {
        values.entry(name).or_default().push(field_value(field, names));
    }
    let one_or_many = |(name, mut values): (&str, Vec<Value>)| {
        let only = if values.len() == 1 { values.pop() } else { None };
        (name.to_owned(), only.unwrap_or(Value::Array(values)))
    };
    values.into_iter().map(one_or_many).collect()
}

fn field_value(field: &Field, names: &Names) -> Value {
    let name = |queue: &QueueId| names.get(queue);
    match field {
        Field::Number(number) => json!(number),
        Field::Text(text) => json!(text),
        Field::Time(at) => json!(time(*at)),
        Field::Position(position) => json!(position.0),
        Field::Queue(queue) => json!({ "id": queue.0, "name": name(queue) }),
        Field::Cursor(cursor) => json!(cursor.0),
        Field::Places(places) => {
            let place = |(queue, spot): &(QueueId, Spot)| {
                json!({
                    "queue": queue.0, "name": name(queue),
                    "priority": spot.priority, "offset": spot.number,
                })
            };
            places.iter().map(place).collect()
        }
        Field::Ranges(ranges) => {
            let range = |(from, to): &(Spot, Spot)| json!({ "priority": from.priority, "from": from.number, "to": to.number });
            ranges.iter().map(range).collect()
        }
    }
}

/// A damaged place, in a sentence.
pub(super) fn finding_text(finding: &Finding) -> String {
    let Finding { path, offset, position, damage, resume } = finding;
    let behind = match resume {
        Some(resume) if resume.path == *path => {
            format!("entries verify again at byte {}", resume.offset)
        }
        Some(resume) => {
            format!("entries verify again in {} at byte {}", resume.path.display(), resume.offset)
        }
        None => "nothing verifies behind it".to_owned(),
    };
    let path = path.display();
    format!("DAMAGED {path} at byte {offset} (position {}): {damage}; {behind}", position.0)
}

pub(super) fn finding_object(finding: &Finding) -> Value {
    let resume = finding.resume.as_ref().map(|resume| {
        json!({
            "path": resume.path.display().to_string(),
            "offset": resume.offset,
            "position": resume.position.0,
        })
    });
    json!({
        "damaged": finding.path.display().to_string(),
        "offset": finding.offset,
        "position": finding.position.0,
        "damage": finding.damage.to_string(),
        "resume": resume,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_civil() {
        assert_eq!(time(UnixMillis(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(UnixMillis(951_782_400_000)), "2000-02-29T00:00:00.000Z");
        assert_eq!(time(UnixMillis(1_700_000_000_250)), "2023-11-14T22:13:20.250Z");
        assert_eq!(time(UnixMillis(1_798_761_599_999)), "2026-12-31T23:59:59.999Z");
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(
            [0, 1023, 1024, 1536, 5 << 20, u64::MAX].map(size),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 MiB", "16777215.9 TiB"]
        );
    }

    #[test]
    fn what_a_peer_named_stays_one_word() {
        let words = ["plain/name", "two words", "a=b", "\u{1b}[2J", ""].map(quoted);
        assert_eq!(words, ["plain/name", "\"two words\"", "\"a=b\"", "\"\\u{1b}[2J\"", "\"\""]);
    }
}
