//! A model ready to serve: weights on a device, tokenizer, template, limits.

mod ends;
mod identity;

use std::path::Path;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use kernels::{Device, Mapping};

use crate::EngineError;
use crate::batch::{Decoder, Encoder};
use crate::files::{ModelFiles, bad_file};
use crate::models::description::{Description, describe};
use crate::models::parallel;
use crate::models::pooling::Pooling;
use crate::models::registry::{Kind, Parts};
use crate::models::weights::Weights;
use crate::packed::{PackedCache, PackedModel, PackedWriter};
use crate::prompt::ChatTemplate;
use crate::tokenizer::Tokenizer;

/// What the gateway needs to know of a served model; cheap to clone.
#[derive(Clone)]
pub struct ModelInfo {
    /// Name requests use.
    pub name: String,
    pub architecture: String,
    pub task: Task,
    /// Tokens of prompt and output together (decoders), or of one input (encoders).
    pub context_tokens: usize,
    pub parameters: u64,
    /// Seconds since 1970 of the model file, for `/v1/models`.
    pub created: u64,
    pub tokenizer: Arc<Tokenizer>,
    /// Absent for encoders and base models.
    pub chat_template: Option<Arc<ChatTemplate>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    Generate,
    /// `dimensions` of the vectors; `truncatable` when shorter prefixes of them are meaningful
    /// (Matryoshka training).
    Embed {
        dimensions: usize,
        truncatable: bool,
    },
}

/// Weights of either kind.
pub enum Network {
    Decoder(Box<dyn Decoder>),
    Encoder(Box<dyn Encoder>),
}

pub struct LoadedModel {
    pub info: ModelInfo,
    pub network: Network,
    /// Tokens that end a generation.
    pub eos_tokens: Vec<u32>,
    pub device: Device,
    /// A small model of the same vocabulary that guesses its next tokens.
    pub draft: Option<Box<dyn Decoder>>,
    /// Differs between models whose files differ.
    pub identity: [u8; 32],
    /// Packed weights, a draft's included, that the next start would rather find than pack.
    pub unwritten: Vec<PackedWriter>,
}

impl LoadedModel {
    /// Has `draft` guess this model's next tokens, which changes nothing but its speed.
    ///
    /// # Errors
    /// `InvalidParameter` when one of them makes embeddings, or their vocabularies differ.
    pub fn with_draft(self, draft: LoadedModel) -> Result<LoadedModel, EngineError> {
        let (name, draft_name) = (&self.info.name, &draft.info.name);
        let refuse = |reason| Err(EngineError::InvalidParameter { parameter: "draft", reason });
        let (Network::Decoder(network), Network::Decoder(draft_network)) = (&self.network, draft.network)
        else {
            return refuse(format!("`{draft_name}` cannot guess for `{name}`: both have to generate text"));
        };
        let (tokens, draft_tokens) = (network.vocabulary(), draft_network.vocabulary());
        let differs = |&id: &u32| self.info.tokenizer.token_bytes(id) != draft.info.tokenizer.token_bytes(id);
        if tokens != draft_tokens {
            return refuse(format!(
                "`{draft_name}` cannot guess for `{name}`: it has {draft_tokens} tokens instead of {tokens}"
            ));
        }
        if let Some(id) = (0..tokens as u32).find(differs) {
            return refuse(format!("`{draft_name}` cannot guess for `{name}`: token {id} is another"));
        }
        let mut unwritten = self.unwritten;
        unwritten.extend(draft.unwritten);
        Ok(LoadedModel { draft: Some(draft_network), unwritten, ..self })
    }

    /// Bytes of packed weights, a draft's included.
    pub fn weight_bytes(&self) -> usize {
        let own = match &self.network {
            Network::Decoder(network) => network.weight_bytes(),
            Network::Encoder(network) => network.weight_bytes(),
        };
        own + self.draft.as_ref().map_or(0, |draft| draft.weight_bytes())
    }

    /// Bytes of one page of its cache, with the draft's page of the same number.
    pub fn page_bytes(&self) -> usize {
        let own = match &self.network {
            Network::Decoder(network) => network.kv_layout().page_bytes(),
            Network::Encoder(_) => 0,
        };
        own + self.draft.as_ref().map_or(0, |draft| draft.kv_layout().page_bytes())
    }
}

pub struct LoadOptions<'a> {
    /// A GGUF file, a safetensors file, or a folder with `config.json`.
    pub path: &'a Path,
    /// Served name; `None` takes the file's own name.
    pub name: Option<&'a str>,
    /// Cap on the context; `None` takes the model's.
    pub context_tokens: Option<usize>,
    pub device: &'a Device,
    /// Tell it apart by every byte of its files: its pages will be kept for other processes.
    pub whole_identity: bool,
    /// Where packed weights are kept from start to start.
    pub packed: Option<&'a PackedCache>,
    /// Called with 0.0..=1.0 as weights are packed.
    pub progress: &'a (dyn Fn(f32) + Sync),
}

/// Opens, checks and packs a model.
///
/// # Errors
/// `BadFile` for a damaged file, naming the key or tensor; `Unsupported` for a sound one of another
/// architecture, format or variant; `Io` when it cannot be read.
pub fn load(options: &LoadOptions<'_>) -> Result<LoadedModel, EngineError> {
    let files = ModelFiles::open(options.path)?;
    let description = describe(&files)?;
    // All that keys and values depend on beside the weights, some of which stands in other files.
    let parameters = format!("{} {:?}", description.architecture.name, description.hyperparameters);
    let mappings = files.mappings();
    let contents: Vec<&[u8]> = mappings.iter().map(|mapping| &***mapping).collect();
    let sample = identity::identity(&contents, &parameters, false)?;
    (options.progress)(0.0);
    let context_tokens = context_tokens(&files, &description, options)?;
    let device = options.device.with_own_memory();
    let packed = find_packed(options, sample, &files, &mappings);
    let (tokenizer, network) = parallel::both(
        || Tokenizer::of_model(&files),
        || {
            let architecture = description.architecture;
            let weights =
                Weights::new(&files, architecture.tensors, &device, packed.as_ref(), options.progress);
            build(&files, &description, context_tokens, weights)
        },
    );
    let (tokenizer, network) = (tokenizer?, network?);
    let identity = match options.whole_identity {
        true => identity::identity(&contents, &parameters, true)?,
        false => sample,
    };
    (options.progress)(1.0);
    let task = match &network {
        Network::Decoder(_) => Task::Generate,
        Network::Encoder(encoder) => {
            Task::Embed { dimensions: encoder.dimensions(), truncatable: description.truncatable }
        }
    };
    let chat_template = match description.architecture.kind {
        Kind::Decoder => ChatTemplate::of_model(&files, &tokenizer)?,
        Kind::Encoder => None,
    };
    Ok(LoadedModel {
        eos_tokens: ends::end_tokens(&files, &tokenizer)?,
        info: ModelInfo {
            name: options.name.map_or_else(|| own_name(options.path), str::to_owned),
            architecture: description.architecture.name.to_owned(),
            task,
            context_tokens,
            parameters: files.entries().map(|entry| entry.values() as u64).sum(),
            created: created(options.path),
            chat_template: chat_template.map(Arc::new),
            tokenizer: Arc::new(tokenizer),
        },
        network,
        device,
        draft: None,
        identity,
        unwritten: packed.and_then(PackedModel::into_writer).into_iter().collect(),
    })
}

/// What an earlier process packed of this model.
fn find_packed(
    options: &LoadOptions<'_>,
    identity: [u8; 32],
    files: &ModelFiles,
    mappings: &[&Mapping],
) -> Option<PackedModel> {
    let (cache, layout) = (options.packed?, options.device.packed_layout()?);
    // Without it nobody could tell a changed file: everything is packed.
    let stamp = identity::stamp(mappings, files.entries())?;
    Some(cache.open([identity, stamp], layout))
}

fn build(
    files: &ModelFiles,
    description: &Description,
    context_tokens: usize,
    weights: Weights<'_>,
) -> Result<Network, EngineError> {
    let Description { architecture, hyperparameters, .. } = description;
    (architecture.build)(&Parts {
        hyperparameters: hyperparameters.clone(),
        weights,
        context_tokens,
        pooling: Pooling::read(files, hyperparameters.pooling_type)?,
    })
}

/// The smallest of what the network takes, what its sentence-transformers files say and what the
/// operator allows.
fn context_tokens(
    files: &ModelFiles,
    description: &Description,
    options: &LoadOptions<'_>,
) -> Result<usize, EngineError> {
    let mut tokens = (description.architecture.context)(&description.hyperparameters);
    if let (ModelFiles::Folder(folder), Kind::Encoder) = (files, description.architecture.kind)
        && let Some(config) = folder.json("sentence_bert_config.json")?
    {
        let stated = config["max_seq_length"].as_u64().and_then(|tokens| usize::try_from(tokens).ok());
        tokens = stated.unwrap_or(tokens).min(tokens);
    }
    tokens = options.context_tokens.unwrap_or(tokens).min(tokens);
    if tokens == 0 { Err(bad_file(files.path(), "a context of 0 tokens")) } else { Ok(tokens) }
}

/// Name of the file without its extension, or of the folder.
fn own_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if path.is_dir() { path.file_name() } else { path.file_stem() };
    name.map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Seconds since 1970 of the last change; 0 where the file system does not tell.
fn created(path: &Path) -> u64 {
    let modified = path.metadata().and_then(|metadata| metadata.modified()).ok();
    modified.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_secs())
}
