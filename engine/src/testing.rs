//! Models without weights: what stands above the engine is tested against them.
//!
//! A [`MockDecoder`] predicts the next token by a function of the whole sequence, which it reads back
//! through the sequence's pages, as a real network does. So a page that is shared, lost or reused too
//! early changes the answer. The tokenizer has one token a byte, and the two ChatML marks.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use kernels::{CpuOptions, Device, KvCache, KvFormat, KvLayout, PAGE_TOKENS, PagedRows, Tensor};

use crate::batch::{Batch, Decoder, Encoder};
use crate::model::{LoadedModel, ModelInfo, Network, Task};
use crate::tokenizer::{GgufVocabulary, Tokenizer};

/// `<|im_start|>` and `<|im_end|>`; below them, token b is byte b.
pub const IM_START: u32 = 256;
pub const IM_END: u32 = 257;
pub const VOCABULARY: usize = 258;

/// Cache of a mock chat model.
pub const KV_LAYOUT: KvLayout = KvLayout { layers: 1, kv_heads: 1, head_dim: 1, format: KvFormat::Int16 };

/// Next token of a sequence, prompt included.
pub type NextToken = Arc<dyn Fn(&[u32]) -> u32 + Send + Sync>;

/// What a mock chat model does.
#[derive(Clone)]
pub struct MockOptions {
    pub name: String,
    pub context_tokens: usize,
    /// What it claims to weigh.
    pub weight_bytes: usize,
    /// Time a step takes, and each of its rows.
    pub step_time: Duration,
    pub row_time: Duration,
    pub next: NextToken,
}

impl Default for MockOptions {
    fn default() -> MockOptions {
        MockOptions {
            name: "mock".to_owned(),
            context_tokens: 4096,
            weight_bytes: 0,
            step_time: Duration::ZERO,
            row_time: Duration::ZERO,
            next: letters(),
        }
    }
}

/// Lower-case letters that depend on every token of the sequence.
pub fn letters() -> NextToken {
    Arc::new(|tokens| {
        let hash =
            tokens.iter().fold(0u32, |hash, &token| (hash.rotate_left(5) ^ token).wrapping_mul(0x9e37_79b1));
        u32::from(b'a') + hash % 26
    })
}

/// Says `text`, then ends its turn. Where the answer begins is told by the prompt's length.
pub fn says(prompt_tokens: usize, text: &str) -> NextToken {
    let text = text.as_bytes().to_vec();
    Arc::new(move |tokens| {
        let said = tokens.len().saturating_sub(prompt_tokens);
        text.get(said).map_or(IM_END, |&byte| u32::from(byte))
    })
}

/// Says `text` over and over, whatever the prompt.
pub fn repeats(text: &str) -> NextToken {
    let text = text.as_bytes().to_vec();
    Arc::new(move |tokens| u32::from(text[tokens.len() % text.len()]))
}

/// One token a byte, and the ChatML marks.
pub fn tokenizer() -> Tokenizer {
    let bytes = byte_level_alphabet().into_iter().map(String::from);
    let marks = ["<|im_start|>", "<|im_end|>"].map(str::to_owned);
    let vocabulary = GgufVocabulary {
        model: "gpt2".to_owned(),
        tokens: bytes.chain(marks).collect(),
        // 1 is an ordinary token, 3 a control token.
        token_types: (0..VOCABULARY).map(|id| if id < 256 { 1 } else { 3 }).collect(),
        eos_token_id: Some(IM_END),
        ..GgufVocabulary::default()
    };
    Tokenizer::from_gguf(&vocabulary).expect("a vocabulary of bytes is sound")
}

/// The character that stands for each byte in byte-level vocabularies: itself where it can be seen, else
/// the next one from U+0100 (Radford et al. 2019).
fn byte_level_alphabet() -> Vec<char> {
    let mut unseen = '\u{100}'..;
    let is_seen = |byte| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let character =
        |byte| if is_seen(byte) { char::from(byte) } else { unseen.next().expect("68 characters") };
    (0..=255).map(character).collect()
}

/// Token ids of ASCII or any other text.
pub fn tokens(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

/// A chat model ready for [`crate::Engine::start`].
pub fn chat_model(options: MockOptions) -> LoadedModel {
    let info = ModelInfo {
        name: options.name.clone(),
        architecture: "mock".to_owned(),
        task: Task::Generate,
        context_tokens: options.context_tokens,
        parameters: 0,
        created: 0,
        tokenizer: Arc::new(tokenizer()),
        chat_template: None,
    };
    let network = Network::Decoder(Box::new(MockDecoder::new(options)));
    LoadedModel { info, network, eos_tokens: vec![IM_END], device: device(), draft: None }
}

/// An embedding model of 4 dimensions, whose steps take `step_time`: see [`MockEncoder`].
pub fn embedding_model(name: &str, context_tokens: usize, step_time: Duration) -> LoadedModel {
    let info = ModelInfo {
        name: name.to_owned(),
        architecture: "mock".to_owned(),
        task: Task::Embed { dimensions: 4, truncatable: true },
        context_tokens,
        parameters: 0,
        created: 0,
        tokenizer: Arc::new(tokenizer()),
        chat_template: None,
    };
    let network = Network::Encoder(Box::new(MockEncoder { step_time }));
    LoadedModel { info, network, eos_tokens: Vec::new(), device: device(), draft: None }
}

fn device() -> Device {
    Device::cpu(CpuOptions { threads: Some(1), isa: None }).expect("a CPU with one thread is always there")
}

/// A network whose memory is a list of tokens a page. It writes its cache too, and panics when it is
/// given a page that still holds what another sequence wrote.
pub struct MockDecoder {
    options: MockOptions,
    device: Device,
    pages: HashMap<u32, [u32; PAGE_TOKENS]>,
    /// Keys and values of a step: one each a row.
    ones: Tensor,
}

impl MockDecoder {
    pub fn new(options: MockOptions) -> MockDecoder {
        MockDecoder { options, device: device(), pages: HashMap::new(), ones: Tensor::default() }
    }

    /// Fills the step's rows of the cache, after making sure that pages come empty.
    fn write_cache(&mut self, batch: &Batch, kv: &mut KvCache) {
        for sequence in &batch.sequences {
            let fresh = sequence.past.div_ceil(PAGE_TOKENS)..sequence.pages.len();
            for &page in &sequence.pages[fresh] {
                assert!(kv.is_zeroed(page), "page {page} still holds another sequence's keys");
            }
        }
        self.ones.reshape(batch.tokens.len(), 1);
        self.ones.values_mut().fill(1.0);
        self.device.kv_write(kv, 0, &self.ones, &self.ones, &batch.sequences);
    }

    fn store(&mut self, sequence: &PagedRows, tokens: &[u32]) {
        for (row, &token) in tokens.iter().enumerate() {
            let position = sequence.past + row;
            let page = self.pages.entry(sequence.pages[position / PAGE_TOKENS]).or_default();
            page[position % PAGE_TOKENS] = token;
        }
    }

    /// The first `length` tokens of a sequence, out of its pages.
    fn read(&self, sequence: &PagedRows, length: usize) -> Vec<u32> {
        let slot = |position: usize| {
            let page = self.pages.get(&sequence.pages[position / PAGE_TOKENS]);
            page.map_or(0, |page| page[position % PAGE_TOKENS])
        };
        (0..length).map(slot).collect()
    }
}

impl Decoder for MockDecoder {
    fn kv_layout(&self) -> KvLayout {
        KV_LAYOUT
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn weight_bytes(&self) -> usize {
        self.options.weight_bytes
    }

    /// The next token has logit 8; the others lie between 0 and 1, so temperature has something to
    /// choose from.
    fn forward(&mut self, batch: &Batch, kv: &mut KvCache, logits: &mut Tensor) {
        std::thread::sleep(self.options.step_time + self.options.row_time * batch.tokens.len() as u32);
        self.write_cache(batch, kv);
        logits.reshape(batch.logit_rows.len(), VOCABULARY);
        let mut wanted = batch.logit_rows.iter().enumerate().peekable();
        for sequence in &batch.sequences {
            let end = sequence.first_row + sequence.rows;
            self.store(sequence, &batch.tokens[sequence.first_row..end]);
            while let Some((out, row)) = wanted.next_if(|(_, row)| (**row as usize) < end) {
                let length = sequence.past + *row as usize - sequence.first_row + 1;
                let next = (self.options.next)(&self.read(sequence, length));
                let values = logits.row_mut(out);
                for (token, value) in values.iter_mut().enumerate() {
                    *value = ((token * 31 + length) % 97) as f32 / 97.0;
                }
                values[next as usize % VOCABULARY] = 8.0;
            }
        }
    }
}

/// Length, first token, last token and sum of each sequence.
pub struct MockEncoder {
    pub step_time: Duration,
}

impl Encoder for MockEncoder {
    fn dimensions(&self) -> usize {
        4
    }

    fn vocabulary(&self) -> usize {
        VOCABULARY
    }

    fn weight_bytes(&self) -> usize {
        0
    }

    fn forward(&mut self, sequences: &[&[u32]], out: &mut Tensor) {
        std::thread::sleep(self.step_time);
        out.reshape(sequences.len(), 4);
        for (row, sequence) in sequences.iter().enumerate() {
            let (first, last) = (sequence[0], sequence[sequence.len() - 1]);
            let sum: u32 = sequence.iter().sum();
            out.row_mut(row).copy_from_slice(&[sequence.len() as f32, first as f32, last as f32, sum as f32]);
        }
    }
}
