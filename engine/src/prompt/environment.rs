//! The template language: Jinja2 as `transformers` sets it up for chat templates, on `minijinja`.
//!
//! `trim_blocks`, `lstrip_blocks`, loop controls, Python's string and dict methods, `raise_exception`,
//! `strftime_now`, `tojson` without HTML escapes. `{% generation %}` (which marks training text) is read
//! as a block that does nothing.
//!
//! A template runs a bounded number of steps and writes bounded output. Not bounded is the memory of a
//! template that doubles a text again and again: templates come with the weights an operator chose, and
//! no message can make a sound one do that.

use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use serde_json::{Map, Value as Json};

use super::{ChatMessage, clock};
use crate::EngineError;

/// Far above what the longest conversation takes (about 100 steps a message), under a second or two.
const STEPS_MAX: u64 = 20_000_000;
/// Eight times the longest context there is, at four bytes a token.
const OUTPUT_BYTES_MAX: usize = 32 << 20;
const SOURCE_BYTES_MAX: usize = 1 << 20;
const NAME: &str = "chat_template";

/// What one rendering sees.
pub(super) struct Context<'a> {
    pub messages: &'a [ChatMessage],
    pub variables: &'a Map<String, Json>,
    pub tokens: &'a [(&'static str, String)],
    pub add_generation_prompt: bool,
    pub now: SystemTime,
}

pub(super) fn compile(source: &str) -> Result<Environment<'static>, EngineError> {
    if source.len() > SOURCE_BYTES_MAX {
        return Err(EngineError::Template(format!(
            "{} bytes of template; at most 1 MiB is read",
            source.len()
        )));
    }
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().map_err(message_of)?;
    environment.set_syntax(syntax);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_fuel(Some(STEPS_MAX));
    environment.set_unknown_method_callback(python_method);
    environment.add_filter("tojson", to_json);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_function("raise_exception", raise_exception);
    environment.add_template_owned(NAME, without_generation_tags(source)).map_err(message_of)?;
    Ok(environment)
}

pub(super) fn render(environment: &Environment<'_>, context: &Context<'_>) -> Result<String, EngineError> {
    let template = environment.get_template(NAME).map_err(message_of)?;
    let mut output = BoundedOutput(Vec::new());
    let rendered = template.render_captured_to(variables(context), &mut output).map(drop);
    rendered.map_err(message_of)?;
    String::from_utf8(output.0).map_err(|error| EngineError::Template(error.to_string()))
}

/// `tools` and `documents` are `none` when absent, as `transformers` passes them.
fn variables(context: &Context<'_>) -> Value {
    let now = context.now;
    let strftime = move |format: String| clock::format(now, &format);
    let mut all: Vec<(String, Value)> =
        vec![("tools".into(), Value::from(())), ("documents".into(), Value::from(()))];
    let extra = context.variables.iter();
    all.extend(extra.map(|(name, value)| (name.clone(), from_json(value))));
    let tokens = context.tokens.iter();
    all.extend(tokens.map(|(name, token)| ((*name).to_owned(), Value::from(token.as_str()))));
    all.push(("messages".into(), Value::from_iter(context.messages.iter().map(from_json))));
    all.push(("add_generation_prompt".into(), Value::from(context.add_generation_prompt)));
    all.push(("strftime_now".into(), Value::from_function(strftime)));
    Value::from_pairs(all)
}

/// Key order is kept: templates print whole objects.
fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(value) => Value::from(*value),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), _, _) => Value::from(value),
            (_, Some(value), _) => Value::from(value),
            (_, _, value) => Value::from(value.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from_iter(items.iter().map(from_json)),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), from_json(value))))
        }
    }
}

/// A template's own refusal, told apart from errors in it.
#[derive(Debug)]
struct Raised(String);

impl std::fmt::Display for Raised {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = message.to_string();
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

fn message_of(error: Error) -> EngineError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(Raised(message)) = cause.downcast_ref::<Raised>() {
            return EngineError::Template(message.clone());
        }
        source = cause.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        return EngineError::Template("it does not end within the steps a template may take".into());
    }
    EngineError::Template(error.to_string())
}

struct BoundedOutput(Vec<u8>);

impl std::io::Write for BoundedOutput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_BYTES_MAX {
            return Err(std::io::Error::other("it writes more text than any model reads"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Replaces `{% generation %}` ... `{% endgeneration %}` by a condition that holds, white-space control
/// kept.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            out.push_str(tag);
            return out;
        };
        let (tag, after) = tag.split_at(end);
        let word = tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

/// In Python a text can be iterated and none cannot; `minijinja` sees that the other way round.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && (value.as_str().is_some() || value.try_iter().is_ok())
}

/// What has a length and an item for an index or key: texts and maps among them.
fn is_sequence(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map | ValueKind::Undefined)
}

/// Python's methods: those `minijinja-contrib` has, and the few more that templates use.
fn python_method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if let (Some(text), ValueKind::String) = (value.as_str(), value.kind()) {
        let first = args.first().and_then(Value::as_str);
        match (method, first) {
            ("removeprefix", Some(part)) => return Ok(text.strip_prefix(part).unwrap_or(text).into()),
            ("removesuffix", Some(part)) => return Ok(text.strip_suffix(part).unwrap_or(text).into()),
            ("partition", Some(part)) if !part.is_empty() => {
                return Ok(parts(text.split_once(part), part, [text, "", ""]));
            }
            ("rpartition", Some(part)) if !part.is_empty() => {
                return Ok(parts(text.rsplit_once(part), part, ["", "", text]));
            }
            ("rsplit", Some(part)) if !part.is_empty() => return Ok(rsplit(text, part, args.get(1))),
            ("isspace", None) => {
                return Ok((!text.is_empty() && text.chars().all(char::is_whitespace)).into());
            }
            _ => {}
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

fn parts(found: Option<(&str, &str)>, part: &str, otherwise: [&str; 3]) -> Value {
    let parts = found.map_or(otherwise, |(left, right)| [left, part, right]);
    Value::from(parts.map(Value::from).to_vec())
}

fn rsplit(text: &str, part: &str, splits_max: Option<&Value>) -> Value {
    let splits_max = splits_max.and_then(|value| usize::try_from(value.clone()).ok());
    let mut found: Vec<Value> = match splits_max {
        Some(count) => text.rsplitn(count.saturating_add(1), part).map(Value::from).collect(),
        None => text.rsplit(part).map(Value::from).collect(),
    };
    found.reverse();
    Value::from(found)
}

/// Python's `json.dumps(value, ensure_ascii=False)`, with the arguments `transformers` gives the filter.
fn to_json(value: &Value, args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let positional = |at: usize| args.get(at).cloned();
    let argument = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        let given = if named.has(name) { Some(named.get::<Value>(name)?) } else { positional(at) };
        Ok(given.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = argument(1, "indent")?.map(usize::try_from).transpose()?.map(|width| width.min(32));
    let separators = match argument(2, "separators")? {
        Some(pair) => (pair.get_item_by_index(0)?.to_string(), pair.get_item_by_index(1)?.to_string()),
        None => ((if indent.is_some() { "," } else { ", " }).to_owned(), ": ".to_owned()),
    };
    let sorted = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
    named.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let mut text = String::new();
    JsonStyle { ascii, indent, separators, sorted }.write(&json, 0, &mut text);
    Ok(Value::from(text))
}

struct JsonStyle {
    ascii: bool,
    /// Spaces a level; `None` writes one line.
    indent: Option<usize>,
    /// Between items, and between key and value.
    separators: (String, String),
    sorted: bool,
}

impl JsonStyle {
    fn write(&self, value: &Json, depth: usize, out: &mut String) {
        match value {
            Json::Array(items) => {
                let items = items.iter().map(|item| move |out: &mut String| self.write(item, depth + 1, out));
                self.write_items(['[', ']'], items, depth, out);
            }
            Json::Object(fields) => {
                let mut fields: Vec<(&String, &Json)> = fields.iter().collect();
                if self.sorted {
                    fields.sort_by_key(|(key, _)| *key);
                }
                let items = fields.into_iter().map(|(key, value)| {
                    move |out: &mut String| {
                        self.write_text(key, out);
                        out.push_str(&self.separators.1);
                        self.write(value, depth + 1, out);
                    }
                });
                self.write_items(['{', '}'], items, depth, out);
            }
            Json::String(text) => self.write_text(text, out),
            Json::Number(number) => out.push_str(&python_number(number)),
            Json::Bool(_) | Json::Null => out.push_str(&value.to_string()),
        }
    }

    fn write_items<F: FnOnce(&mut String)>(
        &self,
        brackets: [char; 2],
        items: impl ExactSizeIterator<Item = F>,
        depth: usize,
        out: &mut String,
    ) {
        out.push(brackets[0]);
        let empty = items.len() == 0;
        for (at, write) in items.enumerate() {
            if at > 0 {
                out.push_str(&self.separators.0);
            }
            self.break_line(depth + 1, out);
            write(out);
        }
        if !empty {
            self.break_line(depth, out);
        }
        out.push(brackets[1]);
    }

    fn break_line(&self, depth: usize, out: &mut String) {
        if let Some(width) = self.indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    }

    /// Private-use characters stay as they are even in ASCII: prompts are marked with them.
    fn write_text(&self, text: &str, out: &mut String) {
        let quoted = Json::from(text).to_string();
        if !self.ascii {
            out.push_str(&quoted);
            return;
        }
        for character in quoted.chars() {
            if character.is_ascii() || character >= '\u{f0000}' {
                out.push(character);
            } else {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

/// Python writes an exponent below 1e-4 and from 1e16, with a sign and two digits.
fn python_number(number: &serde_json::Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    let size = float.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{float:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let exponent: i32 = exponent.parse().unwrap_or(0);
        return format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs());
    }
    if float.fract() == 0.0 { format!("{float:.1}") } else { float.to_string() }
}
