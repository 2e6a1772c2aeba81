//! Parameters that are known and would change what a request means: refused by name unless their value
//! asks for nothing.

use openapi::{ChatRequest, CompletionRequest, Listed, Outline};

use crate::error::{ApiError, ApiResult};

/// Which values of a parameter ask for nothing, besides null.
enum Harmless {
    /// Empty lists, objects and strings, and `false`.
    Empty,
    Exactly(&'static str),
    /// `{"type": ...}` of this.
    Type(&'static str),
    /// A list of nothing but this.
    OnlyListed(&'static str),
    Number(u64),
}

impl Harmless {
    fn allows(&self, value: &Outline) -> bool {
        match (self, value) {
            (_, Outline::Null) => true,
            (Harmless::Empty, Outline::Bool(value)) => !value,
            (Harmless::Empty, Outline::Text(text)) => text.is_empty(),
            (Harmless::Empty, Outline::List(listed)) => *listed == Listed::Nothing,
            (Harmless::Empty, Outline::Object { is_empty, .. }) => *is_empty,
            (Harmless::Exactly(expected), Outline::Text(text)) => text == expected,
            (Harmless::Type(name), Outline::Object { kind, .. }) => kind.as_deref() == Some(name),
            (Harmless::OnlyListed(_), Outline::List(Listed::Nothing)) => true,
            (Harmless::OnlyListed(name), Outline::List(Listed::Only(text))) => text == name,
            (Harmless::Number(expected), Outline::Number(number)) => *number == Some(*expected),
            _ => false,
        }
    }
}

type Row<'a> = (&'static str, &'a Option<Outline>, Harmless);

/// # Errors
/// 400 naming the first parameter that asks for something.
pub fn check_chat(request: &ChatRequest) -> ApiResult<()> {
    check(&[
        ("tools", &request.tools, Harmless::Empty),
        ("tool_choice", &request.tool_choice, Harmless::Exactly("none")),
        ("functions", &request.functions, Harmless::Empty),
        ("function_call", &request.function_call, Harmless::Exactly("none")),
        ("response_format", &request.response_format, Harmless::Type("text")),
        ("audio", &request.audio, Harmless::Empty),
        ("modalities", &request.modalities, Harmless::OnlyListed("text")),
        ("prediction", &request.prediction, Harmless::Empty),
        ("web_search_options", &request.web_search_options, Harmless::Exactly("none")),
        ("reasoning_effort", &request.reasoning_effort, Harmless::Exactly("none")),
        ("verbosity", &request.verbosity, Harmless::Exactly("medium")),
        ("best_of", &request.best_of, Harmless::Number(request.n.unwrap_or(1).into())),
        ("echo", &request.echo, Harmless::Empty),
        ("continue_final_message", &request.continue_final_message, Harmless::Empty),
        ("chat_template", &request.chat_template, Harmless::Empty),
        ("prompt_logprobs", &request.prompt_logprobs, Harmless::Empty),
        ("truncate_prompt_tokens", &request.truncate_prompt_tokens, Harmless::Empty),
        ("structured_outputs", &request.structured_outputs, Harmless::Empty),
    ])
}

/// # Errors
/// 400 naming the first parameter that asks for something.
pub fn check_completion(request: &CompletionRequest) -> ApiResult<()> {
    check(&[
        ("suffix", &request.suffix, Harmless::Empty),
        ("response_format", &request.response_format, Harmless::Type("text")),
        ("prompt_logprobs", &request.prompt_logprobs, Harmless::Empty),
        ("prompt_embeds", &request.prompt_embeds, Harmless::Empty),
        ("truncate_prompt_tokens", &request.truncate_prompt_tokens, Harmless::Empty),
        ("structured_outputs", &request.structured_outputs, Harmless::Empty),
    ])
}

fn check(rows: &[Row<'_>]) -> ApiResult<()> {
    for (name, value, harmless) in rows {
        if value.as_ref().is_some_and(|value| !harmless.allows(value)) {
            let message =
                format!("Unsupported parameter: this server does not implement '{name}' yet; leave it out");
            return Err(ApiError::unsupported(*name, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(member: &str) -> Option<String> {
        let body = format!(r#"{{"model":"m","messages":[],"n":2,{member}}}"#);
        let request: ChatRequest = openapi::parse(body.as_bytes()).expect(member);
        check_chat(&request).err().and_then(|error| error.body.param)
    }

    #[test]
    fn values_that_ask_for_nothing_pass() {
        for (member, expected) in [
            (r#""tools":[]"#, None),
            (r#""tools":null"#, None),
            (r#""tools":[{"type":"function"}]"#, Some("tools")),
            (r#""tool_choice":"none""#, None),
            (r#""tool_choice":"auto""#, Some("tool_choice")),
            (r#""tool_choice":{"type":"function"}"#, Some("tool_choice")),
            (r#""functions":[{}]"#, Some("functions")),
            (r#""response_format":{"type":"text"}"#, None),
            (r#""response_format":{"type":"json_object"}"#, Some("response_format")),
            (r#""response_format":"text""#, Some("response_format")),
            (r#""modalities":["text"]"#, None),
            (r#""modalities":[]"#, None),
            (r#""modalities":["text","text"]"#, None),
            (r#""prediction":{}"#, None),
            (r#""tools":[0,0]"#, Some("tools")),
            (r#""modalities":["text","audio"]"#, Some("modalities")),
            (r#""audio":{"voice":"x"}"#, Some("audio")),
            (r#""prediction":{"type":"content"}"#, Some("prediction")),
            (r#""web_search_options":{}"#, Some("web_search_options")),
            (r#""reasoning_effort":"high""#, Some("reasoning_effort")),
            (r#""best_of":2"#, None),
            (r#""best_of":3"#, Some("best_of")),
            (r#""echo":false"#, None),
            (r#""echo":true"#, Some("echo")),
            (r#""truncate_prompt_tokens":0"#, Some("truncate_prompt_tokens")),
        ] {
            assert_eq!(refused(member).as_deref(), expected, "{member}");
        }
    }
}
