//! Every architecture: one row here, one file beside.

use crate::EngineError;
use crate::model::Network;
use crate::models::config::Hyperparameters;
use crate::models::names::{self, Names};
use crate::models::pooling::Pooling;
use crate::models::weights::Weights;
use crate::models::{bert, gemma3, llama, nomic_bert, phi3, qwen2, qwen3, xlm_roberta};

/// One row.
pub struct Architecture {
    /// Name shown to users.
    pub name: &'static str,
    /// Names in a GGUF file's `general.architecture`.
    pub gguf: &'static [&'static str],
    /// Names in `config.json`'s `model_type`.
    pub model_types: &'static [&'static str],
    pub kind: Kind,
    /// What its Hugging Face checkpoints call their tensors.
    pub tensors: &'static Names,
    /// Values of keys that a file may leave out, each by its GGUF or its `config.json` name.
    pub fallback: &'static [(&'static str, f64)],
    /// Switches in `config.json` that must be off: they ask for what is not written here.
    pub refused: &'static [&'static str],
    /// Tokens that fit, where that is not what the file says.
    pub context: fn(&Hyperparameters) -> usize,
    pub build: fn(&Parts<'_>) -> Result<Network, EngineError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Decoder,
    Encoder,
}

/// What a constructor builds from.
pub struct Parts<'a> {
    pub hyperparameters: Hyperparameters,
    pub weights: Weights<'a>,
    /// Tokens that will be served.
    pub context_tokens: usize,
    /// How an encoder's vectors are made; decoders ignore it.
    pub pooling: Pooling,
}

/// The table.
pub const ARCHITECTURES: &[Architecture] = &[
    Architecture {
        name: "llama",
        gguf: &["llama"],
        model_types: &["llama", "mistral"],
        build: llama::build,
        ..DECODER
    },
    Architecture { name: "qwen2", gguf: &["qwen2"], model_types: &["qwen2"], build: qwen2::build, ..DECODER },
    Architecture { name: "qwen3", gguf: &["qwen3"], model_types: &["qwen3"], build: qwen3::build, ..DECODER },
    Architecture {
        name: "gemma3",
        gguf: &["gemma3"],
        model_types: &["gemma3_text", "gemma3"],
        tensors: &names::GEMMA3,
        fallback: gemma3::FALLBACK,
        refused: gemma3::REFUSED,
        build: gemma3::build,
        ..DECODER
    },
    Architecture {
        name: "phi3",
        gguf: &["phi3"],
        model_types: &["phi3"],
        tensors: &names::PHI3,
        build: phi3::build,
        ..DECODER
    },
    Architecture { name: "bert", gguf: &["bert"], model_types: &["bert"], build: bert::build, ..ENCODER },
    Architecture {
        name: "xlm-roberta",
        gguf: &[],
        model_types: &["xlm-roberta", "roberta"],
        fallback: xlm_roberta::FALLBACK,
        context: xlm_roberta::context,
        build: xlm_roberta::build,
        ..ENCODER
    },
    Architecture {
        name: "nomic-bert",
        gguf: &["nomic-bert"],
        model_types: &["nomic_bert"],
        tensors: &names::NOMIC_BERT,
        fallback: nomic_bert::FALLBACK,
        refused: nomic_bert::REFUSED,
        build: nomic_bert::build,
        ..ENCODER
    },
];

/// What most decoders have in common.
const DECODER: Architecture = Architecture {
    name: "",
    gguf: &[],
    model_types: &[],
    kind: Kind::Decoder,
    tensors: &names::DECODER,
    fallback: &[],
    refused: &[],
    context: stated_context,
    build: llama::build,
};

const ENCODER: Architecture = Architecture {
    kind: Kind::Encoder,
    tensors: &names::BERT,
    refused: bert::REFUSED,
    build: bert::build,
    ..DECODER
};

fn stated_context(hyperparameters: &Hyperparameters) -> usize {
    hyperparameters.context_tokens
}

/// The row of a GGUF file's `general.architecture`.
pub fn by_gguf_name(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|row| row.gguf.contains(&name))
}

/// The row of a `config.json`'s `model_type`.
pub fn by_model_type(name: &str) -> Option<&'static Architecture> {
    ARCHITECTURES.iter().find(|row| row.model_types.contains(&name))
}

/// All names, for the error message about another one.
pub fn supported_names() -> String {
    let names: Vec<&str> = ARCHITECTURES.iter().map(|row| row.name).collect();
    names.join(", ")
}
