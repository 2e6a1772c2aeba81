//! `janus bench`: how fast a model runs here, beside what the machine could do.

use std::path::Path;

use engine::bench::{BenchOptions, bench};
use engine::model::Network;

use super::arguments::BenchArguments;
use super::output::print;
use crate::open::Opener;

/// Loads the model and measures it.
pub fn run(arguments: &BenchArguments, folder: Option<&Path>) -> anyhow::Result<u8> {
    let opener = Opener::new(folder, arguments.threads)?;
    let source = opener.locate(&arguments.model)?;
    let mut model = opener.load(&source)?;
    let Network::Decoder(decoder) = &mut model.network else {
        anyhow::bail!("`{}` makes embeddings; bench measures models that generate text", model.info.name);
    };
    let context = model.info.context_tokens;
    let longest = arguments.prompt.max(arguments.decode + 1);
    if longest > context || arguments.prompt == 0 || arguments.decode == 0 || arguments.streams.contains(&0) {
        anyhow::bail!(
            "--prompt, --decode and --streams start at 1, and this model's context is {context} tokens"
        );
    }
    let options = BenchOptions {
        prompt_tokens: arguments.prompt,
        decode_tokens: arguments.decode,
        streams: arguments.streams.clone(),
        step_tokens: 512,
        runs: arguments.runs,
    };
    let report = bench(decoder.as_mut(), &opener.device, &options);
    match arguments.json {
        true => print(&(serde_json::to_string_pretty(&report)? + "\n")),
        false => print(&report.to_string()),
    }
}
