//! A chat partner behind a URL: any server that speaks the OpenAI API.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::super::client::{Client, error_text};
use super::{Answering, Message, Partner};
use crate::catalogue::{Catalogue, TaskKind};

/// The list of models is short and at hand; whatever else listens there may never answer.
const LIST_MAX: Duration = Duration::from_secs(5);
/// Between two pieces of an answer: a busy server lets a client wait before its first token.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// One line of a stream.
const LINE_BYTES_MAX: u64 = 1 << 20;

/// A server, and the model asked for.
pub struct Server {
    client: Client,
    model: String,
    answering: Answering,
}

impl Server {
    /// Asks the server what it has and takes `model`, or its first chat model.
    pub fn connect(
        url: &str,
        model: Option<&str>,
        key: Option<&str>,
        answering: Answering,
    ) -> anyhow::Result<Server> {
        let client = Client::new(url, key, SILENCE_MAX);
        let list = client.get("/v1/models", LIST_MAX)?;
        let models = list["data"].as_array().map(Vec::as_slice).unwrap_or_default();
        let models: Vec<String> =
            models.iter().filter_map(|model| model["id"].as_str()).map(str::to_owned).collect();
        let model = choose(&models, model, client.url())?;
        Ok(Server { client, model, answering })
    }
}

/// The model to ask for: `wanted` if it is served, else the first one not known to make embeddings.
fn choose(served: &[String], wanted: Option<&str>, url: &str) -> anyhow::Result<String> {
    let listed = served.join(", ");
    if let Some(wanted) = wanted {
        return match served.iter().any(|name| name == wanted) {
            true => Ok(wanted.to_owned()),
            false => bail!("{url} does not serve `{wanted}`; it serves {listed}"),
        };
    }
    let catalogue = Catalogue::built_in();
    let embeds = |name: &str| catalogue.find(name).is_ok_and(|model| model.task == TaskKind::Embed);
    let chat = served.iter().find(|name| !embeds(name));
    chat.cloned().with_context(|| format!("{url} serves no chat model; it serves {listed}"))
}

impl Partner for Server {
    fn describe(&self) -> String {
        format!("{} at {}", self.model, self.client.url())
    }

    fn answer(&mut self, messages: &[Message], out: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| json!({"role": message.role, "content": message.content}))
            .collect();
        let body = json!({
            "model": self.model,
            "messages": messages,
            "temperature": self.answering.temperature,
            "max_completion_tokens": self.answering.max_tokens,
            "stream": true,
        });
        let answer = self.client.send("/v1/chat/completions", &body)?;
        stream(answer.into_body().into_reader(), out)
    }
}

/// Reads server-sent events until `[DONE]`.
fn stream(body: impl Read, out: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
    let mut reader = BufReader::new(body);
    let mut line = String::new();
    loop {
        line.clear();
        let read = (&mut reader).take(LINE_BYTES_MAX).read_line(&mut line).context("the answer broke off")?;
        if read == 0 {
            bail!("the answer broke off before its end");
        }
        // Comments (keep-alives), other fields and the empty line after each event are passed over.
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            return Ok(());
        }
        let chunk: Value = serde_json::from_str(data).context("the server sends something else than JSON")?;
        if !chunk["error"].is_null() {
            bail!("the server gave up: {}", error_text(data));
        }
        if let Some(piece) = chunk["choices"][0]["delta"]["content"].as_str() {
            out(piece);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_stream(body: &str, text: &str, error: Option<&str>) {
        let mut found = String::new();
        let ended = stream(body.as_bytes(), &mut |piece| found.push_str(piece));
        assert_eq!(found, text, "{body}");
        match (ended, error) {
            (Ok(()), None) => {}
            (Err(failure), Some(words)) => assert!(format!("{failure:#}").contains(words), "{failure:#}"),
            (ended, error) => panic!("{body}: expected {error:?}, found {ended:?}"),
        }
    }

    #[test]
    fn streams() {
        let chunk =
            |text: &str| format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n");
        let (a, b) = (chunk("a"), chunk("b"));
        let usage = "data: {\"choices\":[],\"usage\":{}}\n\n";
        check_stream(&format!("{a}: keep-alive\n\n{b}{usage}data: [DONE]\n\n"), "ab", None);
        check_stream(&format!("{a}\r\n{b}data:[DONE]\r\n"), "ab", None);
        check_stream(&a, "a", Some("broke off before its end"));
        check_stream(
            &format!("{a}data: {{\"error\":{{\"message\":\"no room\"}}}}\n\n"),
            "a",
            Some("no room"),
        );
        check_stream("data: nonsense\n\n", "", Some("something else than JSON"));
        check_stream("", "", Some("broke off"));
    }

    fn check_choice(served: &[&str], wanted: Option<&str>, expected: Result<&str, &str>) {
        let served: Vec<String> = served.iter().map(|&name| name.to_owned()).collect();
        match (choose(&served, wanted, "http://x"), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(error), Err(words)) => assert!(error.to_string().contains(words), "{error}"),
            (found, expected) => panic!("{served:?} {wanted:?}: expected {expected:?}, found {found:?}"),
        }
    }

    #[test]
    fn choices() {
        check_choice(&["all-minilm-l6-v2", "mine"], None, Ok("mine"));
        check_choice(&["mine"], Some("mine"), Ok("mine"));
        check_choice(&["mine"], Some("other"), Err("does not serve `other`; it serves mine"));
        check_choice(&["all-minilm-l6-v2"], None, Err("serves no chat model"));
        check_choice(&[], None, Err("serves no chat model"));
    }
}
