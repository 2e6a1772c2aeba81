//! Keys and values in fixed-size pages, as integers with a scale a token and head.
//!
//! A page holds [`PAGE_TOKENS`] tokens of every layer. Which page belongs to whom is the engine's
//! business; here a page is only a number. [`head`] says how a page is laid out inside.

pub(crate) mod head;
mod words;

pub(crate) use head::HeadLayout;
pub(crate) use words::AlignedWords;

use std::ops::Range;

use crate::Isa;
use crate::matmul::SendPtr;
use crate::ops::{HEAD_DIM_MAX, HeadTurn};
use crate::pool::WorkerPool;
use crate::tensor::Tensor;

/// Tokens in one page. A multiple of 32, as paged flash attention on GPUs asks for.
pub const PAGE_TOKENS: usize = 32;

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvFormat {
    /// 16-bit integers: the size of f16, and more exact, as a head's values share one exponent.
    #[default]
    Int16,
    /// 8-bit integers: half of that.
    Int8,
}

impl KvFormat {
    pub const ALL: [KvFormat; 2] = [KvFormat::Int16, KvFormat::Int8];

    /// Name as the configuration has it.
    pub fn name(self) -> &'static str {
        match self {
            KvFormat::Int16 => "int16",
            KvFormat::Int8 => "int8",
        }
    }

    /// Pairs of integers in a word of 32 bits.
    pub(crate) fn pairs_in_word(self) -> usize {
        match self {
            KvFormat::Int16 => 1,
            KvFormat::Int8 => 2,
        }
    }
}

/// Shape of one model's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    pub layers: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub format: KvFormat,
}

impl KvLayout {
    /// Bytes of one page: keys and values of all layers.
    pub fn page_bytes(&self) -> usize {
        self.page_words() * size_of::<u32>()
    }

    fn page_words(&self) -> usize {
        self.layers * self.kv_heads * self.head().words()
    }

    /// What one head has in a page.
    pub(crate) fn head(&self) -> HeadLayout {
        HeadLayout { format: self.format, head_dim: self.head_dim }
    }
}

/// Rows of a step that belong to one sequence, and where that sequence's keys and values live.
///
/// Row `i` of `rows` is the token at position `past + i`; it sees positions `0..=past + i`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PagedRows {
    /// First row of this sequence in the step's tensors.
    pub first_row: usize,
    /// How many rows it has.
    pub rows: usize,
    /// Tokens already in the cache before this step.
    pub past: usize,
    /// Pages in position order; they must hold `past + rows` tokens.
    pub pages: Vec<u32>,
}

impl PagedRows {
    /// Which of its pages this step writes to.
    fn touched_pages(&self) -> Range<usize> {
        match self.rows {
            0 => 0..0,
            rows => self.past / PAGE_TOKENS..(self.past + rows).div_ceil(PAGE_TOKENS),
        }
    }

    /// Positions that this step writes into the `page`-th of its pages.
    fn positions_in(&self, page: usize) -> Range<usize> {
        self.past.max(page * PAGE_TOKENS)..(self.past + self.rows).min((page + 1) * PAGE_TOKENS)
    }
}

/// One model's pages. Inside a page: layer, then head.
pub struct KvCache {
    words: AlignedWords,
    layout: KvLayout,
    pages: usize,
    /// By page, while it is found out whether a step writes any of them twice; false otherwise.
    written: Vec<bool>,
}

impl KvCache {
    /// `pages` pages of zeros. Memory is touched only as pages are written.
    pub fn new(layout: KvLayout, pages: usize) -> KvCache {
        let words = AlignedWords::zeroed_in_huge_pages(pages * layout.page_words());
        KvCache { words, layout, pages, written: vec![false; pages] }
    }

    pub fn layout(&self) -> KvLayout {
        self.layout
    }

    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Overwrites a page with zeros, so that its next owner can read nothing of the last one's.
    pub fn zero_page(&mut self, page: u32) {
        let length = self.page_stride();
        self.words[page as usize * length..][..length].fill(0);
    }

    /// The same, and gives its memory back to the system until it is written again.
    pub fn release_page(&mut self, page: u32) {
        let length = self.page_stride();
        crate::host::zero_and_release(&mut self.words[page as usize * length..][..length]);
    }

    /// Appends a page's content to `out`, `page_bytes` bytes that mean the same on every machine.
    pub fn export_page(&self, page: u32, out: &mut Vec<u8>) {
        let length = self.page_stride();
        let words = &self.words[page as usize * length..][..length];
        let start = out.len();
        out.resize(start + self.layout.page_bytes(), 0);
        // In pieces of a word, which the compiler makes a plain copy of.
        for (bytes, word) in out[start..].chunks_exact_mut(size_of::<u32>()).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
    }

    /// Fills a page with what [`KvCache::export_page`] gave.
    ///
    /// # Panics
    /// When `bytes` are not `page_bytes` long.
    pub fn import_page(&mut self, page: u32, bytes: &[u8]) {
        assert_eq!(bytes.len(), self.layout.page_bytes(), "a page of another layout");
        let length = self.page_stride();
        let words = &mut self.words[page as usize * length..][..length];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(size_of::<u32>())) {
            *word = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }

    /// Whether a page holds nothing but zeros.
    pub fn is_zeroed(&self, page: u32) -> bool {
        let length = self.page_stride();
        self.words[page as usize * length..][..length].iter().all(|&word| word == 0)
    }

    /// Overwrites every page that holds anything, before the memory goes back to the system. Pages never
    /// used stay untouched.
    pub fn wipe(&mut self) {
        for page in 0..self.pages as u32 {
            if !self.is_zeroed(page) {
                self.zero_page(page);
            }
        }
        // Writes to memory that is freed next would otherwise be left out by the compiler.
        std::hint::black_box(&mut self.words);
    }

    pub(crate) fn words(&self) -> &[u32] {
        &self.words
    }

    #[cfg(test)]
    pub(crate) fn fill(&mut self, word: u32) {
        self.words.fill(word);
    }

    /// Offset of (`layer`, `head`) inside a page, in words.
    pub(crate) fn head_offset(&self, layer: usize, head: usize) -> usize {
        (layer * self.layout.kv_heads + head) * self.layout.head().words()
    }

    /// Words from one page to the next.
    pub(crate) fn page_stride(&self) -> usize {
        self.layout.page_words()
    }

    /// Whether no page is written for two sequences, or twice for one.
    ///
    /// # Panics
    /// When a page is not one of this cache.
    fn writes_each_page_once(&mut self, sequences: &[PagedRows]) -> bool {
        let touched = || sequences.iter().flat_map(|sequence| &sequence.pages[sequence.touched_pages()]);
        assert!(touched().all(|&page| (page as usize) < self.pages), "pages are those of this cache");
        let once = touched().all(|&page| !std::mem::replace(&mut self.written[page as usize], true));
        touched().for_each(|&page| self.written[page as usize] = false);
        once
    }

    /// Stores a step's keys, turned, and values (`rows` x `kv_heads * head_dim`); heads and pages in
    /// parallel.
    ///
    /// # Panics
    /// When two sequences write to one page, or to one that is not there.
    pub(crate) fn write_rows(
        &mut self,
        isa: Isa,
        pool: &WorkerPool,
        layer: usize,
        [k, v]: [&Tensor; 2],
        turn: Option<&HeadTurn<'_>>,
        sequences: &[PagedRows],
    ) {
        let KvLayout { kv_heads, head_dim, layers, .. } = self.layout;
        assert!(layer < layers && k.columns() == kv_heads * head_dim && v.columns() == k.columns());
        assert!(self.writes_each_page_once(sequences), "a page has one writer");
        if let Some(turn) = turn {
            turn.check(k.rows(), head_dim);
        }
        let (stride, head_layout) = (self.page_stride(), self.layout.head());
        let words = SendPtr(self.words.as_mut_ptr());
        let write = |mut item: usize| {
            let head = item % kv_heads;
            item /= kv_heads;
            let mut pages = sequences.iter().flat_map(|s| s.touched_pages().map(move |page| (s, page)));
            let (sequence, page) = pages.nth(item).expect("an item for each touched page");
            let start =
                sequence.pages[page] as usize * stride + (layer * kv_heads + head) * head_layout.words();
            // SAFETY: the page is below `pages`, (layer, head) inside it, and the page touched once in all
            // `sequences`, all checked above; so each head's part of a page is one item's alone.
            let part = unsafe { std::slice::from_raw_parts_mut(words.get().add(start), head_layout.words()) };
            let mut room = [0.0; HEAD_DIM_MAX];
            for position in sequence.positions_in(page) {
                let row = sequence.first_row + position - sequence.past;
                let columns = head * head_dim..(head + 1) * head_dim;
                let (mut key, value) = (&k.row(row)[columns.clone()], &v.row(row)[columns]);
                if let Some(turn) = turn {
                    let turned = &mut room[..head_dim];
                    turned.copy_from_slice(key);
                    turn.apply(isa, row, turned);
                    key = turned;
                }
                head::store(isa, part, &head_layout, position % PAGE_TOKENS, key, value);
            }
        };
        let rows: usize = sequences.iter().map(|sequence| sequence.rows).sum();
        let items = kv_heads * sequences.iter().map(|sequence| sequence.touched_pages().len()).sum::<usize>();
        // Few rows are written sooner than handed out.
        if rows * head_dim * kv_heads < 2048 {
            (0..items).for_each(write);
        } else {
            pool.dynamic(items, &write);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zeroed_or_released_page_is_zero_and_its_neighbours_are_as_they_were() {
        // About 48 KiB and 1.5 MiB a page: less than what the system takes back at once, and more.
        for layers in [2, 64] {
            let layout = KvLayout { layers, kv_heads: 3, head_dim: 64, format: KvFormat::Int16 };
            let mut kv = KvCache::new(layout, 4);
            let content: Vec<u8> = (0..layout.page_bytes()).map(|i| (i % 251) as u8 + 1).collect();
            for clear in [KvCache::zero_page, KvCache::release_page] {
                (0..3).for_each(|page| kv.import_page(page, &content));
                clear(&mut kv, 1);
                let mut pages = [Vec::new(), Vec::new(), Vec::new()];
                (0..).zip(&mut pages).for_each(|(page, out)| kv.export_page(page, out));
                assert!(pages[0] == content && pages[2] == content, "{layers} layers");
                assert!(kv.is_zeroed(1) && kv.is_zeroed(3));
                kv.import_page(1, &content);
                assert!(!kv.is_zeroed(1), "it can be filled again");
            }
        }
    }

    /// What is unsafe in [`KvCache::write_rows`] relies on this.
    #[test]
    fn a_step_writes_a_page_for_one_sequence_only() {
        let layout = KvLayout { layers: 1, kv_heads: 1, head_dim: 16, format: KvFormat::Int16 };
        let mut kv = KvCache::new(layout, 4);
        let rows = |past: usize, rows: usize, pages: &[u32]| PagedRows {
            first_row: 0,
            rows,
            past,
            pages: pages.to_vec(),
        };
        // Sequences that all have one row, and whether they may run together.
        let table = [
            (vec![rows(0, 1, &[0]), rows(0, 1, &[1])], true),
            // A page in common that is only read.
            (vec![rows(32, 1, &[0, 1]), rows(40, 1, &[0, 2])], true),
            (vec![rows(31, 1, &[0]), rows(31, 1, &[0])], false),
            (vec![rows(31, 1, &[0, 1]), rows(32, 1, &[1, 0])], false),
            (vec![rows(31, 2, &[3, 3])], false),
            (vec![rows(0, 1, &[4])], false),
        ];
        for (sequences, may) in table {
            let mut write = || {
                let [k, v] = [(); 2].map(|()| Tensor::zeros(2, 16));
                kv.write_rows(Isa::best(), &WorkerPool::new(1), 0, [&k, &v], None, &sequences);
            };
            let wrote = std::panic::catch_unwind(std::panic::AssertUnwindSafe(&mut write)).is_ok();
            assert_eq!(wrote, may, "{sequences:?}");
        }
    }
}
