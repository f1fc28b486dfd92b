//! `mainstem config explain`: every value, and who set it.

use toml::{Table, Value};

use super::{Config, ConfigError, DEFAULTS, Layer, layers, secret};

/// One line for each key, in the order of their names: `key = value  # where from`. Secrets are not shown.
pub fn lines(layers: &[Layer]) -> Result<Vec<String>, ConfigError> {
    let merged = layers::merge(DEFAULTS, layers)?;
    // What is not right is not explained.
    Config::load(layers)?;
    let mut lines = Vec::new();
    for (key, value) in leaves(&merged.table) {
        let origin = merged.origins.get(&key).map_or("default", String::as_str);
        lines.push(format!("{key} = {}  # {origin}", hidden(&key, value)));
    }
    Ok(lines)
}

/// The keys whose values differ, by name.
pub fn changed(before: &[Layer], now: &[Layer]) -> Result<Vec<String>, ConfigError> {
    let before = layers::merge(DEFAULTS, before)?.table;
    let now = layers::merge(DEFAULTS, now)?.table;
    let pairs = leaves(&before).into_iter().zip(leaves(&now));
    Ok(pairs.filter(|(before, now)| before.1 != now.1).map(|(before, _)| before.0).collect())
}

/// The values that are no sections, by their keys.
fn leaves(table: &Table) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (key, value) in table {
        match value {
            Value::Table(inner) => {
                let inner = leaves(inner).into_iter();
                found.extend(inner.map(|(rest, value)| (format!("{key}.{rest}"), value)));
            }
            value => found.push((key.clone(), value)),
        }
    }
    found
}

/// A value without its secrets.
fn hidden(key: &str, value: &Value) -> Value {
    match value {
        Value::String(text) if secret::is_secret(key) && !secret::is_reference(text) => {
            Value::from(if text.is_empty() { "" } else { "(hidden)" })
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| hidden(key, item)).collect()),
        Value::Table(table) => {
            let fields = table.iter().map(|(name, value)| (name.clone(), hidden(name, value)));
            Value::Table(fields.collect())
        }
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Layer {
        Layer::Set(text.to_owned())
    }

    #[test]
    fn secrets_are_hidden_and_references_are_not() {
        let users = "users=[{name='a', password='s3cret', secret_key='k3y'}, {name='b', \
                     password='file:/dev/null'}]";
        let told = lines(&[set(users)]).unwrap().join("\n");
        assert!(!told.contains("s3cret") && !told.contains("k3y"), "{told}");
        assert!(told.contains("(hidden)") && told.contains("file:/dev/null"), "{told}");
        assert!(told.contains("# --set users"), "{told}");
    }

    #[test]
    fn what_differs_is_named() {
        let (before, now) =
            ([set("log.level=warn")], [set("log.level=info"), set("store.commands_max=9")]);
        assert_eq!(changed(&before, &now).unwrap(), ["log.level", "store.commands_max"]);
    }
}
