//! A GGUF file's metadata as a [`Description`].

use super::{Description, Sizes, Vocabulary};
use crate::EngineError;
use crate::files::Gguf;
use crate::files::gguf::Value;

pub(super) fn describe(gguf: &Gguf) -> Result<Description, EngineError> {
    let text =
        |key: &str| -> Result<Option<String>, EngineError> { Ok(gguf.get::<&str>(key)?.map(str::to_owned)) };
    Ok(Description {
        name: text("general.name")?,
        architecture: text("general.architecture")?,
        license: text("general.license")?,
        quantization: gguf.get::<u64>("general.file_type")?.map(file_type_name),
        sizes: sizes(gguf)?,
        vocabulary: vocabulary(gguf)?,
        chat_template: text("tokenizer.chat_template")?,
    })
}

fn sizes(gguf: &Gguf) -> Result<Sizes, EngineError> {
    let Some(architecture) = gguf.get::<&str>("general.architecture")? else { return Ok(Sizes::default()) };
    let size = |key: &str| largest(gguf, &format!("{architecture}.{key}"));
    let heads = size("attention.head_count")?;
    Ok(Sizes {
        context_tokens: size("context_length")?,
        layers: size("block_count")?,
        hidden_size: size("embedding_length")?,
        feed_forward_size: size("feed_forward_length")?,
        heads,
        // The format's default.
        kv_heads: size("attention.head_count_kv")?.or(heads),
    })
}

/// A size that may differ from layer to layer, then written as an array.
fn largest(gguf: &Gguf, key: &str) -> Result<Option<u64>, EngineError> {
    match gguf.value(key) {
        Some(Value::Array(_)) => Ok(gguf.require::<Vec<u64>>(key)?.into_iter().max()),
        _ => gguf.get(key),
    }
}

fn vocabulary(gguf: &Gguf) -> Result<Option<Vocabulary>, EngineError> {
    let Some(model) = gguf.get::<&str>("tokenizer.ggml.model")? else { return Ok(None) };
    let kind = match model {
        "gpt2" => "BPE",
        "llama" => "SentencePiece",
        "bert" => "WordPiece",
        "t5" => "Unigram",
        other => other,
    };
    let kind = match gguf.get::<&str>("tokenizer.ggml.pre")? {
        Some(pre) => format!("{kind} ({pre})"),
        None => kind.to_owned(),
    };
    let tokens = match gguf.value("tokenizer.ggml.tokens") {
        Some(Value::Array(tokens)) => Some(tokens.count as u64),
        _ => None,
    };
    Ok(Some(Vocabulary { kind, tokens }))
}

/// `llama_ftype`: which recipe chose the tensors' types.
fn file_type_name(number: u64) -> String {
    let found = FILE_TYPES.iter().find(|(assigned, _)| *assigned == number);
    found.map_or_else(|| format!("recipe {number}"), |(_, name)| (*name).to_owned())
}

const FILE_TYPES: [(u64, &str); 35] = [
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (7, "Q8_0"),
    (8, "Q5_0"),
    (9, "Q5_1"),
    (10, "Q2_K"),
    (11, "Q3_K_S"),
    (12, "Q3_K_M"),
    (13, "Q3_K_L"),
    (14, "Q4_K_S"),
    (15, "Q4_K_M"),
    (16, "Q5_K_S"),
    (17, "Q5_K_M"),
    (18, "Q6_K"),
    (19, "IQ2_XXS"),
    (20, "IQ2_XS"),
    (21, "Q2_K_S"),
    (22, "IQ3_XS"),
    (23, "IQ3_XXS"),
    (24, "IQ1_S"),
    (25, "IQ4_NL"),
    (26, "IQ3_S"),
    (27, "IQ3_M"),
    (28, "IQ2_S"),
    (29, "IQ2_M"),
    (30, "IQ4_XS"),
    (31, "IQ1_M"),
    (32, "BF16"),
    (36, "TQ1_0"),
    (37, "TQ2_0"),
    (38, "MXFP4_MOE"),
    (39, "NVFP4"),
    (40, "Q1_0"),
];
