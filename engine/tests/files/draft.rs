//! A small GGUF file in parts, to be spoilt and written.

/// Metadata type numbers.
pub const U8: u32 = 0;
pub const U32: u32 = 4;
pub const I32: u32 = 5;
pub const F32: u32 = 6;
pub const BOOL: u32 = 7;
pub const TEXT: u32 = 8;
pub const ARRAY: u32 = 9;
pub const U64: u32 = 10;

/// Everything a GGUF file says, with what is usually derived open to lies.
#[derive(Clone)]
pub struct Draft {
    pub magic: [u8; 4],
    pub version: u32,
    /// `None` writes the true count.
    pub tensor_count: Option<u64>,
    pub key_count: Option<u64>,
    /// Key, type number, encoded value.
    pub keys: Vec<(Vec<u8>, u32, Vec<u8>)>,
    pub tensors: Vec<TensorDraft>,
    pub alignment: usize,
    pub data: Vec<u8>,
}

#[derive(Clone)]
pub struct TensorDraft {
    pub name: Vec<u8>,
    /// Innermost first, as the file has them.
    pub dimensions: Vec<u64>,
    /// `None` writes the true count.
    pub dimension_count: Option<u32>,
    pub kind: u32,
    pub offset: u64,
}

impl Draft {
    /// Three tensors (F32, Q8_0, and IQ2_XXS, which has no kernel) and a key of every shape.
    pub fn sound() -> Draft {
        let mut draft = Draft {
            magic: *b"GGUF",
            version: 3,
            tensor_count: None,
            key_count: None,
            keys: Vec::new(),
            tensors: Vec::new(),
            alignment: 32,
            data: vec![1; 96 + 160 + 66],
        };
        draft.key("general.architecture", TEXT, text("llama"));
        draft.key("general.alignment", U32, 32u32.to_le_bytes());
        draft.key("llama.block_count", U64, 2u64.to_le_bytes());
        draft.key("llama.rope.freq_base", F32, 10000f32.to_le_bytes());
        draft.key("tokenizer.ggml.add_bos_token", BOOL, [1]);
        draft.key("tokenizer.ggml.tokens", ARRAY, array(TEXT, 3, [text("a"), text("é"), text("")].concat()));
        draft.key("tokenizer.ggml.token_type", ARRAY, array(I32, 2, [1, 0, 0, 0, 255, 255, 255, 255]));
        draft.tensor("output_norm.weight", &[3, 8], 0, 0);
        draft.tensor("token_embd.weight", &[64, 2], 8, 96);
        draft.tensor("odd.weight", &[256], 16, 256);
        draft
    }

    pub fn key(&mut self, key: &str, kind: u32, value: impl Into<Vec<u8>>) {
        self.keys.push((key.into(), kind, value.into()));
    }

    /// Replaces the value of a key.
    pub fn set(&mut self, key: &str, kind: u32, value: impl Into<Vec<u8>>) {
        self.keys.retain(|(name, _, _)| name != key.as_bytes());
        self.key(key, kind, value);
    }

    pub fn tensor(&mut self, name: &str, dimensions: &[u64], kind: u32, offset: u64) {
        let name = name.into();
        self.tensors.push(TensorDraft {
            name,
            dimensions: dimensions.into(),
            dimension_count: None,
            kind,
            offset,
        });
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.resize(out.len().next_multiple_of(self.alignment), 0);
        out.extend(&self.data);
        out
    }

    /// Everything before the padding.
    pub fn header(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(self.tensor_count.unwrap_or(self.tensors.len() as u64).to_le_bytes());
        out.extend(self.key_count.unwrap_or(self.keys.len() as u64).to_le_bytes());
        for (key, kind, value) in &self.keys {
            out.extend(text(key));
            out.extend(kind.to_le_bytes());
            out.extend(value);
        }
        for tensor in &self.tensors {
            out.extend(text(&tensor.name));
            let count = tensor.dimension_count.unwrap_or(tensor.dimensions.len() as u32);
            out.extend(count.to_le_bytes());
            out.extend(tensor.dimensions.iter().flat_map(|dimension| dimension.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.to_le_bytes());
        }
        out
    }
}

/// A text value: its length and its bytes.
pub fn text(content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [&(content.len() as u64).to_le_bytes(), content].concat()
}

/// An array value: element type, announced count, encoded elements.
pub fn array(element: u32, count: u64, elements: impl Into<Vec<u8>>) -> Vec<u8> {
    [&element.to_le_bytes()[..], &count.to_le_bytes(), &elements.into()].concat()
}
