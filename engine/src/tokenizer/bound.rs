//! How much text one token can stand for: what tells that a text is too long for a context before the
//! work of cutting it into tokens is done.

use serde_json::Value;
use tokenizers::{Model, ModelWrapper};

/// The most bytes of text that one token can stand for, where `names` are those of all tokens. `None`
/// where text can become fewer tokens without bound: normalisers, pre-tokenisers and added tokens that
/// drop characters, and unknown tokens that take in whole runs.
pub(super) fn bytes_per_token_max(inner: &tokenizers::Tokenizer, names: &[Option<String>]) -> Option<usize> {
    let ModelWrapper::BPE(model) = inner.get_model() else { return None };
    if inner.get_added_tokens_decoder().values().any(|token| token.lstrip || token.rstrip) {
        return None;
    }
    let normalizer = steps(&serde_json::to_value(inner.get_normalizer()).ok()?, "normalizers");
    let pre = steps(&serde_json::to_value(inner.get_pre_tokenizer()).ok()?, "pretokenizers");
    let spells_bytes =
        |name: fn(u8) -> String| (0..=255).all(|byte| model.token_to_id(&name(byte)).is_some());
    let complete = if pre.iter().any(|step| step["type"] == "ByteLevel") {
        normalizer.is_empty() && spells_bytes(|byte| super::pieces::byte_level_character(byte).to_string())
    } else {
        // Both only make text longer: U+2581 takes three bytes where a space takes one.
        let grows = |step: &Value| step["type"] == "Prepend" || marks_spaces(step);
        model.byte_fallback && normalizer.iter().all(grows) && spells_bytes(|byte| format!("<0x{byte:02X}>"))
    };
    // A name has at least as many bytes as what it spells.
    let longest = names.iter().flatten().map(String::len).max();
    longest.filter(|&bytes| bytes > 0 && complete && pre.iter().all(keeps_text))
}

/// The parts of a normaliser or pre-tokeniser, nested sequences resolved.
fn steps(part: &Value, list: &str) -> Vec<Value> {
    match part {
        Value::Null => Vec::new(),
        part if part["type"] == "Sequence" => {
            part[list].as_array().into_iter().flatten().flat_map(|step| steps(step, list)).collect()
        }
        part => vec![part.clone()],
    }
}

fn marks_spaces(step: &Value) -> bool {
    step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == "\u{2581}"
}

/// Whether a pre-tokeniser's step leaves every character in one of its parts.
fn keeps_text(step: &Value) -> bool {
    match step["type"].as_str() {
        Some("ByteLevel" | "Digits") => true,
        Some("Split" | "Punctuation") => step["behavior"] != "Removed",
        _ => false,
    }
}
