//! A chat partner in this process: an engine with one model.

use anyhow::{Context, bail};
use engine::model::{ModelInfo, Task};
use engine::prompt::RenderOptions;
use engine::{Engine, EngineOptions, Event, Request, SamplingParams, StopCriteria};
use serde_json::{Value, json};

use super::{Answering, Message, Partner};
use crate::catalogue::TaskKind;
use crate::open::Opener;

pub struct Local {
    engine: Engine,
    model: ModelInfo,
    answering: Answering,
}

impl Local {
    /// Loads `model`, or the catalogue's default chat model.
    pub fn start(opener: &Opener, model: Option<&str>, answering: Answering) -> anyhow::Result<Local> {
        let default = opener.catalogue.defaults().find(|model| model.task == TaskKind::Generate);
        let default = default.context("the catalogue has a default chat model")?;
        let loaded = opener.load(&opener.locate(model.unwrap_or(&default.name))?)?;
        let model = loaded.info.clone();
        if !matches!(model.task, Task::Generate) {
            bail!("{} makes embeddings; chat with another model", model.name);
        }
        if model.chat_template.is_none() {
            bail!("{} has no chat template: it is a base model, for /v1/completions", model.name);
        }
        let engine = Engine::start(vec![loaded], EngineOptions::default())?;
        Ok(Local { engine, model, answering })
    }

    fn prompt(&self, messages: &[Message]) -> anyhow::Result<Vec<u32>> {
        let messages: Vec<Value> = messages
            .iter()
            .map(|message| json!({"role": message.role, "content": message.content}))
            .collect();
        let template = self.model.chat_template.as_ref().expect("start refuses models without a template");
        Ok(template.prompt_tokens(&self.model.tokenizer, &messages, &RenderOptions::default())?)
    }
}

impl Partner for Local {
    fn describe(&self) -> String {
        format!("{} in this process", self.model.name)
    }

    fn answer(&mut self, messages: &[Message], out: &mut dyn FnMut(&str)) -> anyhow::Result<()> {
        let prompt = self.prompt(messages)?;
        let room = self.model.context_tokens.saturating_sub(prompt.len());
        if room == 0 {
            bail!(
                "the conversation fills the model's {} tokens; /reset begins anew",
                self.model.context_tokens
            );
        }
        let mut events = self.engine.submit(Request {
            model: self.model.name.clone(),
            prompt,
            max_new_tokens: self.answering.max_tokens.clamp(1, room),
            sampling: SamplingParams { temperature: self.answering.temperature, ..SamplingParams::default() },
            stop: StopCriteria::default(),
            logprobs: None,
            caller: engine::Caller::default(),
            cache: engine::CacheHint::default(),
            prompt_logprobs: None,
        })?;
        while let Some(event) = events.next_blocking() {
            match event {
                Event::Token(token) => out(&token.text),
                Event::Finished(finished) => {
                    out(&finished.text);
                    return Ok(());
                }
                Event::Failed(why) => bail!("the engine gave up: {why}"),
                Event::PromptLogprobs(_) => {}
            }
        }
        bail!("the engine ended before the answer did")
    }
}
