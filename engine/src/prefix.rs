//! What is kept of prompts for those that begin with the same tokens, and who may share it.

use std::sync::Arc;

use kernels::{KvLayout, PAGE_TOKENS};
use sha2::{Digest, Sha256};

use crate::model::ModelInfo;
use crate::pages::store::PageStore;
use crate::pages::{ChainHash, Group, Keep, PrefixScope, model_folder, model_secret};
use crate::prompt::{ChatTemplate, RenderOptions};
use crate::{CacheHint, Caller, EngineError, Retention};

/// Counts changes of how keys and values are computed or laid out: what was stored before is of no use.
const LAYOUT_VERSION: u32 = 2;

/// How prefixes are kept.
#[derive(Clone, Debug)]
pub struct PrefixOptions {
    /// Keep full pages for requests of the same tenant that begin with the same tokens.
    pub enabled: bool,
    /// Where pages outlive the process; none by default.
    pub store: Option<PageStore>,
    /// Prefixes that tenants share.
    pub public: Vec<PublicPrefix>,
}

impl Default for PrefixOptions {
    fn default() -> PrefixOptions {
        PrefixOptions { enabled: true, store: None, public: Vec::new() }
    }
}

/// A beginning of prompts that is no secret among some tenants, such as a system prompt. Whether it is in
/// memory can be told from how quickly a prompt of any of them starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicPrefix {
    /// Served name of the model it is for; `None` for all.
    pub model: Option<String>,
    /// Who shares it; empty for everybody.
    pub tenants: Vec<String>,
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
    /// What tells this model's pages from all others, and nobody outside knows.
    secret: [u8; 32],
    /// For who shares nothing.
    public_root: ChainHash,
    public: Vec<Public>,
    enabled: bool,
}

/// A public prefix in one model's tokens.
struct Public {
    root: ChainHash,
    tenants: Vec<String>,
    tokens: Vec<u32>,
}

impl Public {
    /// `None` when it is for other models, or this one cannot be asked that way.
    fn new(prefix: &PublicPrefix, model: &[u8], info: &ModelInfo) -> Option<Public> {
        let tokens = prefix.tokens(info).unwrap_or_else(|error| {
            tracing::warn!(model = info.name, %error, "a public prefix has no tokens; it is not shared");
            None
        })?;
        let mut tenants = prefix.tenants.clone();
        tenants.sort();
        tenants.dedup();
        let names: Vec<&str> = tenants.iter().map(String::as_str).collect();
        Some(Public { root: ChainHash::public_root(model, &names), tokens, tenants })
    }

    fn is_for(&self, tenant: &str) -> bool {
        self.tenants.is_empty() || self.tenants.iter().any(|other| other == tenant)
    }
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
        // Without a store, names stay in this process.
        let store = options.store.as_ref().map_or([0; 32], |store| *store.secret());
        let secret = model_secret(&store, &hasher.finalize());
        let public = options.public.iter().filter_map(|prefix| Public::new(prefix, &secret, info)).collect();
        Prefixes {
            secret,
            public_root: ChainHash::public_root(&secret, &[]),
            public,
            enabled: options.enabled,
        }
    }

    /// What the page store calls this model.
    pub fn folder(&self) -> [u8; 32] {
        model_folder(&self.secret)
    }

    /// Whose cached pages a prompt may share: those of its tenant, as the gateway has authenticated it,
    /// and those of the public prefix that covers most of it.
    pub fn scope(&self, caller: &Caller, cache: &CacheHint, prompt: &[u32]) -> PrefixScope {
        let tenant = ChainHash::tenant_root(&self.secret, &caller.tenant);
        let root = if cache.salt.is_empty() { tenant } else { tenant.salted(&cache.salt) };
        let keep = match cache.retention {
            Retention::Usual => Keep::Usual,
            Retention::Memory => Keep::InMemory,
            Retention::Day => Keep::Retained(Group::new(tenant, &cache.key)),
        };
        let (public_root, shares) = (self.public_root, self.enabled && !cache.off);
        let mut scope = PrefixScope { root, public_root, public_tokens: 0, keep, shares };
        for public in self.public.iter().filter(|public| public.is_for(&caller.tenant)) {
            let public_tokens = common(&public.tokens, prompt);
            if public_tokens > scope.public_tokens {
                scope = PrefixScope { public_root: public.root, public_tokens, ..scope };
            }
        }
        scope
    }
}

#[cfg(test)]
mod tests {
    use kernels::KvFormat;

    use super::*;
    use crate::testing::{KV_LAYOUT, mock_info, tokens};

    fn prefixes(public: Vec<PublicPrefix>) -> Prefixes {
        let options = PrefixOptions { public, ..PrefixOptions::default() };
        Prefixes::new(&[7; 32], KV_LAYOUT, &mock_info("mock", 4096), &options)
    }

    fn text(model: Option<&str>, text: &str) -> PublicPrefix {
        let content = PublicContent::Text(text.to_owned());
        PublicPrefix { model: model.map(str::to_owned), tenants: Vec::new(), content }
    }

    #[test]
    fn public_is_what_the_operator_named_for_this_model_and_no_token_more() {
        let prefixes = prefixes(vec![
            text(None, "You are a pirate."),
            text(Some("mock"), "You are a poet. You rhyme."),
            text(Some("other"), "Secret of another model"),
            PublicPrefix { content: PublicContent::Tokens(vec![1, 2, 3]), ..text(None, "") },
            // The mock has no chat template.
            PublicPrefix { content: PublicContent::System("Be brief.".to_owned()), ..text(None, "") },
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
            assert_eq!(
                prefixes.scope(&Caller::default(), &CacheHint::default(), prompt).public_tokens,
                *expected,
                "{prompt:?}"
            );
        }
    }

    #[test]
    fn only_named_tenants_share() {
        let shared = |tenants: &[&str], content: &str| PublicPrefix {
            tenants: tenants.iter().map(|&tenant| tenant.to_owned()).collect(),
            ..text(None, content)
        };
        let prefixes = prefixes(vec![
            shared(&[], "You are"),
            shared(&["a", "b"], "You are a pirate."),
            shared(&["c", "b", "b"], "You are a poet."),
        ]);
        let scope = |tenant: &str, prompt: &str| {
            let caller = Caller { tenant: tenant.into(), ..Caller::default() };
            prefixes.scope(&caller, &CacheHint::default(), &tokens(prompt))
        };
        let (pirate, poet) = ("You are a pirate. Speak!", "You are a poet. Speak!");
        for (tenant, prompt, expected) in [
            ("a", pirate, 17),
            ("b", pirate, 17),
            ("c", pirate, 11),
            ("d", pirate, 7),
            ("a", poet, 11),
            ("b", poet, 15),
            ("", "You", 3),
        ] {
            assert_eq!(scope(tenant, prompt).public_tokens, expected, "{tenant}: {prompt}");
        }
        let root = |tenant: &str, prompt: &str| scope(tenant, prompt).public_root;
        assert_eq!(root("a", pirate), root("b", pirate));
        assert_eq!(root("d", pirate), root("e", poet), "what is for everybody");
        assert_eq!(root("c", poet), root("b", poet), "whatever the order of their names");
        // They begin alike, but the groups are others.
        assert_ne!(root("a", pirate), root("c", pirate));
        assert_ne!(root("a", pirate), root("d", pirate));
    }

    #[test]
    fn hints_say_how_pages_are_kept_and_not_who_finds_them() {
        let prefixes = prefixes(Vec::new());
        let scope = |tenant: &str, key: &str, retention: Retention| {
            let caller = Caller { tenant: tenant.into(), ..Caller::default() };
            prefixes.scope(
                &caller,
                &CacheHint { key: key.to_owned(), retention, ..CacheHint::default() },
                &[],
            )
        };
        let plain = scope("a", "", Retention::Usual);
        for (key, retention) in [("x", Retention::Usual), ("x", Retention::Memory), ("x", Retention::Day)] {
            let hinted = scope("a", key, retention);
            assert_eq!((hinted.root, hinted.public_tokens), (plain.root, 0));
            assert_eq!(hinted.keep == plain.keep, retention == Retention::Usual);
        }
        let group = |tenant: &str, key: &str| scope(tenant, key, Retention::Day).keep;
        assert_eq!(group("a", "x"), group("a", "x"));
        assert_ne!(group("a", "x"), group("a", "y"));
        assert_ne!(group("a", "x"), group("b", "x"));
    }

    #[test]
    fn models_and_tenants_have_roots_of_their_own() {
        let tenant = |name: &str| Caller { tenant: name.into(), ..Caller::default() };
        let base = prefixes(Vec::new());
        let root =
            |prefixes: &Prefixes, name: &str| prefixes.scope(&tenant(name), &CacheHint::default(), &[]).root;
        assert_eq!(root(&base, "a"), root(&prefixes(Vec::new()), "a"));
        assert_ne!(root(&base, "a"), root(&base, "b"));
        let options = PrefixOptions::default();
        let layers = KvLayout { layers: 2, ..KV_LAYOUT };
        let quantised = KvLayout { format: KvFormat::Int8, ..KV_LAYOUT };
        assert_ne!(KV_LAYOUT.format, quantised.format);
        let others = [
            // The identity covers every byte of a model's files, and so their quantisation.
            Prefixes::new(&[8; 32], KV_LAYOUT, &mock_info("mock", 4096), &options),
            Prefixes::new(&[7; 32], layers, &mock_info("mock", 4096), &options),
            Prefixes::new(&[7; 32], quantised, &mock_info("mock", 4096), &options),
            Prefixes::new(&[7; 32], KV_LAYOUT, &mock_info("mock", 2048), &options),
        ];
        for other in others {
            assert_ne!(root(&base, "a"), root(&other, "a"));
            assert_ne!(base.folder(), other.folder());
            assert_ne!(
                base.scope(&tenant("a"), &CacheHint::default(), &[]).public_root,
                other.scope(&tenant("a"), &CacheHint::default(), &[]).public_root
            );
        }
        // A name for the same files changes nothing.
        let renamed = Prefixes::new(&[7; 32], KV_LAYOUT, &mock_info("other name", 4096), &options);
        assert_eq!(root(&base, "a"), root(&renamed, "a"));
    }
}
