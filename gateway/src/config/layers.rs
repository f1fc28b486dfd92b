//! The layers of a configuration: the defaults, a file, and single settings from the command
//! line. A wrong key or value is named together with the place that set it.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

use super::Config;

/// Reads an address; TOML cannot say "none", the file says it with an empty text.
pub(super) fn address_or_none<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(from)?;
    let address = (!text.is_empty()).then(|| text.parse());
    address.transpose().map_err(serde::de::Error::custom)
}

/// One source of settings.
#[derive(Clone, Debug)]
pub enum Layer {
    /// A file's path and text.
    File { path: PathBuf, text: String },
    /// A variable of the environment, and the key that it sets.
    Variable { name: String, key: String, value: String },
    /// `a.b=c` from the command line.
    Set(String),
}

/// What is wrong with a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read the configuration file {path}: {error}", path = .0.display(), error = .1)]
    Read(PathBuf, String),
    #[error("{place}: not TOML: {reason}")]
    Syntax { place: String, reason: String },
    #[error("{place}: unknown key '{key}'{hint}")]
    Unknown { place: String, key: String, hint: String },
    #[error("{place}: '{key}' must be {expected}, found {found}")]
    Type { place: String, key: String, expected: &'static str, found: &'static str },
    #[error("{place}: '{key}' is wrong: {reason}")]
    Value { place: String, key: String, reason: String },
    #[error("'{key}' {reason}")]
    Meaning { key: String, reason: String },
}

/// A setting: the keys to it, its value, and who set it.
struct Setting {
    path: Vec<String>,
    value: Value,
    place: String,
}

impl Layer {
    /// Reads a configuration file.
    pub fn read(path: PathBuf) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Self::File { path, text }),
            Err(error) => Err(ConfigError::Read(path, error.to_string())),
        }
    }

    fn settings(&self, defaults: &Table) -> Result<Vec<Setting>, ConfigError> {
        match self {
            Self::File { path, text } => file_settings(&path.display().to_string(), text, defaults),
            Self::Variable { name, key, value } => {
                Ok(vec![setting(name.clone(), key, value, defaults)])
            }
            Self::Set(text) => {
                let place = format!("--set {text}");
                let Some((key, value)) = text.split_once('=') else {
                    let reason = "expected key=value".to_owned();
                    return Err(ConfigError::Syntax { place, reason });
                };
                Ok(vec![setting(place, key.trim(), value, defaults)])
            }
        }
    }
}

/// Layers put together.
pub(super) struct Merged {
    pub(super) table: Table,
    /// Who set what is not as it is by default, by key.
    pub(super) origins: BTreeMap<String, String>,
}

impl Merged {
    pub(super) fn config(self) -> Result<Config, ConfigError> {
        Config::deserialize(Value::Table(self.table)).map_err(|error| ConfigError::Syntax {
            place: "defaults".to_owned(),
            reason: error.to_string(),
        })
    }
}

/// `defaults` with `layers` above them.
pub(super) fn merge(defaults: &str, layers: &[Layer]) -> Result<Merged, ConfigError> {
    let base: Table = toml::from_str(defaults).map_err(|error| ConfigError::Syntax {
        place: "defaults".to_owned(),
        reason: error.to_string(),
    })?;
    let (mut table, mut origins) = (base.clone(), BTreeMap::new());
    for layer in layers {
        for setting in layer.settings(&base)? {
            check(&setting, &base)?;
            let mut alone = base.clone();
            put(&mut alone, &setting.path, setting.value.clone());
            let Setting { path, value, place } = setting;
            let key = path.join(".");
            if let Err(error) = Config::deserialize(Value::Table(alone)) {
                let reason = error.message().to_owned();
                return Err(ConfigError::Value { place, key, reason });
            }
            put(&mut table, &path, value);
            // A value may be a secret; the key says enough of a setting from the command line.
            let origin = match layer {
                Layer::Set(_) => format!("--set {key}"),
                Layer::File { .. } | Layer::Variable { .. } => place,
            };
            origins.insert(key, origin);
        }
    }
    Ok(Merged { table, origins })
}

/// The settings of a file: one for each key whose default is not a section.
fn file_settings(name: &str, text: &str, defaults: &Table) -> Result<Vec<Setting>, ConfigError> {
    let syntax = |error: toml::de::Error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        ConfigError::Syntax {
            place: format!("{name} line {line}"),
            reason: error.message().to_owned(),
        }
    };
    let table: Table = toml::from_str(text).map_err(syntax)?;
    let spanned = toml::de::DeTable::parse(text).map_err(syntax)?;
    let mut lines = BTreeMap::new();
    collect_lines(spanned.get_ref(), text, &mut Vec::new(), &mut lines);
    let mut settings = Vec::new();
    // A file nests as deep as the parser lets it, which is bounded; the work list keeps it off
    // the stack all the same.
    let mut waiting = vec![(Vec::new(), Value::Table(table))];
    while let Some((path, value)) = waiting.pop() {
        match value {
            Value::Table(table) if is_section(defaults, &path) => {
                for (key, value) in table {
                    let path = path.iter().cloned().chain([key]).collect();
                    waiting.push((path, value));
                }
            }
            value => {
                let line = lines.get(&path).copied().unwrap_or(1);
                settings.push(Setting { path, value, place: format!("{name} line {line}") });
            }
        }
    }
    settings.sort_by_key(|setting| lines.get(&setting.path).copied());
    Ok(settings)
}

fn is_section(defaults: &Table, path: &[String]) -> bool {
    path.is_empty() || matches!(find(defaults, path), Some(Value::Table(_)))
}

fn collect_lines(
    table: &toml::de::DeTable<'_>,
    text: &str,
    path: &mut Vec<String>,
    lines: &mut BTreeMap<Vec<String>, usize>,
) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        lines.insert(path.clone(), line_of(text, key.span().start));
        if let toml::de::DeValue::Table(inner) = value.get_ref() {
            collect_lines(inner, text, path, lines);
        }
        path.pop();
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// A single setting. The value is TOML; where text is wanted the quotes may be left out.
fn setting(place: String, key: &str, value: &str, defaults: &Table) -> Setting {
    let path: Vec<String> = key.split('.').map(str::to_owned).collect();
    let parsed = toml::from_str::<Table>(&format!("value = {value}"))
        .ok()
        .and_then(|mut table| table.remove("value"));
    let wants_text = matches!(find(defaults, &path), Some(Value::String(_)));
    let value = match parsed {
        Some(Value::String(text)) => Value::String(text),
        Some(other) if !wants_text => other,
        Some(_) | None => Value::String(value.trim().to_owned()),
    };
    Setting { path, value, place }
}

/// Refuses a key that is not among the defaults, and a value of another type than the default's.
fn check(setting: &Setting, defaults: &Table) -> Result<(), ConfigError> {
    let mut known = defaults;
    for (depth, key) in setting.path.iter().enumerate() {
        let Some(value) = known.get(key) else {
            let parent = setting.path.get(..depth).unwrap_or_default();
            return Err(unknown(setting, parent, key, known));
        };
        match value {
            Value::Table(table) if depth + 1 < setting.path.len() => known = table,
            value if depth + 1 < setting.path.len() => {
                return Err(ConfigError::Type {
                    place: setting.place.clone(),
                    key: setting.path.iter().take(depth + 1).cloned().collect::<Vec<_>>().join("."),
                    expected: type_name(value),
                    found: "a section",
                });
            }
            value => return check_value(setting, value),
        }
    }
    Ok(())
}

fn check_value(setting: &Setting, default: &Value) -> Result<(), ConfigError> {
    if !setting.value.same_type(default) {
        return Err(wrong_type(setting, default, type_name(&setting.value)));
    }
    // The items of a list are like the first one of the default.
    let (Value::Array(items), Value::Array(defaults)) = (&setting.value, default) else {
        return Ok(());
    };
    let Some(like) = defaults.first() else { return Ok(()) };
    for item in items {
        if !item.same_type(like) {
            return Err(wrong_type(setting, like, type_name(item)));
        }
        let (Value::Table(item), Value::Table(like)) = (item, like) else { continue };
        for (key, value) in item {
            let path: Vec<_> = setting.path.iter().chain([key]).cloned().collect();
            let place = setting.place.clone();
            let Some(like_value) = like.get(key) else {
                return Err(unknown(setting, &setting.path, key, like));
            };
            if !value.same_type(like_value) {
                let inner = Setting { path, value: value.clone(), place };
                return Err(wrong_type(&inner, like_value, type_name(value)));
            }
        }
    }
    Ok(())
}

fn wrong_type(setting: &Setting, default: &Value, found: &'static str) -> ConfigError {
    ConfigError::Type {
        place: setting.place.clone(),
        key: setting.path.join("."),
        expected: type_name(default),
        found,
    }
}

fn unknown(setting: &Setting, parent: &[String], key: &str, known: &Table) -> ConfigError {
    let full = |key: &str| {
        let path: Vec<_> = parent.iter().map(String::as_str).chain([key]).collect();
        path.join(".")
    };
    let hint = match nearest(key, known.keys().map(String::as_str)) {
        Some(near) => format!(" (did you mean '{}'?)", full(near)),
        None => {
            let keys: Vec<_> = known.keys().map(String::as_str).collect();
            format!(" (known here: {})", keys.join(", "))
        }
    };
    ConfigError::Unknown { place: setting.place.clone(), key: full(key), hint }
}

/// The known key that differs least, if it differs by little.
pub(crate) fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (edits(key, candidate), candidate))
        .filter(|(edits, candidate)| *edits <= 1 + candidate.len() / 4)
        .min()
        .map(|(_, candidate)| candidate)
}

/// The Levenshtein distance.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (index, a) in from.chars().enumerate() {
        let mut next = vec![index + 1];
        for ((b, above), pair) in to.iter().zip(row.iter().skip(1)).zip(row.iter()) {
            let left = next.last().copied().unwrap_or_default();
            next.push((left + 1).min(above + 1).min(pair + usize::from(a != *b)));
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "text",
        Value::Integer(_) => "an integer",
        Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a time",
        Value::Array(_) => "a list",
        Value::Table(_) => "a section",
    }
}

fn find<'a>(table: &'a Table, path: &[String]) -> Option<&'a Value> {
    let (last, parents) = path.split_last()?;
    let mut table = table;
    for key in parents {
        table = table.get(key)?.as_table()?;
    }
    table.get(last)
}

fn put(table: &mut Table, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut table = table;
    for key in parents {
        let Some(inner) = table.get_mut(key).and_then(Value::as_table_mut) else { return };
        table = inner;
    }
    table.insert(last.clone(), value);
}
