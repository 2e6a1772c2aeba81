//! What a request says about the pages of its prompt: chat's and completions' names to the engine's.

use engine::{CacheHint, Retention};
use openapi::chat::CacheRetention;
use openapi::{ChatRequest, CompletionRequest};

use super::sampling::at_most;
use crate::error::ApiResult;

/// Of a name or salt that a client gives to requests that begin alike.
const KEY_BYTES_MAX: usize = 512;

/// As they came over the wire.
pub struct CacheFields {
    prompt_cache_key: Option<String>,
    prompt_cache_retention: Option<CacheRetention>,
    cache_salt: Option<String>,
    cache_prompt: Option<bool>,
}

impl CacheFields {
    pub fn of_chat(request: &mut ChatRequest) -> CacheFields {
        CacheFields {
            prompt_cache_key: request.prompt_cache_key.take(),
            prompt_cache_retention: request.prompt_cache_retention,
            cache_salt: request.cache_salt.take(),
            cache_prompt: request.cache_prompt,
        }
    }

    pub fn of_completion(request: &mut CompletionRequest) -> CacheFields {
        CacheFields {
            prompt_cache_key: request.prompt_cache_key.take(),
            prompt_cache_retention: request.prompt_cache_retention,
            cache_salt: request.cache_salt.take(),
            cache_prompt: request.cache_prompt,
        }
    }

    /// The engine's form.
    ///
    /// # Errors
    /// 400 for a name or salt that is too long.
    pub fn parse(self) -> ApiResult<CacheHint> {
        let (key, salt) = (self.prompt_cache_key.unwrap_or_default(), self.cache_salt.unwrap_or_default());
        at_most("prompt_cache_key", key.len(), KEY_BYTES_MAX, "bytes")?;
        at_most("cache_salt", salt.len(), KEY_BYTES_MAX, "bytes")?;
        let retention = match self.prompt_cache_retention {
            None => Retention::Usual,
            Some(CacheRetention::InMemory) => Retention::Memory,
            Some(CacheRetention::Day) => Retention::Day,
        };
        Ok(CacheHint { key, retention, salt, off: self.cache_prompt == Some(false) })
    }
}
