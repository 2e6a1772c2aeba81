//! What is kept of prompts for those that begin with the same tokens, and who may share it.

use std::sync::Arc;

use kernels::{KvLayout, PAGE_TOKENS};
use sha2::{Digest, Sha256};

use crate::model::ModelInfo;
use crate::pages::store::PageStore;
use crate::pages::{ChainHash, PrefixScope};
use crate::prompt::{ChatTemplate, RenderOptions};
use crate::{Caller, EngineError};

/// Counts changes of how keys and values are computed or laid out: what was stored before is of no use.
const LAYOUT_VERSION: u32 = 1;

/// How prefixes are kept.
#[derive(Clone, Debug)]
pub struct PrefixOptions {
    /// Keep full pages for requests of the same tenant that begin with the same tokens.
    pub enabled: bool,
    /// Where pages outlive the process; none by default.
    pub store: Option<PageStore>,
    /// Prefixes that all tenants share.
    pub public: Vec<PublicPrefix>,
}

impl Default for PrefixOptions {
    fn default() -> PrefixOptions {
        PrefixOptions { enabled: true, store: None, public: Vec::new() }
    }
}

/// A beginning of prompts that is no secret, such as a system prompt. Whether it is in memory can be
/// told from how quickly any tenant's prompt starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicPrefix {
    /// Served name of the model it is for; `None` for all.
    pub model: Option<String>,
    pub content: PublicContent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublicContent {
    /// The beginning of a prompt, as it is sent to completions.
    Text(String),
    /// A chat's system message.
    System(String),
    Tokens(Vec<u32>),
}

impl PublicPrefix {
    /// The tokens for one model; `None` when it is for others or the model has no such prompts.
    fn tokens(&self, info: &ModelInfo) -> Result<Option<Vec<u32>>, EngineError> {
        if self.model.as_ref().is_some_and(|model| *model != info.name) {
            return Ok(None);
        }
        match (&self.content, &info.chat_template) {
            (PublicContent::Tokens(tokens), _) => Ok(Some(tokens.clone())),
            (PublicContent::Text(text), _) => info.tokenizer.encode(text, true).map(Some),
            (PublicContent::System(_), None) => Ok(None),
            (PublicContent::System(text), Some(template)) => system_tokens(text, template, info).map(Some),
        }
    }
}

/// What chats with a system message have in common, whatever the user says.
fn system_tokens(
    text: &str,
    template: &Arc<ChatTemplate>,
    info: &ModelInfo,
) -> Result<Vec<u32>, EngineError> {
    let prompt = |user: &str| {
        let message = |role: &str, content: &str| serde_json::json!({ "role": role, "content": content });
        let messages = [message("system", text), message("user", user)];
        ChatTemplate::prompt_tokens(template, &info.tokenizer, &messages, &RenderOptions::default())
    };
    let (one, other) = (prompt("a")?, prompt("1")?);
    let common = common(&one, &other);
    Ok(one[..common].to_vec())
}

fn common(one: &[u32], other: &[u32]) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one == other).count()
}

/// Who shares pages of one model.
pub(crate) struct Prefixes {
    /// What tells this model's pages from all others.
    model: [u8; 32],
    public_root: ChainHash,
    public: Vec<Vec<u32>>,
}

impl Prefixes {
    /// `identity` tells apart the files of models.
    pub fn new(identity: &[u8; 32], layout: KvLayout, info: &ModelInfo, options: &PrefixOptions) -> Prefixes {
        let KvLayout { layers, kv_heads, head_dim, format } = layout;
        let mut hasher = Sha256::new_with_prefix(identity);
        hasher.update(LAYOUT_VERSION.to_le_bytes());
        hasher.update(env!("CARGO_PKG_VERSION"));
        hasher.update(format.name());
        // Rotary embeddings may be stretched to the context.
        for number in [layers, kv_heads, head_dim, PAGE_TOKENS, info.context_tokens] {
            hasher.update((number as u64).to_le_bytes());
        }
        let model: [u8; 32] = hasher.finalize().into();
        let tokens = |prefix: &PublicPrefix| {
            prefix.tokens(info).unwrap_or_else(|error| {
                tracing::warn!(model = info.name, %error, "a public prefix has no tokens; it is not shared");
                None
            })
        };
        let public = options.public.iter().filter_map(tokens).collect();
        Prefixes { model, public_root: ChainHash::public_root(&model), public }
    }

    pub fn model(&self) -> [u8; 32] {
        self.model
    }

    /// Whose cached pages a prompt may share: those of its tenant, as the gateway has authenticated it,
    /// and those of public prefixes.
    pub fn scope(&self, caller: &Caller, prompt: &[u32]) -> PrefixScope {
        PrefixScope {
            root: ChainHash::tenant_root(&self.model, &caller.tenant),
            public_root: self.public_root,
            public_tokens: self.public.iter().map(|tokens| common(tokens, prompt)).max().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{KV_LAYOUT, mock_info, tokens};

    fn prefixes(public: Vec<PublicPrefix>) -> Prefixes {
        let options = PrefixOptions { public, ..PrefixOptions::default() };
        Prefixes::new(&[7; 32], KV_LAYOUT, &mock_info("mock", 4096), &options)
    }

    fn text(model: Option<&str>, text: &str) -> PublicPrefix {
        PublicPrefix { model: model.map(str::to_owned), content: PublicContent::Text(text.to_owned()) }
    }

    #[test]
    fn public_is_what_the_operator_named_for_this_model_and_no_token_more() {
        let prefixes = prefixes(vec![
            text(None, "You are a pirate."),
            text(Some("mock"), "You are a poet. You rhyme."),
            text(Some("other"), "Secret of another model"),
            PublicPrefix { model: None, content: PublicContent::Tokens(vec![1, 2, 3]) },
            // The mock has no chat template.
            PublicPrefix { model: None, content: PublicContent::System("Be brief.".to_owned()) },
        ]);
        let rows: &[(&[u32], usize)] = &[
            (&tokens("You are a pirate. Speak!"), 17),
            (&tokens("You are a poet. You rhyme. Begin"), 26),
            (&tokens("You are a p"), 11),
            (&tokens("Secret of another model"), 0),
            (&[1, 2, 3, 4], 3),
            (&tokens("Hello"), 0),
        ];
        for (prompt, expected) in rows {
            assert_eq!(prefixes.scope(&Caller::default(), prompt).public_tokens, *expected, "{prompt:?}");
        }
    }

    #[test]
    fn models_and_tenants_have_roots_of_their_own() {
        let tenant = |name: &str| Caller { tenant: name.into(), ..Caller::default() };
        let base = prefixes(Vec::new());
        let root = |prefixes: &Prefixes, name: &str| prefixes.scope(&tenant(name), &[]).root;
        assert_eq!(root(&base, "a"), root(&prefixes(Vec::new()), "a"));
        assert_ne!(root(&base, "a"), root(&base, "b"));
        let options = PrefixOptions::default();
        let layout = KvLayout { layers: 2, ..KV_LAYOUT };
        let others = [
            Prefixes::new(&[8; 32], KV_LAYOUT, &mock_info("mock", 4096), &options),
            Prefixes::new(&[7; 32], layout, &mock_info("mock", 4096), &options),
            Prefixes::new(&[7; 32], KV_LAYOUT, &mock_info("mock", 2048), &options),
        ];
        for other in others {
            assert_ne!(root(&base, "a"), root(&other, "a"));
            assert_ne!(base.scope(&tenant("a"), &[]).public_root, other.scope(&tenant("a"), &[]).public_root);
        }
        // A name for the same files changes nothing.
        let renamed = Prefixes::new(&[7; 32], KV_LAYOUT, &mock_info("other name", 4096), &options);
        assert_eq!(root(&base, "a"), root(&renamed, "a"));
    }
}
