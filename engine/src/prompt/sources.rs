//! Where a model's chat template is found: beside its weights, in its tokenizer's configuration, or in
//! the metadata of a GGUF file.

use std::path::Path;

use serde_json::Value as Json;

use crate::EngineError;
use crate::files::ModelFiles;
use crate::files::gguf::Gguf;
use crate::tokenizer::json::{read, read_json};

/// The templates a model comes with. Most have one; some name more, for tool use or retrieval.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TemplateSources {
    /// Name and source; the first is the one without a name, or the one called `default`.
    named: Vec<(String, String)>,
}

const DEFAULT: &str = "default";

impl TemplateSources {
    pub fn of_model(files: &ModelFiles) -> Result<TemplateSources, EngineError> {
        match files {
            ModelFiles::Gguf(gguf) => TemplateSources::of_gguf(gguf),
            ModelFiles::Folder(folder) => TemplateSources::from_folder(folder.path()),
        }
    }

    /// The templates in a model's folder: `chat_template.jinja`, else `chat_template.json`, else
    /// `chat_template` in `tokenizer_config.json`. None is no error: base models have none.
    ///
    /// # Errors
    /// A file that is there but cannot be read.
    pub fn from_folder(folder: &Path) -> Result<TemplateSources, EngineError> {
        let path = folder.join("chat_template.jinja");
        if path.is_file() {
            let source = String::from_utf8(read(&path)?).map_err(|_| EngineError::BadFile {
                path: path.clone(),
                reason: "the chat template is not UTF-8".into(),
            })?;
            return Ok(TemplateSources::one(source));
        }
        for name in ["chat_template.json", "tokenizer_config.json"] {
            let Some(config) = read_json(&folder.join(name))? else { continue };
            let sources = TemplateSources::from_json(&config["chat_template"]);
            if sources.default_source().is_some() {
                return Ok(sources);
            }
        }
        Ok(TemplateSources::default())
    }

    /// `tokenizer.chat_template`, and each `tokenizer.chat_template.NAME`.
    fn of_gguf(gguf: &Gguf) -> Result<TemplateSources, EngineError> {
        let mut sources = TemplateSources::default();
        for (key, _) in gguf.metadata() {
            let Some(rest) = key.strip_prefix("tokenizer.chat_template") else { continue };
            let name = if rest.is_empty() { DEFAULT } else { rest.trim_start_matches('.') };
            // `tokenizer.chat_templates` lists the names.
            if rest.is_empty() || rest.starts_with('.') {
                sources.named.push((name.to_owned(), gguf.require::<&str>(key)?.to_owned()));
            }
        }
        Ok(sources)
    }

    /// One template as text, or a list of `{"name": ..., "template": ...}`.
    fn from_json(value: &Json) -> TemplateSources {
        if let Some(source) = value.as_str() {
            return TemplateSources::one(source.to_owned());
        }
        let entry =
            |entry: &Json| Some((entry["name"].as_str()?.to_owned(), entry["template"].as_str()?.to_owned()));
        TemplateSources { named: value.as_array().into_iter().flatten().filter_map(entry).collect() }
    }

    fn one(source: String) -> TemplateSources {
        TemplateSources { named: vec![(DEFAULT.to_owned(), source)] }
    }

    /// The template for ordinary conversations.
    pub fn default_source(&self) -> Option<&str> {
        self.named(DEFAULT).or_else(|| self.named.first().map(|(_, source)| source.as_str()))
    }

    pub fn named(&self, name: &str) -> Option<&str> {
        self.named.iter().find(|(known, _)| known == name).map(|(_, source)| source.as_str())
    }
}
