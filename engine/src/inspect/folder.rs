//! A model folder's JSON files and model card as a [`Description`].

use std::fs::File;
use std::io::Read;

use serde::Deserialize;
use serde_json::Value;

use super::{Description, Sizes, Vocabulary};
use crate::EngineError;
use crate::files::Folder;

/// Most bytes read of a model card or a template.
const TEXT_BYTES_MAX: u64 = 1 << 20;

pub(super) fn describe(folder: &Folder) -> Result<Description, EngineError> {
    // Weights without a configuration still have tensors to describe.
    let config = folder.config().unwrap_or(&Value::Null);
    Ok(Description {
        // `_name_or_path` is whatever folder the weights were last saved from, often the base model's.
        name: None,
        architecture: text(config, "model_type"),
        license: text(config, "license").or_else(|| card_license(&read_text(folder, "README.md")?)),
        quantization: config.get("quantization_config").and_then(|config| text(config, "quant_method")),
        sizes: sizes(config),
        vocabulary: vocabulary(folder, config)?,
        chat_template: chat_template(folder)?,
    })
}

fn text(json: &Value, key: &str) -> Option<String> {
    json.get(key)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

fn sizes(config: &Value) -> Sizes {
    // Older configurations (GPT-2, nomic) have other names for the same sizes.
    let size = |names: &[&str]| names.iter().find_map(|name| field(config, name)?.as_u64());
    let heads = size(&["num_attention_heads", "n_head"]);
    Sizes {
        context_tokens: size(&["max_position_embeddings", "n_positions"]),
        layers: size(&["num_hidden_layers", "n_layer"]),
        hidden_size: size(&["hidden_size", "n_embd"]),
        feed_forward_size: size(&["intermediate_size", "n_inner"]),
        heads,
        kv_heads: size(&["num_key_value_heads"]).or(heads),
    }
}

/// A field of the configuration, or of its text part in models that also see or hear.
fn field<'a>(config: &'a Value, name: &str) -> Option<&'a Value> {
    config.get(name).or_else(|| config.get("text_config")?.get(name))
}

/// The part of `tokenizer.json` that says how it works; the vocabulary is passed over.
#[derive(Deserialize)]
struct TokenizerJson {
    model: TokenizerModel,
}

#[derive(Deserialize)]
struct TokenizerModel {
    #[serde(rename = "type")]
    kind: Option<String>,
}

fn vocabulary(folder: &Folder, config: &Value) -> Result<Option<Vocabulary>, EngineError> {
    let tokens = field(config, "vocab_size").and_then(Value::as_u64);
    let kind = if let Some(tokenizer) = folder.parse_json::<TokenizerJson>("tokenizer.json")? {
        tokenizer.model.kind.unwrap_or_else(|| "tokenizer.json".to_owned())
    } else if folder.sibling("tokenizer.model").is_some() {
        "SentencePiece".to_owned()
    } else if folder.sibling("vocab.txt").is_some() {
        "WordPiece".to_owned()
    } else {
        return Ok(
            tokens.map(|tokens| Vocabulary { kind: "no tokenizer file".to_owned(), tokens: Some(tokens) })
        );
    };
    Ok(Some(Vocabulary { kind, tokens }))
}

/// A file of its own, or a field of the tokenizer's configuration: one text, or several by name.
fn chat_template(folder: &Folder) -> Result<Option<String>, EngineError> {
    if let Some(template) = read_text(folder, "chat_template.jinja") {
        return Ok(Some(template));
    }
    let config = folder.json("tokenizer_config.json")?;
    let template = config.as_ref().and_then(|config| config.get("chat_template"));
    Ok(match template {
        Some(Value::String(template)) => Some(template.clone()),
        Some(Value::Array(named)) => {
            let default = named.iter().find(|entry| entry.get("name").is_some_and(|name| name == "default"));
            default.or(named.first()).and_then(|entry| text(entry, "template"))
        }
        _ => None,
    })
}

/// The `license:` line of a model card's front matter, which lies between two lines of dashes.
fn card_license(card: &str) -> Option<String> {
    let front_matter = card.strip_prefix("---")?.split("\n---").next()?;
    let license = front_matter.lines().find_map(|line| line.strip_prefix("license:"))?;
    Some(license.trim().trim_matches(['"', '\'']).to_owned()).filter(|license| !license.is_empty())
}

/// The beginning of a small text file; `None` when it is missing or not UTF-8.
fn read_text(folder: &Folder, name: &str) -> Option<String> {
    let mut content = String::new();
    File::open(folder.sibling(name)?).ok()?.take(TEXT_BYTES_MAX).read_to_string(&mut content).ok()?;
    Some(content)
}

#[cfg(test)]
mod tests {
    use super::card_license;

    #[test]
    fn licenses_in_model_cards() {
        let check = |card: &str, expected: Option<&str>| {
            assert_eq!(card_license(card).as_deref(), expected, "{card:?}");
        };
        check("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model", Some("apache-2.0"));
        check("---\nlicense: \"mit\"\n---\n", Some("mit"));
        check("---\nlanguage: en\n---\nlicense: not here", None);
        check("# Model\nlicense: mit", None);
        check("---\nlicense:\n- mit\n---", None);
        check("", None);
    }
}
