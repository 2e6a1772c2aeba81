//! A server's HTTP interface, as commands use it: blocking, within bounds.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, http};

const CONNECT_MAX: Duration = Duration::from_secs(3);
/// An answer that is no stream (a list of models, an error) is not longer than this.
const TEXT_BYTES_MAX: u64 = 1 << 20;

/// A server, and the key to it.
pub struct Client {
    agent: Agent,
    /// Without `/v1` and without a slash at its end.
    url: String,
    key: Option<String>,
}

impl Client {
    /// `silence_max`: between two pieces of an answer.
    pub fn new(url: &str, key: Option<&str>, silence_max: Duration) -> Client {
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .tls_config(tls)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_per_read(Some(silence_max))
            .http_status_as_error(false)
            .build();
        let url = url.trim_end_matches('/').trim_end_matches("/v1").to_owned();
        Client { agent: Agent::new_with_config(config), url, key: key.map(str::to_owned) }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The JSON at `path`, whole within `wait`.
    pub fn get(&self, path: &str, wait: Duration) -> anyhow::Result<Value> {
        let request = self.authorized(self.agent.get(format!("{}{path}", self.url)));
        let request = request.config().timeout_global(Some(wait)).build();
        let answer = request.call().with_context(|| format!("no server answers at {}", self.url))?;
        self.json(answer, path)
    }

    /// The JSON that `path` answers to `body`.
    pub fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        let answer = self.send(path, body)?;
        self.json(answer, path)
    }

    /// The answer of `path` to `body`, once it begins.
    ///
    /// # Errors
    /// Also one that is no success, with the server's own text.
    pub fn send(&self, path: &str, body: &Value) -> anyhow::Result<http::Response<Body>> {
        let request = self.authorized(self.agent.post(format!("{}{path}", self.url)));
        let request = request.header("content-type", "application/json");
        let answer =
            request.send(body.to_string()).with_context(|| format!("no server answers at {}", self.url))?;
        if !answer.status().is_success() {
            bail!("the server answers {}: {}", answer.status(), error_text(&text(answer)?));
        }
        Ok(answer)
    }

    fn json(&self, answer: http::Response<Body>, path: &str) -> anyhow::Result<Value> {
        let status = answer.status();
        let text = text(answer)?;
        if !status.is_success() {
            bail!("the server answers {status}: {}", error_text(&text));
        }
        let context = || format!("{}{path} does not answer as Janus does", self.url);
        serde_json::from_str(&text).with_context(context)
    }

    fn authorized<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.key {
            Some(key) => request.header("authorization", format!("Bearer {key}")),
            None => request,
        }
    }
}

/// A short answer as text; one that is not a success is still text.
fn text(answer: http::Response<Body>) -> anyhow::Result<String> {
    let mut text = Vec::new();
    answer.into_body().into_reader().take(TEXT_BYTES_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// `error.message` of an OpenAI error, or the beginning of what it is instead.
pub fn error_text(body: &str) -> String {
    let parsed: Value = serde_json::from_str(body).unwrap_or_default();
    match parsed["error"]["message"].as_str() {
        Some(message) => message.to_owned(),
        None => body.chars().take(200).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_read_in_either_form() {
        assert_eq!(error_text(r#"{"error":{"message":"no"}}"#), "no");
        assert_eq!(error_text("<html>"), "<html>");
    }
}
