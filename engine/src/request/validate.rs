//! Ranges of a request, with errors that name the OpenAI (or vLLM) parameter.

use super::{Request, SamplingParams, StopCriteria};
use crate::{EmbedRequest, EngineError};

/// Most alternatives reported for a token.
pub const TOP_LOGPROBS_MAX: usize = 20;
pub const LOGIT_BIAS_ENTRIES_MAX: usize = 1024;
pub const STOP_STRINGS_MAX: usize = 16;
pub const STOP_STRING_BYTES_MAX: usize = 1024;
pub const STOP_TOKENS_MAX: usize = 128;
/// Inputs of one embedding request, as OpenAI has it.
pub const EMBED_INPUTS_MAX: usize = 2048;

impl Request {
    /// Checks every range.
    ///
    /// # Errors
    /// [`EngineError::InvalidParameter`] naming the OpenAI (or vLLM) parameter.
    pub fn validate(&self, vocabulary: usize) -> Result<(), EngineError> {
        check("prompt", !self.prompt.is_empty(), || "must not be empty".to_owned())?;
        check_tokens("prompt", &self.prompt, vocabulary)?;
        let scores_only = self.max_new_tokens == 0 && self.prompt_logprobs.is_some();
        check("max_tokens", self.max_new_tokens > 0 || scores_only, || {
            "must be at least 1; 0 only scores a prompt, with `echo` and `logprobs`".to_owned()
        })?;
        for (parameter, top) in [("top_logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)] {
            check(parameter, top.is_none_or(|top| top <= TOP_LOGPROBS_MAX), || {
                format!("must be between 0 and {TOP_LOGPROBS_MAX}")
            })?;
        }
        self.sampling.validate(vocabulary)?;
        self.stop.validate(vocabulary, self.max_new_tokens)
    }
}

impl SamplingParams {
    fn validate(&self, vocabulary: usize) -> Result<(), EngineError> {
        check_range("temperature", self.temperature, 0.0, 2.0)?;
        check_range("min_p", self.min_p, 0.0, 1.0)?;
        check_range("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        check_range("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        check_above_zero("top_p", self.top_p, 1.0)?;
        check_above_zero("repetition_penalty", self.repetition_penalty, 2.0)?;
        check("logit_bias", self.logit_bias.len() <= LOGIT_BIAS_ENTRIES_MAX, || {
            format!("must have at most {LOGIT_BIAS_ENTRIES_MAX} entries")
        })?;
        for &(token, bias) in &self.logit_bias {
            check_tokens("logit_bias", &[token], vocabulary)?;
            check_range("logit_bias", bias, -100.0, 100.0)?;
        }
        Ok(())
    }
}

impl StopCriteria {
    fn validate(&self, vocabulary: usize, max_new_tokens: usize) -> Result<(), EngineError> {
        check("stop", self.strings.len() <= STOP_STRINGS_MAX, || {
            format!("must have at most {STOP_STRINGS_MAX} strings")
        })?;
        for string in &self.strings {
            check("stop", !string.is_empty(), || "must not hold an empty string".to_owned())?;
            check("stop", string.len() <= STOP_STRING_BYTES_MAX, || {
                format!("must not hold a string longer than {STOP_STRING_BYTES_MAX} bytes")
            })?;
        }
        check("stop_token_ids", self.token_ids.len() <= STOP_TOKENS_MAX, || {
            format!("must have at most {STOP_TOKENS_MAX} entries")
        })?;
        check_tokens("stop_token_ids", &self.token_ids, vocabulary)?;
        check("min_tokens", self.min_tokens <= max_new_tokens, || {
            "must not be greater than the tokens to be generated".to_owned()
        })
    }
}

impl EmbedRequest {
    /// Checks every input.
    ///
    /// # Errors
    /// `InvalidParameter` for what is empty, too much or outside the vocabulary; `ContextLength` for an
    /// input longer than the model takes.
    pub fn validate(&self, vocabulary: usize, context_tokens: usize) -> Result<(), EngineError> {
        let count = self.inputs.len();
        check("input", (1..=EMBED_INPUTS_MAX).contains(&count), || {
            format!("must hold between 1 and {EMBED_INPUTS_MAX} inputs, not {count}")
        })?;
        for input in &self.inputs {
            check("input", !input.is_empty(), || "must not hold an empty input".to_owned())?;
            check_tokens("input", input, vocabulary)?;
            if input.len() > context_tokens {
                let prompt = input.len();
                return Err(EngineError::ContextLength { prompt, max_new_tokens: 0, limit: context_tokens });
            }
        }
        Ok(())
    }
}

fn check(parameter: &'static str, holds: bool, reason: impl Fn() -> String) -> Result<(), EngineError> {
    if holds { Ok(()) } else { Err(EngineError::InvalidParameter { parameter, reason: reason() }) }
}

/// NaN is outside of every range.
fn check_range(parameter: &'static str, value: f32, min: f32, max: f32) -> Result<(), EngineError> {
    check(parameter, (min..=max).contains(&value), || format!("must be between {min} and {max}"))
}

fn check_above_zero(parameter: &'static str, value: f32, max: f32) -> Result<(), EngineError> {
    check(parameter, value > 0.0 && value <= max, || format!("must be greater than 0 and at most {max}"))
}

fn check_tokens(parameter: &'static str, tokens: &[u32], vocabulary: usize) -> Result<(), EngineError> {
    match tokens.iter().find(|&&token| token as usize >= vocabulary) {
        None => Ok(()),
        Some(token) => {
            let reason = format!("holds token id {token}, but this model has only {vocabulary} tokens");
            Err(EngineError::InvalidParameter { parameter, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(change: impl Fn(&mut Request)) -> Request {
        let mut request = Request {
            model: "m".to_owned(),
            prompt: vec![1, 2, 3],
            max_new_tokens: 10,
            sampling: SamplingParams::default(),
            stop: StopCriteria::default(),
            logprobs: None,
            caller: crate::Caller::default(),
            cache: crate::CacheHint::default(),
            prompt_logprobs: None,
        };
        change(&mut request);
        request
    }

    /// The parameter an error names; "" for none.
    fn wrong(change: impl Fn(&mut Request)) -> &'static str {
        match request(change).validate(100) {
            Ok(()) => "",
            Err(EngineError::InvalidParameter { parameter, .. }) => parameter,
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn ranges_end_where_the_api_says() {
        type Field = fn(&mut SamplingParams) -> &mut f32;
        let rows: &[(&str, Field, &[f32], &[f32])] = &[
            ("temperature", |s| &mut s.temperature, &[0.0, 2.0], &[-0.1, 2.1, f32::NAN, f32::INFINITY]),
            ("top_p", |s| &mut s.top_p, &[1e-6, 1.0], &[0.0, 1.1, -1.0, f32::NAN]),
            ("min_p", |s| &mut s.min_p, &[0.0, 1.0], &[-0.1, 1.1, f32::NAN]),
            ("presence_penalty", |s| &mut s.presence_penalty, &[-2.0, 2.0], &[-2.1, 2.1, f32::NAN]),
            ("frequency_penalty", |s| &mut s.frequency_penalty, &[-2.0, 2.0], &[-2.1, 2.1, f32::NAN]),
            ("repetition_penalty", |s| &mut s.repetition_penalty, &[0.1, 2.0], &[0.0, 2.1, f32::NAN]),
        ];
        for (name, field, good, bad) in rows {
            for &value in *good {
                assert_eq!(wrong(|r| *field(&mut r.sampling) = value), "", "{name} {value}");
            }
            for &value in *bad {
                assert_eq!(wrong(|r| *field(&mut r.sampling) = value), *name, "{name} {value}");
            }
        }
    }

    #[test]
    fn names_what_is_wrong() {
        type Change = fn(&mut Request);
        let rows: &[(&str, Change)] = &[
            ("", |_| ()),
            ("prompt", |r| r.prompt.clear()),
            ("prompt", |r| r.prompt.push(100)),
            ("", |r| r.prompt.push(99)),
            ("max_tokens", |r| r.max_new_tokens = 0),
            ("", |r| (r.max_new_tokens, r.prompt_logprobs) = (0, Some(0))),
            ("", |r| r.max_new_tokens = usize::MAX),
            ("", |r| r.logprobs = Some(20)),
            ("top_logprobs", |r| r.logprobs = Some(21)),
            ("prompt_logprobs", |r| r.prompt_logprobs = Some(21)),
            ("", |r| r.sampling.logit_bias = vec![(99, 100.0), (0, -100.0)]),
            ("logit_bias", |r| r.sampling.logit_bias = vec![(100, 0.0)]),
            ("logit_bias", |r| r.sampling.logit_bias = vec![(1, 100.5)]),
            ("logit_bias", |r| r.sampling.logit_bias = vec![(1, f32::NAN)]),
            ("", |r| r.sampling.logit_bias = vec![(1, 1.0); 1024]),
            ("logit_bias", |r| r.sampling.logit_bias = vec![(1, 1.0); 1025]),
            ("", |r| r.stop.strings = vec!["x".repeat(1024); 16]),
            ("stop", |r| r.stop.strings = vec!["x".to_owned(); 17]),
            ("stop", |r| r.stop.strings = vec!["x".repeat(1025)]),
            ("stop", |r| r.stop.strings = vec![String::new()]),
            ("", |r| r.stop.token_ids = vec![99]),
            ("stop_token_ids", |r| r.stop.token_ids = vec![100]),
            ("stop_token_ids", |r| r.stop.token_ids = vec![1; 129]),
            ("", |r| r.stop.min_tokens = 10),
            ("min_tokens", |r| r.stop.min_tokens = 11),
        ];
        for (i, (expected, change)) in rows.iter().enumerate() {
            assert_eq!(wrong(change), *expected, "row {i}");
        }
    }

    #[test]
    fn says_what_to_do() {
        let error = request(|r| r.sampling.temperature = 3.0).validate(100).unwrap_err();
        assert_eq!(error.to_string(), "temperature must be between 0 and 2");
        let error = request(|r| r.prompt = vec![7000]).validate(100).unwrap_err();
        assert_eq!(error.to_string(), "prompt holds token id 7000, but this model has only 100 tokens");
    }

    #[test]
    fn checks_inputs_to_embed() {
        let check = |inputs: Vec<Vec<u32>>| {
            EmbedRequest { model: "m".to_owned(), caller: crate::Caller::default(), inputs }
                .validate(100, 8)
                .map_err(|error| error.to_string())
        };
        assert_eq!(check(vec![vec![1; 8], vec![99]]), Ok(()));
        assert_eq!(check(vec![vec![1]; 2048]), Ok(()));
        let rows: &[(Vec<Vec<u32>>, &str)] = &[
            (vec![], "input must hold between 1 and 2048 inputs, not 0"),
            (vec![vec![1]; 2049], "input must hold between 1 and 2048 inputs, not 2049"),
            (vec![vec![1], vec![]], "input must not hold an empty input"),
            (vec![vec![100]], "input holds token id 100, but this model has only 100 tokens"),
        ];
        for (inputs, expected) in rows {
            assert_eq!(check(inputs.clone()), Err((*expected).to_owned()));
        }
        assert!(check(vec![vec![1; 9]]).unwrap_err().contains("context is 8 tokens"));
    }
}
