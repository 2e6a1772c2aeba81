//! Chat template, then token ids; pure.
//!
//! - [`sources`]: where a model's template is found.
//! - [`environment`]: the template language as Hugging Face runs it (Jinja2 with its extensions), bounded
//!   in steps and output.
//! - [`marks`]: how text from outside is kept from becoming a special token.
//! - [`clock`]: the one function of time templates call.

mod clock;
mod environment;
mod marks;
mod sources;

use std::time::SystemTime;

use serde_json::{Map, Value as Json};

use crate::EngineError;
use crate::files::ModelFiles;
use crate::tokenizer::Tokenizer;
use marks::Marker;

pub use sources::TemplateSources;

/// A message as the wire has it: an object with `role`, `content` and whatever else the template reads.
pub type ChatMessage = Json;

/// A model's own chat template, compiled, with the tokenizer's special tokens.
pub struct ChatTemplate {
    environment: minijinja::Environment<'static>,
    source: String,
    /// `bos_token` and the like, as templates name them.
    tokens: Vec<(&'static str, String)>,
    marker: Marker,
}

/// What a template is rendered with besides messages.
#[derive(Clone, Debug)]
pub struct RenderOptions {
    /// Ends the prompt with the opening of the assistant's turn.
    pub add_generation_prompt: bool,
    /// `tools`, `documents` and any other name the template reads (`enable_thinking`, ...).
    pub variables: Map<String, Json>,
    /// What `strftime_now` tells, in UTC.
    pub now: SystemTime,
}

impl Default for RenderOptions {
    fn default() -> Self {
        RenderOptions { add_generation_prompt: true, variables: Map::new(), now: SystemTime::now() }
    }
}

/// A rendered chat template that remembers which of its special tokens come from the template itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptText {
    marked: String,
    mark: Option<char>,
}

impl PromptText {
    /// The text as the template's author expects it.
    pub fn text(&self) -> String {
        match self.mark {
            Some(mark) => self.marked.replace(mark, ""),
            None => self.marked.clone(),
        }
    }

    /// Bytes of [`text`](Self::text).
    pub fn bytes(&self) -> usize {
        let marks = self.mark.map_or(0, |mark| self.marked.matches(mark).count() * mark.len_utf8());
        self.marked.len() - marks
    }

    /// The text with the marks still in it.
    pub(crate) fn marked(&self) -> &str {
        &self.marked
    }

    /// The character that stands where text from outside must not form a special token.
    pub(crate) fn mark(&self) -> Option<char> {
        self.mark
    }
}

impl ChatTemplate {
    /// Compiles a template for the model whose tokenizer this is.
    ///
    /// # Errors
    /// [`EngineError::Template`] with the place where the template is wrong.
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, EngineError> {
        let environment = environment::compile(source)?;
        let roles = tokenizer.roles();
        let named = [("bos_token", roles.bos), ("eos_token", roles.eos), ("unk_token", roles.unknown)];
        let tokens = named.into_iter().filter_map(|(name, id)| Some((name, tokenizer.token_name(id?)?)));
        Ok(ChatTemplate {
            environment,
            source: source.to_owned(),
            tokens: tokens.collect(),
            marker: Marker::new(tokenizer.special_tokens(), source)?,
        })
    }

    /// The template an opened model comes with; `None` for one that has none (base models, encoders).
    ///
    /// # Errors
    /// A template that is there but broken.
    pub fn of_model(files: &ModelFiles, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, EngineError> {
        let sources = TemplateSources::of_model(files)?;
        sources.default_source().map(|source| ChatTemplate::new(source, tokenizer)).transpose()
    }

    pub fn source(&self) -> &str {
        &self.source
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// [`EngineError::Template`] with the template's own words where it refuses the messages.
    pub fn render(
        &self,
        messages: &[ChatMessage],
        options: &RenderOptions,
    ) -> Result<PromptText, EngineError> {
        let mut messages = messages.to_vec();
        for message in &mut messages {
            complete_reasoning(message)?;
        }
        let mut variables = options.variables.clone();
        let marks = self.marker.marks_for(&messages, &variables, &self.source)?;
        let mut quoted = self.marker.quoting(&marks);
        for message in &mut messages {
            quoted.quote(message);
        }
        quoted.quote_map(&mut variables);
        let rendered = environment::render(
            &self.environment,
            &environment::Context {
                messages: &messages,
                variables: &variables,
                tokens: &self.tokens,
                add_generation_prompt: options.add_generation_prompt,
                now: options.now,
            },
        )?;
        Ok(quoted.finish(rendered))
    }

    /// Token ids of a rendered conversation: special tokens the template writes, text all the rest.
    pub fn prompt_tokens(
        &self,
        tokenizer: &Tokenizer,
        messages: &[ChatMessage],
        options: &RenderOptions,
    ) -> Result<Vec<u32>, EngineError> {
        tokenizer.encode_prompt(&self.render(messages, options)?)
    }
}

/// Reasoning goes by three names; templates find it under each.
fn complete_reasoning(message: &mut ChatMessage) -> Result<(), EngineError> {
    let Some(fields) = message.as_object_mut() else {
        return Err(EngineError::Template("a message must be an object with role and content".into()));
    };
    let names = ["reasoning_content", "thinking", "reasoning"];
    let found = names.iter().find_map(|name| fields.get(*name).filter(|value| !value.is_null()));
    if let Some(reasoning) = found.cloned() {
        fields.entry("thinking").or_insert_with(|| reasoning.clone());
        fields.insert("reasoning_content".to_owned(), reasoning);
    }
    Ok(())
}
