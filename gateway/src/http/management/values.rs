//! Typed values as JSON, and back.

use base64::{Engine, prelude::BASE64_STANDARD};
use mainstem_schemas::{Table, Value, value::DEPTH_MAX};
use serde_json::{Map, Value as Json};

use super::answer::Failure;

/// The longest name that the protocol's tables have, in bytes.
const NAME_BYTES_MAX: usize = 255;

/// Errors: it nests too deep, a name is too long, or a number is out of range.
pub(super) fn table(object: &Map<String, Json>) -> Result<Table, Failure> {
    table_within(object, DEPTH_MAX)
}

/// As [`table`], of any value.
pub(super) fn value(json: &Json) -> Result<Value, Failure> {
    value_within(json, DEPTH_MAX)
}

fn table_within(object: &Map<String, Json>, depth: usize) -> Result<Table, Failure> {
    let entries = object.iter().map(|(name, value)| {
        if name.len() > NAME_BYTES_MAX {
            return Err(Failure::bad(format!("the name '{name}' is too long")));
        }
        Ok((name.clone(), value_within(value, depth)?))
    });
    entries.collect()
}

fn value_within(json: &Json, depth: usize) -> Result<Value, Failure> {
    let deeper = || match depth {
        // The level of the entries themselves counts as one.
        0..=2 => Err(Failure::bad("the values nest too deep")),
        depth => Ok(depth - 1),
    };
    Ok(match json {
        Json::Null => Value::Void,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(int), _) => Value::Int(int),
            (None, Some(float)) if number.is_f64() => Value::Float(float),
            _ => return Err(Failure::bad(format!("the number {number} is too large"))),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(values) => {
            let depth = deeper()?;
            Value::Array(
                values.iter().map(|one| value_within(one, depth)).collect::<Result<_, _>>()?,
            )
        }
        Json::Object(object) => Value::Table(table_within(object, deeper()?)?),
    })
}

pub(super) fn show_table(table: &Table) -> Json {
    Json::Object(table.iter().map(|(name, value)| (name.clone(), show(value))).collect())
}

pub(super) fn show(value: &Value) -> Json {
    match value {
        Value::Void => Json::Null,
        Value::Bool(flag) => Json::from(*flag),
        Value::Int(int) => Json::from(*int),
        Value::Float(float) => Json::from(*float),
        Value::Decimal(digits, unscaled) => {
            Json::from(f64::from(*unscaled) / 10_f64.powi(i32::from(*digits)))
        }
        Value::Time(seconds) => Json::from(*seconds),
        Value::Text(text) => Json::from(text.as_str()),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Json::from(text),
            Err(_) => Json::from(BASE64_STANDARD.encode(bytes)),
        },
        Value::Array(values) => Json::Array(values.iter().map(show).collect()),
        Value::Table(table) => show_table(table),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_come_back_as_they_went() {
        let json = json!({ "a": null, "b": [1, -2.5, "x"], "c": { "d": true } });
        let read = table(json.as_object().unwrap()).unwrap();
        assert_eq!(show_table(&read), json);
    }

    #[test]
    fn what_nests_too_deep_is_refused() {
        let nested = |levels: usize| (1..levels).fold(json!([]), |inner, _| json!([inner]));
        assert!(value(&nested(DEPTH_MAX - 2)).is_ok());
        assert!(value(&nested(DEPTH_MAX)).is_err());
        assert!(value(&json!(u64::MAX)).is_err());
    }
}
