//! Models without weights: what stands above the engine is tested against them.
//!
//! A [`MockDecoder`] predicts the next token by a function of the whole sequence, which it reads back
//! through the sequence's pages, as a real network does. So a page that is shared, lost or reused too
//! early changes the answer. The tokenizer has one token a byte, and the two ChatML marks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kernels::{CpuOptions, Device, KvCache, KvFormat, KvLayout, PAGE_TOKENS, PagedRows, Tensor};

use crate::StepClock;
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
    /// Where that time passes. A clock that counts is the engine's too: nothing waits.
    pub clock: StepClock,
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
            clock: StepClock::Machine,
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

/// What is said of a mock chat model.
pub fn mock_info(name: &str, context_tokens: usize) -> ModelInfo {
    ModelInfo {
        name: name.to_owned(),
        architecture: "mock".to_owned(),
        task: Task::Generate,
        context_tokens,
        parameters: 0,
        created: 0,
        tokenizer: Arc::new(tokenizer()),
        chat_template: None,
    }
}

/// A chat model ready for [`crate::Engine::start`].
pub fn chat_model(options: MockOptions) -> LoadedModel {
    let info = mock_info(&options.name, options.context_tokens);
    let network = Network::Decoder(Box::new(MockDecoder::new(options)));
    LoadedModel {
        info,
        network,
        eos_tokens: vec![IM_END],
        device: device(),
        draft: None,
        identity: [1; 32],
        unwritten: Vec::new(),
    }
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
    let network = Network::Encoder(Box::new(MockEncoder { step_time, ..MockEncoder::default() }));
    LoadedModel {
        info,
        network,
        eos_tokens: Vec::new(),
        device: device(),
        draft: None,
        identity: [2; 32],
        unwritten: Vec::new(),
    }
}

fn device() -> Device {
    Device::cpu(CpuOptions { threads: Some(1), isa: None }).expect("a CPU with one thread is always there")
}

/// A network whose memory is a list of tokens a page. It writes its cache too, and panics when it is
/// given a page that still holds what another sequence wrote.
pub struct MockDecoder {
    options: MockOptions,
    device: Device,
    /// Keys of a step: each row's token, plus one.
    keys: Tensor,
    values: Tensor,
}

impl MockDecoder {
    pub fn new(options: MockOptions) -> MockDecoder {
        MockDecoder { options, device: device(), keys: Tensor::default(), values: Tensor::default() }
    }

    /// Fills the step's rows of the cache, after making sure that pages come empty.
    fn write_cache(&mut self, batch: &Batch, kv: &mut KvCache) {
        for sequence in &batch.sequences {
            let fresh = sequence.past.div_ceil(PAGE_TOKENS)..sequence.pages.len();
            for &page in &sequence.pages[fresh] {
                assert!(kv.is_zeroed(page), "page {page} still holds another sequence's keys");
            }
        }
        self.keys.reshape(batch.tokens.len(), 1);
        self.values.reshape(batch.tokens.len(), 1);
        for (key, &token) in self.keys.values_mut().iter_mut().zip(&batch.tokens) {
            // Exact in 16 bits.
            *key = (token + 1) as f32;
        }
        self.values.values_mut().fill(1.0);
        self.device.kv_write(kv, 0, &self.keys, &self.values, None, &batch.sequences);
    }

    /// The first `length` tokens of a sequence, out of its pages; 0 where nothing was written.
    fn read(&self, kv: &KvCache, sequence: &PagedRows, length: usize) -> Vec<u32> {
        let mut tokens = Vec::with_capacity(length);
        for &page in &sequence.pages[..length.div_ceil(PAGE_TOKENS)] {
            let keys = page_keys(kv, page).into_iter().take(PAGE_TOKENS.min(length - tokens.len()));
            tokens.extend(keys.map(|key| key.saturating_sub(1)));
        }
        tokens
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
        let takes = self.options.step_time + self.options.row_time * batch.tokens.len() as u32;
        match &self.options.clock {
            StepClock::Machine => std::thread::sleep(takes),
            StepClock::Counted(clock) => {
                clock.fetch_add(takes.as_nanos() as u64, Ordering::Relaxed);
            }
        }
        self.write_cache(batch, kv);
        logits.reshape(batch.logit_rows.len(), VOCABULARY);
        let mut wanted = batch.logit_rows.iter().enumerate().peekable();
        for sequence in &batch.sequences {
            let end = sequence.first_row + sequence.rows;
            while let Some((out, row)) = wanted.next_if(|(_, row)| (**row as usize) < end) {
                let length = sequence.past + *row as usize - sequence.first_row + 1;
                let next = (self.options.next)(&self.read(kv, sequence, length));
                let values = logits.row_mut(out);
                for (token, value) in values.iter_mut().enumerate() {
                    *value = ((token * 31 + length) % 97) as f32 / 97.0;
                }
                values[next as usize % VOCABULARY] = 8.0;
            }
        }
    }
}

/// What a page of a mock holds: each token plus one, and 0 where nothing was written. With one head of one
/// dimension it begins with a key in 16 bits in each word, then come their scales.
pub fn page_keys(kv: &KvCache, page: u32) -> Vec<u32> {
    let mut content = Vec::new();
    kv.export_page(page, &mut content);
    let words: Vec<u32> = content
        .chunks_exact(4)
        .map(|bytes| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
        .collect();
    let key = |slot: usize| f32::from(words[slot] as i16) * f32::from_bits(words[PAGE_TOKENS + slot]);
    (0..PAGE_TOKENS).map(|slot| key(slot).round() as u32).collect()
}

/// Length, first token, last token and sum of each sequence. A piece is one sequence, of `step_time` and as
/// much work as it has tokens.
#[derive(Default)]
pub struct MockEncoder {
    pub step_time: Duration,
    vectors: Vec<[f32; 4]>,
    /// Tokens of those not computed yet, the last first.
    lengths: Vec<u64>,
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

    fn begin(&mut self, sequences: &[&[u32]]) {
        let vector = |sequence: &&[u32]| {
            let (first, last) = (sequence[0], sequence[sequence.len() - 1]);
            let sum: u32 = sequence.iter().sum();
            [sequence.len() as f32, first as f32, last as f32, sum as f32]
        };
        self.vectors = sequences.iter().map(vector).collect();
        self.lengths = sequences.iter().rev().map(|sequence| sequence.len() as u64).collect();
    }

    fn advance(&mut self, _work_max: u64) -> u64 {
        let Some(work) = self.lengths.pop() else { return 0 };
        std::thread::sleep(self.step_time);
        work
    }

    fn finish(&mut self, out: &mut Tensor) {
        out.reshape(self.vectors.len(), 4);
        self.vectors.iter().enumerate().for_each(|(row, vector)| out.row_mut(row).copy_from_slice(vector));
    }
}
