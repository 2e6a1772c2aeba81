//! Reads a [`GgufVocabulary`] off a GGUF file.

use super::GgufVocabulary;
use crate::EngineError;
use crate::files::ModelFiles;
use crate::files::gguf::Gguf;
use crate::tokenizer::Tokenizer;

impl Tokenizer {
    /// The tokenizer of an opened model: in the file's metadata, or `tokenizer.json` beside the weights.
    ///
    /// # Errors
    /// What is missing or wrong, and in which file.
    pub fn of_model(files: &ModelFiles) -> Result<Tokenizer, EngineError> {
        match files {
            ModelFiles::Gguf(gguf) => {
                Tokenizer::from_gguf(&GgufVocabulary::of_file(gguf)?).map_err(|error| bad_file(gguf, &error))
            }
            ModelFiles::Folder(folder) => match folder.sibling("tokenizer.json") {
                Some(path) => Tokenizer::from_file(&path),
                None => Err(EngineError::BadFile {
                    path: folder.path().to_owned(),
                    reason: "there is no tokenizer.json beside the weights".into(),
                }),
            },
        }
    }
}

fn bad_file(gguf: &Gguf, error: &EngineError) -> EngineError {
    EngineError::BadFile { path: gguf.path().to_owned(), reason: error.to_string() }
}

impl GgufVocabulary {
    /// Reads the keys `tokenizer.ggml.*`.
    ///
    /// # Errors
    /// A key of the wrong type, or no vocabulary at all.
    pub fn of_file(gguf: &Gguf) -> Result<GgufVocabulary, EngineError> {
        let key = |name: &str| format!("tokenizer.ggml.{name}");
        let id = |name: &str| gguf.get::<u32>(&key(name));
        let texts =
            |list: Option<Vec<&str>>| list.unwrap_or_default().into_iter().map(str::to_owned).collect();
        let ends = [id("eot_token_id")?, id("eom_token_id")?];
        Ok(GgufVocabulary {
            architecture: gguf.architecture()?.to_owned(),
            model: gguf.require::<&str>(&key("model"))?.to_owned(),
            pre: gguf.get::<&str>(&key("pre"))?.map(str::to_owned),
            tokens: texts(Some(gguf.require(&key("tokens"))?)),
            scores: gguf.get(&key("scores"))?.unwrap_or_default(),
            token_types: gguf.get(&key("token_type"))?.unwrap_or_default(),
            merges: texts(gguf.get(&key("merges"))?),
            bos_token_id: id("bos_token_id")?,
            eos_token_id: id("eos_token_id")?,
            unknown_token_id: id("unknown_token_id")?,
            // The key is spelt so.
            separator_token_id: id("seperator_token_id")?,
            cls_token_id: id("cls_token_id")?,
            end_token_ids: ends.into_iter().flatten().collect(),
            add_bos_token: gguf.get(&key("add_bos_token"))?,
            add_eos_token: gguf.get(&key("add_eos_token"))?,
            add_space_prefix: gguf.get(&key("add_space_prefix"))?,
            remove_extra_whitespaces: gguf.get(&key("remove_extra_whitespaces"))?,
            precompiled_charsmap: bytes(gguf.get(&key("precompiled_charsmap"))?),
        })
    }
}

/// Written as signed or unsigned bytes, depending on the converter.
fn bytes(values: Option<Vec<i32>>) -> Vec<u8> {
    let low_byte = |value: i32| value.to_le_bytes()[0];
    values.unwrap_or_default().into_iter().map(low_byte).collect()
}
