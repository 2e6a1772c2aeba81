//! Log-probabilities from the engine's form to the two the API has.

use std::collections::BTreeMap;

use engine::TokenLogprob;
use openapi::logprobs::{ChatLogprobs, ChatTokenLogprob, ChatTopLogprob, CompletionLogprobs};

/// For a chat choice or chunk.
pub fn chat(logprobs: impl IntoIterator<Item = TokenLogprob>) -> ChatLogprobs {
    ChatLogprobs { content: Some(logprobs.into_iter().map(chat_token).collect()), refusal: None }
}

fn chat_token(logprob: TokenLogprob) -> ChatTokenLogprob {
    let top = logprob.top.into_iter().map(|top| ChatTopLogprob {
        token: lossy(&top.bytes),
        logprob: top.logprob,
        bytes: Some(top.bytes),
    });
    ChatTokenLogprob {
        token: lossy(&logprob.bytes),
        logprob: logprob.logprob,
        top_logprobs: top.collect(),
        bytes: Some(logprob.bytes),
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Builds a completions choice's four lists, over several chunks if need be.
#[derive(Clone, Debug)]
pub struct CompletionBuilder {
    /// Alternatives asked for at each token.
    alternatives: usize,
    /// Characters before the next token.
    offset: u64,
}

impl CompletionBuilder {
    pub fn new(alternatives: usize) -> CompletionBuilder {
        CompletionBuilder { alternatives, offset: 0 }
    }

    /// The lists of generated tokens.
    pub fn tokens(&mut self, logprobs: impl IntoIterator<Item = TokenLogprob>) -> CompletionLogprobs {
        let mut lists = self.empty();
        for logprob in logprobs {
            self.push(&mut lists, logprob);
        }
        lists
    }

    /// The lists of a prompt; its first token, whose text is `first`, has no probability.
    pub fn prompt(&mut self, first: &str, logprobs: Vec<Option<TokenLogprob>>) -> CompletionLogprobs {
        let mut lists = self.empty();
        for logprob in logprobs {
            match logprob {
                Some(logprob) => self.push(&mut lists, logprob),
                None => self.push_first(&mut lists, first),
            }
        }
        lists
    }

    fn empty(&self) -> CompletionLogprobs {
        let top_logprobs = (self.alternatives > 0).then(Vec::new);
        CompletionLogprobs { top_logprobs, ..CompletionLogprobs::default() }
    }

    fn push(&mut self, lists: &mut CompletionLogprobs, logprob: TokenLogprob) {
        let text = lossy(&logprob.bytes);
        if let Some(list) = &mut lists.top_logprobs {
            let mut top: BTreeMap<String, f32> =
                logprob.top.iter().map(|top| (lossy(&top.bytes), top.logprob)).collect();
            // The chosen token is always there, likely or not.
            top.insert(text.clone(), logprob.logprob);
            list.push(Some(top));
        }
        self.push_token(lists, text, Some(logprob.logprob));
    }

    fn push_first(&mut self, lists: &mut CompletionLogprobs, text: &str) {
        if let Some(list) = &mut lists.top_logprobs {
            list.push(None);
        }
        self.push_token(lists, text.to_owned(), None);
    }

    fn push_token(&mut self, lists: &mut CompletionLogprobs, text: String, logprob: Option<f32>) {
        lists.text_offset.push(self.offset);
        lists.token_logprobs.push(logprob);
        self.offset += text.chars().count() as u64;
        lists.tokens.push(text);
    }
}

/// `second`'s entries after `first`'s.
pub fn join(mut first: CompletionLogprobs, second: CompletionLogprobs) -> CompletionLogprobs {
    first.text_offset.extend(second.text_offset);
    first.token_logprobs.extend(second.token_logprobs);
    first.tokens.extend(second.tokens);
    if let (Some(first), Some(second)) = (&mut first.top_logprobs, second.top_logprobs) {
        first.extend(second);
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::TopLogprob;

    fn logprob(text: &str, value: f32) -> TokenLogprob {
        let top = vec![TopLogprob { token: 9, bytes: b"likely".to_vec(), logprob: -0.1 }];
        TokenLogprob { token: 1, bytes: text.as_bytes().to_vec(), logprob: value, top }
    }

    #[test]
    fn offsets_count_characters_over_prompt_and_output() {
        let mut builder = CompletionBuilder::new(1);
        let prompt = builder.prompt("\u{e9}t", vec![None, Some(logprob(" b", -1.0))]);
        let lists = join(prompt, builder.tokens([logprob("c", -2.0)]));
        assert_eq!(lists.text_offset, [0, 2, 4]);
        assert_eq!(lists.tokens, ["\u{e9}t", " b", "c"]);
        assert_eq!(lists.token_logprobs, [None, Some(-1.0), Some(-2.0)]);
        let top = lists.top_logprobs.unwrap();
        assert_eq!(top[0], None);
        assert_eq!(top[2], Some(BTreeMap::from([("likely".into(), -0.1), ("c".into(), -2.0)])));
        assert_eq!(CompletionBuilder::new(0).tokens([logprob("c", -2.0)]).top_logprobs, None);
    }
}
