//! Bytes to a request. A body that does not fit is read a second time to find the parameter at fault,
//! so that a good one pays nothing for it.

use serde::de::DeserializeOwned;
use serde_json::error::Category;

/// Why a body is not the request it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParseError {
    /// Not JSON at all, or not only.
    Syntax { message: String },
    /// A parameter nobody knows.
    Unknown { param: String },
    /// A required parameter is absent.
    Missing { param: String },
    /// A parameter of the wrong type or out of range; `param` is empty for the body as a whole.
    Invalid { param: String, message: String },
}

/// Reads a request.
///
/// # Errors
/// [`ParseError`], with line and column in its message and the parameter's path, as in
/// `messages[0].content`.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ParseError> {
    serde_json::from_slice(body).map_err(|_| explain::<T>(body)).and_then(|request| object(body, request))
}

/// serde would also read a list of a struct's members in order; OpenAI does not.
fn object<T>(body: &[u8], request: T) -> Result<T, ParseError> {
    match body.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => Ok(request),
        _ => Err(ParseError::Invalid { param: String::new(), message: "expected a JSON object".into() }),
    }
}

fn explain<T: DeserializeOwned>(body: &[u8]) -> ParseError {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let (path, error) = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(error) => (error.path().to_string(), error.into_inner()),
        Ok(_) => match reader.end() {
            Err(error) => (String::new(), error),
            // Unreachable with a deterministic `Deserialize`, and harmless if it happens.
            Ok(()) => return ParseError::Syntax { message: "the body could not be read".into() },
        },
    };
    let message = error.to_string();
    match error.classify() {
        Category::Data => invalid(if path == "." { "" } else { &path }, message),
        _ => ParseError::Syntax { message },
    }
}

/// serde names an unknown or missing field only in its text; the two prefixes are stable in practice
/// and held by this crate's tests.
fn invalid(path: &str, message: String) -> ParseError {
    if let Some(field) = quoted_after(&message, "unknown field `") {
        return ParseError::Unknown { param: join(path, field) };
    }
    if let Some(field) = quoted_after(&message, "missing field `") {
        return ParseError::Missing { param: join(path, field) };
    }
    ParseError::Invalid { param: path.to_owned(), message }
}

fn quoted_after<'a>(message: &'a str, prefix: &str) -> Option<&'a str> {
    message.strip_prefix(prefix)?.rsplit_once('`').map(|(before, _)| before).map(|before| {
        // The list of known fields follows in backticks of its own.
        before.split_once("`, expected").map_or(before, |(field, _)| field)
    })
}

fn join(path: &str, field: &str) -> String {
    if path.is_empty() || path == field || path.ends_with(&format!(".{field}")) {
        return if path.is_empty() { field.to_owned() } else { path.to_owned() };
    }
    format!("{path}.{field}")
}
