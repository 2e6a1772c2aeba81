//! The parameters chat and completions share: OpenAI's and vLLM's names to the engine's.
//!
//! Caps are checked here; ranges by the engine, which names the parameter in its refusal.

use std::collections::BTreeMap;

use engine::{SamplingParams, StopCriteria};
use openapi::chat::StreamOptions;
use openapi::input::Stop;
use openapi::{ChatRequest, CompletionRequest};

use crate::config::Limits;
use crate::error::{ApiError, ApiResult};

/// As they came over the wire.
#[derive(Default)]
pub struct Fields {
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    seed: Option<i64>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    logit_bias: Option<BTreeMap<String, f32>>,
    stop: Option<Stop>,
    stop_token_ids: Option<Vec<u32>>,
    ignore_eos: Option<bool>,
    min_tokens: Option<u32>,
    include_stop_str_in_output: Option<bool>,
    skip_special_tokens: Option<bool>,
}

/// Moves the shared fields out of a request; the two requests have no type in common on the wire.
macro_rules! take_fields {
    ($request:ident: $($name:ident),* $(,)?) => {
        Fields { $($name: $request.$name.take()),* }
    };
}

impl Fields {
    pub fn of_chat(request: &mut ChatRequest) -> Fields {
        take_fields!(request: temperature, top_p, top_k, min_p, seed, repetition_penalty, presence_penalty,
            frequency_penalty, logit_bias, stop, stop_token_ids, ignore_eos, min_tokens,
            include_stop_str_in_output, skip_special_tokens)
    }

    pub fn of_completion(request: &mut CompletionRequest) -> Fields {
        take_fields!(request: temperature, top_p, top_k, min_p, seed, repetition_penalty, presence_penalty,
            frequency_penalty, logit_bias, stop, stop_token_ids, ignore_eos, min_tokens,
            include_stop_str_in_output, skip_special_tokens)
    }

    /// The engine's form.
    ///
    /// # Errors
    /// 400 naming a parameter over its cap.
    pub fn parse(self, limits: &Limits) -> ApiResult<(SamplingParams, StopCriteria)> {
        let defaults = SamplingParams::default();
        let sampling = SamplingParams {
            temperature: self.temperature.unwrap_or(defaults.temperature),
            top_p: self.top_p.unwrap_or(defaults.top_p),
            top_k: top_k(self.top_k)?,
            min_p: self.min_p.unwrap_or(defaults.min_p),
            // Any 64 bits are a seed.
            seed: self.seed.map(|seed| seed as u64),
            repetition_penalty: self.repetition_penalty.unwrap_or(defaults.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(defaults.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(defaults.frequency_penalty),
            logit_bias: logit_bias(self.logit_bias.unwrap_or_default(), limits)?,
        };
        let stop = StopCriteria {
            strings: stop_strings(self.stop, limits)?,
            token_ids: stop_tokens(self.stop_token_ids.unwrap_or_default(), limits)?,
            ignore_eos: self.ignore_eos.unwrap_or(false),
            include_stop_text: self.include_stop_str_in_output.unwrap_or(false),
            min_tokens: self.min_tokens.unwrap_or(0) as usize,
            keep_special_tokens: !self.skip_special_tokens.unwrap_or(true),
        };
        Ok((sampling, stop))
    }
}

/// 0 in the engine is OpenAI's absence and vLLM's -1.
fn top_k(top_k: Option<i64>) -> ApiResult<usize> {
    match top_k {
        None | Some(-1) => Ok(0),
        Some(k) => {
            usize::try_from(k).map_err(|_| ApiError::invalid("top_k", "'top_k' must be -1, 0 or more"))
        }
    }
}

fn logit_bias(biases: BTreeMap<String, f32>, limits: &Limits) -> ApiResult<Vec<(u32, f32)>> {
    at_most("logit_bias", biases.len(), limits.logit_bias_max, "entries")?;
    let token = |name: &String| {
        let message = format!("'logit_bias' has token ids as keys, not '{name}'");
        name.parse().map_err(|_| ApiError::invalid("logit_bias", message))
    };
    biases.iter().map(|(name, bias)| Ok((token(name)?, *bias))).collect()
}

fn stop_strings(stop: Option<Stop>, limits: &Limits) -> ApiResult<Vec<String>> {
    let strings = stop.map_or_else(Vec::new, Stop::into_vec);
    at_most("stop", strings.len(), limits.stop_strings_max, "strings")?;
    for string in &strings {
        at_most("stop", string.len(), limits.stop_string_bytes_max, "bytes in a string")?;
        if string.is_empty() {
            return Err(ApiError::invalid("stop", "'stop' must not hold an empty string"));
        }
    }
    Ok(strings)
}

fn stop_tokens(tokens: Vec<u32>, limits: &Limits) -> ApiResult<Vec<u32>> {
    at_most("stop_token_ids", tokens.len(), limits.stop_tokens_max, "entries")?;
    Ok(tokens)
}

/// # Errors
/// 400 if `count` is over `limit`.
pub fn at_most(param: &'static str, count: usize, limit: usize, unit: &str) -> ApiResult<()> {
    if count > limit {
        let message = format!("'{param}' has {count} {unit}; this server takes {limit} at most");
        return Err(ApiError::invalid(param, message));
    }
    Ok(())
}

/// How many choices each of `prompts` gets.
///
/// # Errors
/// 400 if that is none, or over the cap together.
pub fn choices(n: Option<u32>, prompts: usize, limits: &Limits) -> ApiResult<usize> {
    let n = n.unwrap_or(1) as usize;
    if n == 0 {
        return Err(ApiError::invalid("n", "'n' must be at least 1"));
    }
    let total = n.saturating_mul(prompts);
    if total > limits.choices_max {
        let message =
            format!("'n' times the prompts is {total}; this server takes {} at most", limits.choices_max);
        return Err(ApiError::invalid("n", message));
    }
    Ok(n)
}

/// Whether to stream, and whether to end the stream with the token counts.
///
/// # Errors
/// 400 for options of a stream that is not asked for.
pub fn streaming(stream: Option<bool>, options: Option<StreamOptions>) -> ApiResult<(bool, bool)> {
    let stream = stream.unwrap_or(false);
    if options.is_some() && !stream {
        let message = "'stream_options' is only allowed when 'stream' is true";
        return Err(ApiError::invalid("stream_options", message));
    }
    Ok((stream, options.and_then(|options| options.include_usage).unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(member: &str) -> Result<(SamplingParams, StopCriteria), Option<String>> {
        let body = format!(r#"{{"model":"m","messages":[],{member}}}"#);
        let mut request: ChatRequest = openapi::parse(body.as_bytes()).expect(member);
        let limits =
            Limits { stop_strings_max: 2, stop_tokens_max: 2, logit_bias_max: 2, ..Limits::default() };
        Fields::of_chat(&mut request).parse(&limits).map_err(|error| error.body.param)
    }

    #[test]
    fn caps_name_their_parameter() {
        let long = format!(r#""stop":"{}""#, "x".repeat(1025));
        for (member, expected) in [
            (r#""stop":"""#, "stop"),
            (r#""stop":["a","b","c"]"#, "stop"),
            (long.as_str(), "stop"),
            (r#""stop_token_ids":[1,2,3]"#, "stop_token_ids"),
            (r#""logit_bias":{"1":0,"2":0,"3":0}"#, "logit_bias"),
            (r#""logit_bias":{"a":0}"#, "logit_bias"),
            (r#""logit_bias":{"-1":0}"#, "logit_bias"),
            (r#""top_k":-2"#, "top_k"),
        ] {
            assert_eq!(parse(member).err().flatten().as_deref(), Some(expected), "{member}");
        }
    }

    #[test]
    fn names_mean_what_they_do_elsewhere() {
        let (sampling, stop) = parse(
            r#""top_k":-1,"seed":-1,"logit_bias":{"7":-100},"stop":"a","skip_special_tokens":false,"min_tokens":3"#,
        )
        .unwrap();
        assert_eq!(sampling.top_k, 0);
        assert_eq!(sampling.seed, Some(u64::MAX));
        assert_eq!(sampling.logit_bias, [(7, -100.0)]);
        assert_eq!(stop.strings, ["a"]);
        assert!(stop.keep_special_tokens && stop.min_tokens == 3);
        let defaults = parse(r#""user":"u""#).unwrap();
        assert_eq!(defaults, (SamplingParams::default(), StopCriteria::default()));
    }
}
