//! Every failure's way to the client: one type, one mapping from the engine's errors to HTTP.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use engine::EngineError;
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, StatusCode};
use openapi::{ErrorBody, ErrorReply, ParseError};

use crate::catalogue::CatalogueError;
use crate::loader::LoadError;

/// SDKs ignore hints above a minute (Node) or two (Python).
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// How soon another server, or this one's successor, may answer.
const RETRY_AFTER_OVERLOAD: Duration = Duration::from_secs(1);
/// Text of a client's own that an error quotes at most, and a whole message.
const QUOTE_CHARS_MAX: usize = 600;
const MESSAGE_CHARS_MAX: usize = 2000;

const INVALID_REQUEST: &str = "invalid_request_error";
const SERVER_ERROR: &str = "server_error";

/// An answer that is an error.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub body: ErrorBody,
    retry_after: Option<Duration>,
}

pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    fn new(status: StatusCode, kind: &str, message: impl Into<String>) -> ApiError {
        let message = shorten_to(message.into(), MESSAGE_CHARS_MAX);
        let body = ErrorBody { message, kind: kind.to_owned(), param: None, code: None };
        ApiError { status, body, retry_after: None }
    }

    fn param(mut self, param: impl Into<String>) -> ApiError {
        let param = param.into();
        self.body.param = (!param.is_empty()).then_some(param);
        self
    }

    fn code(mut self, code: &str) -> ApiError {
        self.body.code = Some(code.to_owned());
        self
    }

    fn retry_after(mut self, wait: Duration) -> ApiError {
        self.retry_after = Some(wait.min(RETRY_AFTER_MAX));
        self
    }

    /// 400 because of the request as a whole.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, INVALID_REQUEST, message)
    }

    /// 400 because of a parameter's value.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::bad_request(message).param(param).code("invalid_value")
    }

    /// 400 because this server does not do what a known parameter asks.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> ApiError {
        ApiError::bad_request(message).param(param).code("unsupported_parameter")
    }

    pub fn unauthorized(message: &str) -> ApiError {
        ApiError::new(StatusCode::UNAUTHORIZED, INVALID_REQUEST, message).code("invalid_api_key")
    }

    /// 403; `host` is the name the client used for this server.
    pub fn host_not_allowed(host: &str) -> ApiError {
        let message = format!(
            "This server has no API keys, so it answers only to localhost and loopback addresses, not to the \
             host `{}`. Add that name to server.allowed_hosts (JANUS_SERVER_ALLOWED_HOSTS), or configure API keys",
            shorten(host)
        );
        ApiError::new(StatusCode::FORBIDDEN, INVALID_REQUEST, message).code("host_not_allowed")
    }

    pub fn unknown_model(model: &str) -> ApiError {
        let message = format!("The model `{model}` does not exist; GET /v1/models lists those that do");
        ApiError::new(StatusCode::NOT_FOUND, INVALID_REQUEST, message).param("model").code("model_not_found")
    }

    pub fn unknown_url(method: &str, path: &str) -> ApiError {
        let message = format!("Invalid URL ({method} {path})");
        ApiError::new(StatusCode::NOT_FOUND, INVALID_REQUEST, message)
    }

    pub fn wrong_method(method: &str, path: &str) -> ApiError {
        let message = format!("Not allowed to {method} on {path}; the `allow` header names what is");
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, INVALID_REQUEST, message)
    }

    pub fn not_json(content_type: &str) -> ApiError {
        let message =
            format!("The body must be sent as `content-type: application/json`, not `{content_type}`");
        ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID_REQUEST, message)
    }

    pub fn body_too_large(limit: usize) -> ApiError {
        let message = format!("The body is larger than the {limit} bytes this server takes");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID_REQUEST, message).code("request_too_large")
    }

    pub fn body_too_slow() -> ApiError {
        let message = "The request's body did not arrive in time";
        ApiError::new(StatusCode::REQUEST_TIMEOUT, INVALID_REQUEST, message).code("request_timeout")
    }

    pub fn deadline() -> ApiError {
        let message = "The request took longer than this server allows; ask for fewer tokens";
        ApiError::new(StatusCode::GATEWAY_TIMEOUT, SERVER_ERROR, message).code("timeout")
    }

    pub fn draining() -> ApiError {
        ApiError::unavailable("The server is shutting down; send the request again", "server_shutting_down")
    }

    /// 503 until the models the server starts with are loaded; `model` is the one that is under way.
    pub fn starting(model: &str) -> ApiError {
        let message = match model {
            "" => "The server is starting; send the request again shortly".to_owned(),
            model => {
                format!(
                    "The server is starting and loads the model `{model}`; send the request again shortly"
                )
            }
        };
        ApiError::unavailable(message, "model_loading")
    }

    pub fn unloaded() -> ApiError {
        let message = "The model was unloaded in the middle of this answer; ask another, or ask again once it \
                       is loaded";
        ApiError::unavailable(message, "model_unloading")
    }

    pub fn overloaded() -> ApiError {
        let message = "The server has as many requests in work as it allows; try again shortly";
        ApiError::unavailable(message, "server_overloaded")
    }

    /// 503 that may pass soon.
    pub fn unavailable(message: impl Into<String>, code: &str) -> ApiError {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, SERVER_ERROR, message)
            .code(code)
            .retry_after(RETRY_AFTER_OVERLOAD)
    }

    /// 500; the details belong in the log.
    pub fn internal() -> ApiError {
        let message = "The server had an error while processing the request; its log tells more";
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER_ERROR, message)
    }

    /// A generation that the engine gave up.
    pub fn failed(reason: &str) -> ApiError {
        tracing::error!(reason, "the engine failed a request");
        ApiError::internal()
    }

    /// 403: the key is right, and not for this.
    pub fn forbidden(message: &str) -> ApiError {
        ApiError::new(StatusCode::FORBIDDEN, INVALID_REQUEST, message).code("insufficient_permissions")
    }

    /// Why a model was not loaded, for the operator who asked.
    pub fn from_load(error: &LoadError) -> ApiError {
        let text = error.to_string();
        match error {
            LoadError::Unknown(_) | LoadError::Catalogue(CatalogueError::NotInstalled { .. }) => {
                ApiError::new(StatusCode::NOT_FOUND, INVALID_REQUEST, text)
                    .param("model")
                    .code("model_not_found")
            }
            LoadError::Name(_) => ApiError::invalid("served_name", text),
            LoadError::Busy(_) => {
                ApiError::new(StatusCode::CONFLICT, INVALID_REQUEST, text).code("model_loading")
            }
            LoadError::TooMany => ApiError::unavailable(text, "model_loading"),
            LoadError::Engine(EngineError::NoMemory { .. } | EngineError::NoMemoryToSwap { .. }) => {
                ApiError::unavailable(text, "insufficient_memory")
            }
            LoadError::Engine(EngineError::Stopped) => ApiError::draining(),
            LoadError::Catalogue(_) | LoadError::Engine(_) | LoadError::Crashed => {
                ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER_ERROR, text).code("model_not_loaded")
            }
        }
    }

    /// An engine's refusal; `prompt_param` is what the endpoint calls its input.
    pub fn from_engine(error: EngineError, prompt_param: &str) -> ApiError {
        let text = error.to_string();
        match error {
            EngineError::UnknownModel(model) => ApiError::unknown_model(&model),
            EngineError::WrongModel { .. } => {
                ApiError::bad_request(text).param("model").code("invalid_value")
            }
            EngineError::ContextLength { prompt, max_new_tokens, limit } => {
                ApiError::context_length(prompt, max_new_tokens, limit).param(prompt_param)
            }
            EngineError::InvalidParameter { parameter, .. } => ApiError::invalid(parameter, text),
            EngineError::Template(_) => ApiError::invalid("messages", text),
            EngineError::QueueFull { retry_after_ms, .. } => {
                ApiError::new(StatusCode::TOO_MANY_REQUESTS, "requests", text)
                    .code("rate_limit_exceeded")
                    .retry_after(Duration::from_millis(retry_after_ms))
            }
            EngineError::NoPages { .. } => {
                ApiError::bad_request(text).param(prompt_param).code("context_length_exceeded")
            }
            EngineError::ModelUnloading(_) => ApiError::unavailable(text, "model_unloading"),
            EngineError::NoMemory { .. }
            | EngineError::NoMemoryToSwap { .. }
            | EngineError::LowMemory { .. } => ApiError::unavailable(text, "insufficient_memory"),
            EngineError::Stopped => ApiError::draining(),
            EngineError::BadFile { .. }
            | EngineError::Unsupported { .. }
            | EngineError::Io { .. }
            | EngineError::Kernel(_)
            | EngineError::Tokenizer(_)
            | EngineError::Failed(_) => ApiError::failed(&text),
        }
    }

    /// 400 for text of which only the least number of its tokens is known.
    pub fn text_too_long(tokens_min: usize, limit: usize, param: &str) -> ApiError {
        let message = format!(
            "This model's maximum context length is {limit} tokens, but your input has at least {tokens_min} \
             tokens. Shorten it"
        );
        ApiError::bad_request(message).code("context_length_exceeded").param(param)
    }

    /// The words tools look for are "maximum context length".
    fn context_length(prompt: usize, max_new_tokens: usize, limit: usize) -> ApiError {
        let asked = match max_new_tokens {
            0 | usize::MAX => format!("your input has {prompt} tokens"),
            new => {
                let total = prompt.saturating_add(new);
                format!("you asked for {total} tokens ({prompt} of input, {new} to be generated)")
            }
        };
        let message = format!(
            "This model's maximum context length is {limit} tokens, but {asked}. Shorten one or the other"
        );
        ApiError::bad_request(message).code("context_length_exceeded")
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
            headers.insert("retry-after-ms", HeaderValue::from(wait.as_millis() as u64));
        }
        headers
    }

    /// The error as JSON: a body, or the data of a stream's event.
    pub fn to_json(&self) -> Vec<u8> {
        let reply = ErrorReply { error: self.body.clone() };
        serde_json::to_vec(&reply).expect("an error of strings always serialises")
    }
}

impl From<ParseError> for ApiError {
    fn from(error: ParseError) -> ApiError {
        match error {
            ParseError::Syntax { message } => {
                ApiError::bad_request(format!("The body is not valid JSON: {}", shorten(&message)))
            }
            ParseError::Unknown { param } => {
                let message = format!("Unrecognized request argument supplied: {}", shorten(&param));
                ApiError::bad_request(message).param(shorten(&param)).code("unknown_parameter")
            }
            ParseError::Missing { param } => {
                ApiError::bad_request(format!("Missing required parameter: '{param}'"))
                    .param(param)
                    .code("missing_required_parameter")
            }
            ParseError::Invalid { param, message } => {
                let subject =
                    if param.is_empty() { "the body".into() } else { format!("'{}'", shorten(&param)) };
                ApiError::bad_request(format!("Invalid value for {subject}: {}", shorten(&message)))
                    .param(shorten(&param))
                    .code("invalid_type")
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Bytes::from(self.to_json()).into());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// A client's own text, as much as is quoted of it.
fn shorten(text: &str) -> String {
    shorten_to(text.to_owned(), QUOTE_CHARS_MAX)
}

/// Both ends of a long text: its end holds line and column.
fn shorten_to(text: String, chars_max: usize) -> String {
    let count = text.chars().count();
    if count <= chars_max {
        return text;
    }
    let half = chars_max / 2;
    let start: String = text.chars().take(half).collect();
    let end: String = text.chars().skip(count - half).collect();
    format!("{start} ... {end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(retry_after_ms: u64) -> HeaderMap {
        ApiError::from_engine(EngineError::QueueFull { waiting: 9, retry_after_ms }, "prompt").headers()
    }

    #[test]
    fn hints_to_wait_stay_within_a_minute() {
        for (asked_ms, seconds, milliseconds) in [
            (0, "1", "0"),
            (1, "1", "1"),
            (1_500, "2", "1500"),
            (60_000, "60", "60000"),
            (u64::MAX, "60", "60000"),
        ] {
            let headers = wait(asked_ms);
            assert_eq!(headers[RETRY_AFTER], seconds);
            assert_eq!(headers["retry-after-ms"], milliseconds);
        }
    }

    #[test]
    fn engine_errors_have_one_place_each() {
        let path = std::path::PathBuf::from("/secret/path");
        let rows: Vec<(EngineError, u16, Option<&str>, Option<&str>)> = vec![
            (EngineError::UnknownModel("x".into()), 404, Some("model"), Some("model_not_found")),
            (
                EngineError::WrongModel { model: "x".into(), reason: "r" },
                400,
                Some("model"),
                Some("invalid_value"),
            ),
            (
                EngineError::ContextLength { prompt: 9, max_new_tokens: 9, limit: 8 },
                400,
                Some("messages"),
                Some("context_length_exceeded"),
            ),
            (
                EngineError::InvalidParameter { parameter: "top_p", reason: "r".into() },
                400,
                Some("top_p"),
                Some("invalid_value"),
            ),
            (
                EngineError::NoPages { needed: 9, total: 8 },
                400,
                Some("messages"),
                Some("context_length_exceeded"),
            ),
            (EngineError::Template("t".into()), 400, Some("messages"), Some("invalid_value")),
            (
                EngineError::QueueFull { waiting: 1, retry_after_ms: 1 },
                429,
                None,
                Some("rate_limit_exceeded"),
            ),
            (EngineError::ModelUnloading("x".into()), 503, None, Some("model_unloading")),
            (
                EngineError::NoMemory { needed: 9, available: 8, total: 8 },
                503,
                None,
                Some("insufficient_memory"),
            ),
            (EngineError::LowMemory { available: 1, floor: 2 }, 503, None, Some("insufficient_memory")),
            (EngineError::Stopped, 503, None, Some("server_shutting_down")),
            (EngineError::BadFile { path, reason: "r".into() }, 500, None, None),
            (EngineError::Failed("f".into()), 500, None, None),
        ];
        for (error, status, param, code) in rows {
            let text = error.to_string();
            let mapped = ApiError::from_engine(error, "messages");
            assert_eq!(mapped.status, status, "{text}");
            assert_eq!(mapped.body.param.as_deref(), param, "{text}");
            assert_eq!(mapped.body.code.as_deref(), code, "{text}");
            assert!(status != 500 || !mapped.body.message.contains("secret"), "{text}");
        }
    }
}
