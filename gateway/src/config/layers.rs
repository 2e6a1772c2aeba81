//! Puts file, environment and command line over the defaults, naming the source of what is wrong.

use std::path::Path;

use toml::{Table, Value};

use super::{Client, Config, ConfigError, Public};

/// Where values come from, besides the defaults.
#[derive(Clone, Debug, Default)]
pub struct Sources<'a> {
    /// The configuration file, if there is one.
    pub file: Option<&'a Path>,
    /// Environment variables; those not called `JANUS_<section>_...` are passed over.
    pub environment: Vec<(String, String)>,
    /// From flags: `section.key` and its value as text. Repeating a list's key adds to the list.
    pub overrides: Vec<(String, String)>,
}

impl Sources<'_> {
    /// This process's environment variables.
    pub fn process_environment() -> Vec<(String, String)> {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        std::env::vars_os().filter_map(text).collect()
    }
}

const ENVIRONMENT_PREFIX: &str = "JANUS_";

pub fn merge(sources: &Sources<'_>) -> Result<Config, ConfigError> {
    let known = default_table();
    let mut merged = Table::new();
    if let Some(path) = sources.file {
        merge_file(path, &known, &mut merged)?;
    }
    for (name, value) in &sources.environment {
        if let Some((section, key)) = from_variable(name, &known)? {
            check_secret(&section, &key, value, name)?;
            set_text(&mut merged, &known, (&section, &key), value, name, ListText::Commas)?;
        }
    }
    let mut seen: Vec<&str> = Vec::new();
    for (path, value) in &sources.overrides {
        let (section, key) = path.split_once('.').unwrap_or((path, ""));
        let list = if seen.contains(&path.as_str()) { ListText::Add } else { ListText::One };
        set_text(&mut merged, &known, (section, key), value, "command line", list)?;
        seen.push(path);
    }
    merged.try_into().map_err(|error: toml::de::Error| ConfigError::Syntax {
        origin: "configuration".into(),
        reason: error.to_string().trim().replace('\n', " "),
    })
}

/// Every section and key with its default: what is known, and of which type.
pub fn default_table() -> Table {
    Table::try_from(Config::default()).expect("the defaults are plain tables of plain values")
}

fn merge_file(path: &Path, known: &Table, merged: &mut Table) -> Result<(), ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    let origin = path.display().to_string();
    let table: Table = text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax {
        origin: origin.clone(),
        reason: fault(&text, &error),
    })?;
    for (section, values) in table {
        let Value::Table(values) = values else {
            known_section(known, &section, &origin)?;
            return Err(ConfigError::WrongType { origin, key: section, expected: "a section" });
        };
        for (key, value) in values {
            set(merged, known, (&section, &key), value, &origin)?;
        }
    }
    Ok(())
}

/// The error and where it is. toml's own display would quote the line, which may hold a key.
fn fault(text: &str, error: &toml::de::Error) -> String {
    let message = error.message().replace('\n', ", ");
    let before = error.span().and_then(|span| text.get(..span.start));
    let Some(before) = before else { return message };
    let line_start = before.rfind('\n').map_or(0, |end| end + 1);
    let line = before.matches('\n').count() + 1;
    let column = before[line_start..].chars().count() + 1;
    format!("line {line}, column {column}: {message}")
}

/// `JANUS_SERVER_LISTEN` is section `server`, key `listen`. Variables of other prefixes, and those whose
/// first word is no section, belong to someone else.
fn from_variable(name: &str, known: &Table) -> Result<Option<(String, String)>, ConfigError> {
    let Some(rest) = name.strip_prefix(ENVIRONMENT_PREFIX) else { return Ok(None) };
    let rest = rest.to_ascii_lowercase();
    let Some((section, key)) = rest.split_once('_') else { return Ok(None) };
    let Some(keys) = known.get(section).and_then(Value::as_table) else { return Ok(None) };
    if !keys.contains_key(key) && is_of_kubernetes(key) {
        return Ok(None);
    }
    Ok(Some((section.to_owned(), key.to_owned())))
}

/// Kubernetes announces a service called `janus-server` to every pod beside it as
/// `JANUS_SERVER_SERVICE_HOST`, `JANUS_SERVER_SERVICE_PORT[_NAME]`, `JANUS_SERVER_PORT` and
/// `JANUS_SERVER_PORT_8080_TCP[_ADDR]`.
fn is_of_kubernetes(key: &str) -> bool {
    matches!(key, "service_host" | "service_port" | "port")
        || key.starts_with("service_port_")
        || key.starts_with("port_")
}

/// A secret that was never set must not open a server whose file has keys.
fn check_secret(section: &str, key: &str, value: &str, origin: &str) -> Result<(), ConfigError> {
    if section != "auth" || value.split(',').any(|item| !item.trim().is_empty()) {
        return Ok(());
    }
    let expected = "set to something: it is empty, so give it a value or unset the variable";
    Err(ConfigError::WrongType { origin: origin.to_owned(), key: format!("{section}.{key}"), expected })
}

fn known_section<'a>(known: &'a Table, section: &str, origin: &str) -> Result<&'a Table, ConfigError> {
    known.get(section).and_then(Value::as_table).ok_or_else(|| ConfigError::Unknown {
        origin: origin.to_owned(),
        what: "section",
        key: section.to_owned(),
        hint: hint(section, known.keys()),
    })
}

fn known_value<'a>(
    known: &'a Table,
    (section, key): (&str, &str),
    origin: &str,
) -> Result<&'a Value, ConfigError> {
    let keys = known_section(known, section, origin)?;
    keys.get(key).ok_or_else(|| ConfigError::Unknown {
        origin: origin.to_owned(),
        what: "key",
        key: format!("{section}.{key}"),
        hint: hint(key, keys.keys()),
    })
}

fn set(
    merged: &mut Table,
    known: &Table,
    (section, key): (&str, &str),
    value: Value,
    origin: &str,
) -> Result<(), ConfigError> {
    let default = known_value(known, (section, key), origin)?;
    if let Some(item) = repeated((section, key)).filter(|_| value.is_array()) {
        check_sections(&format!("{section}.{key}"), item, &value, origin)?;
    } else if !fits(default, &value) {
        let (origin, key) = (origin.to_owned(), format!("{section}.{key}"));
        return Err(ConfigError::WrongType { origin, key, expected: kind(default) });
    }
    let values = merged.entry(section).or_insert_with(|| Value::Table(Table::new()));
    values.as_table_mut().expect("only tables are put at the top").insert(key.to_owned(), value);
    Ok(())
}

/// Where sections repeat: one of them with its defaults.
fn repeated(place: (&str, &str)) -> Option<Value> {
    match place {
        ("auth", "clients") => Some(Value::try_from(Client::default()).expect("a client is a plain table")),
        ("prefix", "public") => Some(Value::try_from(Public::default()).expect("a prefix is a plain table")),
        _ => None,
    }
}

fn check_sections(path: &str, item: Value, sections: &Value, origin: &str) -> Result<(), ConfigError> {
    let known = Table::from_iter([(path.to_owned(), item)]);
    for section in sections.as_array().into_iter().flatten() {
        let Some(section) = section.as_table() else {
            let (origin, key) = (origin.to_owned(), path.to_owned());
            return Err(ConfigError::WrongType { origin, key, expected: "a section" });
        };
        for (key, value) in section {
            let default = known_value(&known, (path, key), origin)?;
            if !fits(default, value) {
                let (origin, key) = (origin.to_owned(), format!("{path}.{key}"));
                return Err(ConfigError::WrongType { origin, key, expected: kind(default) });
            }
        }
    }
    Ok(())
}

/// Whether `value` is of the default's type; all lists are of strings. Checked here because serde's error
/// would show the item, which may be a key.
fn fits(default: &Value, value: &Value) -> bool {
    let strings = value.as_array().is_none_or(|items| items.iter().all(Value::is_str));
    default.same_type(value) && strings
}

/// How a text becomes a list.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ListText {
    Commas,
    One,
    /// To what is there already.
    Add,
}

fn set_text(
    merged: &mut Table,
    known: &Table,
    place: (&str, &str),
    text: &str,
    origin: &str,
    list: ListText,
) -> Result<(), ConfigError> {
    let (section, key) = place;
    let default = known_value(known, place, origin)?;
    let wrong = || ConfigError::WrongType {
        origin: origin.to_owned(),
        key: format!("{section}.{key}"),
        expected: kind(default),
    };
    let value = match default {
        Value::String(_) => Value::String(text.to_owned()),
        Value::Integer(_) => Value::Integer(text.trim().parse().map_err(|_| wrong())?),
        Value::Boolean(_) => Value::Boolean(text.trim().parse().map_err(|_| wrong())?),
        Value::Array(_) => Value::Array(list_items(merged, place, text, list)),
        _ => return Err(wrong()),
    };
    set(merged, known, place, value, origin)
}

fn list_items(merged: &Table, (section, key): (&str, &str), text: &str, list: ListText) -> Vec<Value> {
    let one = || Value::String(text.to_owned());
    match list {
        ListText::One => vec![one()],
        ListText::Commas => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            items.map(|item| Value::String(item.to_owned())).collect()
        }
        ListText::Add => {
            let present = merged.get(section).and_then(|values| values.get(key)).and_then(Value::as_array);
            present.into_iter().flatten().cloned().chain([one()]).collect()
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) => "a whole number",
        Value::Boolean(_) => "true or false",
        Value::Array(_) => "a list of strings",
        _ => "of another type",
    }
}

/// `; did you mean ...` with the nearest of `known`, or all of them when none is near.
fn hint<'a>(unknown: &str, known: impl Iterator<Item = &'a String>) -> String {
    let mut ranked: Vec<(usize, &String)> = known.map(|name| (edits(unknown, name), name)).collect();
    ranked.sort();
    match ranked.first() {
        Some((distance, name)) if *distance * 2 <= name.len().max(unknown.len()) => {
            format!("; did you mean `{name}`?")
        }
        _ => {
            let names: Vec<&str> = ranked.iter().map(|(_, name)| name.as_str()).collect();
            format!("; known are {}", names.join(", "))
        }
    }
}

/// Insertions, deletions and replacements between two words (Levenshtein's distance).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a_char) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b_char) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a_char != *b_char);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
