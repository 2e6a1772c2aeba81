//! The tokens that end a model's generations.

use serde_json::Value;

use crate::EngineError;
use crate::files::{Folder, ModelFiles};
use crate::tokenizer::Tokenizer;

/// Ids that end a generation, by every name the files have for them: GGUF's `eos`, `eot` and `eom`,
/// `eos_token_id` of `config.json` and `generation_config.json`, and what the vocabulary itself marks.
pub fn end_tokens(files: &ModelFiles, tokenizer: &Tokenizer) -> Result<Vec<u32>, EngineError> {
    let mut ids = tokenizer.end_tokens().to_vec();
    match files {
        ModelFiles::Gguf(gguf) => {
            for role in ["eos", "eot", "eom"] {
                ids.extend(gguf.get::<u32>(&format!("tokenizer.ggml.{role}_token_id"))?);
            }
        }
        ModelFiles::Folder(folder) => ids.extend(folder_end_tokens(folder)?),
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

fn folder_end_tokens(folder: &Folder) -> Result<Vec<u32>, EngineError> {
    let config = folder.config()?;
    let mut ids = listed_ids(&config["eos_token_id"]);
    ids.extend(listed_ids(&config["text_config"]["eos_token_id"]));
    if let Some(generation) = folder.json("generation_config.json")? {
        ids.extend(listed_ids(&generation["eos_token_id"]));
    }
    Ok(ids)
}

/// One id or a list of them.
fn listed_ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value.as_array() {
        Some(list) => list.iter().filter_map(id).collect(),
        None => id(value).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stand_alone_or_in_a_list() {
        let check = |json: &str, expected: &[u32]| {
            assert_eq!(listed_ids(&serde_json::from_str(json).unwrap()), expected, "{json}");
        };
        check("2", &[2]);
        check("[1, 106]", &[1, 106]);
        check("null", &[]);
        check("-1", &[]);
        check("[1, 4294967296]", &[1]);
    }
}
