//! One typed value at a time from a file's description of its network.
//!
//! GGUF metadata and `config.json` say the same things under different keys, so each value is asked for
//! by its GGUF key and its JSON keys at once. GGUF scalars are turned into JSON values first: what
//! follows knows one kind of value.

use serde_json::{Map, Value};

/// What a network's description holds, by key.
pub struct Fields {
    values: Map<String, Value>,
    source: Source,
    fallback: &'static [(&'static str, f64)],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Gguf,
    Json,
}

/// The keys one value may stand under.
pub struct Key {
    /// In GGUF metadata, after the architecture's name.
    pub gguf: &'static [&'static str],
    /// In `config.json`; a dot descends into an object.
    pub json: &'static [&'static str],
}

impl Fields {
    /// GGUF metadata of one architecture, its prefix removed.
    pub fn gguf(values: Map<String, Value>, fallback: &'static [(&'static str, f64)]) -> Fields {
        Fields { values, source: Source::Gguf, fallback }
    }

    /// The text part of `config.json`. Checkpoints that also see or hear keep it under `text_config`.
    pub fn json(config: &Map<String, Value>, fallback: &'static [(&'static str, f64)]) -> Fields {
        let mut values = config.clone();
        if let Some(Value::Object(text)) = config.get("text_config") {
            values.extend(text.clone());
        }
        Fields { values, source: Source::Json, fallback }
    }

    pub fn is_gguf(&self) -> bool {
        self.source == Source::Gguf
    }

    /// The first key that is present and not null, with its value.
    pub fn value(&self, key: &Key) -> Option<(&'static str, &Value)> {
        self.names(key).iter().find_map(|name| Some((*name, self.descend(name)?)))
    }

    fn names(&self, key: &Key) -> &'static [&'static str] {
        match self.source {
            Source::Gguf => key.gguf,
            Source::Json => key.json,
        }
    }

    fn descend(&self, name: &str) -> Option<&Value> {
        let found = match self.source {
            Source::Gguf => self.values.get(name)?,
            Source::Json => {
                let mut parts = name.split('.');
                let first = self.values.get(parts.next()?)?;
                parts.try_fold(first, |value, part| value.get(part))?
            }
        };
        (!found.is_null()).then_some(found)
    }

    /// Whether `name` is present and not null.
    pub fn has(&self, name: &str) -> bool {
        self.descend(name).is_some()
    }

    /// Whether `name` is present and neither null, false nor 0.
    pub fn is_on(&self, name: &str) -> bool {
        self.descend(name).is_some_and(|value| *value != Value::Bool(false) && value.as_f64() != Some(0.0))
    }

    fn fallback(&self, key: &Key) -> Option<f64> {
        let names = self.names(key);
        self.fallback.iter().find(|(name, _)| names.contains(name)).map(|(_, value)| *value)
    }

    /// A count: a whole number from 0. An array is a count when all its entries agree (some GGUF files
    /// list one a layer).
    pub fn count(&self, key: &Key) -> Result<Option<usize>, String> {
        match self.value(key) {
            Some((name, value)) => one_count(value).map(Some).ok_or_else(|| wrong(name, value, "a count")),
            None => Ok(self.fallback(key).map(|value| value as usize)),
        }
    }

    /// A finite number.
    pub fn number(&self, key: &Key) -> Result<Option<f32>, String> {
        match self.value(key) {
            Some((name, value)) => {
                finite(value).map(Some).ok_or_else(|| wrong(name, value, "a finite number"))
            }
            None => Ok(self.fallback(key).map(|value| value as f32)),
        }
    }

    pub fn text(&self, key: &Key) -> Result<Option<&str>, String> {
        self.value(key)
            .map(|(name, value)| value.as_str().ok_or_else(|| wrong(name, value, "text")))
            .transpose()
    }

    pub fn flag(&self, key: &Key) -> Result<Option<bool>, String> {
        self.value(key)
            .map(|(name, value)| value.as_bool().ok_or_else(|| wrong(name, value, "true or false")))
            .transpose()
    }

    /// A list of finite numbers.
    pub fn numbers(&self, key: &Key) -> Result<Option<Vec<f32>>, String> {
        let Some((name, value)) = self.value(key) else { return Ok(None) };
        value
            .as_array()
            .and_then(|list| list.iter().map(finite).collect())
            .map(Some)
            .ok_or_else(|| wrong(name, value, "a list of finite numbers"))
    }

    /// The value of `found`, or the sentence that it is missing.
    pub fn required<T>(&self, key: &Key, found: Option<T>) -> Result<T, String> {
        found.ok_or_else(|| match self.source {
            Source::Gguf => format!("the metadata lacks `{}`", key.gguf.join("` and `")),
            Source::Json => format!("config.json lacks `{}`", key.json.join("` and `")),
        })
    }
}

fn one_count(value: &Value) -> Option<usize> {
    match value {
        Value::Array(list) => {
            let first = one_count(list.first()?)?;
            list.iter().all(|entry| one_count(entry) == Some(first)).then_some(first)
        }
        value => value.as_u64().and_then(|count| usize::try_from(count).ok()),
    }
}

fn finite(value: &Value) -> Option<f32> {
    value.as_f64().map(|number| number as f32).filter(|number| number.is_finite())
}

fn wrong(name: &str, value: &Value, expected: &str) -> String {
    let mut shown = value.to_string();
    if shown.len() > 60 {
        let end = (0..=60).rev().find(|end| shown.is_char_boundary(*end)).unwrap_or(0);
        shown.truncate(end);
        shown.push('…');
    }
    format!("`{name}` is {shown}, {expected} is expected")
}
